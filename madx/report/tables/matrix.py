"""A transfer matrix as CSV and for the terminal. Its Markdown is in `matrix_markdown.py`."""

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from madx.report.marks import mark_of
from madx.report.tables.harm import harm_lines
from madx.report.tables.notes import notes
from madx.report.tables.text import csv_text, over_text, score_text, signed, terminal_table
from madx.results.cells import AVERAGE, BASELINES, Cell, Row
from madx.results.contrasts import NOISE, Contrast, best, between, like_best
from madx.results.matrix import TransferMatrix

#: the figures of one type of entity, or of one tag
PER_TYPE = ("precision", "recall", "f1", "support")
_COUNTS = ("gold", "predicted", "correct", "sentences")


def contrast_text(contrast: Contrast | None) -> str:
    """`≈+1.2`, `+3.4°`, with `!` where a module did not act; `-` for None."""
    if contrast is None:
        return "-"
    sign = mark_of(contrast).sign
    before, after = (sign, "") if sign == NOISE else ("", sign)
    return before + signed(contrast.delta) + after + ("!" if contrast.inactive else "")


def seeds_text(rows: Sequence[Row]) -> str:
    """The number of seeds, `3`, or one for each control when they differ, `3/3/2/3`."""
    counts = [r.n for r in rows]
    return str(max(counts)) if len({n for n in counts if n}) <= 1 else "/".join(map(str, counts))


def by_target(matrix: TransferMatrix) -> dict[str, list[Row]]:
    """The table language by language; the average only where there is more than one target language."""
    table = matrix.table()
    return {name: [r for r in table if r.target == name] for name in matrix.rows}


def to_csv(matrix: TransferMatrix) -> str:
    """One line a cell; a missing place has a line with its reason and no scores.

    `within_noise_of`, `beyond_noise_of`: the columns that the place (with all its seeds) was compared with. A column
    that it differs from alone, but not after the correction over all pairs, stands in neither.
    """
    return csv_text(csv_head(matrix), csv_lines(matrix))


def csv_head(matrix: TransferMatrix) -> list[str]:
    """The columns of `to_csv`."""
    types = sorted({t for c in matrix.cells for t in c.scores.per_type})
    head = ["task_module", "base", "source", "target", "control", "composition", "seed"]
    head += [*matrix.scored.metrics, *_COUNTS, *(f"{t}_{m}" for t in types for m in PER_TYPE)]
    return [*head, "within_noise_of", "beyond_noise_of", "inactive", "missing_because"]


def csv_lines(matrix: TransferMatrix) -> Iterator[dict[str, object]]:
    """The lines of `to_csv`, column -> value."""
    meta = {"task_module": matrix.meta.task_module, "base": matrix.meta.base, "source": matrix.meta.source}
    for target in matrix.targets:
        for control in matrix.columns:
            place: dict[str, object] = {**meta, "target": target, "control": control}
            compared = _compared(matrix, target, control)
            yield from (place | compared | _figures(c) for c in matrix.group(target, control))
            missing = [m for m in matrix.missing if (m.target, m.control) == (target, control)]
            yield from (place | {"missing_because": m.reason} for m in missing)


def _figures(cell: Cell) -> dict[str, object]:
    """The columns of a CSV line that belong to one cell."""
    scores = cell.scores
    return {
        "composition": cell.composition,
        "seed": cell.seed,
        **{name: getattr(scores, name) for name in (*scores.metrics, *_COUNTS)},
        **{f"{t}_{m}": value for t, figures in scores.per_type.items() for m, value in figures.items()},
        "inactive": f"INACTIVE MODULE: {' '.join(cell.inactive)}" if cell.inactive else "",
    }


def _compared(matrix: TransferMatrix, target: str, control: str) -> dict[str, str]:
    found = {other: between(matrix.pairs(), target, control, other) for other in matrix.columns if other != control}
    pairs = {other: c for other, c in found.items() if c is not None}
    return {
        "within_noise_of": " ".join(other for other, c in pairs.items() if c.mark == NOISE),
        "beyond_noise_of": " ".join(other for other, c in pairs.items() if not c.mark),
    }


def to_rich(matrix: TransferMatrix) -> Table:
    """For the terminal: the best column of a row is bold, `≈` marks what is within noise of it, inactive modules are
    red."""
    groups = by_target(matrix)
    counts = {seeds_text(rows) for rows in groups.values() if any(r.n for r in rows)}
    same = counts.pop() if len(counts) == 1 else ""
    table = terminal_table(_title(matrix), _caption(matrix, same))
    table.add_column("", no_wrap=True)
    for control in matrix.columns:
        table.add_column(control, justify="right", overflow="fold", min_width=len(control))
    for minus in BASELINES:
        table.add_column(f"target\n-{minus}", justify="right", overflow="fold")
    if not same:
        table.add_column("n", justify="right", overflow="fold")
    differences, pairs = matrix.differences(), matrix.pairs()
    for target, rows in groups.items():
        if target == AVERAGE:
            table.add_section()
        of = {c.minus: c for c in differences if c.target == target}
        cells = [*_score_cells(rows, pairs), *(_difference_cell(of.get(minus)) for minus in BASELINES)]
        table.add_row(target, *cells, *([] if same else [seeds_text(rows)]))
    return table


def _title(matrix: TransferMatrix) -> Text:
    title = Text(f"{matrix.meta.task_module}: {matrix.scored.measure} per language and control", style="bold")
    if matrix.meta.note:
        title.append(f"\n{matrix.meta.note}", style="not bold italic")
    for line in matrix.warnings():
        title.append(f"\n{line}", style="bold red")
    for line in harm_lines(matrix):
        title.append(f"\n{line}", style="not bold yellow")
    return title


def _caption(matrix: TransferMatrix, seeds: str) -> Text:
    """seeds: how many every place has; empty where they differ."""
    over = f"n = {seeds} seed{'s' * (seeds != '1')}" if seeds else "n seeds"
    first = (
        f"base {matrix.meta.base}, source {matrix.meta.source}; mean ± standard deviation over {over}; percent points"
    )
    caption = Text("\n".join([first, *notes(matrix)]), style="not italic dim", justify="left")
    for line in matrix.warnings():
        caption.append(f"\n{line}", style="not dim bold red")
    return caption


def _score_cells(rows: Sequence[Row], pairs: Sequence[Contrast]) -> list[Text]:
    top, alike = best(rows), like_best(rows, pairs)
    return [
        Text(
            score_text(r.mean, r.sd) + over_text(r, rows) + NOISE * (r.control in alike) + "!" * bool(r.inactive),
            style="bold red" if r.inactive else "bold" if r.control in top else "",
        )
        for r in rows
    ]


def _difference_cell(contrast: Contrast | None) -> Text:
    style = ""
    if contrast is not None:
        style = "bold red" if contrast.inactive else "dim" if contrast.mark == NOISE else ""
    return Text(contrast_text(contrast), style=style)
