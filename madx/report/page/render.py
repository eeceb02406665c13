"""Sections -> HTML through a template that escapes every text, and -> Markdown."""

from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from madx.report.page.errors import ARROW, Piece
from madx.report.page.sections import Table
from madx.report.tables import markdown_table
from madx.results.matrix import TransferMatrix

#: colours of types, handed out in the order of the alphabet; there are labels too, so that they may repeat
COLOURS = 6


@cache
def _template():
    folder = files(__package__)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["picture"] = lambda svg: Markup(str(svg))  # Svg escapes its own texts
    environment.globals["style"] = Markup((folder / "report.css").read_text(encoding="utf-8"))
    return environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))


def to_html(content: dict) -> str:
    """The report as one HTML file: no script, no font, no picture from elsewhere; content: `sections.context` of the run."""
    labels = {p.label for w in content["errors"] for e in w.examples for p in (*e.gold, *e.predicted) if p.label}
    types = sorted({_type(label) for label in labels})
    return _template().render(**content, colour_of={label: types.index(_type(label)) % COLOURS for label in labels})


def _type(label: str) -> str:
    """The gold type of a label: that of `ADJ → NOUN` is ADJ."""
    return label.split(ARROW)[0]


def to_markdown(matrix: TransferMatrix, content: dict) -> str:
    """The matrix's own Markdown, then learning, errors, compositions and modules as text."""
    parts = [matrix.to_markdown().rstrip()]
    if content["fit_table"]:
        parts += ["## Scores and corpora", _table(content["fit_table"])]
    if content["errors"]:
        parts.append(
            "## Errors\n\nEntities in brackets; ✗ marks what the other side does not have."
            if content["kind"] == "entities"
            else "## Errors\n\nWrong words with `GOLD → PREDICTED`."
        )
    for wrong in content["errors"]:
        parts.append(
            f"### {_plain(wrong.language)}\n\n{wrong.wrong:,} of {wrong.sentences:,} sentences with an error under "
            f"`{wrong.composition}`, seed {wrong.seed}; some of them:"
        )
        lines = []
        for e in wrong.examples:
            lines.append(f"- line {e.line}")
            lines += (
                [f"  - gold: {_marked(e.gold)}", f"  - predicted: {_marked(e.predicted)}"]
                if e.gold
                else [f"  - {_marked(e.predicted)}"]
            )
        parts += ["\n".join(lines), "Confusion, rows gold, columns predicted:", _table(wrong.table)]
    parts.append("## Compositions, as the engine explained them")
    for c in content["compositions"]:
        silent = f" **SILENT: {', '.join(c['silent'])}**" if c["silent"] else ""
        text = "\n".join(f"{site:<20} {what}" for site, what in c["rows"]) or "no record"
        parts.append(f"`{c['composition']}` ({', '.join(c['used'])}){silent}\n\n```\n{text}\n```")
    if content["modules"]:
        parts += ["## Modules", _table(content["modules"])]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    return markdown_table(table.header, [[_plain(cell) for cell in row] for row in table.rows], table.numbers)


def _marked(pieces: list[Piece]) -> str:
    """`[Anna PER] lives in [Nairobi PER ✗]`."""
    return " ".join(
        _plain(p.text)
        if p.label is None
        else f"**[{_plain(p.text)} · {_plain(p.label)}{'' if p.right or ARROW in p.label else ' ✗'}]**"
        for p in pieces
    )


def _plain(text: str) -> str:
    """Text without marks of Markdown or HTML of its own."""
    return "".join("\\" + c if c in "\\`*_[]<>#" else c for c in text)
