"""Several transfer matrices side by side: each of a task, a module type and a source language, over several seeds.

Plain data: no engine, no model, no rendering. Module types and sources are compared by an entry's own score: the score
under the target's language module, or without one where the module type has no language modules (full fine-tuning).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from madx.errors import DataError
from madx.metrics.significance import seed_difference
from madx.results.cells import AVERAGE, Row
from madx.results.matrix import TransferMatrix


@dataclass(frozen=True)
class Entry:
    """The transfer matrix of one task, module type and source language."""

    task: str
    module_type: str
    source: str
    matrix: TransferMatrix

    @property
    def control(self) -> str:
        """The control of the entry's own score: `target`, or `none` when no target language has a module."""
        own = any(self.matrix.macro([t], "target").scores for t in self.matrix.targets if t != self.source)
        return "target" if own else "none"

    @property
    def metric(self) -> str:
        """The figure that decides, the first of the task's scores; `-` where there are none."""
        return self.matrix.scored.metrics[0] if self.matrix.cells else "-"

    def scores(self, languages: Iterable[str]) -> dict[int, float]:
        """seed -> mean of the own score over the languages, for the seeds that all of them have."""
        return self.matrix.macro(list(languages), self.control).scores

    def languages(self) -> list[str]:
        """The target languages, without the source, that have an own score."""
        return [t for t in self.matrix.targets if t != self.source and self.scores([t])]

    def averages(self) -> dict[str, Row]:
        """control -> its row of the average over target languages."""
        return {r.control: r for r in self.matrix.table() if r.target == AVERAGE}

    def own(self, target: str) -> Row:
        """Mean and deviation of the own score: of a language, or of the average over `languages`."""
        languages = self.languages() if target == AVERAGE else [target]
        found, over = self.matrix.macro(languages, self.control), tuple(languages)
        values = list(found.scores.values())
        if not values:
            return Row(target, self.control, None, None, 0, reason="no score", languages=len(over), over=over)
        sd = stdev(values) if len(values) > 1 else None
        inactive = found.inactive
        return Row(target, self.control, fmean(values), sd, len(values), inactive, languages=len(over), over=over)


@dataclass(frozen=True)
class Gap:
    """The own score of `first` minus that of `second`, over the languages that both have; 95 % t interval over seeds.

    first, second: two module types of one source (within: `from eng`), or two sources of one module type (within: that
    type). inactive: modules that did not act in one of the predictions.
    """

    task: str
    within: str
    first: str
    second: str
    languages: tuple[str, ...]
    delta: float
    low: float | None
    high: float | None
    n: int
    noise: bool
    inactive: tuple[str, ...] = ()


@dataclass(frozen=True)
class Matrices:
    """The entries in their order, and (what, why) of everything that failed.

    Raises DataError on two entries for the same task, module type and source.
    """

    entries: tuple[Entry, ...]
    failures: tuple[tuple[str, str], ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        keys = [(e.task, e.module_type, e.source) for e in self.entries]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise DataError(f"two matrices for {', '.join(twice[0])}; join their seeds into one")

    def tasks(self) -> list[str]:
        """The tasks, in order."""
        return list(dict.fromkeys(e.task for e in self.entries))

    def of(self, task: str) -> list[Entry]:
        """The entries of one task, in order."""
        return [e for e in self.entries if e.task == task]

    def targets(self, task: str) -> list[str]:
        """Every target language of a task, in order."""
        return list(dict.fromkeys(t for e in self.of(task) for t in e.matrix.targets))

    def controls(self) -> list[str]:
        """Every column of any entry's matrix, in order."""
        return list(dict.fromkeys(c for e in self.entries for c in e.matrix.columns))

    def gaps(self) -> list[Gap]:
        """Every pair of module types for one task and source, and of sources for one task and module type."""
        return [gap for a, b in combinations(self.entries, 2) if (gap := _gap(a, b)) is not None]

    def warnings(self) -> list[str]:
        """A line for every inactive module, with the entry that it belongs to."""
        return [
            f"{e.task}, {e.module_type}, source {e.source}: {line}"
            for e in self.entries
            for line in e.matrix.warnings()
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the single cells, which are in the matrix of each entry; for JSON."""
        entries = [
            {
                "task": e.task,
                "module_type": e.module_type,
                "source": e.source,
                "metric": e.metric,
                "own_control": e.control,
                "own": [asdict(e.own(t)) for t in (*e.languages(), AVERAGE)],
                "table": [asdict(r) for r in e.matrix.table()],
                "meta": asdict(e.matrix.meta),
            }
            for e in self.entries
        ]
        return {
            "format": "madx transfer matrices",
            "version": 2,
            "note": self.note,
            "warnings": self.warnings(),
            "entries": entries,
            "gaps": [asdict(g) for g in self.gaps()],
            "failures": [{"what": what, "why": why} for what, why in self.failures],
        }


def _gap(a: Entry, b: Entry) -> Gap | None:
    """The comparison of two entries that differ either in the source or in the module type and have a seed in
    common."""
    if a.task != b.task or (a.source == b.source) == (a.module_type == b.module_type):
        return None
    languages = [t for t in a.languages() if t in b.languages() and t not in (a.source, b.source)]
    left, right = (e.matrix.macro(languages, e.control) for e in (a, b))
    seeds = [s for s in left.scores if s in right.scores]
    if not seeds:
        return None
    over = seed_difference([left.scores[s] for s in seeds], [right.scores[s] for s in seeds])
    one_source = a.source == b.source
    return Gap(
        a.task,
        within=f"from {a.source}" if one_source else a.module_type,
        first=a.module_type if one_source else a.source,
        second=b.module_type if one_source else b.source,
        languages=tuple(languages),
        delta=over.delta,
        low=over.low,
        high=over.high,
        n=over.n,
        noise=over.noise,
        inactive=tuple(dict.fromkeys(left.inactive + right.inactive)),
    )


def joined(matrices: Sequence[TransferMatrix], *, task_module: str) -> TransferMatrix:
    """One matrix of several that differ in their seeds alone. A place is missing when none of them has a score
    there."""
    if len(scorings := dict.fromkeys(m.meta.scoring for m in matrices)) > 1:
        raise DataError(f"matrices scored by {' and '.join(scorings)} cannot be joined; evaluate all in one scoring")
    cells = tuple(cell for m in matrices for cell in m.cells)
    have = {(c.target, c.control) for c in cells}
    missing = {(m.target, m.control): m for each in matrices for m in each.missing}
    targets = tuple(dict.fromkeys(t for m in matrices for t in m.targets))
    data = {file: mark for m in matrices for file, mark in m.meta.data.items()}
    remarks = tuple(dict.fromkeys(remark for m in matrices for remark in m.meta.remarks))
    meta = replace(matrices[0].meta, task_module=task_module, data=data, remarks=remarks)
    return TransferMatrix(meta, cells, tuple(m for key, m in missing.items() if key not in have), targets)
