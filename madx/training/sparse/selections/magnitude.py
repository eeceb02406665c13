"""LT-SFT (Ansell et al. 2022, arXiv:2110.07560): the weights that full fine-tuning moved farthest.

Score: |theta - theta_0|.
"""

from torch import Tensor

from madx.module_types.sparse_diff import SparseDiff
from madx.training.sparse.dense_delta import full_phase
from madx.training.sparse.phases import DensePhase, l1_per_parameter
from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection
from madx.training.trainable import Trainee


@SELECTIONS.register("magnitude")
class Magnitude(Selection):
    """Scores a weight by how far it moved."""

    def phase_before(self, trainee: Trainee[SparseDiff], *, swaps: bool) -> DensePhase:
        return full_phase(trainee, l1=l1_per_parameter(trainee, self.settings.full_l1), swaps=swaps)

    def scores(self, importance: Importance, first: int, last: int) -> Tensor:
        return importance.distance(first, last)
