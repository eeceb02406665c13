"""LT-SFT (Ansell et al. 2022, arXiv:2110.07560): the weights that full fine-tuning moved farthest, |theta - theta_0|."""

from torch import Tensor

from madx.engine import Engine
from madx.module_types.sparse_diff import SparseDiff
from madx.training.sparse.dense_delta import full_phase
from madx.training.sparse.phases import DensePhase, share_of_l1
from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection


@SELECTIONS.register("magnitude")
class Magnitude(Selection):
    """How far a weight moved."""

    def before(self, engine: Engine, name: str, unit: SparseDiff, *, swaps: bool) -> DensePhase:
        return full_phase(
            engine, name, unit, l1=share_of_l1(engine, engine.module(name), self.settings.full_l1), swaps=swaps
        )

    def scores(self, evidence: Importance, first: int, last: int) -> Tensor:
        return evidence.distance(first, last)
