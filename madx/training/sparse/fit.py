"""Training a sparse difference in phases: LT-SFT (Ansell et al. 2022, arXiv:2110.07560) and its relatives.

    for each round:  1. full phase: all selectable weights and the head move, theta
                     2. selection: the K / rounds largest scores, one threshold over all parameters; |theta - theta_0|
                     3. reset: weights and head are again what they were before the full phase
                     4. sparse phase: the selected entries and the head move, with a fresh optimiser and schedule

With all entries (`entries: all`) there are no phases: everything selectable trains once.

theta_0 includes the differences that act under the trained one (a task's is trained over base + source language). The
masked-LM decoder keeps the bare base's embeddings, and the rest of the masked-LM head is never moved. L1: lambda times
sum |theta - theta_0| / (number of all parameters), over all that moves, once a step.
"""

from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from madx.engine import Engine
from madx.errors import ConfigError, TrainingError
from madx.module import Module
from madx.module_types.sparse_diff import SparseDiff
from madx.tasks.base import Task
from madx.training.checkpoint import read_checkpoint, require_same_run, write_checkpoint
from madx.training.loop import CHECKPOINT, TrainResult, run, run_identity
from madx.training.processes import broadcast, on_main_process, require_same, same_weights
from madx.training.settings import TrainSettings
from madx.training.sparse.dense_delta import full_phase
from madx.training.sparse.phases import SparsePhase, share_of_l1
from madx.training.sparse.selections import SELECTIONS, Selection
from madx.training.sparse.selections.base import top

SELECTED = "selected.safetensors"


def fit_sparse(
    engine: Engine,
    name: str,
    task: Task,
    settings: TrainSettings,
    *,
    steps: int,
    seed: int,
    folder: Path | None,
    resume: bool,
    identity: dict,
    title: str,
) -> TrainResult:
    """Train the sparse difference (and head, and other components) of a module; `steps` is the length of a sparse phase.

    Every phase has a folder of its own, so that a killed run goes on in the phase where it was. Raises as `fit` does.
    """
    unit = _require_trainable(engine, name, settings)
    SELECTIONS.get(settings.sparse.selection)
    wanted = unit.config.count(unit.site)
    before = _state(engine.module(name))
    unit.set_entries(unit.indices[:0], unit.values.detach()[:0])
    options = {"steps": steps, "seed": seed, "folder": folder, "resume": resume, "identity": identity, "title": title}
    try:
        with engine.on_top(unit):
            same_weights(engine.module(name).parameters())
            if wanted == unit.space.size:
                total = _everything(engine, name, unit, task, settings, **options)
            else:
                total = _rounds(engine, name, unit, task, settings, wanted, **options)
            with torch.no_grad():
                unit.round_values()
    except BaseException:
        _restore(engine, name, unit, before)
        raise
    engine.refresh()
    return total


def _state(module: Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def _restore(engine: Engine, name: str, unit: SparseDiff, state: dict[str, Tensor]) -> None:
    """The whole module as it was, entries and all."""
    module = engine.module(name)
    own = module.start_of(unit)
    unit.set_entries(state[own + "indices"], state[own + "values"])
    module.load_state_dict(state)
    engine.refresh()


def _rounds(
    engine: Engine,
    name: str,
    unit: SparseDiff,
    task: Task,
    settings: TrainSettings,
    wanted: int,
    *,
    steps: int,
    seed: int,
    folder: Path | None,
    resume: bool,
    identity: dict,
    title: str,
) -> TrainResult:
    module, selection = engine.module(name), SELECTIONS.get(settings.sparse.selection)(settings.sparse)
    total, rounds = TrainResult(steps=steps), settings.sparse.iterations
    looking = settings.model_copy(update={"average_last": 1})  # a phase before a selection ends with its best weights
    start = _state(
        module
    )  # in every round the penalty pulls the head and other components to what they were before the first
    for number in range(rounds):
        before = _state(module)
        count = wanted // rounds if number + 1 < rounds else wanted - len(unit.indices)
        where = Path(folder) / f"round-{number + 1}" if folder is not None else None
        phase = {"seed": seed, "resume": resume, "title": title}
        indices, full = _select(
            engine,
            name,
            unit,
            task,
            looking,
            selection,
            count=count,
            folder=where,
            steps=steps,
            identity=identity | {"round": number + 1},
            start=start,
            **phase,
        )
        _reset(engine, name, unit, before, indices)
        regrowth = selection.regrowth(unit, steps=steps)
        if regrowth is not None and settings.average_last > 1:
            raise ConfigError(
                f"train.average_last is {settings.average_last}, but the selection {settings.sparse.selection} exchanges entries in "
                "training: weights at different places have no mean. Set it to 1."
            )
        trainable = SparsePhase(
            engine, name, unit, l1=share_of_l1(engine, module, settings.sparse.sparse_l1), regrowth=regrowth
        )
        trainable.pull_to(start)
        with trainable.opened():
            last = run(
                engine,
                trainable,
                task,
                settings,
                steps=steps,
                folder=where / "sparse" if where is not None else None,
                identity=identity | {"round": number + 1, "phase": "sparse"},
                **phase,
            )
        _add(total, full, f"full {number + 1}")
        _add(total, last, f"sparse {number + 1}")
        total.best, total.best_step = last.best, last.best_step
    return total


def _everything(
    engine: Engine,
    name: str,
    unit: SparseDiff,
    task: Task,
    settings: TrainSettings,
    *,
    steps: int,
    seed: int,
    folder: Path | None,
    resume: bool,
    identity: dict,
    title: str,
) -> TrainResult:
    """With `entries: all` there is nothing to select: plain fine-tuning of all that is selectable, kept as a difference.

    Full fine-tuning, that of the upper layers, and BitFit (Ben Zaken et al. 2022, arXiv:2106.10199) are presets of this kind.
    """
    l1 = share_of_l1(engine, engine.module(name), settings.sparse.full_l1, all_entries=True)
    trainable, total = full_phase(engine, name, unit, l1=l1, swaps=task.swaps), TrainResult(steps=steps)
    with trainable.opened():
        last = run(
            engine,
            trainable,
            task,
            settings,
            steps=steps,
            seed=seed,
            resume=resume,
            title=title,
            folder=folder / "full" if folder is not None else None,
            identity=identity | {"phase": "everything"},
        )
        values = trainable.values()
    unit.set_entries(torch.arange(len(values)), values)
    engine.refresh()
    _add(total, last, "full")
    total.best, total.best_step = last.best, last.best_step
    return total


def _require_trainable(engine: Engine, name: str, settings: TrainSettings) -> SparseDiff:
    """The module's sparse difference; raises ConfigError or TrainingError when it cannot be trained."""
    units = [u for u in engine.module(name).units["weights"].values() if isinstance(u, SparseDiff)]
    if settings.weight_decay:
        raise ConfigError(
            f"train.weight_decay is {settings.weight_decay}, but a sparse difference needs 0: decay pulls every weight towards "
            "zero, so it would move those that were not selected and would decide the selection. train.sparse.full_l1 and "
            "sparse_l1 pull towards the base instead."
        )
    if engine.base.model.dtype != torch.float32:
        raise TrainingError(
            f"The base is in {str(engine.base.model.dtype)[6:]}: small differences of weights are rounded away there. Load it "
            "in float32; train.precision bf16 still computes products in half precision."
        )
    terms = [applied.term for applied in engine.deltas.applied if applied.term.shares[0].unit is units[0]]
    if len(terms) != 1 or len(terms[0].shares) > 1 or terms[0].scale != 1.0:
        raise TrainingError(
            f"The difference of {name!r} must stand unscaled in the composition '{engine.composition}', in no average and no "
            f"election, for it is trained over the sum of the others. Activate e.g. 'eng + {name}'."
        )
    return units[0]


def _reset(engine: Engine, name: str, unit: SparseDiff, before: dict[str, Tensor], indices: Tensor) -> None:
    """Head and other components as they were; the entries of the rounds before keep their values, new ones begin at zero."""
    module = engine.module(name)
    own = module.start_of(unit)
    old, values = before[own + "indices"].long(), before[own + "values"]
    merged = torch.cat([old, indices.to(old.device)]).sort().values
    fresh = values.new_zeros(len(merged))
    fresh[torch.searchsorted(merged, old)] = values
    unit.set_entries(merged, fresh)
    module.load_state_dict({k: v for k, v in before.items() if not k.startswith(own)}, strict=False)
    engine.refresh()


def _add(total: TrainResult, phase: TrainResult | None, name: str) -> None:
    if phase is not None:
        total.history += [{"phase": name, **row} for row in phase.history]
        total.seconds, total.tokens = total.seconds + phase.seconds, total.tokens + phase.tokens
        total.resumed_from = phase.resumed_from if phase.resumed_from is not None else total.resumed_from


# ---- the selection -----------------------------------------------------------------------------------------------------


def _select(
    engine: Engine,
    name: str,
    unit: SparseDiff,
    task: Task,
    settings: TrainSettings,
    selection: Selection,
    *,
    count: int,
    folder: Path | None,
    steps: int,
    seed: int,
    identity: dict,
    resume: bool,
    title: str,
    start: dict[str, Tensor],
) -> tuple[Tensor, TrainResult | None]:
    """(`count` new global indices, the same in every process; what the full phase left), from the file of a run before if it
    got so far."""
    run_of = run_identity(settings, steps=steps, seed=seed, **identity, count=count)
    known = read_checkpoint(folder / SELECTED) if folder is not None and resume else None
    if folder is not None:
        require_same(int(known is not None), "entries selected", folder)
    if known is not None:
        tensors, state = known
        require_same_run(state["run"], run_of, folder / SELECTED)
        return tensors["indices"].long(), TrainResult(**state["result"]) if state["result"] else None
    result, trainable = None, selection.before(engine, name, unit, swaps=task.swaps)
    if trainable is not None:
        trainable.pull_to(start)
        with trainable.opened():
            result = run(
                engine,
                trainable,
                task,
                settings,
                steps=max(1, round(settings.sparse.full_share * steps)),
                seed=seed,
                resume=resume,
                folder=folder / "full" if folder is not None else None,
                identity=identity | {"phase": "full"},
                title=f"{title}, full",
            )
            indices = _top(unit, selection, count, trainable.importance)
    else:
        indices = _top(unit, selection, count, selection.importance(engine, name, unit, task, seed=seed))
    indices = broadcast(indices.to(engine.base.device))  # scores may differ between processes in their last bits

    def keep() -> None:
        state = {"run": run_of, "result": vars(result) if result is not None else None}
        write_checkpoint(folder / SELECTED, {"indices": indices.to(unit.space.dtype)}, state)
        with suppress(OSError):  # as large as the base three times over, and no longer needed
            (folder / "full" / CHECKPOINT).unlink()

    if folder is not None:
        on_main_process(keep)
    return indices, result


@torch.no_grad()
def _top(unit: SparseDiff, selection: Selection, count: int, importance_of) -> Tensor:
    parameters = unit.space.parameters
    if count == 0:
        return torch.arange(0)
    return top(
        unit.space,
        count,
        lambda number, a, b: selection.scores(importance_of(parameters[number]), a, b),
        taken=unit.indices.cpu(),
    )
