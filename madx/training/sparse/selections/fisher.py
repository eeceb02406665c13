"""FISH mask (Sung et al. 2021, arXiv:2111.09839): the weights that the labels depend on most, without full fine-tuning.

Score: the diagonal of the empirical Fisher information, the mean over the samples of (d loss / d theta)^2.
"""

from collections.abc import Callable

from torch import Tensor

from madx.contract.sites import BaseParameter
from madx.engine import Engine
from madx.module_types.sparse_diff import SparseDiff
from madx.tasks.base import Task
from madx.training.sparse.fisher_information import mean_squares
from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection


@SELECTIONS.register("fisher")
class Fisher(Selection):
    """Mean squared gradient of a weight, one sample at a time."""

    def importance(
        self, engine: Engine, name: str, unit: SparseDiff, task: Task, *, seed: int
    ) -> Callable[[BaseParameter], Importance]:
        squares = mean_squares(engine, name, unit, task, samples=self.settings.samples)
        return lambda p: Importance(p, engine.base.encoder.get_parameter(p.name).detach(), squares=squares[p.name])

    def scores(self, evidence: Importance, first: int, last: int) -> Tensor:
        return evidence.squares.reshape(-1)[first:last]
