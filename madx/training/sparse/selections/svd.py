"""DeFT-X (Simon & Jyothi 2025): magnitude after the noise is taken out of what full fine-tuning moved.

The difference D = theta - theta_0 of a weight matrix is replaced by the leading part of its singular value decomposition,
sum over the first `kept_rank` of the singular values of s_i u_i v_i^T; the score is its magnitude. Biases and embeddings,
whose rows are words and no features, keep their own magnitude.
"""

import torch
from torch import Tensor

from madx.engine import Engine
from madx.module_types.sparse_diff import SparseDiff
from madx.training.sparse.dense_delta import full_phase
from madx.training.sparse.phases import DensePhase, share_of_l1
from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection


@SELECTIONS.register("svd")
class Svd(Selection):
    """How far a weight moved, by the leading components of its matrix."""

    def __init__(self, settings):
        super().__init__(settings)
        self._last: tuple[str, Tensor] | None = None  # the matrix asked for last: its runs follow one another

    def before(self, engine: Engine, name: str, unit: SparseDiff, *, swaps: bool) -> DensePhase:
        return full_phase(
            engine, name, unit, l1=share_of_l1(engine, engine.module(name), self.settings.full_l1), swaps=swaps
        )

    def scores(self, evidence: Importance, first: int, last: int) -> Tensor:
        matrix = evidence.parameter.group != "embeddings" and len(evidence.parameter.shape) == 2
        if not matrix:
            return evidence.distance(first, last)
        if self._last is None or self._last[0] != evidence.parameter.name:
            self._last = evidence.parameter.name, self._denoised(evidence.moved - evidence.start)
        return self._last[1].reshape(-1)[first:last].abs()

    def _denoised(self, difference: Tensor) -> Tensor:
        u, s, v = torch.linalg.svd(difference, full_matrices=False)
        rank = max(1, round(self.settings.kept_rank * len(s)))
        return (u[:, :rank] * s[:rank]) @ v[:rank]
