"""The transfer matrix: the scores of one task module under every target language's composition, beside the controls.

A cell is one prediction: a target language's test set, a control, a seed. The four controls differ only in the
language module under the task module; without them a gain cannot be told from what any other module, or none, gives.
Proxies are further columns: what stands in for a module that a language does not have.
Pure data: no engine, no model. Scores are percent points, 0..100.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from madx.errors import DataError, did_you_mean
from madx.metrics.scores import EntityScores, Scores
from madx.metrics.significance import SAMPLES
from madx.results.contrasts import Contrast, contrasts, footnotes

CONTROLS = {
    "none": "no language module",
    "source": "the source language's module kept",
    "target": "the target language's module",
    "mean": "the mean of the other languages' modules",
}
PROXIES = {
    "nearest": "the module of the most similar other language",
    "weighted": "the mean of the other languages' modules, weighted by similarity",
    "arithmetic": "share * target's module + (1 - share) * its relative's; without a module of its own, its relative's and "
    "the source's",
    "emea": "the mean of the other languages' modules, its weights moved to lower the entropy of each prediction",
}
COLUMNS = CONTROLS | PROXIES
BASELINES = ("none", "source", "mean")  # what the target module is compared with
AVERAGE = "average"


def _plain(what: str, value):
    """The value as JSON gives it back, so that a saved matrix equals the one in memory."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} cannot be written as JSON ({error}); use dicts, lists, text, finite numbers") from None


@dataclass(frozen=True)
class Cell:
    """One prediction of `target`'s test sentences.

    composition: as text, `swa + ner`; explanation: the engine's record of which modules acted, or None when there is
    none. Its list `silent` names modules that should have acted and did not.
    """

    target: str
    control: str
    composition: str
    seed: int
    scores: Scores
    explanation: dict | None = None

    def __post_init__(self):
        if self.control not in COLUMNS:
            raise DataError(f"unknown control {self.control!r}: {did_you_mean(self.control, COLUMNS)}")
        if self.target == AVERAGE:
            raise DataError(f"a language cannot be called {AVERAGE!r}, the name of the last row; use an ISO 639-3 code")
        explanation = _plain(f"the explanation of {self.target}, {self.control}", self.explanation)
        if explanation is not None and not (
            isinstance(explanation, dict) and isinstance(explanation.get("silent", []), list)
        ):
            raise DataError(f"explanation must be a dict whose 'silent' is a list of module names, got {explanation!r}")
        object.__setattr__(self, "explanation", explanation)

    @property
    def silent(self) -> tuple[str, ...]:
        """Modules that should have acted in this prediction and did not."""
        record = self.explanation or {}
        return tuple(map(str, record.get("silent", []))) or (("(unnamed)",) if record.get("acted") is False else ())

    @property
    def sentences(self) -> int:
        return self.scores.sentences


@dataclass(frozen=True)
class Missing:
    """A place without a score, and why: `no module for 'hau' in the store`."""

    target: str
    control: str
    reason: str

    def __post_init__(self):
        if self.control not in COLUMNS:
            raise DataError(f"unknown control {self.control!r}: {did_you_mean(self.control, COLUMNS)}")


@dataclass(frozen=True)
class Meta:
    """Where the scores come from. data: file -> sha256; versions: library -> version; note: printed in every report."""

    task_module: str
    source: str
    base: str
    data: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self):
        for name in ("data", "versions"):
            object.__setattr__(self, name, _plain(f"meta.{name}", getattr(self, name)))

    @property
    def sources(self) -> tuple[str, ...]:
        """The source languages, which `source` names apart by commas."""
        return tuple(self.source.split(", "))


@dataclass(frozen=True)
class Row:
    """One place of the table: mean over n seeds, standard deviation with n - 1 (None for one seed).

    Without a score mean is None and `reason` says why. `languages`: how many the average row is over, else 1.
    """

    target: str
    control: str
    mean: float | None
    sd: float | None
    n: int
    silent: tuple[str, ...] = ()
    reason: str = ""
    languages: int = 1


@dataclass(frozen=True)
class TransferMatrix:
    """All cells of one task module. `targets` orders the rows; the source languages always come first.

    Raises DataError on no language, on a cell given twice, on scores of two kinds, and when cells of one language were
    scored on different gold sentences.
    """

    meta: Meta
    cells: tuple[Cell, ...]
    missing: tuple[Missing, ...] = ()
    targets: tuple[str, ...] = ()

    def __post_init__(self):
        known = tuple(dict.fromkeys(c.target for c in (*self.cells, *self.missing)))
        order = tuple(dict.fromkeys(self.targets)) or known
        stray = [t for t in known if t not in order]
        if stray:
            raise DataError(f"cells of languages that are no targets: {', '.join(stray)}; targets: {', '.join(order)}")
        if not order:
            raise DataError("a transfer matrix without any language; give cells, or missing places with their reason")
        sources = self.meta.sources
        order = tuple(t for t in order if t in sources) + tuple(t for t in order if t not in sources)
        for name, value in (("cells", tuple(self.cells)), ("missing", tuple(self.missing)), ("targets", order)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_pairs", {})
        if kinds := sorted({c.scores.kind for c in self.cells} - {self.scored.kind}):
            raise DataError(
                f"cells with scores of {self.scored.kind} and of {', '.join(kinds)}; one matrix holds one task"
            )
        seen, gold = set(), {}
        for cell in self.cells:
            key = (cell.target, cell.control, cell.seed)
            if key in seen:
                raise DataError(f"two cells for language {key[0]}, control {key[1]}, seed {key[2]}; keep one")
            seen.add(key)
            first = gold.setdefault(cell.target, cell.scores.statistics.n_gold)
            if first.tolist() != cell.scores.statistics.n_gold.tolist():
                raise DataError(
                    f"{cell.target}: control {cell.control}, seed {cell.seed} was scored on other "
                    f"sentences ({cell.sentences}) than the first cell ({len(first)}); "
                    "use one test set per language"
                )

    @property
    def scored(self) -> type[Scores]:
        """The class of the scores: it says which figure decides (`metrics[0]`) and what it is called."""
        return type(self.cells[0].scores) if self.cells else EntityScores

    @property
    def columns(self) -> tuple[str, ...]:
        """The four controls, then the proxies that occur."""
        found = {c.control for c in (*self.cells, *self.missing)}
        return (*CONTROLS, *(p for p in PROXIES if p in found))

    @property
    def rows(self) -> tuple[str, ...]:
        """The languages, then the average where there are several target languages."""
        return (*self.targets, AVERAGE) if sum(t not in self.meta.sources for t in self.targets) > 1 else self.targets

    def group(self, target: str, control: str) -> list[Cell]:
        """The cells of one place, by seed."""
        return sorted((c for c in self.cells if (c.target, c.control) == (target, control)), key=lambda c: c.seed)

    def averaged(self) -> list[str]:
        """The languages of the average row: not the source, with a cell under every control that has any.

        So that every control is averaged over the same languages. Proxies do not count: one that only some languages
        have has no average.
        """
        others = [t for t in self.targets if t not in self.meta.sources]
        used = {c.control for c in self.cells if c.target in others and c.control in CONTROLS}
        used = used or {c.control for c in self.cells if c.target in others}
        return [t for t in others if used and all(self.group(t, control) for control in used)]

    def table(self, metric: str | None = None) -> list[Row]:
        """Target x control rows, then the average over target languages (macro, per seed), in the order of `columns`.

        metric: one of `scored.metrics`, the deciding one when not given.
        """
        metric = self.scored.metrics[0] if metric is None else metric
        if metric not in self.scored.metrics:
            raise DataError(f"unknown metric {metric!r}: {did_you_mean(metric, self.scored.metrics)}")
        rows = [self._row(t, [t], control, metric) for t in self.targets for control in self.columns]
        return rows + [self._row(AVERAGE, self.averaged(), control, metric) for control in self.columns]

    def _row(self, name: str, languages: list[str], control: str, metric: str) -> Row:
        by_seed, silent = self.macro(languages, control, metric)
        values = list(by_seed.values())
        if not values:
            reasons = [m.reason for m in self.missing if (m.target, m.control) == (name, control)]
            fallback = (
                "not evaluated"
                if name != AVERAGE
                else (
                    "not every language of the average has it" if languages else "no target language has every control"
                )
            )
            return Row(name, control, None, None, 0, reason=(reasons or [fallback])[0], languages=len(languages))
        sd = stdev(values) if len(values) > 1 else None
        return Row(name, control, fmean(values), sd, len(values), silent=silent, languages=len(languages))

    def macro(self, languages: list[str], control: str, metric: str | None = None) -> tuple[dict[int, float], tuple]:
        """seed -> mean over the languages, for the seeds that all of them have; and the modules silent in them."""
        metric = metric or self.scored.metrics[0]
        groups = [{c.seed: c for c in self.group(t, control)} for t in languages]
        seeds = sorted(set.intersection(*map(set, groups))) if groups else []
        silent = tuple(dict.fromkeys(name for g in groups for s in seeds for name in g[s].silent))
        return {s: fmean(getattr(g[s].scores, metric) for g in groups) for s in seeds}, silent

    def pairs(self, *, samples: int = SAMPLES, seed: int = 0) -> list[Contrast]:
        """Every difference of two columns, per language and for the average, with both tests; see `contrasts.py`.

        `samples` resamples of the sentences; 0 leaves that test out. Worked out once for each (samples, seed).
        """
        if (samples, seed) not in self._pairs:
            self._pairs[samples, seed] = contrasts(self, samples=samples, seed=seed)
        return list(self._pairs[samples, seed])

    def differences(self, *, samples: int = SAMPLES, seed: int = 0) -> list[Contrast]:
        """Those of `pairs` that compare the target module with the other controls, in `BASELINES` order."""
        found = [c for c in self.pairs(samples=samples, seed=seed) if c.control == "target" and c.minus in BASELINES]
        return sorted(found, key=lambda c: (self.order(c.target), BASELINES.index(c.minus)))

    def order(self, target: str) -> int:
        """The place of a language, or of the average, among the rows."""
        return [*self.targets, AVERAGE].index(target)

    def warnings(self) -> list[str]:
        """A line for every place where a module did not act although it should have; belongs into every output."""
        lines = []
        for target in self.targets:
            for control in self.columns:
                cells = [c for c in self.group(target, control) if c.silent]
                if cells:
                    names = ", ".join(dict.fromkeys(name for c in cells for name in c.silent))
                    lines.append(
                        f"SILENT MODULE: {names} did not act for {target}, control {control} "
                        f"({cells[0].composition}; seeds {', '.join(str(c.seed) for c in cells)}): "
                        "these scores do not show what the module does"
                    )
        return lines

    def notes(self, shown: Sequence[Contrast] | None = None) -> list[str]:
        """Footnotes: which of the differences `shown` (None: all of `differences`) are within noise, what is missing and
        why, what the average is over, what has no record."""
        lines = footnotes(self, self.differences() if shown is None else shown, samples=SAMPLES)
        rows = self.table()
        lines += [f"- {r.target}, {r.control}: {r.reason}" for r in rows if r.mean is None]
        others = [t for t in self.targets if t not in self.meta.sources]
        if 0 < len(self.averaged()) < len(others):
            lines.append(
                f"{AVERAGE} over {len(self.averaged())} of {len(others)} target languages, those with every "
                f"control: {', '.join(self.averaged())}"
            )
        unexplained = dict.fromkeys(f"{c.target}, {c.control}" for c in self.cells if c.explanation is None)
        if unexplained:
            lines.append("no record of which modules acted: " + "; ".join(unexplained))
        counts = {t: {r.control: r.n for r in rows if r.target == t and r.n} for t in self.targets}
        uneven = [f"{t} {n}" for t, n in counts.items() if len(set(n.values())) > 1]
        return lines + (["different numbers of seeds: " + "; ".join(uneven)] if uneven else [])

    def to_json(self) -> str:
        from madx.results.json import to_json  # storage and report read this module: imported at the call

        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "TransferMatrix":
        """Read what `to_json` wrote, without loss. Raises DataError on anything else."""
        from madx.results.json import from_json

        return from_json(text)

    def to_csv(self) -> str:
        from madx.report.tables import to_csv

        return to_csv(self)

    def to_markdown(self) -> str:
        from madx.report.tables import to_markdown

        return to_markdown(self)

    def rich(self):
        from madx.report.tables import to_rich

        return to_rich(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write matrix.json, matrix.csv, matrix.md and heatmap.png; each appears whole or not at all."""
        from madx.results.json import save

        return save(self, folder)
