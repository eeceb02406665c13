"""`madx inspect`: a corpus and labelled data as a tokenizer sees them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from madx.cli.console import out, show_table
from madx.cli.options import Config, Sets, pairs, settings
from madx.files.writing import check_folder
from madx.outside import visible_json

if TYPE_CHECKING:
    from madx.jobs import Inspection

Base = Annotated[
    Optional[str], typer.Option(help="The base whose tokenizer to use: a folder or a model id.", show_default=False)
]


def inspect(
    config: Config = None,
    base: Base = None,
    corpus: Annotated[
        Optional[list[str]],
        typer.Option(help="Raw text: .txt, .jsonl, either with .gz, a folder, or datasets:NAME. Repeatable."),
    ] = None,
    data: Annotated[
        Optional[list[str]],
        typer.Option(metavar="NAME=PATH", help="Labelled data under a name: train=..., dev=..., swa=... Repeatable."),
    ] = None,
    task: Annotated[Optional[str], typer.Option(help="Task of the labelled data (default: ner).")] = None,
    json: Annotated[
        Optional[str],
        typer.Option("--json", metavar="FILE", help="Write the findings as JSON; - prints them instead of tables."),
    ] = None,
    sets: Sets = None,
) -> None:
    """Look at a corpus and at labelled data BEFORE training: coverage, duplicates, lengths, labels, leakage.

    Example: madx inspect --base xlm-roberta-base --corpus swa.txt --data train=eng.conll --data swa=swa-test.conll

    Text is streamed, so a corpus may be larger than memory. Each warning says what to do.
    """
    texts = corpus[0] if corpus and len(corpus) == 1 else corpus or None
    flags = {"base": base, "corpus": texts, "task": task}
    flags |= {f"data.{name}": path for name, path in pairs(data, "--data", "NAME=PATH").items()}
    from madx.jobs import Inspect
    from madx.jobs import inspect as run
    from madx.jobs.inspect import write_json

    chosen = settings(Inspect, config, sets, flags)
    if json and json != "-":
        check_folder(Path(json).parent, "the findings")
    found = run(chosen)
    if json == "-":
        typer.echo(visible_json(found.to_json()), nl=False)
        return
    _corpus(found)
    if found.data:
        _labels(found)
    if found.overlaps:
        _overlaps(found)
    for warning in found.warnings:
        out.print(Text.assemble(("! ", "bold yellow"), warning))
    if not found.warnings:
        out.print(Text("nothing to warn of", style="green"))
    if json:
        out.print(f"written: {write_json(found, json)}")


def _corpus(found: "Inspection") -> None:
    c, recipe = found.corpus, found.recipe
    if c is None or recipe is None:
        return
    table = Table(
        "corpus",
        "",
        box=SIMPLE,
        title=Text(f"tokenizer of {found.base}: {found.pieces:,} pieces"),
        title_justify="left",
    )
    scripts = ", ".join(f"{name} {share:.1%}" for name, share in c.scripts.items() if share >= 0.0005) or "no letters"
    unknown = ", ".join(f"{char!r} U+{ord(char):04X} ({n:,})" for char, n in list(c.unknown_characters.items())[:5])
    rows = {
        "lines, words, tokens": f"{c.lines:,}   {c.words:,}   {c.tokens:,}",
        "pieces per word": f"{c.pieces_per_word:.2f}",
        "unknown tokens": f"{c.unknown:,} ({c.unknown_rate:.3%})",
        "characters known": f"{c.coverage:.3%}" + (f"; not {unknown}" if unknown else ""),
        "scripts of the letters": scripts,
        "duplicate lines": f"{c.duplicates:.2%}" + ("" if c.duplicates_exact else " (estimated from a sample)"),
        "longest line": f"{c.longest:,} tokens",
        "MAD-X recipe": f"{recipe.steps:,} steps of {recipe.batch_size} blocks of {recipe.block_size} tokens: "
        f"{recipe.blocks:,} blocks, {recipe.passes:,.1f} passes",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))  # as Text, so that a bracket among the characters is no markup
    show_table(table)


def _labels(found: "Inspection") -> None:
    table = Table("labelled", box=SIMPLE)
    for name in found.data:
        table.add_column(Text(name))
    reports = list(found.data.values())
    spans = any(r.scheme in ("iob1", "iob2", "bioes") for r in reports)
    lines = {
        "sentences": [f"{r.sentences:,}" for r in reports],
        "words": [f"{r.words:,}" for r in reports],
        "words a sentence": [f"{r.length.mean:.1f}, at most {r.length.longest}" for r in reports],
        "tokens a sentence": [f"{r.pieces.mean:.1f}, at most {r.pieces.longest}" for r in reports],
        "pieces per word": [f"{r.pieces_per_word:.2f}" for r in reports],
        "words of several pieces": [f"{r.divided:.0%}" for r in reports],
        "names that begin with one": ["-" if r.divided_names is None else f"{r.divided_names:.0%}" for r in reports]
        if spans
        else [],
        "unknown tokens": [f"{r.unknown_rate:.3%}" for r in reports],
        "longer than a window": [f"{r.windows:,}" for r in reports],
        "tags": [r.scheme for r in reports],
        "sentences not valid": [f"{r.invalid:,}" for r in reports],
        "repeated sentences": [f"{r.repeated:,}" for r in reports],
        "without any span": [f"{r.bare / r.sentences:.0%}" for r in reports] if spans else [],
    }
    for name, cells in lines.items():
        if cells:
            table.add_row(name, *cells)
    table.add_section()
    total = [sum(r.labels.values()) for r in reports]
    for label in dict.fromkeys(label for r in reports for label in r.labels):
        table.add_row(
            Text(label),
            *(f"{r.labels.get(label, 0):,} ({r.labels.get(label, 0) / max(t, 1):.0%})" for r, t in zip(reports, total)),
        )
    show_table(table)


def _overlaps(found: "Inspection") -> None:
    table = Table("sentences of", "found in", "number", "share", "one of them", box=SIMPLE)
    for o in found.overlaps:
        example = o.example if len(o.example) <= 60 else o.example[:57] + "..."
        table.add_row(
            Text(o.data),
            Text(o.source),
            f"{o.found:,} of {o.of:,}",
            f"{o.share:.1%}",
            Text(example),
            style="bold" if o.found else "dim",
        )
    show_table(table)
