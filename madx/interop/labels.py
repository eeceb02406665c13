"""Names for the rows of a head: those in foreign files, and those that the user gives."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from madx.errors import ConfigError
from madx.module import Module


def placeholders(count: int) -> tuple[str, ...]:
    """Names for rows without names: LABEL_0, LABEL_1, ..."""
    return tuple(f"LABEL_{i}" for i in range(count))


def numbered(table: Any, count: int | None) -> tuple[str, ...]:
    """Label names in the order of their numbers, from a table `{label: number}`.

    Raises ConfigError unless the table numbers its labels 0, 1, ..., count - 1.
    """
    numbers: dict[int | str, str] = {}
    for label, number in table.items() if isinstance(table, Mapping) else ():
        text = str(number)
        numbers[int(text) if text.isascii() and text.isdigit() and len(text) < 6 else text] = label
    if not numbers or set(numbers) != set(range(len(table))) or count is not None and count != len(table):
        raise ConfigError(
            f"label2id of the head must number its labels 0 to n-1 (num_labels {str(count)[:20]}): {str(table)[:90]}."
        )
    return tuple(numbers[i] for i in range(len(numbers)))


def name_labels(module: Module, labels: tuple[str, ...]) -> None:
    """Give names to the rows of a module's head. Raises ConfigError if the files name them otherwise."""
    known = module.info.labels
    if len(known) != len(labels):
        raise ConfigError(
            f"{len(labels)} labels are given ({', '.join(labels)}), but the head in the files has {len(known)} rows."
        )
    if known not in (labels, placeholders(len(labels))):
        raise ConfigError(f"The files name the labels {', '.join(known)}, not {', '.join(labels)}. Leave `labels` out.")
    module.info = replace(module.info, labels=labels)
