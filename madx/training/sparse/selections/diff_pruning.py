"""Diff pruning (Guo et al. 2021, arXiv:2012.07463): every weight's delta is trained behind a gate that costs
something to keep open, a relaxed count of the nonzero entries; then the K largest deltas are selected and trained
again.

Score: |z w|, the delta behind its gate without noise. Settings: train.sparse.gate_*; with `gate_groups` the
structured variant, in which a whole parameter has a gate too. The formulas are in `madx.training.sparse.dense_delta`.
"""

from torch import Tensor

from madx.module_types.sparse_diff import SparseDiff
from madx.training.sparse.dense_delta import DenseDeltaPhase
from madx.training.sparse.phases import DensePhase
from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection
from madx.training.trainable import Trainee


@SELECTIONS.register("diff_pruning")
class DiffPruning(Selection):
    """Scores a weight by how far it moved behind its gate."""

    def phase_before(self, trainee: Trainee[SparseDiff], *, swaps: bool) -> DensePhase:
        return DenseDeltaPhase(trainee, gates=self.settings)

    def scores(self, importance: Importance, first: int, last: int) -> Tensor:
        return importance.distance(first, last)
