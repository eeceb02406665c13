"""Training a sparse weight delta in phases: LT-SFT (Ansell et al. 2022, arXiv:2110.07560) and its relatives.

    for each round:  1. full phase: all selectable weights and the head are trained, theta
                     2. selection: the K / rounds largest scores, one threshold over all parameters; |theta - theta_0|
                     3. reset: weights and head are again what they were before the full phase
                     4. sparse phase: the selected entries and the head are trained, with a fresh optimiser and schedule

With all entries (`entries: all`) there are no phases: everything selectable is trained once.

theta_0 includes the weight deltas under the trained one (a task's is trained over base + source language). The
masked-LM decoder keeps the bare base's embeddings, and the rest of the masked-LM head is never trained. L1: lambda
times sum |theta - theta_0| / (number of all parameters), over all that is trained, once a step.
"""

import torch
from torch import Tensor

from madx.errors import ConfigError
from madx.module_types.sparse_diff import SparseDiff
from madx.tasks.base import Task
from madx.training.base_gradients import require_float32, require_unscaled
from madx.training.loop import train
from madx.training.preparation import prepare_units
from madx.training.processes import broadcast_in_place
from madx.training.run import Run, TrainResult
from madx.training.settings import TrainSettings
from madx.training.sparse.dense_delta import full_phase
from madx.training.sparse.phases import SparsePhase, l1_per_parameter
from madx.training.sparse.selecting import SELECTED, State, select
from madx.training.sparse.selections import SELECTIONS
from madx.training.trainable import ModuleTrainable, Trainee

__all__ = ["SELECTED", "fit_sparse"]


def fit_sparse(trainee: Trainee[SparseDiff], task: Task, settings: TrainSettings, run: Run) -> TrainResult:
    """Train the sparse weight delta of a module, its head and its other components; `run.steps` is the length of a
    sparse phase.

    Every phase has a folder of its own, so that a killed run goes on in the phase where it was. After an accident the
    module is what it was before. Raises as `madx.training.fit` does.
    """
    engine, module, unit = trainee.engine, trainee.module, trainee.unit
    _require_trainable(trainee, settings)
    SELECTIONS.get(settings.sparse.selection)
    wanted = unit.config.count(unit.site)
    before = _copy_of(module.state_dict())
    unit.set_entries(unit.indices[:0], unit.values.detach()[:0])
    try:
        with engine.on_top(unit):
            broadcast_in_place([*module.parameters(), *module.buffers()])
            prepare_units(ModuleTrainable(trainee), task, settings, run)
            if wanted == unit.space.size:
                total = _train_all_entries(trainee, task, settings, run)
            else:
                total = _train_in_rounds(trainee, task, settings, run, wanted)
            with torch.no_grad():
                unit.round_values()
    except BaseException:
        _restore(trainee, before)
        raise
    engine.refresh()
    return total


def _require_trainable(trainee: Trainee[SparseDiff], settings: TrainSettings) -> None:
    """Raises ConfigError or TrainingError when the sparse weight delta cannot be trained."""
    if settings.weight_decay:
        raise ConfigError(
            f"train.weight_decay is {settings.weight_decay}, but a sparse weight delta needs 0: decay pulls every "
            "weight towards zero, so it would move those that were not selected and would decide the selection. "
            "train.sparse.full_l1 and sparse_l1 pull towards the base instead."
        )
    require_float32(trainee)
    require_unscaled(trainee, trainee.unit)


def _copy_of(state: State) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


def _restore(trainee: Trainee[SparseDiff], state: State) -> None:
    """The whole module as it was, entries and all."""
    own = trainee.module.start_of(trainee.unit)
    trainee.unit.set_entries(state[own + "indices"], state[own + "values"])
    trainee.module.load_state_dict(state)
    trainee.engine.refresh()


def _train_in_rounds(
    trainee: Trainee[SparseDiff], task: Task, settings: TrainSettings, run: Run, wanted: int
) -> TrainResult:
    """Rounds of a selection and a sparse phase, until `wanted` entries are trained."""
    rounds = settings.sparse.iterations
    selection = SELECTIONS.get(settings.sparse.selection)(settings.sparse)
    total = TrainResult(steps=run.steps)
    # in every round the penalty pulls the head and other components to what they were before the first
    start = _copy_of(trainee.module.state_dict())
    for number in range(1, rounds + 1):
        before = _copy_of(trainee.module.state_dict())
        count = wanted // rounds if number < rounds else wanted - len(trainee.unit.indices)
        here = run.inside(f"round-{number}", round=number)
        indices, full = select(trainee, task, settings, here, selection, count=count, start=start)
        _reset(trainee, before, indices)
        regrowth = selection.regrowth(trainee.unit, steps=run.steps)
        if regrowth is not None and settings.average_last > 1:
            raise ConfigError(
                f"train.average_last is {settings.average_last}, but the selection {settings.sparse.selection} "
                "replaces entries during training: weights at different places have no mean. Set it to 1."
            )
        l1 = l1_per_parameter(trainee, settings.sparse.sparse_l1)
        phase = SparsePhase(trainee, l1=l1, regrowth=regrowth)
        phase.penalise_from(start)
        with phase.running():
            last = train(phase, task, settings, here.inside("sparse", phase="sparse"))
        if full is not None:
            _add(total, full, f"full {number}")
        _add(total, last, f"sparse {number}")
        total.best, total.best_step = last.best, last.best_step
    return total


def _train_all_entries(trainee: Trainee[SparseDiff], task: Task, settings: TrainSettings, run: Run) -> TrainResult:
    """With `entries: all` there is nothing to select: plain fine-tuning of all that is selectable, kept as a delta.

    Full fine-tuning, that of the upper layers, and BitFit (Ben Zaken et al. 2022, arXiv:2106.10199) are presets of
    this kind.
    """
    l1 = l1_per_parameter(trainee, settings.sparse.full_l1, all_entries=True)
    phase, total = full_phase(trainee, l1=l1, swaps=task.swaps), TrainResult(steps=run.steps)
    with phase.running():
        last = train(phase, task, settings, run.inside("full", phase="everything"))
        values = phase.weight_deltas()
    trainee.unit.set_entries(torch.arange(len(values)), values)
    trainee.engine.refresh()
    _add(total, last, "full")
    total.best, total.best_step = last.best, last.best_step
    return total


def _reset(trainee: Trainee[SparseDiff], before: State, indices: Tensor) -> None:
    """Head and other components as they were; the entries of the rounds before keep their values, new ones begin at
    zero."""
    module, unit = trainee.module, trainee.unit
    own = module.start_of(unit)
    old, values = before[own + "indices"].long(), before[own + "values"]
    merged = torch.cat([old, indices.to(old.device)]).sort().values
    fresh = values.new_zeros(len(merged))
    fresh[torch.searchsorted(merged, old)] = values
    unit.set_entries(merged, fresh)
    module.load_state_dict({k: v for k, v in before.items() if not k.startswith(own)}, strict=False)
    trainee.engine.refresh()


def _add(total: TrainResult, phase: TrainResult, name: str) -> None:
    total.history += [{"phase": name, **row} for row in phase.history]
    total.seconds, total.tokens = total.seconds + phase.seconds, total.tokens + phase.tokens
    if phase.resumed_from is not None:
        total.resumed_from = phase.resumed_from
