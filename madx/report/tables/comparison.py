"""A comparison of module types as Markdown and for the terminal."""

from rich.console import Group, RenderableType
from rich.text import Text

from madx.outside import code, markdown
from madx.report.tables.notes import scoring_note
from madx.report.tables.text import amount, markdown_table, score_text, terminal_table
from madx.results.comparison import Candidate, Comparison, spread
from madx.results.contrasts import NOISE

_NOTES = (
    "storage: bytes of the stored module. memory: the peak of a few training steps above the loaded base, measured in "
    "a process of its own.",
    "operations: matrix products of the whole training, forward and backward, in all phases. s/step: seconds of a "
    "training step, the median over rounds in which every candidate has its turn.",
    f"score: on the development data, at the best evaluation; mean ± standard deviation over seeds. * best. {NOISE} "
    "cannot be told apart from the best: the 95 % t interval over seeds contains 0, or there is one seed.",
    "inference: time over the bare base's, the median over rounds (middle half of the rounds).",
)


def _notes(comparison: Comparison) -> list[str]:
    return [*_NOTES, *([] if comparison.scoring is None else [scoring_note(comparison.scoring)])]


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """The head, and a line for each candidate."""
    head = ["", "parameters", "storage", "memory", "operations", "s/step", comparison.metric, "inference"]
    best, like = comparison.best(), comparison.like_the_best()
    marks = {c.name: "*" if c is best else NOISE if c.name in like else "" for c in comparison.candidates}
    return head, [_line(c, marks[c.name]) for c in comparison.candidates]


def _line(c: Candidate, mark: str) -> list[str]:
    seconds, inference = spread(c.seconds), spread(c.inference)
    return [
        c.name,
        "-" if c.parameters is None else f"{c.parameters:,}",
        amount(c.storage, "B"),
        amount(c.memory, "B"),
        amount(c.flops, ""),
        "-" if seconds is None else f"{seconds[0]:.3g}",
        mark + score_text(c.mean, c.sd),
        "-" if inference is None else f"{inference[0]:.2f} ({inference[1]:.2f} to {inference[2]:.2f})",
    ]


def to_rich(comparison: Comparison) -> RenderableType:
    """For the terminal: the table, what its columns mean, and what failed."""
    head, lines = table(comparison)
    shown = terminal_table(Text(f"{comparison.task} on {comparison.base}", style="bold"))
    for number, name in enumerate(head):
        shown.add_column(name, justify="right" if number else "left", overflow="fold")
    for line in lines:
        shown.add_row(*map(Text, line))
    remarks = [Text(note, style="dim") for note in (*_notes(comparison), comparison.note) if note]
    failed = [Text(f"FAILED: {line}", style="bold red") for line in comparison.failures()]
    return Group(shown, Text(""), *remarks, *failed)


def to_markdown(comparison: Comparison) -> str:
    """The table, what its columns mean, what failed, and what it was made from, as Markdown."""
    title = f"# {markdown(comparison.task)} on {code(comparison.base)}"
    parts = [title + (f"\n\n{markdown(comparison.note)}" if comparison.note else "")]
    parts += [f"> 🔴 **failed:** {markdown(line)}" for line in comparison.failures()]
    head, lines = table(comparison)
    shown = markdown_table([*map(markdown, head)], [[*map(markdown, line)] for line in lines])
    parts += [shown, "\n".join(f"- {note}" for note in _notes(comparison))]
    sources = [f"- data {code(file)}: sha256 {code(mark)}" for file, mark in comparison.data.items()]
    sources += [f"- {markdown(library)} {markdown(version)}" for library, version in comparison.versions.items()]
    parts.append(f"## Made from\n\n- device {markdown(comparison.device)}\n" + "\n".join(sources))
    return "\n\n".join(parts) + "\n"
