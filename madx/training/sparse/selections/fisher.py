"""FISH mask (Sung et al. 2021, arXiv:2111.09839): the weights on which the labels depend most.

Score: the diagonal of the empirical Fisher information, the mean over the samples of (d loss / d theta)^2.
"""

from collections.abc import Callable

from torch import Tensor

from madx.contract.sites import BaseParameter
from madx.module_types.sparse_diff import SparseDiff
from madx.tasks.base import Task
from madx.training.sparse.fisher_information import mean_squared_gradients
from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection
from madx.training.trainable import Trainee


@SELECTIONS.register("fisher")
class Fisher(Selection):
    """Scores a weight by its mean squared gradient, one sample at a time."""

    def importance(
        self, trainee: Trainee[SparseDiff], task: Task, *, seed: int
    ) -> Callable[[BaseParameter], Importance]:
        squares = mean_squared_gradients(trainee, task, samples=self.settings.samples)
        encoder = trainee.engine.base.encoder
        return lambda p: Importance(p, encoder.get_parameter(p.name).detach(), squares=squares[p.name])

    def scores(self, importance: Importance, first: int, last: int) -> Tensor:
        return importance.fisher(first, last)
