"""Diff pruning (Guo et al. 2021, arXiv:2012.07463): every weight's difference is trained behind a gate that costs something to
keep open, a relaxed count of the entries that differ; then the K largest differences are selected and trained again.

Score: |z w|, the difference behind its gate with nothing left to chance. Settings: train.sparse.gate_*; with `gate_groups`
the structured variant, in which a whole parameter has a gate too. The formulas are in `madx.training.sparse.dense_delta`.
"""

from torch import Tensor

from madx.engine import Engine
from madx.module_types.sparse_diff import SparseDiff
from madx.training.sparse.dense_delta import DenseDeltaPhase
from madx.training.sparse.phases import DensePhase
from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection


@SELECTIONS.register("diff_pruning")
class DiffPruning(Selection):
    """How far a weight moved behind its gate."""

    def before(self, engine: Engine, name: str, unit: SparseDiff, *, swaps: bool) -> DensePhase:
        return DenseDeltaPhase(engine, name, unit, gates=self.settings)

    def scores(self, evidence: Importance, first: int, last: int) -> Tensor:
        return evidence.distance(first, last)
