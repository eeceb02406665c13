"""Scores, differences and figures per type."""

from collections.abc import Sequence
from statistics import fmean, stdev

from madx.report.marks import mark_of
from madx.report.page.figures import Square, heatmap, intervals
from madx.report.page.sections.blocks import Figure, Table
from madx.report.tables.text import interval_text, over_text, score_text, signed
from madx.results.cells import AVERAGE, BASELINES, Row
from madx.results.contrasts import NOISE, Contrast, like_best
from madx.results.matrix import TransferMatrix


def headline(matrix: TransferMatrix, differences: Sequence[Contrast]) -> list[str]:
    """The result of the run, in a sentence for each baseline: on the average, or on the only target language."""
    name = matrix.rows[-1]
    found = []
    for c in (c for c in differences if c.target == name):
        over = "one seed, so no interval"
        if c.low is not None:
            over = f"95 % interval {interval_text(c.low, c.high)} over {c.n} seeds"
        of = f"on the average of {c.languages} languages" if name == AVERAGE else f"in {name}"
        found.append(f"target − {c.minus}: {signed(c.delta)} points {of} ({over}): {mark_of(c).meaning}.")
    return found


def heatmap_of(matrix: TransferMatrix, metric: str, heading: str) -> Figure:
    """The transfer matrix as a heatmap. Noise is marked for the deciding metric alone, which the tests are about."""
    table, names = matrix.table(metric), matrix.rows
    decides = metric == matrix.scored.metrics[0]
    squares = []
    for name in names:
        rows = [r for r in table if r.target == name]
        alike = like_best(rows, matrix.pairs()) if decides else set()
        squares.append([_square(r, over_text(r, rows), noise=r.control in alike) for r in rows])
    labels = [name + " (source)" * (name in matrix.meta.sources) for name in names]
    last = len(names) - 1 if names[-1] == AVERAGE else None
    svg = heatmap(f"{heading} by language and control", labels, matrix.columns, squares, separate=last)
    return Figure(heading, svg)


def _square(row: Row, over: str, *, noise: bool) -> Square:
    """over: the number of languages of an average, where averages are over different ones."""
    if row.mean is None:
        return Square(None, "–", hint=f"{row.target}, {row.control}: {row.reason}")
    of = f", over {', '.join(row.over)}" if row.target == AVERAGE else ""
    inactive = f"; INACTIVE: {', '.join(row.inactive)}" if row.inactive else ""
    return Square(
        row.mean,
        f"{row.mean:.1f}" + over + f" {NOISE}" * noise + "!" * bool(row.inactive),
        below="" if row.sd is None else f"± {row.sd:.1f}",
        hint=f"{row.target}, {row.control}: {score_text(row.mean, row.sd)}, n = {row.n}{of}{inactive}",
        loud=bool(row.inactive),
    )


def score_table(matrix: TransferMatrix, metric: str) -> Table:
    """The transfer matrix as numbers."""
    table, lines = matrix.table(metric), []
    for name in matrix.rows:
        rows = [r for r in table if r.target == name]
        cells = [score_text(r.mean, r.sd) + over_text(r, rows) + " INACTIVE" * bool(r.inactive) for r in rows]
        lines.append([name, *cells, str(max(r.n for r in rows))])
    return Table(["language", *matrix.columns, "seeds"], lines)


def difference_figure(matrix: TransferMatrix, differences: Sequence[Contrast]) -> Figure | None:
    """Target minus each control; None where there is nothing to compare."""
    names = [t for t in matrix.rows if any(c.target == t for c in differences)]
    title = f"Difference in {matrix.scored.short}: target minus each control"
    return Figure(title, intervals(title, names, differences, BASELINES)) if names else None


def pair_table(contrasts: Sequence[Contrast]) -> Table:
    """Differences with both intervals, p and a verdict; bold where they are beyond noise after the correction."""
    header = "language, difference, points, 95 % over seeds, seeds, 95 % over sentences, p, Holm, verdict".split(", ")
    strong = [i for i, c in enumerate(contrasts) if mark_of(c).shape == "full"]
    return Table(header, [_pair_line(c) for c in contrasts], 2, strong)


def _pair_line(c: Contrast) -> list[str]:
    sentences = c.sentences
    return [
        c.target,
        f"{c.control} − {c.minus}",
        mark_of(c).sign + signed(c.delta),
        interval_text(c.low, c.high, none="–"),
        str(c.n),
        "–" if sentences is None else interval_text(sentences.low, sentences.high),
        f"{c.p:.3f}",
        f"{c.p_holm:.3f}",
        mark_of(c).verdict + ", INACTIVE" * bool(c.inactive),
    ]


def per_type(matrix: TransferMatrix) -> list[Figure]:
    """F1 of each type under each control: a heatmap for each language, all on one scale."""
    found = {target: _types(matrix, target) for target in matrix.targets}
    values = [s.value for _, _, squares in found.values() for line in squares for s in line if s.value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return [
        Figure(target, heatmap(f"F1 of each type in {target}", rows, shown, squares, row=26, low=low, high=high))
        for target, (rows, shown, squares) in found.items()
        if rows
    ]


def _types(matrix: TransferMatrix, target: str) -> tuple[list[str], list[str], list[list[Square]]]:
    """Of one language the names of the rows (types with their support) and columns, and the squares."""
    groups = {c: [cell.scores.per_type for cell in matrix.group(target, c)] for c in matrix.columns}
    groups = {c: cells for c, cells in groups.items() if cells}
    names = sorted({t for cells in groups.values() for types in cells for t in types})
    rows, squares = [], []
    for name in names:
        support = next((int(f[name]["support"]) for cells in groups.values() for f in cells if name in f), 0)
        rows.append(f"{name} ({support:,})")
        line = []
        for c, cells in groups.items():
            f1 = [f[name]["f1"] if name in f else 0.0 for f in cells]
            line.append(_type_square(f"{target}, {c}, {name}", f1, support))
        squares.append(line)
    return rows, list(groups), squares


def _type_square(place: str, f1: Sequence[float], support: int) -> Square:
    """f1: one value for each seed."""
    mean = fmean(f1)
    hint = f"{place}: {score_text(mean, stdev(f1) if len(f1) > 1 else None)}, {support:,} gold"
    if not support:
        return Square(None, "–", hint=f"{hint}: none to find")
    return Square(mean, f"{mean:.1f}", hint=hint)
