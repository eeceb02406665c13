"""The selection of entries in one round: read from the file of a killed run, or made anew."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from madx.contract.sites import BaseParameter
from madx.module_types.sparse_diff import SparseDiff
from madx.tasks.base import Task
from madx.training.checkpoint import read_checkpoint, require_same_run, taking_up, write_checkpoint
from madx.training.loop import CHECKPOINT, train
from madx.training.processes import broadcast, on_main_process, require_same
from madx.training.run import Run, TrainResult, identity_of
from madx.training.settings import TrainSettings
from madx.training.sparse.importance import Importance
from madx.training.sparse.selections.base import Selection, top
from madx.training.trainable import Trainee

SELECTED = "selected.safetensors"

State = dict[str, Tensor]


def select(
    trainee: Trainee[SparseDiff],
    task: Task,
    settings: TrainSettings,
    run: Run,
    selection: Selection,
    *,
    count: int,
    start: State,
) -> tuple[Tensor, TrainResult | None]:
    """Select entries, or find the selection that a killed run has made.

    Gives their global indices `(count,)`, the same in every process, and the result of the phase before the selection.

    Args:
        run: of the round; its folder keeps the selection.
        start: the state of the module to which the penalty of that phase pulls the head and other components.
    """
    # a phase before a selection ends with its best weights
    settings = settings.model_copy(update={"average_last": 1})
    identity = identity_of(run, settings, count=count)
    known = read_checkpoint(run.folder / SELECTED) if run.folder is not None and run.resume else None
    if run.folder is not None:
        require_same(int(known is not None), "entries selected", run.folder)
        if known is not None:
            tensors, state = known
            with taking_up(run.folder / SELECTED):
                require_same_run(state["identity"], identity, run.folder / SELECTED)
                return tensors["indices"].long(), TrainResult(**state["result"]) if state["result"] else None
    indices, result = _select_anew(trainee, task, settings, run, selection, count=count, start=start)
    if run.folder is not None:
        folder, kept = run.folder, vars(result) if result is not None else None
        stored = {"indices": indices.to(trainee.unit.space.dtype)}
        on_main_process(lambda: _keep(folder, stored, {"identity": identity, "result": kept}))
    return indices, result


def _select_anew(
    trainee: Trainee[SparseDiff],
    task: Task,
    settings: TrainSettings,
    run: Run,
    selection: Selection,
    *,
    count: int,
    start: State,
) -> tuple[Tensor, TrainResult | None]:
    """As `select`, without its file."""
    phase, result = selection.phase_before(trainee, swaps=task.swaps), None
    if phase is None:
        importance = selection.importance(trainee, task, seed=run.seed)
        indices = _largest(trainee.unit, selection, count, importance)
    else:
        steps = max(1, round(settings.sparse.full_share * run.steps))
        before = replace(run.inside("full", phase="full"), steps=steps, title=f"{run.title}, full")
        phase.penalise_from(start)
        with phase.running():
            result = train(phase, task, settings, before)
            indices = _largest(trainee.unit, selection, count, phase.importance)
    # scores may differ between processes in their last bits
    return broadcast(indices.to(trainee.engine.base.device)), result


@torch.no_grad()
def _largest(
    unit: SparseDiff, selection: Selection, count: int, importance: Callable[[BaseParameter], Importance]
) -> Tensor:
    """The `count` entries with the largest scores that the unit does not hold yet."""
    if count == 0:
        return torch.arange(0)

    def scores(number: int, first: int, last: int) -> Tensor:
        return selection.scores(importance(unit.space.parameters[number]), first, last)

    return top(unit.space, count, scores, taken=unit.indices.cpu())


def _keep(folder: Path, tensors: State, state: dict) -> None:
    """Write the selection, and let the phase before it go."""
    write_checkpoint(folder / SELECTED, tensors, state)
    with suppress(OSError):  # as large as the base three times over, and no longer needed
        (folder / "full" / CHECKPOINT).unlink()
