"""The commands that run jobs: train-head, train-language, train-task, evaluate, quickstart."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.text import Text

from madx.cli.console import notes, out, quiet_transformers, shell, show_table
from madx.cli.options import (
    Base,
    Components,
    Config,
    Fresh,
    Fuse,
    Overwrite,
    Parts,
    SavedBase,
    Sets,
    StoreFlag,
    listed,
    numbers,
    pairs,
    renamed_flag,
    settings,
    with_consent,
)
from madx.errors import ConfigError
from madx.files.names import check_file_names

if TYPE_CHECKING:
    from madx.results.matrix import TransferMatrix

log = logging.getLogger("madx")

#: settings of `madx quickstart --fast`
FAST = (
    'targets=["swa"]',
    "seeds=[1]",
    "corpus_sentences=1000",
    "train_sentences=300",
    "test_sentences=100",
    "language_steps=60",
    "epochs=2",
)


def train_language(
    config: Config = None,
    base: Base = None,
    language: Annotated[Optional[str], typer.Option(help="Language of the text: ISO 639-3, e.g. swa.")] = None,
    corpus: Annotated[
        Optional[list[str]],
        typer.Option(help="Raw text: .txt, .jsonl, either with .gz, a folder, or datasets:NAME. Repeatable."),
    ] = None,
    name: Annotated[Optional[str], typer.Option(help="Name of the module (default: the language).")] = None,
    store: StoreFlag = None,
    steps: Annotated[
        Optional[int], typer.Option(help="Optimiser steps (default: by corpus size, as in MAD-X).")
    ] = None,
    fuse: Fuse = None,
    components: Components = None,
    seed: Annotated[
        Optional[int], typer.Option(help="Seed of initial weights, data order and masks (default: 1).")
    ] = None,
    overwrite: Overwrite = None,
    fresh: Fresh = False,
    sets: Sets = None,
    parts: Parts = None,
) -> None:
    """Train a LANGUAGE MODULE on raw text of one language, by masked language modelling; the base stays as it is.

    Example: madx train-language --base xlm-roberta-base --language swa --corpus swa.txt

    The defaults are the MAD-X recipe (many hours on a GPU); `configs/train_language_small.yaml` fits a CPU. Ctrl-C
    stops after the current step and keeps a checkpoint; the same command goes on from there.
    """
    texts = corpus[0] if corpus and len(corpus) == 1 else corpus or None
    flags = {
        "base": base,
        "language": language,
        "corpus": texts,
        "name": name,
        "store": store,
        "steps": steps,
        "fuse": fuse.split(",") if fuse else None,
        "components": renamed_flag(parts, components, was="--parts", name="--components"),
        "seed": seed,
        "overwrite": overwrite,
        "resume": False if fresh else None,
    }
    from madx.jobs import TrainLanguage
    from madx.jobs import train_language as run

    quiet_transformers()
    chosen = settings(TrainLanguage, config, sets, flags)
    result = run(chosen)
    module = result.module.name
    _headline(
        "Fusion module " if chosen.fuse else "Language module ",
        module,
        f" ({chosen.language}), {result.module.parameter_count():,} parameters",
    )
    before, after = result.before["perplexity"], result.after["perplexity"]
    out.print(f"  held-out pseudo-perplexity  {before:,.2f} without it, {after:,.2f} with it")
    out.print(f"  best at step                {result.training.best_step:,} of {result.training.steps:,}")
    out.print(f"  stored in                   {result.folder}")
    if after >= before:
        log.warning("the module predicts held-out text no better than the bare base: train longer, or at another rate")
    _next(
        "Next, train a task module over the source language's module, or evaluate one by swapping this one in:",
        shell("madx", "train-task", "--base", chosen.base, "--language", chosen.language, "--store", chosen.store)
        + " --data TRAIN.conll --dev DEV.conll",
        shell("madx", "evaluate", "--store", chosen.store, "--task-module", "ner")
        + f" --target {chosen.language}=TEST.conll",
    )


def train_head(
    config: Config = None,
    base: Base = None,
    corpus: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="LANG=PATH",
            help="Text of a language that the base knows: .txt, .jsonl, either with .gz, a folder, or datasets:NAME. "
            "Repeatable, of one language too.",
        ),
    ] = None,
    store: StoreFlag = None,
    steps: Annotated[Optional[int], typer.Option(help="Optimiser steps (default: 5000).")] = None,
    seed: Annotated[
        Optional[int], typer.Option(help="Seed of initial weights, data order and masks (default: 1).")
    ] = None,
    overwrite: Annotated[
        Optional[bool],
        typer.Option("--overwrite", help="Replace the head of this base in the store.", show_default=False),
    ] = None,
    fresh: Fresh = False,
    sets: Sets = None,
) -> None:
    """Train a MASKED-LM HEAD on a base without one (sentence encoders, discriminators); the base stays as it is.

    Example: madx train-head --base intfloat/multilingual-e5-base --corpus eng=eng.txt --corpus swa=swa.txt

    Once for each base: `train-language` uses the head of its store by itself where the base has none of its own.
    `madx modules list` shows the heads of a store below its modules.
    """
    flags = {
        "base": base,
        "corpus": listed(corpus, "--corpus"),
        "store": store,
        "steps": steps,
        "seed": seed,
        "overwrite": overwrite,
        "resume": False if fresh else None,
    }
    from madx.jobs import TrainHead
    from madx.jobs import train_head as run

    quiet_transformers()
    chosen = settings(TrainHead, config, sets, flags)
    result = run(chosen)
    _headline("Masked-LM head ", result.name, f" of {chosen.base}, on text of {', '.join(chosen.corpus)}")
    before, after = result.before["perplexity"], result.after["perplexity"]
    out.print(f"  held-out pseudo-perplexity  {before:,.2f} at the beginning, {after:,.2f} with it")
    for language in chosen.corpus if len(chosen.corpus) > 1 else ():
        out.print(Text(f"    {language:24}  {result.after[f'perplexity {language}']:,.2f}"))
    out.print(f"  best at step                {result.training.best_step:,} of {result.training.steps:,}")
    out.print(Text(f"  stored in                   {result.folder}"))
    _next(
        "Next, train language modules on this base; each uses the head by itself:",
        shell("madx", "train-language", "--base", chosen.base, "--store", chosen.store)
        + " --language swa --corpus swa.txt",
    )


def train_task(
    config: Config = None,
    base: Base = None,
    language: Annotated[
        Optional[list[str]], typer.Option(help="The source language: that of the labelled data, e.g. eng. Repeatable.")
    ] = None,
    data: Annotated[
        Optional[list[str]],
        typer.Option(
            help="Training data: a CoNLL file or datasets:NAME[:CONFIG]:SPLIT; LANG=PATH for several languages."
        ),
    ] = None,
    dev: Annotated[
        Optional[list[str]], typer.Option(help="Development data, which chooses the best weights; as --data.")
    ] = None,
    task: Annotated[Optional[str], typer.Option(help="One of `madx tasks` (default: ner).")] = None,
    name: Annotated[Optional[str], typer.Option(help="Name of the module (default: the task).")] = None,
    store: StoreFlag = None,
    epochs: Annotated[Optional[int], typer.Option(help="Passes over the training data (default: 100).")] = None,
    fuse: Fuse = None,
    components: Components = None,
    seeds: Annotated[
        Optional[str], typer.Option(metavar="1,2,3", help="One module is trained for each (default: 1,2,3).")
    ] = None,
    overwrite: Overwrite = None,
    fresh: Fresh = False,
    sets: Sets = None,
    parts: Parts = None,
) -> None:
    """Train a TASK MODULE on labelled sentences, above the frozen module of their language.

    Example: madx train-task --base xlm-roberta-base --language eng --data train.conll --dev dev.conll

    The source language's module must be in the store; `--set language_module=null` trains without one. Several seeds
    give the modules NAME@1, NAME@2, ..., which `madx evaluate` takes together. Several source languages, each batch
    with its language's module: --language eng --language deu --data eng=A --data deu=B --dev eng=C --dev deu=D.
    """
    several = language is not None and len(language) > 1
    files = {key: _files(given, f"--{key}", several=several) for key, given in (("data", data), ("dev", dev))}
    flags = {
        "base": base,
        "language": language if several else language and language[0],
        **files,
        "task": task,
        "name": name,
        "store": store,
        "epochs": epochs,
        "fuse": fuse.split(",") if fuse else None,
        "components": renamed_flag(parts, components, was="--parts", name="--components"),
        "seeds": numbers(seeds, "--seeds"),
        "overwrite": overwrite,
        "resume": False if fresh else None,
    }
    from madx.jobs import TrainTask
    from madx.jobs import train_task as run
    from madx.jobs.labelled import task_type

    quiet_transformers()
    chosen = settings(TrainTask, config, sets, flags)
    result = run(chosen)
    metric = task_type(chosen.task).metric
    _headline(
        ("Fusion module" if chosen.fuse else "Task module") + "s" * (len(result.modules) > 1) + " ",
        ", ".join(m.name for m in result.modules),
    )
    met = dict.fromkeys(c for under in result.modules[0].info.training["sources"].values() for c in under)
    out.print(f"  composition           {', '.join(met)}")
    out.print(f"  labels                {', '.join(result.modules[0].info.labels)}")
    out.print(f"  on development data   {result.summary(metric)}")
    out.print(f"  stored in             {', '.join(map(str, result.folders))}")
    _next(
        "Next, evaluate in languages that the task module never saw, by swapping the language module:",
        shell("madx", "evaluate", "--store", chosen.store, "--task-module", chosen.name or chosen.task)
        + " --target swa=TEST.conll",
    )


def _files(given: list[str] | None, flag: str, *, several: bool) -> dict[str, str] | str | None:
    """The file of one source language, or those of several by language. Raises ConfigError for two files of one."""
    if not given or several:
        return pairs(given, flag) if given else None
    if len(given) > 1:
        raise ConfigError(
            f"{flag} is given {len(given)} times for one language: {', '.join(given)}. Give one file, or several "
            f"languages: --language eng --language deu {flag} eng=A {flag} deu=B."
        )
    return given[0]


def evaluate(
    config: Config = None,
    task_module: Annotated[
        Optional[str], typer.Option(help="Task module, or the name before @SEED of several (default: ner).")
    ] = None,
    target: Annotated[
        Optional[list[str]],
        typer.Option(metavar="LANG=PATH", help="A target language and its labelled test data. Repeatable."),
    ] = None,
    store: StoreFlag = None,
    base: SavedBase = None,
    output: Annotated[
        Optional[str], typer.Option("--out", help="Folder of the results (default: runs/evaluate-TASK_MODULE).")
    ] = None,
    sets: Sets = None,
) -> None:
    """Evaluate a task module ZERO-SHOT: swap the language module under it, for each target language.

    Example: madx evaluate --task-module ner --target swa=swa.conll --target yor=yor.conll

    Four controls stand side by side: no language module, the source language's kept, the target's, the others' mean.
    `configs/evaluate_proxies.yaml` adds proxies for the module of a language that has none.
    """
    flags = {"task_module": task_module, "store": store, "base": base, "run": output}
    targets = pairs(target, "--target")
    check_file_names(targets, "target")  # before they become dotted keys
    flags |= {f"targets.{language}": path for language, path in targets.items()}
    from madx.jobs import Evaluate
    from madx.jobs import evaluate as run

    quiet_transformers()
    chosen = settings(Evaluate, config, sets, flags)
    result = with_consent(lambda: run(chosen))
    _matrix(result.matrix)
    out.print("\nfiles: " + "  ".join(map(str, result.files)))
    if chosen.predictions:
        out.print(f"predictions: {result.folder / 'predictions'}")


def quickstart(
    output: Annotated[
        Optional[str], typer.Option("--out", help="Folder of data, modules and results (default: runs/quickstart).")
    ] = None,
    seeds: Annotated[Optional[int], typer.Option(min=1, help="How many seeds of the task module (default: 3).")] = None,
    module_type: Annotated[
        Optional[str], typer.Option(help="bottleneck (MAD-X, the default) or sparse_diff (LT-SFT).")
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="One target language, one seed, little training: shows the mechanism, not the effect."
        ),
    ] = False,
    sets: Sets = None,
) -> None:
    """All three jobs on a synthetic miniature world, offline, in a few minutes on a CPU.

    What is stored already is used again. Nothing is downloaded.
    """
    from madx.jobs.quickstart import Quickstart
    from madx.jobs.quickstart import quickstart as run

    quiet_transformers()
    flags = {"out": output, "seeds": list(range(1, seeds + 1)) if seeds else None, "module_type": module_type}
    chosen = settings(Quickstart, None, [*(FAST if fast else []), *(sets or [])], flags)
    result = run(chosen)
    _matrix(result.matrix)
    store = str(result.folder / "modules")
    stack = f"{chosen.targets[0]} + ner@{chosen.seeds[0]}"
    out.print(f"\nmodules: {store}   results: {result.folder / 'results'}")
    _next(
        "Next, look at what acts where, and tag a sentence:",
        shell("madx", "explain", "--store", store, "--stack", stack),
        shell("madx", "predict", "--store", store, "--stack", stack, _first_sentence(chosen.targets[0], result.folder)),
    )
    _next(
        "With your own text and WikiANN (Hugging Face hub) on a real base, best on a GPU; the first for each language:",
        "madx train-language --base xlm-roberta-base --language eng --corpus YOUR_ENGLISH.txt",
        "madx train-task --base xlm-roberta-base --language eng "
        "--data datasets:wikiann:en:train --dev datasets:wikiann:en:validation",
        "madx evaluate --task-module ner --target swa=datasets:wikiann:sw:test",
    )


def _first_sentence(language: str, folder: Path) -> str:
    """The first test sentence of the quick start in a language."""
    lines = (folder / "data" / f"ner-test-{language}.conll").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return " ".join(line.split("\t")[0] for line in lines if line)


def _headline(before: str, name: str, after: str = "") -> None:
    out.print(Text.assemble("\n", (before, "bold"), (name, "bold cyan"), after))


def _matrix(matrix: "TransferMatrix") -> None:
    from madx.report import to_rich

    show_table(to_rich(matrix))
    for line in matrix.warnings():
        notes.print(Text(line, style="bold red"))


def _next(why: str, *commands: str) -> None:
    out.print(f"\n{why}")
    for command in commands:
        out.print(Text(f"  {command}", style="cyan"))
