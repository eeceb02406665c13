"""The commands that run many jobs from one settings file: matrix, compare."""

from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from madx.cli.console import counted, notes, out, quiet_transformers, show_table
from madx.cli.options import Base, Config, Sets, StoreFlag, numbers, settings

if TYPE_CHECKING:
    from madx.jobs.matrix.plan import Plan


def matrix(
    config: Config = None,
    base: Base = None,
    store: StoreFlag = None,
    output: Annotated[
        Optional[str], typer.Option("--out", help="Folder of the results (default: runs/matrix).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be trained and what is there, and stop.")
    ] = False,
    sets: Sets = None,
) -> None:
    """Train and evaluate a whole TRANSFER MATRIX: sources x targets x tasks x module types x seeds.

    Example: madx matrix configs/matrix.yaml --dry-run

    What is stored, by content, is used again; a stopped run goes on; one failure does not lose the rest (exit code 1).
    """
    from madx.jobs import Matrix, make_plan
    from madx.jobs import matrix as run
    from madx.report import to_rich

    quiet_transformers()
    chosen = settings(Matrix, config, sets, {"base": base, "store": store, "run": output})
    if dry_run:
        plan = make_plan(chosen)
        _show_plan(plan)
        raise typer.Exit(1 if plan.failures else 0)
    result = run(chosen)
    show_table(to_rich(result.matrices))
    trained, evaluated, reused = map(len, (result.trained, result.evaluated, result.reused))
    out.print(
        f"\n{counted(trained, 'module')} trained, {counted(evaluated, 'evaluation')}, "
        f"{counted(reused, 'result')} used again"
    )
    out.print("files: " + "  ".join(map(str, result.files)))
    out.print(f"each matrix with its controls: {result.folder / 'matrices'}")
    if result.failures:
        notes.print(
            Text(f"{len(result.failures)} failed (above, in red); the same command tries these again", style="bold red")
        )
        raise typer.Exit(1)


def compare(
    config: Config = None,
    base: Base = None,
    language: Annotated[Optional[str], typer.Option(help="Language of the labelled data, e.g. eng.")] = None,
    data: Annotated[
        Optional[str], typer.Option(help="Training data: a CoNLL file or datasets:NAME[:CONFIG]:SPLIT.")
    ] = None,
    dev: Annotated[Optional[str], typer.Option(help="Development data, on which accuracy is measured.")] = None,
    store: StoreFlag = None,
    output: Annotated[
        Optional[str], typer.Option("--out", help="Folder of the results (default: runs/compare).")
    ] = None,
    seeds: Annotated[Optional[str], typer.Option(metavar="1,2,3", help="Seeds of accuracy (default: 1,2,3).")] = None,
    sets: Sets = None,
) -> None:
    """Compare MODULE TYPES and baselines on your base and data: storage, memory, compute, accuracy, inference time.

    Example: madx compare --base xlm-roberta-base --language eng --data train.conll --dev dev.conll

    Full and top-layer fine-tuning, the head alone, BitFit, adapters and LT-SFT, unless `candidates` says otherwise.
    """
    from madx.jobs import Compare
    from madx.jobs import compare as run
    from madx.report import to_rich

    quiet_transformers()
    flags = {"base": base, "language": language, "data": data, "dev": dev, "store": store, "run": output}
    result = run(settings(Compare, config, sets, flags | {"seeds": numbers(seeds, "--seeds")}))
    show_table(to_rich(result.comparison))
    out.print(f"\n{counted(len(result.trained), 'module')} trained, {len(result.reused)} used again")
    out.print("files: " + "  ".join(map(str, result.files)))
    if result.comparison.failures():
        raise typer.Exit(1)


def _show_plan(plan: "Plan") -> None:
    """Print a line for each module that a matrix would train, then the evaluations and all that cannot be done."""
    table = Table("module", "for", "over", "", "steps, about", box=SIMPLE)
    for t in plan.trainings:
        state = "stored" if t.stored else "goes on" if t.begun else "to train"
        style = "dim" if t.stored else ""
        table.add_row(
            *(
                Text(cell, style=style)
                for cell in (t.name, t.what, t.under or "-", state, "-" if t.stored else f"{t.steps:,}")
            )
        )
    show_table(table)
    missing = sum(not t.stored for t in plan.trainings)
    out.print(
        f"{missing} of {counted(len(plan.trainings), 'module')} to train, about {counted(plan.steps, 'optimiser step')}"
    )
    targets = sum(len(s.job.targets) * len(s.job.controls) for s in plan.scorings)
    evaluations = f"{counted(len(plan.scorings), 'evaluation')}, {counted(targets, 'test set')} times controls"
    out.print(f"{evaluations}; those of known modules are used again")
    for failure in plan.failures:
        notes.print(Text(f"cannot: {failure.what}: {failure.why}", style="bold red"))
