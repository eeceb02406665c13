"""The commands that list the choices: settings of the jobs, tasks, bases."""

from enum import Enum
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table

from madx.cli.console import out, show_table


class Job(str, Enum):
    """Jobs that a settings file is for."""

    train_head = "train-head"
    train_language = "train-language"
    train_task = "train-task"
    evaluate = "evaluate"
    matrix = "matrix"
    compare = "compare"
    inspect = "inspect"
    quickstart = "quickstart"


def config(job: Annotated[Job, typer.Argument(help="The command that the settings are for.")]) -> None:
    """Print all settings of a job as YAML with comments: a file to start from (the quick start takes them by --set).

    Example: madx config train-language > language.yaml
    """
    from madx import jobs
    from madx.config import Settings, describe
    from madx.jobs.quickstart import Quickstart

    schemas: dict[Job, type[Settings]] = {
        Job.train_head: jobs.TrainHead,
        Job.train_language: jobs.TrainLanguage,
        Job.train_task: jobs.TrainTask,
        Job.evaluate: jobs.Evaluate,
        Job.matrix: jobs.Matrix,
        Job.compare: jobs.Compare,
        Job.inspect: jobs.Inspect,
        Job.quickstart: Quickstart,
    }
    out.print(f"# madx {job.value} FILE.yaml\n{describe(schemas[job])}".rstrip())


def tasks() -> None:
    """List the tasks that a task module can be trained for."""
    from madx.tasks import TASKS

    table = Table("task", "what it is", box=SIMPLE)
    for name in TASKS.names():
        table.add_row(name, " ".join((TASKS.get(name).__doc__ or "").split("\n\n")[0].split()))
    show_table(table)


def bases() -> None:
    """List the families of bases whose sites are described; any base of such a model type can be used."""
    from madx.base.families import FAMILIES

    table = Table(
        "family", "model_type in config.json", "norm", "invertible component undone before the decoder", box=SIMPLE
    )
    for family in FAMILIES:
        norm = "after the residual (post-norm)" if family.ffn.norm else "before the block (pre-norm)"
        undone = "yes" if family.tied else "no: its decoder is not tied to the embeddings"
        table.add_row(family.title, ", ".join(family.model_types), norm, undone)
    show_table(table)
