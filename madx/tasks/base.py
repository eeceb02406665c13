"""The base class of tasks: everything that a training loop asks of one."""

import math
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from madx.engine import Engine
from madx.registry import Registry

#: the tasks that `train-task` trains, each with a head of its own
TASKS: Registry[Any] = Registry("task")

Batch = dict[str, Tensor]


class Task(ABC):
    """Data with a loss and a score.

    The order of the data and all masks are pure functions of step and seed, so that a run can go on from any step, and
    several processes share one global batch. A batch for a route has `branches` `(batch,)`, the branch of each row.
    """

    #: the name under which it is registered
    name: str
    #: the figure of `evaluate` that decides which weights are kept
    metric: str
    #: True if a larger value of the metric is better
    higher_is_better: bool
    #: True if every epoch reads the same sentences with the same ids
    repeats: bool = False
    #: True if the steps of a run have different compositions
    swaps: bool = False

    def activate(self, engine: Engine, step: int) -> None:
        """Activate the composition of a step, for a task whose steps have different ones; otherwise do nothing."""
        return

    @abstractmethod
    def batches(self, step: int, *, process_index: int = 0, process_count: int = 1) -> list[Batch]:
        """Return this process's share of the global batch of a step, cut into batches that fit in memory."""

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Return the number n of predictions in a batch: masked tokens, labelled words."""

    @abstractmethod
    def scores(self, engine: Engine, batch: Batch) -> Tensor:
        """Return the logits `(n, classes)` of all predictions of a batch, in float32, under the active composition."""

    @abstractmethod
    def targets(self, batch: Batch) -> Tensor:
        """Return the classes to predict, `(n,)`, in the order of `scores`; IGNORED where there is none."""

    @abstractmethod
    def loss(self, engine: Engine, batch: Batch) -> Tensor:
        """Return the sum (not the mean) of the losses of a batch, a scalar; the loop divides by the global count."""

    @abstractmethod
    def evaluate(self, engine: Engine) -> dict[str, float]:
        """Return the figures of the active composition on the held-out data."""

    def better(self, new: float, old: float | None) -> bool:
        """Return whether a value of the metric is better than the best one so far; NaN never is."""
        if math.isnan(new):
            return False
        return old is None or (new > old if self.higher_is_better else new < old)
