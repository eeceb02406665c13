"""Several transfer matrices as JSON, CSV, Markdown, a picture, and for the terminal."""

import csv
import io
import json
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from madx.report.tables import markdown_table, score_text, signed
from madx.report.tables import to_csv as matrix_csv
from madx.results.json import write_files
from madx.results.matrices import Entry, Gap, Matrices
from madx.results.matrix import AVERAGE, Row

OWN = (
    "Each score is under the target's own language module (without one, where a module type has none); mean ± standard "
    "deviation over seeds, percent points."
)
GAPS = "≈ within noise: the 95 % t interval over seeds contains 0, or there is one seed"


def _cell(row: Row) -> str:
    return score_text(row.mean, row.sd) + ("!" if row.silent else "")


def _own_lines(matrices: Matrices, task: str) -> tuple[list[str], list[list[str]]]:
    """Head and lines: module type and source against target languages and their average."""
    targets = matrices.targets(task)
    lines = []
    for e in (e for e in matrices.entries if e.task == task):
        cells = ["source" if t == e.source else _cell(e.own(t)) for t in targets]
        average = e.own(AVERAGE)
        over = (
            "" if average.languages == len([t for t in targets if t != e.source]) else f" ({average.languages} of them)"
        )
        lines.append([e.module_type, e.source, *cells, _cell(average) + over])
    return ["module type", "source", *targets, AVERAGE], lines


def _control_lines(matrices: Matrices, task: str) -> tuple[list[str], list[list[str]]]:
    """Head and lines: module type and source against the controls, averaged over the languages that have them all."""
    controls, lines = matrices.controls(), []
    for e in (e for e in matrices.entries if e.task == task):
        rows = e.averages()
        of = {c.minus: c for c in e.matrix.differences() if c.target == AVERAGE}
        deltas = [of[m].mark + signed(of[m].delta) if m in of else "-" for m in ("none", "source")]
        lines.append([e.module_type, e.source, *(_cell(rows[c]) if c in rows else "-" for c in controls), *deltas])
    return ["module type", "source", *controls, "target - none", "target - source"], lines


def gap_text(gap: Gap) -> str:
    """`ner, from eng: adapters - sparse  ≈+1.2 (-0.3 to +2.7), 3 seeds, 2 languages`."""
    interval = "" if gap.low is None else f" ({signed(gap.low)} to {signed(gap.high)})"
    counts = f"{gap.n} seed{'s' * (gap.n > 1)}, {len(gap.languages)} language{'s' * (len(gap.languages) > 1)}"
    return f"{gap.task}, {gap.within}: {gap.first} - {gap.second}  {'≈' * gap.noise}{signed(gap.delta)}{interval}, {counts}"


def to_rich(matrices: Matrices):
    """Two tables a task, the differences between module types and between sources, and what failed."""
    from rich.console import Group

    parts = []
    for task in matrices.tasks():
        metric = next(e.metric for e in matrices.entries if e.task == task)
        for title, (head, lines) in (
            (f"{task}: {metric} by target language", _own_lines(matrices, task)),
            (f"{task}: average under each control", _control_lines(matrices, task)),
        ):
            table = Table(
                title=Text(title, style="bold"),
                title_justify="left",
                box=box.SIMPLE_HEAD,
                pad_edge=False,
                padding=(0, 1, 0, 0),
                show_edge=False,
            )
            for number, name in enumerate(head):
                table.add_column(name, justify="left" if number < 2 else "right", overflow="fold")
            for line in lines:
                table.add_row(
                    *(Text(cell, style="dim" if cell.startswith("≈") or cell == "source" else "") for cell in line)
                )
            parts += [table, Text("")]
    gaps = matrices.gaps()
    if gaps:
        parts.append(Text("Differences of the averages over the languages that both have", style="bold"))
        parts += [Text("  " + gap_text(g), style="dim" if g.noise else "") for g in gaps]
    if matrices.entries:
        parts += [Text(text, style="dim") for text in (OWN, GAPS, *([matrices.note] if matrices.note else []))]
    parts += [Text(line, style="bold red") for line in matrices.warnings()]
    parts += [Text(f"FAILED: {what}: {why}", style="bold red") for what, why in matrices.failures]
    return Group(*parts)


def to_markdown(matrices: Matrices) -> str:
    """The same as text, with a link to the matrix of every entry."""
    parts = ["# Transfer matrices", OWN + (f" {matrices.note}" if matrices.note else "")]
    parts += [f"> 🔴 **{line}**" for line in matrices.warnings()]
    parts += [f"> 🔴 **failed:** {what}: {why}" for what, why in matrices.failures]
    for task in matrices.tasks():
        parts.append(f"## {task}")
        for head, lines in (_own_lines(matrices, task), _control_lines(matrices, task)):
            parts.append(markdown_table(head, lines, 2))
    if gaps := matrices.gaps():
        parts.append("## Differences\n\nOf the averages over the languages that both have; " + GAPS + ".")
        parts.append("\n".join(f"- {gap_text(g)}" for g in gaps))
    links = [f"- [{e.task}, {e.module_type}, source {e.source}]({folder_of(e)}/matrix.md)" for e in matrices.entries]
    parts.append("## Every matrix with its controls\n\n" + "\n".join(links))
    return "\n\n".join(parts) + "\n"


def folder_of(entry: Entry) -> str:
    """The folder of an entry's own matrix, below that of the whole."""
    return f"matrices/{entry.task}.{entry.module_type}.{entry.source}"


def to_csv(matrices: Matrices) -> str:
    """Tidy: one line a cell of every matrix; columns that one of them lacks are empty."""
    lines = []
    for e in matrices.entries:
        start = {"task": e.task, "module_type": e.module_type}
        lines += [start | line for line in csv.DictReader(io.StringIO(matrix_csv(e.matrix)))]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def save(matrices: Matrices, folder: str | Path) -> list[Path]:
    """The four files of the whole, and for every entry the files of its own matrix."""
    for entry in matrices.entries:
        entry.matrix.save(Path(folder) / folder_of(entry))
    contents = {
        "matrices.json": (
            json.dumps(matrices.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        ).encode(),
        "matrices.csv": to_csv(matrices).encode(),
        "matrices.md": to_markdown(matrices).encode(),
    }
    if matrices.entries:
        from madx.report.matrices_picture import picture_png  # matplotlib takes half a second to import

        contents["matrices.png"] = picture_png(matrices)
    return write_files(contents, folder, what="the matrices")
