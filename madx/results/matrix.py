"""The transfer matrix: the scores of one task module under every target language's composition, beside the controls.

A cell is one prediction: a target language's test set, a control, a seed. The controls differ only in the language
module under the task module. Proxies are further columns. Plain data: no engine, no model, no rendering.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from madx.errors import DataError, did_you_mean
from madx.metrics.scores import EntityScores, Scores
from madx.metrics.significance import SAMPLES
from madx.results.cells import (
    AVERAGE,
    BASELINES,
    COLUMNS,
    CONTROLS,
    PROXIES,
    BySeed,
    Cell,
    Groups,
    Meta,
    Missing,
    Row,
    macro,
)
from madx.results.contrasts import Contrast, Pair, contrasts, pairs_of


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
    #: places whose cells are those of another column under a second name -> that column
    _same: dict[tuple[str, str], str] = field(init=False, repr=False, compare=False)
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
        object.__setattr__(self, "_same", _doubles(groups))
        _check_scores(cells)

    @property
    def scored(self) -> type[Scores]:
        """The class of the scores: it says which figure decides (`metrics[0]`) and what it is called."""
        return type(self.cells[0].scores) if self.cells else EntityScores

    @property
    def columns(self) -> tuple[str, ...]:
        """The four controls, then the proxies that occur; a column is left out if it is another one under a second
        name, that is, if it has no score of its own."""
        found = {c.control for c in self.cells} | {m.control for m in self.missing}
        return tuple(c for c in (*CONTROLS, *(p for p in PROXIES if p in found)) if c not in self.doubles())

    def doubles(self) -> dict[str, list[str]]:
        """The columns that have the composition of another one in every target language and no score of their own, each
        with these others."""
        own = {control for target, control in self._groups if (target, control) not in self._same}
        rows = self.others() or list(self.targets)
        found = {control: [self._same.get((t, control), "") for t in rows] for _, control in self._same}
        return {c: list(dict.fromkeys(others)) for c, others in found.items() if all(others) and c not in own}

    @property
    def rows(self) -> tuple[str, ...]:
        """The languages, then the average where there are several target languages."""
        return (*self.targets, AVERAGE) if len(self.others()) > 1 else self.targets

    def others(self) -> list[str]:
        """The target languages that are no source language."""
        return [t for t in self.targets if t not in self.meta.sources]

    def group(self, target: str, control: str) -> list[Cell]:
        """The cells of one place, by seed; none where they are those of another column under a second name."""
        return [] if (target, control) in self._same else list(self._groups.get((target, control), {}).values())

    def averaged(self, control: str | None = None) -> list[str]:
        """The target languages of the average, no source among them: of the controls, or of one column.

        Every control is averaged over the same languages, those with a score under every control that has any. A proxy
        is averaged over the languages that it serves, since it stands in where controls are missing.
        """
        others = self.others()
        if control in PROXIES:
            return [t for t in others if self._scored(t, control)]
        used = {c.control for c in self.cells if c.target in others and c.control in CONTROLS}
        return [t for t in others if used and all(self._scored(t, each) for each in used)]

    def _scored(self, target: str, control: str) -> bool:
        """True if a place has a score, be it that of another column under a second name."""
        return bool(self._groups.get((target, control)))

    def _double_of(self, languages: Sequence[str], control: str) -> str | None:
        """The column that a column is under a second name in all of these languages; None if it is one of its own."""
        found = {self._same.get((t, control)) for t in languages}
        return found.pop() if len(found) == 1 else None

    def table(self, metric: str | None = None) -> list[Row]:
        """Language by language the row of every column, then the average over target languages (macro, per seed).

        metric: one of `scored.metrics`, the deciding one when not given. Raises DataError on another.
        """
        metric = self.scored.metrics[0] if metric is None else metric
        if metric not in self.scored.metrics:
            raise DataError(f"unknown metric {metric!r}: {did_you_mean(metric, self.scored.metrics)}")
        rows = [self._row(t, [t], control, metric) for t in self.targets for control in self.columns]
        return rows + [self._row(AVERAGE, self.averaged(control), control, metric) for control in self.columns]

    def _row(self, name: str, languages: list[str], control: str, metric: str) -> Row:
        double = self._double_of(languages, control)
        found = BySeed({}, ()) if double else self.macro(languages, control, metric)
        values, over = list(found.scores.values()), tuple(languages)
        if not values:
            reason = self._why_missing(name, languages, control, double)
            return Row(name, control, None, None, 0, reason=reason, languages=len(over), over=over)
        sd = stdev(values) if len(values) > 1 else None
        inactive = found.inactive
        return Row(name, control, fmean(values), sd, len(values), inactive=inactive, languages=len(over), over=over)

    def _why_missing(self, name: str, languages: list[str], control: str, double: str | None) -> str:
        reasons = [m.reason for m in self.missing if (m.target, m.control) == (name, control)]
        if reasons:
            return reasons[0]
        if double:
            everywhere = " in every language of the average" if name == AVERAGE else ""
            return f"its composition is that of {double}{everywhere}: see {double}"
        if name != AVERAGE:
            return "not evaluated"
        if control in PROXIES:
            return "it has no score in a target language" if not languages else "its languages share no seed"
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
            own = self._groups.keys() - self._same.keys()
            rows: dict[str, dict[Pair, list[str]]] = {
                t: {pair: [t] for pair in pairs_of([c for c in self.columns if (t, c) in own])} for t in self.targets
            }
            over = {pair: self._averaged_pair(pair) for pair in pairs_of(self.columns)}
            # over one language it would count that language twice
            rows[AVERAGE] = {pair: languages for pair, languages in over.items() if len(languages) > 1}
            self._pairs[samples, seed] = contrasts(
                self._groups, rows, metric=self.scored.metrics[0], samples=samples, seed=seed
            )
        return list(self._pairs[samples, seed])

    def _averaged_pair(self, pair: Pair) -> list[str]:
        """The languages over which the averages of two columns are compared: those of the controls, or, with a proxy,
        those that have a score under both columns. None where one column is another one under a second name."""
        languages = self.averaged()
        if any(column in PROXIES for column in pair):
            languages = [t for t in self.others() if all(self._scored(t, column) for column in pair)]
        return [] if any(self._double_of(languages, column) for column in pair) else languages

    def differences(self, *, samples: int = SAMPLES, seed: int = 0) -> list[Contrast]:
        """Those of `pairs` that compare the target module with the other controls, in the order of `BASELINES`."""
        found = [c for c in self.pairs(samples=samples, seed=seed) if c.control == "target" and c.minus in BASELINES]
        order = [*self.targets, AVERAGE]
        return sorted(found, key=lambda c: (order.index(c.target), BASELINES.index(c.minus)))

    def harmed(self) -> list[Contrast]:
        """Those of `differences` in which a language's own module scores lower than no module or than the source's
        kept, beyond noise, with all modules active."""
        found = [c for c in self.differences() if c.target != AVERAGE and c.minus in ("none", "source")]
        return [c for c in found if c.delta < 0 and not c.noise and not c.inactive]

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


def _doubles(groups: Groups) -> dict[tuple[str, str], str]:
    """The places whose cells are those of an earlier column under a second name: one composition with one result.

    The order of the columns decides which is the first; `emea` changes the weights of its composition.
    """
    first: dict[tuple[Any, ...], str] = {}
    found: dict[tuple[str, str], str] = {}
    for target, control in sorted(groups, key=lambda place: (place[0], list(COLUMNS).index(place[1]))):
        cells = groups[target, control].values()
        counts = tuple((c.seed, c.composition, c.scores.statistics.tp.tobytes(), c.scores.predicted) for c in cells)
        if control != "emea" and (other := first.setdefault((target, counts), control)) != control:
            found[target, control] = other
    return found


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
