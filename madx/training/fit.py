"""Training a module: one run of the loop, or the phases of a sparse weight delta; or a masked-LM head."""

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from madx.engine import Engine
from madx.errors import ConfigError, TrainingError
from madx.module_types.sparse_diff import SparseDiff
from madx.tasks.base import Task
from madx.training import loop
from madx.training.cache_policy import activation_cache
from madx.training.head_trainable import HeadTrainable
from madx.training.precision import precision_of
from madx.training.preparation import prepare_units
from madx.training.run import Run, TrainResult
from madx.training.settings import TrainSettings
from madx.training.sparse import SELECTED, fit_sparse
from madx.training.trainable import ModuleTrainable, Trainee
from madx.training.weights_trainable import WeightsTrainable


def fit(
    engine: Engine,
    name: str | None,
    task: Task,
    settings: TrainSettings,
    *,
    steps: int,
    seed: int,
    folder: Path | None = None,
    resume: bool = True,
    run: dict[str, Any] | None = None,
    title: str | None = None,
) -> TrainResult:
    """Train a module of the active composition on a task.

    The module ends with the best weights by the task's metric on its held-out data. A module with a sparse weight delta
    is trained in phases (`madx.training.sparse`). The hooks of its units are called on the way: `prepare` with the
    gradients of the first batch, `begin` at each step, `penalty` once a step, `settle` when the best weights are back.

    Args:
        engine: the module is attached to it and acts in its active composition.
        name: the module's name; None: the masked-LM head of the base is trained, as it is, and nothing else.
        task: gives batches, losses and scores.
        settings: learning rate, precision and so on; precision `auto` is that of the base as it is.
        steps: optimiser steps; for a sparse weight delta those of the phase after the selection.
        seed: decides data order, masks, dropout and selections.
        folder: keeps the checkpoint; None: no checkpoint is written.
        resume: go on from the checkpoint in the folder; False: remove it and begin anew.
        run: settings that identify the run; they are compared on resume.
        title: a name for the progress display; the module's by default.

    Raises:
        ConfigError: settings that do not fit the module or each other.
        TrainingError: the loss is not a number any more or the run has diverged, the disk refuses, or the checkpoint
            belongs to another run.
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP, when a checkpoint has been written.
    """
    if steps < 1:
        raise ConfigError(f"training for {steps} steps: at least 1 is needed.")
    if settings.precision == "auto":
        settings = settings.model_copy(update={"precision": precision_of(engine.base)})
    place = Path(folder) if folder is not None else None
    if place is not None and not resume and PartialState().is_main_process:
        forget(place)
    how = Run(steps=steps, seed=seed, folder=place, resume=resume, identity=run or {}, title=title or name or "head")
    if name is None:
        head = HeadTrainable(engine)
        with head.running():
            return loop.train(head, task, settings, how)
    trainee = Trainee(engine, name, None)
    with activation_cache(trainee, task, settings, folder=place):
        result = _train(trainee, task, settings, how)
    with torch.no_grad():
        for unit in trainee.units:
            unit.settle()
    if trainee.weights_units:
        engine.refresh()
    return result


def _train(trainee: Trainee[None], task: Task, settings: TrainSettings, run: Run) -> TrainResult:
    """Train a module in the way that its components ask for."""
    sparse = [unit for unit in trainee.weights_units if isinstance(unit, SparseDiff)]
    if sparse:
        if len(trainee.weights_units) > 1:
            raise ConfigError(
                f"The module {trainee.name!r} has a sparse weight delta and other components that act through the "
                "weights of the base; it is trained in phases and they are not. Train them as two modules."
            )
        return fit_sparse(Trainee(trainee.engine, trainee.name, sparse[0]), task, settings, run)
    kind = WeightsTrainable if trainee.weights_units else ModuleTrainable
    prepare_units(kind(trainee), task, settings, run)
    trainable = kind(trainee)  # a unit may have other parameters after its preparation
    with trainable.running():
        return loop.train(trainable, task, settings, run)


def forget(folder: Path) -> None:
    """Remove the checkpoints and selections of a run that is not to be resumed, those of all its phases."""
    phases = [path for pattern in ("round-*", "round-*/*") for path in folder.glob(pattern)]
    for place in (folder, folder / "full", *phases):
        for name in (loop.CHECKPOINT, SELECTED):
            try:
                (place / name).unlink(missing_ok=True)
            except OSError as error:
                raise TrainingError(
                    f"The checkpoint {place / name} cannot be removed: {error}. Remove it by hand, or give the run "
                    "another folder."
                ) from error
