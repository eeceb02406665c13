"""The contract of tasks: what the training loop asks of one."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from madx.engine import Engine
from madx.registry import Registry

#: tasks with a head of their own, trained by `train-task`
TASKS: Registry[Any] = Registry("task")

Batch = dict[str, Tensor]


class Task(ABC):
    """Data with a loss and a score. A batch for a route has `branches`, the branch of each of its rows `(batch,)`. All data order and masking is a pure function of step and seed, so that a run can
    go on from any step and several processes share one global batch."""

    #: the figure of `evaluate` that decides which weights are kept, and whether more of it is better
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool]
    #: whether every epoch reads the same sentences with the same ids
    repeats: ClassVar[bool] = False

    #: whether the steps of a run have different compositions
    swaps: bool = False

    def activate(self, engine: Engine, step: int) -> None:
        """Make the composition of a step's batch act, where it is not the same for all (`madx.tasks.sources`)."""
        return

    @abstractmethod
    def batches(self, step: int, *, process_index: int = 0, process_count: int = 1) -> list[Batch]:
        """This process's share of the global batch of one optimiser step, cut into batches that fit in memory."""

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Predictions that the loss sums over: masked tokens, labelled words."""

    @abstractmethod
    def loss(self, engine: Engine, batch: Batch) -> Tensor:
        """The sum (not the mean) of the losses of a batch, a scalar; the loop divides by the global count."""

    @abstractmethod
    def evaluate(self, engine: Engine) -> dict[str, float]:
        """Scores of the active composition on the held-out data."""

    def better(self, new: float, old: float | None) -> bool:
        """Whether a new value of the metric beats the best so far; one that is no number beats none."""
        if math.isnan(new):
            return False
        return old is None or (new > old if self.higher_is_better else new < old)
