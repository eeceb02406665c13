"""A transfer matrix as CSV, Markdown and a rich table for the terminal."""

import csv
import io
from dataclasses import replace
from statistics import fmean, stdev

from rich import box
from rich.table import Table
from rich.text import Text

from madx.results.contrasts import NOISE, Contrast, best, between, like_best
from madx.results.matrix import AVERAGE, BASELINES, COLUMNS, Row, TransferMatrix

_PER_TYPE = ("precision", "recall", "f1", "support")


def score_text(mean: float | None, sd: float | None) -> str:
    """`82.1 ± 0.6`; without deviation (one seed) `82.1`; without score `-`."""
    if mean is None:
        return "-"
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def signed(value: float) -> str:
    """`+3.2`, `-0.4`, and never `-0.0`."""
    return f"{round(value, 1) + 0.0:+.1f}"


def upper_first(text: str) -> str:
    """`entity F1` -> `Entity F1`."""
    return text[:1].upper() + text[1:]


def _contrast_text(contrast: Contrast | None) -> str:
    if contrast is None:
        return "-"
    before, after = (contrast.mark, "") if contrast.noise else ("", contrast.mark)
    return before + signed(contrast.delta) + after + ("!" if contrast.silent else "")


def _seeds(rows: list[Row]) -> str:
    """`3`, or per control `3/3/2/3` when they differ."""
    counts = [r.n for r in rows]
    return str(max(counts)) if len({n for n in counts if n}) <= 1 else "/".join(map(str, counts))


def _by_target(matrix: TransferMatrix) -> dict[str, list[Row]]:
    """Rows of the table per language; the average only where there is more than one target language."""
    table = matrix.table()
    return {name: [r for r in table if r.target == name] for name in matrix.rows}


def to_csv(matrix: TransferMatrix) -> str:
    """Tidy: one line a cell; a missing place has a line with its reason and no scores.

    `within_noise_of`, `beyond_noise_of`: columns that the place (all its seeds) was compared with; in neither stand those
    that it differs from alone, but not after the correction over all pairs.
    """
    types = sorted({t for c in matrix.cells for t in c.scores.per_type})
    counts = ("gold", "predicted", "correct", "sentences")
    metrics = matrix.scored.metrics
    head = [
        "task_module",
        "base",
        "source",
        "target",
        "control",
        "composition",
        "seed",
        *metrics,
        *counts,
        *(f"{t}_{m}" for t in types for m in _PER_TYPE),
        "within_noise_of",
        "beyond_noise_of",
        "silent",
        "missing_because",
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, head, lineterminator="\n")
    writer.writeheader()
    fixed = {"task_module": matrix.meta.task_module, "base": matrix.meta.base, "source": matrix.meta.source}
    for target in matrix.targets:
        for control in matrix.columns:
            compared = _compared(matrix, target, control)
            for c in matrix.group(target, control):
                line = {name: getattr(c.scores, name) for name in (*metrics, *counts)}
                line |= {f"{t}_{m}": v for t, figures in c.scores.per_type.items() for m, v in figures.items()}
                line |= compared
                line["silent"] = f"SILENT MODULE: {' '.join(c.silent)}" if c.silent else ""
                writer.writerow(
                    fixed | line | {"target": target, "control": control, "composition": c.composition, "seed": c.seed}
                )
            for m in matrix.missing:
                if (m.target, m.control) == (target, control):
                    writer.writerow(fixed | {"target": target, "control": control, "missing_because": m.reason})
    return out.getvalue()


def _compared(matrix: TransferMatrix, target: str, control: str) -> dict[str, str]:
    pairs = {other: between(matrix.pairs(), target, control, other) for other in matrix.columns if other != control}
    pairs = {other: c for other, c in pairs.items() if c is not None}
    return {
        "within_noise_of": " ".join(other for other, c in pairs.items() if c.noise),
        "beyond_noise_of": " ".join(other for other, c in pairs.items() if not c.mark),
    }


def markdown_table(head: list[str], lines: list[list[str]], text_columns: int = 1) -> str:
    """Columns padded to equal width, the first `text_columns` to the left, numbers to the right."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *lines)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(head))]
    rule = ["-" * w if i < text_columns else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def row(cells: list[str]) -> str:
        return (
            "| "
            + " | ".join(c.ljust(w) if i < text_columns else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths)))
            + " |"
        )

    return "\n".join([row(lines[0]), row(rule), *map(row, lines[1:])])


def to_markdown(matrix: TransferMatrix) -> str:
    """The table, the differences and the scores per type, aligned so that the source reads well too."""
    meta, contrasts = matrix.meta, matrix.differences()
    head = (
        f"# Transfer matrix: `{meta.task_module}`\n\nBase `{meta.base}`, source language `{meta.source}`. "
        f"{upper_first(matrix.scored.measure)} in percent points, mean ± standard deviation over n seeds."
    )
    parts = [head + (f" {meta.note}" if meta.note else "")]
    # Markdown knows no colour of its own; the red circle and the place at the top do its work.
    parts += [f"> 🔴 **{line}**" for line in matrix.warnings()]
    lines = []
    for target, rows in _by_target(matrix).items():
        top, alike = best(rows), like_best(matrix, rows)
        cells = [
            f"**{score_text(r.mean, r.sd)}**"
            if r.control in top
            else score_text(r.mean, r.sd) + f" {NOISE}" * (r.control in alike) + " 🔴 silent" * bool(r.silent)
            for r in rows
        ]
        lines.append([target, *cells, _seeds(rows)])
    parts.append(markdown_table(["language", *matrix.columns, "n"], lines))
    parts.append("\n".join(f"- `{name}`: {meaning}" for name, meaning in COLUMNS.items() if name in matrix.columns))
    if "macro_f1" in matrix.scored.metrics:
        lines = [
            [t, *(score_text(r.mean, r.sd) for r in matrix.table("macro_f1") if r.target == t)]
            for t in _by_target(matrix)
        ]
        parts += [
            "## Macro F1\n\nThe mean over types: rare ones weigh as much as frequent ones.",
            markdown_table(["language", *matrix.columns], lines),
        ]
    short = upper_first(matrix.scored.short)
    parts.append(
        f"## Differences\n\n{short} under the target module minus that under the control. Over seeds: 95 % t "
        "interval. Over sentences: 95 % interval of a paired bootstrap, counts of all seeds added. p: the larger "
        "one of both tests; Holm: corrected over all pairs of the matrix."
    )
    parts.append(
        markdown_table(
            ["language", "minus", "difference", "over seeds", "n", "over sentences", "p", "Holm"],
            [_contrast_line(c) for c in contrasts],
            2,
        )
    )
    parts.append("\n".join("- " + line.removeprefix("- ") for line in matrix.notes()))
    parts.append(
        f"## Every pair\n\n{short} of the row minus that of the column. Intervals and p: matrix.json, `pairs`."
    )
    parts.append(markdown_table(["language", "", *matrix.columns], _pair_lines(matrix), 2))
    parts.append(
        "## Per type\n\nMean over seeds; F1 with its deviation. `all`: micro average. "
        f"Support: gold {matrix.scored.kind}."
    )
    parts.append(
        markdown_table(
            ["language", "control", "type", "precision", "recall", "F1", "support"], _per_type_lines(matrix), 3
        )
    )
    sources = [f"- data `{file}`: sha256 `{digest}`" for file, digest in meta.data.items()]
    sources += [f"- {library} {version}" for library, version in meta.versions.items()]
    if sources:
        parts.append("## Made from\n\n" + "\n".join(sources))
    return "\n\n".join(part for part in parts if part) + "\n"


def _contrast_line(c: Contrast) -> list[str]:
    seeds = "-" if c.low is None else f"{signed(c.low)} to {signed(c.high)}"
    s = c.sentences
    return [
        c.target,
        c.minus,
        _contrast_text(c) + (" 🔴 silent" if c.silent else ""),
        seeds,
        str(c.n),
        "-" if s is None else f"{signed(s.low)} to {signed(s.high)}",
        f"{c.p:.3f}",
        f"{c.p_holm:.3f}",
    ]


def _pair_lines(matrix: TransferMatrix) -> list[list[str]]:
    """A square of columns for each language: row minus column."""
    found = {(c.target, c.control, c.minus): c for c in matrix.pairs()}
    found |= {(t, b, a): replace(c, delta=-c.delta) for (t, a, b), c in found.items()}
    names = dict.fromkeys(name for name, _, _ in found)
    return [
        [
            name,
            row,
            *("" if row == column else _contrast_text(found.get((name, row, column))) for column in matrix.columns),
        ]
        for name in names
        for row in matrix.columns
        if any(k[:2] == (name, row) for k in found)
    ]


def _per_type_lines(matrix: TransferMatrix) -> list[list[str]]:
    lines = []
    for target in matrix.targets:
        for control in matrix.columns:
            scores = [c.scores for c in matrix.group(target, control)]
            everything = [s.overall() for s in scores]
            types = sorted({t for s in scores for t in s.per_type})
            for name, figures in [("all", everything)] * bool(scores) + [
                (t, [s.per_type.get(t) for s in scores]) for t in types
            ]:
                figures = [f or dict.fromkeys(_PER_TYPE, 0) for f in figures]  # neither gold nor predicted: zeros
                f1 = [f["f1"] for f in figures]
                support = int(figures[0]["support"])
                lines.append(
                    [
                        target,
                        control,
                        name,
                        *(f"{fmean(f[m] for f in figures):.1f}" for m in _PER_TYPE[:2]),
                        score_text(fmean(f1), stdev(f1) if len(f1) > 1 else None) if support else "-",
                        str(support),
                    ]
                )
    return lines


def to_rich(matrix: TransferMatrix) -> Table:
    """For the terminal: best column per row bold, `≈` at what is within noise, silent modules in red."""
    meta, warnings, contrasts = matrix.meta, matrix.warnings(), matrix.differences()
    title = Text(f"{meta.task_module}: {matrix.scored.measure} per language and control", style="bold")
    if meta.note:
        title.append(f"\n{meta.note}", style="not bold italic")
    for line in warnings:
        title.append(f"\n{line}", style="bold red")
    groups = _by_target(matrix)
    counts = {_seeds(rows) for rows in groups.values() if any(r.n for r in rows)}
    same = counts.pop() if len(counts) == 1 else ""
    notes = [
        f"base {meta.base}, source {meta.source}; mean ± standard deviation over "
        + (f"n = {same} seed{'s' * (same != '1')}" if same else "n seeds")
        + "; percent points"
    ]
    caption = Text("\n".join(notes + matrix.notes()), style="not italic dim", justify="left")
    for line in warnings:
        caption.append(f"\n{line}", style="not dim bold red")
    table = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for control in matrix.columns:
        # a narrow terminal folds a number, never crops it
        table.add_column(control, justify="right", overflow="fold", min_width=len(control))
    for minus in BASELINES:
        table.add_column(f"target\n-{minus}", justify="right", overflow="fold")
    if not same:
        table.add_column("n", justify="right", overflow="fold")
    for target, rows in groups.items():
        top, alike = best(rows), like_best(matrix, rows)
        of = {c.minus: c for c in contrasts if c.target == target}
        cells = [
            Text(
                score_text(r.mean, r.sd) + NOISE * (r.control in alike) + "!" * bool(r.silent),
                style="bold red" if r.silent else "bold" if r.control in top else "",
            )
            for r in rows
        ]
        deltas = [
            Text(
                _contrast_text(of.get(minus)),
                style="bold red"
                if minus in of and of[minus].silent
                else "dim"
                if minus in of and of[minus].noise
                else "",
            )
            for minus in BASELINES
        ]
        if target == AVERAGE:
            table.add_section()
        table.add_row(target, *cells, *deltas, *([] if same else [_seeds(rows)]))
    return table
