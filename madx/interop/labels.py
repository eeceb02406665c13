"""Names of a head's rows, from foreign tables and from the user."""

from dataclasses import replace

from madx.errors import ConfigError
from madx.module import Module


def placeholders(count: int) -> tuple[str, ...]:
    """The names that rows without names get: LABEL_0, LABEL_1, ..."""
    return tuple(f"LABEL_{i}" for i in range(count))


def numbered(table, count: int | None) -> tuple[str, ...]:
    """Label names in the order of their numbers; raises ConfigError unless `table` numbers them 0, 1, ..., count-1."""
    numbers = {}
    for label, number in table.items() if isinstance(table, dict) else ():
        text = str(number)
        numbers[int(text) if text.isascii() and text.isdigit() and len(text) < 6 else text] = label
    if not numbers or set(numbers) != set(range(len(table))) or count is not None and count != len(table):
        raise ConfigError(
            f"The head's label2id does not number its labels 0 to n-1 (num_labels {str(count)[:20]}): {str(table)[:99]}."
        )
    return tuple(numbers[i] for i in range(len(numbers)))


def name_labels(module: Module, labels: tuple[str, ...]) -> None:
    """Give the rows of a module's head the names that the files do not give; raises ConfigError where they do."""
    known = module.info.labels
    if len(known) != len(labels):
        raise ConfigError(
            f"{len(labels)} labels are given ({', '.join(labels)}); the head in the files has {len(known)} rows."
        )
    if known not in (labels, placeholders(len(labels))):
        raise ConfigError(f"The files name the labels {', '.join(known)}, not {', '.join(labels)}. Leave `labels` out.")
    module.info = replace(module.info, labels=labels)
