"""Sections -> HTML through a template that escapes every text, and -> Markdown."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from madx.outside import code, markdown, visible
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
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    environment.filters["picture"] = lambda svg: Markup(str(svg))  # Svg escapes its own texts
    environment.globals["style"] = Markup((folder / "report.css").read_text(encoding="utf-8"))
    return environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))


def _shown(value: Any) -> Any:
    """A text from outside with its control characters and marks of direction as escapes; markup of ours as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


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
        f"### {markdown(wrong.language)}\n\n{wrong.wrong:,} of {wrong.sentences:,} sentences with an error under "
        f"{code(wrong.composition)}, seed {wrong.seed}" + ("; some of them:" if wrong.examples else "")
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
    inactive = f" **INACTIVE: {markdown(', '.join(shown.inactive))}**" if shown.inactive else ""
    rows = "\n".join(f"    {visible(f'{site:<20} {what}', lines=False)}" for site, what in shown.rows)
    return f"{code(shown.composition)} ({markdown(', '.join(shown.used))}){inactive}\n\n{rows or 'no record'}"


def _table(table: Table) -> str:
    cells = [[markdown(cell) for cell in row] for row in (table.header, *table.rows)]
    return markdown_table(cells[0], cells[1:], table.numbers)


def _marked(pieces: Sequence[Piece]) -> str:
    """`[Anna PER] lives in [Nairobi PER ✗]`."""
    return " ".join(
        markdown(p.text)
        if p.label is None
        else f"**[{markdown(p.text)} · {markdown(p.label)}{'' if p.right or ARROW in p.label else ' ✗'}]**"
        for p in pieces
    )
