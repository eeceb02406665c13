"""Training a module: one run of the loop, or the phases of a sparse difference."""

from pathlib import Path

from accelerate import PartialState

from madx.engine import Engine
from madx.errors import ConfigError
from madx.tasks.base import Task
from madx.training import loop
from madx.training.cache_policy import activation_cache
from madx.training.precision import precision_of
from madx.training.settings import TrainSettings
from madx.training.sparse import SELECTED, fit_sparse
from madx.training.trainable import TrainableModule


def fit(
    engine: Engine,
    name: str,
    task: Task,
    settings: TrainSettings,
    *,
    steps: int,
    seed: int,
    folder: Path | None = None,
    resume: bool = True,
    run: dict | None = None,
    title: str | None = None,
) -> loop.TrainResult:
    """Train the module `name` of the active composition on a task for a number of optimiser steps.

    folder: keeps the checkpoint (None: none is written); run: settings that identify the run, compared on resume.
    precision "auto" is that of the base as it is. A module with a sparse difference is trained in phases (`madx.training.sparse`), `steps` being those of the last one.
    Ends with the best weights (by the task's metric on its held-out data) in the module. Raises TrainingError when the
    loss is no number any more, the disk refuses, or a checkpoint belongs to another run; KeyboardInterrupt after
    Ctrl-C or SIGTERM, with a checkpoint written first.
    """
    if steps < 1:
        raise ConfigError(f"training for {steps} steps: at least 1 is needed.")
    if settings.precision == "auto":
        settings = settings.model_copy(update={"precision": precision_of(engine.base)})
    if folder is not None and not resume and PartialState().is_main_process:
        forget(Path(folder))
    options = {
        "steps": steps,
        "seed": seed,
        "folder": folder,
        "resume": resume,
        "title": title or name,
        "identity": run or {},
    }
    if "weights" in engine.module(name).units:
        return fit_sparse(engine, name, task, settings, **options)
    trainable = TrainableModule(engine, name)
    with trainable.opened(), activation_cache(engine, name, task, settings, folder=folder):
        return loop.run(engine, trainable, task, settings, **options)


def forget(folder: Path) -> None:
    """Remove what a run that is not to be taken up left in its folder: a phase that the new one has not reached would be found."""
    of_phases = [
        folder,
        folder / "full",
        *(path for pattern in ("round-*", "round-*/*") for path in folder.glob(pattern)),
    ]
    for place in of_phases:
        for name in (loop.CHECKPOINT, SELECTED):
            (place / name).unlink(missing_ok=True)
