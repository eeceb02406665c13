"""Footnotes of a transfer matrix: what the marks mean and where they stand, what is missing and why."""

from collections.abc import Sequence

from madx.data.labelled.spans import Scoring
from madx.metrics.scores import EntityScores
from madx.metrics.significance import ALPHA, SAMPLES
from madx.report.marks import MARKS
from madx.results.cells import AVERAGE, PROXIES, Row
from madx.results.contrasts import ALONE, NOISE, Contrast, like_best
from madx.results.matrix import TransferMatrix


def notes(matrix: TransferMatrix) -> list[str]:
    """The footnotes, each one line."""
    rows = matrix.table()
    lines = [*_reading(matrix), *matrix.meta.remarks, *_marks(matrix.differences(), len(matrix.pairs()))]
    lines += [*_tests(matrix), *_missing(rows), *_doubles(matrix), *_averages(matrix)]
    if unexplained := dict.fromkeys(f"{c.target}, {c.control}" for c in matrix.cells if c.explanation is None):
        lines.append("no record of which modules acted: " + "; ".join(unexplained))
    counts = {t: {r.control: r.n for r in rows if r.target == t and r.n} for t in matrix.targets}
    if uneven := [f"{t} {n}" for t, n in counts.items() if len(set(n.values())) > 1]:
        lines.append("different numbers of seeds: " + "; ".join(uneven))
    return lines


def _reading(matrix: TransferMatrix) -> list[str]:
    """The reading of spans, where scores are of spans."""
    return [scoring_note(matrix.meta.scoring)] if matrix.scored is EntityScores else []


def scoring_note(scoring: Scoring) -> str:
    """A reading of spans in words."""
    meaning = {"strict": "is no entity", "lenient": "begins an entity, as in conlleval"}
    return f"scoring {scoring}: an I- that continues nothing {meaning[scoring]}"


def _doubles(matrix: TransferMatrix) -> list[str]:
    """A line for each column that is another one under a second name, and is not shown."""
    return [
        f"no column {control}: its compositions are those of {' and '.join(others)}"
        for control, others in matrix.doubles().items()
    ]


def _averages(matrix: TransferMatrix) -> list[str]:
    """The languages that the averages are over, where these are not all target languages in every column."""
    others, averaged = matrix.others(), matrix.averaged()
    if len(others) < 2:
        return []
    lines = []
    if 0 < len(averaged) < len(others):
        lines.append(
            f"{AVERAGE} over {len(averaged)} of {len(others)} target languages, those with every control: "
            f"{', '.join(averaged)}"
        )
    of: dict[tuple[str, ...], list[str]] = {}
    for column in (c for c in matrix.columns if c in PROXIES):
        of.setdefault(tuple(matrix.averaged(column)), []).append(column)
    return lines + [
        f"{AVERAGE} under {', '.join(columns)} over the {len(over)} of {len(others)} target languages that it serves: "
        f"{', '.join(over)}; it is compared with other averages over the languages that both have"
        for over, columns in of.items()
        if over and list(over) != averaged
    ]


def _marks(shown: Sequence[Contrast], pairs: int) -> list[str]:
    """The meaning of the marks at the differences, and which differences have them."""
    lines = []
    if noise := [c for c in shown if c.mark == NOISE]:
        lines.append(f"{NOISE} {MARKS[NOISE].meaning}: {_listed(noise)}")
    elif shown:
        lines.append(f"no difference is within noise (p < {ALPHA} over seeds and over sentences)")
    if alone := [c for c in shown if c.mark == ALONE]:
        few = " (few seeds seldom pass it)" if max(c.n for c in alone) < 5 else ""
        lines.append(f"{ALONE} {MARKS[ALONE].meaning} over the {pairs} pairs of this matrix{few}: {_listed(alone)}")
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
