"""Preparation of a module before its first step: units that ask for it get the gradients of the first batch."""

import torch

from madx.contract.module_type import ModuleType
from madx.tasks.base import Task
from madx.training.gradients import compute_gradients
from madx.training.run import Run
from madx.training.settings import TrainSettings
from madx.training.trainable import TraineeTrainable


def prepare_units(trainable: TraineeTrainable, task: Task, settings: TrainSettings, run: Run) -> None:
    """Call `prepare` of each unit that overrides it, with the gradients of the first global batch.

    Without such a unit nothing is computed, and the gradients are dropped afterwards. A resumed run is prepared as
    well, before it takes the tensors of its checkpoint: all that `prepare` sets beside tensors is there again.
    """
    units = [unit for unit in trainable.trainee.units if type(unit).prepare is not ModuleType.prepare]
    if not units:
        return
    engine = trainable.engine
    with engine.using(engine.composition), trainable.running():
        trainable.broadcast_parameters()
        trainable.set_mode(training=True, base_dropout=settings.base_dropout)
        try:
            compute_gradients(trainable, task, step=0, seed=run.seed, precision=settings.precision)
            with torch.no_grad():
                for unit in units:
                    unit.prepare(
                        {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in unit.named_parameters()}
                    )
        finally:
            for parameter in trainable.parameters:
                parameter.grad = None
            trainable.set_mode(training=False)
