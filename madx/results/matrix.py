"""The transfer matrix: the scores of one task module under every target language's composition, beside the controls.

A cell is one prediction: a target language's test set, a control, a seed. The controls differ only in the language
module under the task module. Proxies are further columns. Plain data: no engine, no model, no rendering.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from madx.errors import DataError, did_you_mean
from madx.metrics.scores import EntityScores, Scores
from madx.metrics.significance import SAMPLES
from madx.results.cells import AVERAGE, BASELINES, CONTROLS, PROXIES, BySeed, Cell, Meta, Missing, Row, macro
from madx.results.contrasts import Contrast, contrasts


@dataclass(frozen=True)
class TransferMatrix:
    """All cells of one task module.

    meta: the origin of the scores. cells, missing: the places with and without a score. targets: the languages in the
    order of the rows; the source languages always come first. Empty: in the order of the cells.

    Raises DataError when there is no language, when a cell is given twice, when scores are of two kinds, and when cells
    of one language were scored on different gold sentences.
    """

    meta: Meta
    cells: tuple[Cell, ...]
    missing: tuple[Missing, ...] = ()
    targets: tuple[str, ...] = ()
    _groups: dict[tuple[str, str], dict[int, Cell]] = field(init=False, repr=False, compare=False)
    _pairs: dict[tuple[int, int], list[Contrast]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        cells, missing = tuple(self.cells), tuple(self.missing)
        known = tuple(dict.fromkeys([c.target for c in cells] + [m.target for m in missing]))
        order = _ordered(self.targets, known, self.meta.sources)
        groups: dict[tuple[str, str], dict[int, Cell]] = {}
        for cell in sorted(cells, key=lambda c: c.seed):
            group = groups.setdefault((cell.target, cell.control), {})
            if cell.seed in group:
                raise DataError(
                    f"two cells for language {cell.target}, control {cell.control}, seed {cell.seed}; keep one"
                )
            group[cell.seed] = cell
        for name, value in (("cells", cells), ("missing", missing), ("targets", order), ("_groups", groups)):
            object.__setattr__(self, name, value)
        _check_scores(cells)

    @property
    def scored(self) -> type[Scores]:
        """The class of the scores: it says which figure decides (`metrics[0]`) and what it is called."""
        return type(self.cells[0].scores) if self.cells else EntityScores

    @property
    def columns(self) -> tuple[str, ...]:
        """The four controls, then the proxies that occur."""
        found = {c.control for c in self.cells} | {m.control for m in self.missing}
        return (*CONTROLS, *(p for p in PROXIES if p in found))

    @property
    def rows(self) -> tuple[str, ...]:
        """The languages, then the average where there are several target languages."""
        return (*self.targets, AVERAGE) if len(self.others()) > 1 else self.targets

    def others(self) -> list[str]:
        """The target languages that are no source language."""
        return [t for t in self.targets if t not in self.meta.sources]

    def group(self, target: str, control: str) -> list[Cell]:
        """The cells of one place, by seed."""
        return list(self._groups.get((target, control), {}).values())

    def averaged(self) -> list[str]:
        """The languages of the average: no source, and with a cell under every control that has any.

        So every control is averaged over the same languages. Proxies do not count: one that only some languages have
        has no average.
        """
        others = self.others()
        used = {c.control for c in self.cells if c.target in others and c.control in CONTROLS}
        used = used or {c.control for c in self.cells if c.target in others}
        return [t for t in others if used and all(self.group(t, control) for control in used)]

    def table(self, metric: str | None = None) -> list[Row]:
        """Language by language the row of every column, then the average over target languages (macro, per seed).

        metric: one of `scored.metrics`, the deciding one when not given. Raises DataError on another.
        """
        metric = self.scored.metrics[0] if metric is None else metric
        if metric not in self.scored.metrics:
            raise DataError(f"unknown metric {metric!r}: {did_you_mean(metric, self.scored.metrics)}")
        rows = [self._row(t, [t], control, metric) for t in self.targets for control in self.columns]
        return rows + [self._row(AVERAGE, self.averaged(), control, metric) for control in self.columns]

    def _row(self, name: str, languages: list[str], control: str, metric: str) -> Row:
        found = self.macro(languages, control, metric)
        values = list(found.scores.values())
        if not values:
            reason = self._why_missing(name, languages, control)
            return Row(name, control, None, None, 0, reason=reason, languages=len(languages))
        sd = stdev(values) if len(values) > 1 else None
        return Row(name, control, fmean(values), sd, len(values), inactive=found.inactive, languages=len(languages))

    def _why_missing(self, name: str, languages: list[str], control: str) -> str:
        reasons = [m.reason for m in self.missing if (m.target, m.control) == (name, control)]
        if reasons:
            return reasons[0]
        if name != AVERAGE:
            return "not evaluated"
        return "not every language of the average has it" if languages else "no target language has every control"

    def macro(self, languages: Sequence[str], control: str, metric: str | None = None) -> BySeed:
        """The mean score over languages, for each seed that all of them have, and the modules inactive in them."""
        return macro(self._groups, languages, control=control, metric=metric or self.scored.metrics[0])

    def pairs(self, *, samples: int = SAMPLES, seed: int = 0) -> list[Contrast]:
        """Every difference of two columns, per language and for the average, with both tests; see `contrasts.py`.

        samples: resamples of the sentences; 0 leaves that test out. The pairs are computed once for each (samples,
        seed).
        """
        if (samples, seed) not in self._pairs:
            rows = {t: [t] for t in self.targets}
            if len(averaged := self.averaged()) > 1:  # an average over one language would count that language twice
                rows[AVERAGE] = averaged
            self._pairs[samples, seed] = contrasts(
                self._groups, rows, self.columns, metric=self.scored.metrics[0], samples=samples, seed=seed
            )
        return list(self._pairs[samples, seed])

    def differences(self, *, samples: int = SAMPLES, seed: int = 0) -> list[Contrast]:
        """Those of `pairs` that compare the target module with the other controls, in the order of `BASELINES`."""
        found = [c for c in self.pairs(samples=samples, seed=seed) if c.control == "target" and c.minus in BASELINES]
        order = [*self.targets, AVERAGE]
        return sorted(found, key=lambda c: (order.index(c.target), BASELINES.index(c.minus)))

    def warnings(self) -> list[str]:
        """A line for every place where a module did not act although it should have. It belongs into every output."""
        lines = []
        for target in self.targets:
            for control in self.columns:
                cells = [c for c in self.group(target, control) if c.inactive]
                if cells:
                    names = ", ".join(dict.fromkeys(name for c in cells for name in c.inactive))
                    lines.append(
                        f"INACTIVE MODULE: {names} did not act for {target}, control {control} "
                        f"({cells[0].composition}; seeds {', '.join(str(c.seed) for c in cells)}): "
                        "these scores do not show what the module does"
                    )
        return lines


def _ordered(targets: Sequence[str], known: Sequence[str], sources: Sequence[str]) -> tuple[str, ...]:
    """The order of the rows: the given one, else that of the known languages; source languages first."""
    order = tuple(dict.fromkeys(targets)) or known
    stray = [t for t in known if t not in order]
    if stray:
        raise DataError(f"cells of languages that are no targets: {', '.join(stray)}; targets: {', '.join(order)}")
    if not order:
        raise DataError("a transfer matrix without any language; give cells, or missing places with their reason")
    return tuple(t for t in order if t in sources) + tuple(t for t in order if t not in sources)


def _check_scores(cells: Sequence[Cell]) -> None:
    """Raises DataError unless all scores are of one kind, and those of a language on the same gold sentences."""
    if len(kinds := dict.fromkeys(c.scores.kind for c in cells)) > 1:
        raise DataError(f"cells with scores of {' and of '.join(kinds)}; one matrix holds one task")
    first: dict[str, Cell] = {}
    for cell in cells:
        gold, other = first.setdefault(cell.target, cell).scores.statistics.n_gold, cell.scores.statistics.n_gold
        if gold.tolist() != other.tolist():
            raise DataError(
                f"{cell.target}: control {cell.control}, seed {cell.seed} was scored on other sentences "
                f"({cell.sentences}) than the first cell ({len(gold)}); use one test set per language"
            )
