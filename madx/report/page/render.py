"""Sections -> HTML through a template that escapes every text, and -> Markdown."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from madx.report.page.confusion import ARROW, Example, Piece
from madx.report.page.sections.blocks import Table
from madx.report.page.sections.compositions import Shown
from madx.report.page.sections.errors import Wrong
from madx.report.tables import matrix_markdown
from madx.report.tables.text import markdown_table
from madx.results.matrix import TransferMatrix

#: colours of types, given in the order of the alphabet; they may repeat, for every mark has a label too
COLOURS = 6


@cache
def _template() -> Template:
    folder = files(__package__)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["picture"] = lambda svg: Markup(str(svg))  # Svg escapes its own texts
    environment.globals["style"] = Markup((folder / "report.css").read_text(encoding="utf-8"))
    return environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))


def to_html(content: dict[str, Any]) -> str:
    """The report as one HTML file that loads nothing from elsewhere. content: `sections.context` of the run."""
    labels = {p.label for w in content["errors"] for e in w.examples for p in (*e.gold, *e.predicted) if p.label}
    types = sorted({_type(label) for label in labels})
    return _template().render(**content, colour_of={label: types.index(_type(label)) % COLOURS for label in labels})


def _type(label: str) -> str:
    """The gold type of a label: of `ADJ → NOUN` it is ADJ."""
    return label.split(ARROW)[0]


def to_markdown(matrix: TransferMatrix, content: dict[str, Any]) -> str:
    """The matrix's own Markdown, then corpora, errors, compositions and modules as text."""
    parts = [matrix_markdown.to_markdown(matrix).rstrip()]
    if content["fit_table"]:
        parts += ["## Scores and corpora", _table(content["fit_table"])]
    if content["errors"]:
        entities = "Entities in brackets; ✗ marks an entity that the other side does not have."
        text = entities if content["kind"] == "entities" else "Wrong words with `GOLD → PREDICTED`."
        parts.append(f"## Errors\n\n{text}")
    for wrong in content["errors"]:
        parts += _errors(wrong)
    parts.append("## Compositions, as the engine explained them")
    parts += map(_composition, content["compositions"])
    if content["modules"]:
        parts += ["## Modules", _table(content["modules"])]
    return "\n\n".join(parts) + "\n"


def _errors(wrong: Wrong) -> list[str]:
    head = (
        f"### {_plain(wrong.language)}\n\n{wrong.wrong:,} of {wrong.sentences:,} sentences with an error under "
        f"`{wrong.composition}`, seed {wrong.seed}" + ("; some of them:" if wrong.examples else "")
    )
    examples = "\n".join(line for example in wrong.examples for line in _example(example))
    note = f" ({wrong.confusion.note})" if wrong.confusion.note else ""
    confusion = f"Confusion, rows gold, columns predicted{note}:"
    return [head, *([examples] if examples else []), confusion, _table(wrong.table)]


def _example(example: Example) -> list[str]:
    found = f"  - predicted: {_marked(example.predicted)}"
    if not example.gold:  # plain tags: one row says both
        return [f"- line {example.line}", f"  - {_marked(example.predicted)}"]
    return [f"- line {example.line}", f"  - gold: {_marked(example.gold)}", found]


def _composition(shown: Shown) -> str:
    inactive = f" **INACTIVE: {', '.join(shown.inactive)}**" if shown.inactive else ""
    text = "\n".join(f"{site:<20} {what}" for site, what in shown.rows) or "no record"
    return f"`{shown.composition}` ({', '.join(shown.used)}){inactive}\n\n```\n{text}\n```"


def _table(table: Table) -> str:
    return markdown_table(table.header, [[_plain(cell) for cell in row] for row in table.rows], table.numbers)


def _marked(pieces: Sequence[Piece]) -> str:
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
