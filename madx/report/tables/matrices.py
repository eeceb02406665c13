"""Several transfer matrices as CSV, Markdown, and for the terminal."""

from urllib.parse import quote

from rich.console import Group, RenderableType
from rich.text import Text

from madx.errors import DataError
from madx.files.names import check_file_name
from madx.metrics.scores import EntityScores
from madx.outside import markdown
from madx.report.tables.matrix import contrast_text, csv_head, csv_lines
from madx.report.tables.notes import scoring_note
from madx.report.tables.text import (
    csv_text,
    interval_text,
    markdown_table,
    over_text,
    score_text,
    signed,
    terminal_table,
)
from madx.results.cells import AVERAGE, Row
from madx.results.contrasts import NOISE
from madx.results.matrices import Entry, Gap, Matrices

_OWN = (
    "Each score is under the target's own language module (without one, where a module type has none); mean ± standard "
    "deviation over seeds, percent points."
)
_GAPS = f"{NOISE} within noise: the 95 % t interval over seeds contains 0, or there is one seed; ! a module did not act"
#: head and lines
_Lines = tuple[list[str], list[list[str]]]


def _cell(row: Row) -> str:
    return score_text(row.mean, row.sd) + ("!" if row.inactive else "")


def _own_lines(matrices: Matrices, task: str) -> _Lines:
    """Module type and source against target languages and their average."""
    targets = matrices.targets(task)
    lines = []
    for e in matrices.of(task):
        cells = ["source" if t == e.source else _cell(e.own(t)) for t in targets]
        average, others = e.own(AVERAGE), [t for t in targets if t != e.source]
        over = "" if average.languages == len(others) else f" ({average.languages} of them)"
        lines.append([e.module_type, e.source, *cells, _cell(average) + over])
    return ["module type", "source", *targets, AVERAGE], lines


def _control_lines(matrices: Matrices, task: str) -> _Lines:
    """Module type and source against the controls, averaged over the languages that have them all."""
    controls, lines = matrices.controls(), []
    for e in matrices.of(task):
        rows = e.averages()
        of = {c.minus: c for c in e.matrix.differences() if c.target == AVERAGE}
        cells = [_cell(rows[c]) + over_text(rows[c], [*rows.values()]) if c in rows else "-" for c in controls]
        deltas = [contrast_text(of.get(minus)) for minus in ("none", "source")]
        lines.append([e.module_type, e.source, *cells, *deltas])
    return ["module type", "source", *controls, "target - none", "target - source"], lines


def gap_text(gap: Gap) -> str:
    """`ner, from eng: adapters - sparse  ≈+1.2 (-0.3 to +2.7), 3 seeds, 2 languages`."""
    interval = "" if gap.low is None else f" ({interval_text(gap.low, gap.high)})"
    counts = f"{gap.n} seed{'s' * (gap.n > 1)}, {len(gap.languages)} language{'s' * (len(gap.languages) > 1)}"
    value = NOISE * gap.noise + signed(gap.delta) + "!" * bool(gap.inactive)
    return f"{gap.task}, {gap.within}: {gap.first} - {gap.second}  {value}{interval}, {counts}"


def _remarks(matrices: Matrices) -> list[str]:
    """The readings of spans, and what the matrices remark on their data, each once with its tasks."""
    found: dict[str, list[str]] = {}
    for e in matrices.entries:
        scored = [scoring_note(e.matrix.meta.scoring)] if e.matrix.scored is EntityScores else []
        for text in (*scored, *e.matrix.meta.remarks):
            tasks = found.setdefault(text, [])
            tasks += [] if e.task in tasks else [e.task]
    return [f"{', '.join(tasks)}: {text}" for text, tasks in found.items()]


def to_rich(matrices: Matrices) -> RenderableType:
    """For the terminal: two tables for each task, the differences between module types and sources, and what failed."""
    parts: list[RenderableType] = []
    for task in matrices.tasks():
        metric = matrices.of(task)[0].metric
        for title, (head, lines) in (
            (f"{task}: {metric} by target language", _own_lines(matrices, task)),
            (f"{task}: average under each control", _control_lines(matrices, task)),
        ):
            table = terminal_table(Text(title, style="bold"))
            for number, name in enumerate(head):
                table.add_column(name, justify="left" if number < 2 else "right", overflow="fold")
            for line in lines:
                table.add_row(*(Text(c, style="dim" if c.startswith(NOISE) or c == "source" else "") for c in line))
            parts += [table, Text("")]
    if gaps := matrices.gaps():
        parts.append(Text("Differences of the averages over the languages that both have", style="bold"))
        parts += [Text("  " + gap_text(g), style="dim" if g.noise else "") for g in gaps]
    if matrices.entries:
        parts += [Text(text, style="dim") for text in (_OWN, _GAPS, *_remarks(matrices), matrices.note) if text]
    parts += [Text(line, style="bold red") for line in matrices.warnings()]
    parts += [Text(f"FAILED: {what}: {why}", style="bold red") for what, why in matrices.failures]
    return Group(*parts)


def to_markdown(matrices: Matrices) -> str:
    """Tables, differences and failures as Markdown, with a link to the matrix of every entry."""
    parts = ["# Transfer matrices", _OWN + (f" {markdown(matrices.note)}" if matrices.note else "")]
    parts += [f"> 🔴 **{markdown(line)}**" for line in matrices.warnings()]
    if remarks := _remarks(matrices):
        parts.append("\n".join(f"- {markdown(remark)}" for remark in remarks))
    parts += [f"> 🔴 **failed:** {markdown(what)}: {markdown(why)}" for what, why in matrices.failures]
    for task in matrices.tasks():
        parts.append(f"## {markdown(task)}")
        for head, lines in (_own_lines(matrices, task), _control_lines(matrices, task)):
            parts.append(markdown_table([*map(markdown, head)], [[*map(markdown, line)] for line in lines], 2))
    if gaps := matrices.gaps():
        parts.append(f"## Differences\n\nOf the averages over the languages that both have; {_GAPS}.")
        parts.append("\n".join(f"- {markdown(gap_text(g))}" for g in gaps))
    links = [
        f"- [{markdown(f'{e.task}, {e.module_type}, source {e.source}')}](<{quote(folder_of(e))}/matrix.md>)"
        for e in matrices.entries
    ]
    parts.append("## Every matrix with its controls\n\n" + "\n".join(links))
    return "\n\n".join(parts) + "\n"


def folder_of(entry: Entry) -> str:
    """The folder of an entry's own matrix, below that of the whole. Raises DataError for names that none can have."""
    for name, what in ((entry.task, "task"), (entry.module_type, "module type"), (entry.source, "source")):
        check_file_name(name, what, kind=DataError)
    return f"matrices/{entry.task}.{entry.module_type}.{entry.source}"


def to_csv(matrices: Matrices) -> str:
    """One line a cell of every matrix; columns that one of the matrices lacks are empty there."""
    head = ["task", "module_type", *(name for e in matrices.entries for name in csv_head(e.matrix))]
    lines = (
        {"task": e.task, "module_type": e.module_type} | line for e in matrices.entries for line in csv_lines(e.matrix)
    )
    return csv_text(list(dict.fromkeys(head)), lines)
