"""Every pair of a matrix's columns compared: over seeds, over sentences, and corrected for the number of pairs.

A difference counts as real when another training run and other sentences would both show it, so its p is the larger one
of the two tests (an intersection-union test, Berger 1982). A matrix holds many pairs; of 20 pairs without any
difference one is expected below p = 0.05. So `p_holm` corrects over all pairs of the matrix, the average's included.

    ≈   within noise: p >= 0.05, or one seed, which gives no test over seeds
    °   beyond noise if it were the only pair, but not after the correction
        (no mark) beyond noise after the correction
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from madx.metrics.scores import Statistics
from madx.metrics.significance import ALPHA, Difference, holm, judged, resampled_f1, seed_difference

if TYPE_CHECKING:
    from madx.results.matrix import Row, TransferMatrix

NOISE, ALONE = "≈", "°"


@dataclass(frozen=True)
class Contrast:
    """The score under the column `control` minus that under the column `minus`, for a language or the average row.

    low, high: 95 % t interval over the n seeds that both have (None for one seed), p_seeds its p; sentences: bootstrap
    with the counts of these seeds added, for the average resampled within each language (None when not asked for).
    p: the larger of both; p_holm: corrected over all pairs of the matrix; noise: p >= 0.05 or one seed.
    """

    target: str
    minus: str
    delta: float
    low: float | None
    high: float | None
    n: int
    noise: bool
    sentences: Difference | None = None
    silent: tuple[str, ...] = ()
    languages: int = 1
    control: str = "target"
    p_seeds: float | None = None
    p: float = 1.0
    p_holm: float = 1.0

    @property
    def mark(self) -> str:
        """`≈`, `°` or nothing; see the top of the file."""
        return NOISE if self.noise else ALONE if self.p_holm >= ALPHA else ""


def contrasts(matrix: TransferMatrix, *, samples: int, seed: int) -> list[Contrast]:
    """All pairs of columns with cells for shared seeds, by language, the average last. Target minus others come first,
    then later columns minus earlier ones."""
    found: list[Contrast] = []
    kept: dict = {}
    for name, languages in _rows(matrix):
        scores = {c: matrix.macro(languages, c) for c in matrix.columns}
        shared = {pair: tuple(s for s in scores[pair[0]][0] if s in scores[pair[1]][0]) for pair in _pairs(matrix)}
        shared = {pair: seeds for pair, seeds in shared.items() if seeds}
        drawn = _resampled(matrix, languages, shared, kept, samples=samples, seed=seed) if samples and shared else None
        for (a, b), seeds in shared.items():
            over_seeds = seed_difference([scores[a][0][s] for s in seeds], [scores[b][0][s] for s in seeds])
            bootstrap = drawn and judged(*(drawn[a, seeds][i] - drawn[b, seeds][i] for i in (0, 1)))
            p = 1.0 if over_seeds.p is None else max(over_seeds.p, bootstrap.p if bootstrap else 0.0)
            found.append(
                Contrast(
                    name,
                    b,
                    over_seeds.delta,
                    over_seeds.low,
                    over_seeds.high,
                    over_seeds.n,
                    noise=over_seeds.noise or p >= ALPHA,
                    sentences=bootstrap,
                    languages=len(languages),
                    control=a,
                    silent=tuple(dict.fromkeys(scores[a][1] + scores[b][1])),
                    p_seeds=over_seeds.p,
                    p=p,
                )
            )
    return [replace(c, p_holm=p) for c, p in zip(found, holm([c.p for c in found]))]


def _rows(matrix: TransferMatrix) -> Iterator[tuple[str, list[str]]]:
    """The languages, and the average where it is over more than one: over one it would count that language twice."""
    yield from ((t, [t]) for t in matrix.targets)
    if len(averaged := matrix.averaged()) > 1:
        yield "average", averaged


def _pairs(matrix: TransferMatrix) -> list[tuple[str, str]]:
    columns = matrix.columns
    others = [c for c in columns if c != "target"]
    return [("target", c) for c in others] + [(b, a) for a, b in combinations(others, 2)]


def _resampled(matrix, languages: list[str], shared: dict, kept: dict, *, samples: int, seed: int) -> dict:
    """(column, seeds) -> F1 on all sentences and on the resamples `(samples,)`, mean over the languages. Each language has
    one draw of sentences for all its columns, from a stream of its own: the company of other languages changes nothing.
    `kept` holds what was drawn already, for the average row."""
    systems = tuple(dict.fromkeys((c, seeds) for pair, seeds in shared.items() for c in pair))
    for language in languages:
        if (language, systems) not in kept:
            counts = [_added(matrix, language, column, seeds) for column, seeds in systems]
            stream = [seed, zlib.crc32(language.encode())]
            kept[language, systems] = resampled_f1(counts, samples=samples, seed=stream)
    whole, drawn = (np.mean([kept[language, systems][i] for language in languages], axis=0) for i in (0, 1))
    return {system: (whole[i], drawn[:, i]) for i, system in enumerate(systems)}


def _added(matrix, language: str, column: str, seeds: tuple[int, ...]) -> Statistics:
    parts = [c.scores.statistics for c in matrix.group(language, column) if c.seed in seeds]
    return Statistics(*(sum(getattr(p, name) for p in parts) for name in ("tp", "n_gold", "n_pred")))


def best(rows: list[Row]) -> set[str]:
    """Of one language's places, the columns with the highest mean; a place with a silent module cannot win."""
    means = {r.control: r.mean for r in rows if r.mean is not None and not r.silent}
    return {control for control, mean in means.items() if mean == max(means.values())}


def between(found: list[Contrast], target: str, a: str, b: str) -> Contrast | None:
    """The comparison of two columns of a language, whichever comes first in it."""
    return next((c for c in found if c.target == target and {c.control, c.minus} == {a, b}), None)


def like_best(matrix: TransferMatrix, rows: list[Row]) -> set[str]:
    """The columns of a language that are not the best but differ from it by noise alone."""
    top, found = best(rows), matrix.pairs()
    others = [r for r in rows if r.control not in top and r.mean is not None]
    pairs = {r.control: [between(found, r.target, r.control, t) for t in top] for r in others}
    return {control for control, compared in pairs.items() if any(c is not None and c.noise for c in compared)}


def footnotes(matrix: TransferMatrix, shown: Sequence[Contrast], *, samples: int) -> list[str]:
    """What the marks mean, which differences they stand at, and how it was tested."""

    def listed(which: list[Contrast]) -> str:
        return "; ".join(f"{c.target}: {c.control} - {c.minus}" for c in which)

    everything = matrix.pairs()
    lines = []
    if noise := [c for c in shown if c.mark == NOISE]:
        lines.append(
            f"{NOISE} within noise (p >= {ALPHA} over seeds or over sentences, or there is one seed): {listed(noise)}"
        )
    elif shown:
        lines.append(f"no difference is within noise (p < {ALPHA} over seeds and over sentences)")
    if alone := [c for c in shown if c.mark == ALONE]:
        lines.append(
            f"{ALONE} beyond noise alone, but not after Holm's correction over the {len(everything)} pairs of this "
            f"matrix{' (few seeds seldom pass it)' * (max(c.n for c in alone) < 5)}: {listed(alone)}"
        )
    if everything:
        lines.append(
            f"tests: paired t over seeds, paired bootstrap of {samples:,} resamples over sentences, p is the larger one"
        )
    table = matrix.table()
    if any(like_best(matrix, [r for r in table if r.target == name]) for name in {r.target for r in table}):
        lines.append(f"{NOISE} behind a score: within noise of the row's best")
    if any(c.n == 1 for c in everything):
        lines.append("one seed gives no interval over seeds: use three or more")
    if everything and len(everything) * 2 / (samples + 1) >= ALPHA:
        lines.append(
            f"{len(everything)} pairs are too many for {samples:,} resamples: after the correction none can be "
            "beyond noise; compare fewer columns or languages"
        )
    return lines
