"""Comparison of every pair of a matrix's columns: over seeds, over sentences, and corrected for the number of pairs.

A difference counts as real when another training run and other sentences would both show it, so its p is the larger p
of the two tests (an intersection-union test, Berger 1982). A matrix holds many pairs; of 20 pairs without any
difference one is expected below p = 0.05. So `p_holm` corrects over all pairs of the matrix, those of the average
included.

    ≈   within noise: p >= 0.05, or one seed, which gives no test over seeds
    °   beyond noise if it were the only pair, but not after the correction
        (no mark) beyond noise after the correction
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from madx.metrics.scores import Statistics
from madx.metrics.significance import ALPHA, Difference, holm, judged, resampled_f1, seed_difference
from madx.results.cells import BySeed, Groups, Row, macro

NOISE, ALONE = "≈", "°"

#: a column, and the one whose score is subtracted
Pair = tuple[str, str]
#: row of the table -> pair to compare -> the languages over which it is compared
Rows = Mapping[str, Mapping[Pair, Sequence[str]]]
#: (column, seeds whose counts are added)
System = tuple[str, tuple[int, ...]]
#: F1 on all sentences, and on the resamples `(samples,)`
Resampled = tuple[float, np.ndarray]


@dataclass(frozen=True)
class Contrast:
    """The score under the column `control` minus the score under the column `minus`, of a language or of the average.

    target: the language, or `average`.
    delta: the difference, in percent points.
    low, high: the 95 % t interval over the n seeds that both columns have; None for one seed.
    noise: p >= 0.05, or one seed.
    sentences: the bootstrap with the counts of these seeds added, for the average resampled within each language; None
        when it was not asked for.
    inactive: modules that did not act in one of the predictions.
    languages: the number of languages in an average, else 1.
    p_seeds, p, p_holm: p over seeds (None for one seed), the larger p of both tests, p corrected over all pairs.
    """

    target: str
    minus: str
    delta: float
    low: float | None
    high: float | None
    n: int
    noise: bool
    sentences: Difference | None = None
    inactive: tuple[str, ...] = ()
    languages: int = 1
    control: str = "target"
    p_seeds: float | None = None
    p: float = 1.0
    p_holm: float = 1.0

    @property
    def mark(self) -> str:
        """`≈`, `°` or nothing; see the top of the file."""
        return NOISE if self.noise else ALONE if self.p_holm >= ALPHA else ""


def contrasts(groups: Groups, rows: Rows, *, metric: str, samples: int, seed: int) -> list[Contrast]:
    """The pairs of columns that have cells for a common seed, row by row.

    groups: the cells. rows: the pairs to compare. metric: the score that is compared. samples: resamples of the
    sentences, 0 for no test over sentences.
    """
    found: list[Contrast] = []
    resamples = _Resamples(groups, samples=samples, seed=seed)
    for name, pairs in rows.items():
        of_row: dict[Pair, Contrast] = {}
        for languages in dict.fromkeys(map(tuple, pairs.values())):
            same = [pair for pair, over in pairs.items() if tuple(over) == languages]
            means = {c: macro(groups, languages, control=c, metric=metric) for pair in same for c in pair}
            common = {(a, b): tuple(s for s in means[a].scores if s in means[b].scores) for a, b in same}
            common = {pair: seeds for pair, seeds in common.items() if seeds}
            drawn = resamples.mean(languages, common) if samples and common else {}
            for (a, b), seeds in common.items():
                sentences = None
                if drawn:
                    one, other = drawn[a, seeds], drawn[b, seeds]
                    sentences = judged(one[0] - other[0], one[1] - other[1])
                number = len(languages)
                of_row[a, b] = _contrast(name, (a, b), means, seeds=seeds, sentences=sentences, languages=number)
        found += [of_row[pair] for pair in pairs if pair in of_row]
    return [replace(c, p_holm=p) for c, p in zip(found, holm([c.p for c in found]))]


def pairs_of(columns: Sequence[str]) -> list[Pair]:
    """Every pair of columns: the target's with each other one, then each later column with the earlier ones."""
    others = [c for c in columns if c != "target"]
    own = [("target", c) for c in others] if "target" in columns else []
    return own + [(b, a) for a, b in combinations(others, 2)]


def _contrast(
    target: str,
    pair: Pair,
    means: Mapping[str, BySeed],
    *,
    seeds: Sequence[int],
    sentences: Difference | None,
    languages: int,
) -> Contrast:
    """The contrast of a pair of columns, not yet corrected for the number of pairs."""
    a, b = (means[column] for column in pair)
    over_seeds = seed_difference([a.scores[s] for s in seeds], [b.scores[s] for s in seeds])
    p = 1.0 if over_seeds.p is None else max(over_seeds.p, sentences.p if sentences else 0.0)
    return Contrast(
        target,
        minus=pair[1],
        delta=over_seeds.delta,
        low=over_seeds.low,
        high=over_seeds.high,
        n=over_seeds.n,
        noise=over_seeds.noise or p >= ALPHA,
        sentences=sentences,
        inactive=tuple(dict.fromkeys(a.inactive + b.inactive)),
        languages=languages,
        control=pair[0],
        p_seeds=over_seeds.p,
        p=p,
    )


class _Resamples:
    """Scores on resampled sentences. Each language has one draw of sentences for all its columns, from a random stream
    of its own, so that its figures do not depend on the other languages of the matrix."""

    def __init__(self, groups: Groups, *, samples: int, seed: int):
        self.groups, self.samples, self.seed = groups, samples, seed
        self._kept: dict[tuple[str, tuple[System, ...]], tuple[np.ndarray, np.ndarray]] = {}

    def mean(self, languages: Sequence[str], pairs: Mapping[Pair, tuple[int, ...]]) -> dict[System, Resampled]:
        """The scores of every column in the pairs, mean over the languages."""
        systems = tuple(dict.fromkeys((column, seeds) for pair, seeds in pairs.items() for column in pair))
        each = [self._of(language, systems) for language in languages]
        whole, drawn = (np.mean([found[i] for found in each], axis=0) for i in (0, 1))
        return {system: (float(whole[i]), drawn[:, i]) for i, system in enumerate(systems)}

    def _of(self, language: str, systems: tuple[System, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Scores `(systems,)` and `(samples, systems)` of one language; kept, for the average needs them again."""
        if (language, systems) not in self._kept:
            counts = [self._added(language, column, seeds) for column, seeds in systems]
            stream = [self.seed, zlib.crc32(language.encode())]
            self._kept[language, systems] = resampled_f1(counts, samples=self.samples, seed=stream)
        return self._kept[language, systems]

    def _added(self, language: str, column: str, seeds: Sequence[int]) -> Statistics:
        cells = self.groups[language, column]
        found = [cells[seed].scores.statistics for seed in seeds]
        return Statistics(*(sum(getattr(s, name) for s in found) for name in ("tp", "n_gold", "n_pred")))


def comparable(rows: Iterable[Row]) -> list[Row]:
    """The places of one row of the table that have a score and are over the same languages as the first of them.

    Only averages differ in their languages: that of a proxy is over those that it serves.
    """
    scored = [r for r in rows if r.mean is not None]
    return [r for r in scored if r.over == scored[0].over]


def best(rows: Iterable[Row]) -> set[str]:
    """The columns with the highest mean in one row of the table; a place with an inactive module cannot win, nor can an
    average over other languages than the first column's."""
    means = {r.control: r.mean for r in comparable(rows) if r.mean is not None and not r.inactive}
    return {control for control, mean in means.items() if mean == max(means.values())}


def between(found: Iterable[Contrast], target: str, a: str, b: str) -> Contrast | None:
    """The comparison of two columns in one row, in either direction; None when there is none."""
    return next((c for c in found if c.target == target and {c.control, c.minus} == {a, b}), None)


def like_best(rows: Sequence[Row], pairs: Sequence[Contrast]) -> set[str]:
    """The columns of one row of the table that are not the best but differ from it by noise alone."""
    top = best(rows)
    others = [r for r in comparable(rows) if r.control not in top]
    compared = {r.control: [between(pairs, r.target, r.control, t) for t in top] for r in others}
    return {control for control, found in compared.items() if any(c is not None and c.mark == NOISE for c in found)}
