"""The compositions of a run, as the engine explained them."""

from dataclasses import dataclass, field
from typing import Any

from madx.engine.explanation import Explanation
from madx.results.cells import Cell
from madx.results.matrix import TransferMatrix


@dataclass
class Shown:
    """A composition. used: the places `language control` of the matrix. rows: a site, and what acts there in order;
    empty without a record. inactive: the modules that did not act."""

    composition: str
    inactive: list[str]
    used: list[str] = field(default_factory=list)
    rows: list[tuple[str, str]] = field(default_factory=list)


def compositions(matrix: TransferMatrix) -> list[Shown]:
    """Each composition of the matrix once, explained by its first seed."""
    first: dict[tuple[str, str], Cell] = {}
    for cell in sorted(matrix.cells, key=lambda c: c.seed):
        first.setdefault((cell.target, cell.control), cell)
    shown: dict[str, Shown] = {}
    for (target, control), cell in first.items():
        entry = shown.setdefault(cell.composition, Shown(cell.composition, list(cell.inactive)))
        entry.used.append(f"{target} {control}")
        entry.rows = entry.rows or _rows(cell.explanation)
    return list(shown.values())


def _rows(record: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Sites with their actions, the decoder and the head; nothing for a record that this madx cannot read."""
    try:
        found = Explanation.from_dict(record or {})
    except (TypeError, KeyError):
        return []
    return [
        *((site, " then ".join(texts)) for site, texts in found.by_site()),
        ("decoder", found.decoder),
        ("head", found.head),
    ]
