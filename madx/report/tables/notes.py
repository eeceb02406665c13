"""Footnotes of a transfer matrix: what the marks mean and where they stand, what is missing and why."""

from collections.abc import Sequence

from madx.metrics.significance import ALPHA, SAMPLES
from madx.results.cells import AVERAGE, Row
from madx.results.contrasts import ALONE, NOISE, Contrast, like_best
from madx.results.matrix import TransferMatrix


def notes(matrix: TransferMatrix) -> list[str]:
    """The footnotes, each one line."""
    rows = matrix.table()
    lines = [*_marks(matrix.differences(), len(matrix.pairs())), *_tests(matrix), *_missing(rows)]
    averaged, others = matrix.averaged(), matrix.others()
    if 0 < len(averaged) < len(others):
        lines.append(
            f"{AVERAGE} over {len(averaged)} of {len(others)} target languages, those with every control: "
            f"{', '.join(averaged)}"
        )
    if unexplained := dict.fromkeys(f"{c.target}, {c.control}" for c in matrix.cells if c.explanation is None):
        lines.append("no record of which modules acted: " + "; ".join(unexplained))
    counts = {t: {r.control: r.n for r in rows if r.target == t and r.n} for t in matrix.targets}
    if uneven := [f"{t} {n}" for t, n in counts.items() if len(set(n.values())) > 1]:
        lines.append("different numbers of seeds: " + "; ".join(uneven))
    return lines


def _marks(shown: Sequence[Contrast], pairs: int) -> list[str]:
    """The meaning of the marks at the differences, and which differences have them."""
    lines = []
    if noise := [c for c in shown if c.mark == NOISE]:
        lines.append(
            f"{NOISE} within noise (p >= {ALPHA} over seeds or over sentences, or there is one seed): {_listed(noise)}"
        )
    elif shown:
        lines.append(f"no difference is within noise (p < {ALPHA} over seeds and over sentences)")
    if alone := [c for c in shown if c.mark == ALONE]:
        few = " (few seeds seldom pass it)" if max(c.n for c in alone) < 5 else ""
        lines.append(
            f"{ALONE} beyond noise alone, but not after Holm's correction over the {pairs} pairs of this matrix{few}: "
            f"{_listed(alone)}"
        )
    return lines


def _listed(contrasts: Sequence[Contrast]) -> str:
    """`swa: target - none, source; hau: target - mean`."""
    of: dict[tuple[str, str], list[str]] = {}
    for c in contrasts:
        of.setdefault((c.target, c.control), []).append(c.minus)
    return "; ".join(f"{target}: {control} - {', '.join(minus)}" for (target, control), minus in of.items())


def _missing(rows: Sequence[Row]) -> list[str]:
    """A line for each column and reason: the languages that have no score there."""
    of: dict[tuple[str, str], list[str]] = {}
    for row in (r for r in rows if r.mean is None):
        of.setdefault((row.control, row.reason), []).append(row.target)
    return [f"no score under {control} for {', '.join(names)}: {reason}" for (control, reason), names in of.items()]


def _tests(matrix: TransferMatrix) -> list[str]:
    """How the pairs were tested, and what these tests cannot tell."""
    pairs, table, lines = matrix.pairs(), matrix.table(), []
    if pairs:
        lines.append(
            f"tests: a paired t test over seeds and a paired bootstrap over sentences ({SAMPLES:,} resamples); p is "
            "the larger of the two"
        )
    if any(like_best([r for r in table if r.target == name], pairs) for name in (*matrix.targets, AVERAGE)):
        lines.append(f"{NOISE} behind a score: within noise of the row's best")
    if any(c.n == 1 for c in pairs):
        lines.append("one seed gives no interval over seeds: use three or more")
    if pairs and len(pairs) * 2 / (SAMPLES + 1) >= ALPHA:
        lines.append(
            f"{len(pairs)} pairs are too many for {SAMPLES:,} resamples: after the correction none can be beyond "
            "noise; compare fewer columns or languages"
        )
    return lines
