"""The commands that use stored modules: predict, explain, report, export."""

import json
import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.text import Text

from madx.cli.console import FIRST, out, quiet_transformers
from madx.cli.options import SavedBase, StackText, Store, below, load_recorded_base, with_consent
from madx.errors import DataError
from madx.outside import visible, visible_json

if TYPE_CHECKING:
    from madx.engine import Engine
    from madx.jobs import Prediction

COLOURS = {"PER": "green", "LOC": "cyan", "ORG": "magenta"}
OTHERS = ("yellow", "blue", "red")


class Format(str, Enum):
    """How predictions are printed."""

    text = "text"
    conll = "conll"
    json = "json"


class Scoring(str, Enum):
    """The readings of spans, as in `madx.data.labelled.spans`."""

    strict = "strict"
    lenient = "lenient"


def predict(
    stack: StackText,
    text: Annotated[
        Optional[list[str]], typer.Argument(help="Text to tag; none: every line of stdin.", show_default=False)
    ] = None,
    store: Store = "modules",
    base: SavedBase = None,
    language: Annotated[
        Optional[list[str]],
        typer.Option(
            "--language",
            metavar="LANGUAGE[=STACK]",
            show_default=False,
            help="Each line says its language (LANGUAGE, a tab, TEXT; or JSON with language and text); the module of "
            "that name, or STACK, lies below --stack. Once for each language, e.g. --language swa --language eng=base.",
        ),
    ] = None,
    scoring: Annotated[
        Scoring,
        typer.Option(help="Reading of an I- that continues nothing: strict, it is no entity; lenient, it begins one."),
    ] = Scoring.strict,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="text: entities in colour and as a list (or WORD/TAG); conll: WORD<tab>TAG; json: an object a line.",
        ),
    ] = Format.text,
) -> None:
    """Tag text by a stack of stored modules, e.g. find its names.

    Example: madx predict --stack "swa + ner@1" "Juma anaishi Nairobi."

    Mixed languages: madx predict --stack ner@1 --language swa --language yor < lines.tsv
    """
    from madx.data.text.streams import text_lines
    from madx.jobs import Predictor

    quiet_transformers()
    given = below(language, "--language")
    predictor = with_consent(lambda: Predictor(stack, languages=given, store=store, base=base, scoring=scoring.value))
    if not text and sys.stdin is None:  # it was closed, by <&- or by what started the command
        raise DataError("There is no text: none was given, and standard input is closed. Write the TEXT in quotes.")
    lines = iter(text) if text else text_lines(sys.stdin.buffer, name="standard input")
    numbered = (predictor.read(line, number) for number, line in enumerate(lines, 1))
    read = numbered if predictor.languages is not None else (line for _, line in numbered)

    # a person who types gets an answer after each line; lines of a file are batched
    for prediction in predictor(read, at_once=1 if not text and sys.stdin.isatty() else 256):
        if form is Format.text:
            _print_text(prediction)
        elif FIRST and form is Format.conll:
            rows = "".join(f"{token}\t{tag}\n" for token, tag in zip(prediction.tokens, prediction.tags))
            typer.echo(visible(rows) if sys.stdout.isatty() else rows)  # a file gets the words as they are
        elif FIRST:
            typer.echo(visible_json(json.dumps(prediction.to_dict(), ensure_ascii=False)))


def _print_text(prediction: "Prediction") -> None:
    """Print a line with its entities in colour, and each entity with its type below; of plain tags, WORD/TAG."""
    if not prediction.spans:
        pairs = [
            part for token, tag in zip(prediction.tokens, prediction.tags) for part in (token, (f"/{tag} ", "cyan"))
        ]
        out.print(Text.assemble(*pairs))
        return
    shown, entities = Text(prediction.text), prediction.entities
    for entity in entities:
        shown.stylize(f"bold {_colour(entity.type)}", entity.start, entity.end)
    out.print(Text.assemble((f"{prediction.language}  ", "dim"), shown) if prediction.language else shown)
    width = max((len(e.type) for e in entities), default=0)
    for entity in entities:
        kind = (f"{entity.type:<{width}}", _colour(entity.type))
        out.print(Text.assemble("  ", kind, f"  {entity.score:4.0%}  {entity.text}"))
    if not entities:
        out.print(Text("  no entities", style="dim"))


def _colour(kind: str) -> str:
    return COLOURS.get(kind) or OTHERS[sum(map(ord, kind)) % len(OTHERS)]


def explain(
    stack: StackText,
    text: Annotated[
        Optional[str], typer.Option("--text", help="Run this text through and measure how much each module changes.")
    ] = None,
    store: Store = "modules",
    base: SavedBase = None,
) -> None:
    """Show which modules of a stack act where and in which order; with --text, also how much each changes.

    Example: madx explain --stack "swa + ner@1" --text "Juma anaishi Nairobi."
    """
    engine = _engine(stack, store, base)
    inputs = (
        engine.base.tokenizer(text, return_tensors="pt", truncation=True, max_length=engine.base.max_tokens)
        if text
        else {}
    )
    out.print(Text(str(engine.explain(inputs.get("input_ids"), inputs.get("attention_mask")))))


def report(
    run: Annotated[str, typer.Argument(help="Folder of a run of madx evaluate, with its matrix.json.")],
) -> None:
    """Write the REPORT of an evaluation again, report.html and report.md, from what lies in its folder.

    Example: madx report runs/evaluate-ner
    """
    from madx.report.page import write_report

    out.print("files: " + "  ".join(map(str, write_report(run))))


def export(
    stack: StackText,
    folder: Annotated[str, typer.Argument(help="Folder to write; it must not exist yet or be empty.")],
    store: Store = "modules",
    base: SavedBase = None,
) -> None:
    """Write a stack of weight deltas as a plain transformers checkpoint, which loads without madx.

    Example: madx export --stack "swa + ner@1" swahili-ner
    """
    from madx.interop import export_plain

    written = export_plain(_engine(stack, store, base), folder)
    out.print(f"{written}: a plain transformers checkpoint of '{stack}'")


def _engine(stack: str, store: str, base: str | None) -> "Engine":
    """An engine with a stack of stored modules active. Raises CompositionError for a task module below a language's."""
    from madx.composition import as_composition
    from madx.engine import Engine
    from madx.jobs.common import info_of
    from madx.module.order import require_task_last
    from madx.store import Store as ModuleStore

    quiet_transformers()
    composition, modules = as_composition(stack), ModuleStore(store)
    require_task_last(composition, {name: info_of(modules, name).role for name in composition.names()})
    engine = Engine(load_recorded_base(composition, modules, base), store=modules)
    for name in composition.names():
        engine.attach(modules.load(name, engine.base))
    engine.activate(composition)
    return engine
