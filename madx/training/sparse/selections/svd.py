"""DeFT-X (Simon & Jyothi 2025): magnitude after the noise is removed from what full fine-tuning moved.

The change D = theta - theta_0 of a weight matrix is replaced by the leading part of its singular value decomposition,
the sum over the first `kept_rank` of the singular values of s_i u_i v_i^T; the score is its magnitude. Biases and
embeddings, whose rows are words and not features, keep their own magnitude.
"""

import torch
from torch import Tensor

from madx.module_types.sparse_diff import SparseDiff
from madx.training.settings import SparseSettings
from madx.training.sparse.dense_delta import full_phase
from madx.training.sparse.phases import DensePhase, l1_per_parameter
from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection
from madx.training.trainable import Trainee


@SELECTIONS.register("svd")
class Svd(Selection):
    """Scores a weight by how far it moved, by the leading singular vectors of its matrix."""

    def __init__(self, settings: SparseSettings):
        super().__init__(settings)
        self._last: tuple[str, Tensor] | None = None  # the matrix asked for last: its runs follow one another

    def phase_before(self, trainee: Trainee[SparseDiff], *, swaps: bool) -> DensePhase:
        return full_phase(trainee, l1=l1_per_parameter(trainee, self.settings.full_l1), swaps=swaps)

    def scores(self, importance: Importance, first: int, last: int) -> Tensor:
        parameter = importance.parameter
        if parameter.group == "embeddings" or len(parameter.shape) != 2:
            return importance.distance(first, last)
        if self._last is None or self._last[0] != parameter.name:
            self._last = parameter.name, self._denoised(importance.change())
        return self._last[1].reshape(-1)[first:last].abs()

    def _denoised(self, change: Tensor) -> Tensor:
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        rank = max(1, round(self.settings.kept_rank * len(s)))
        return (u[:, :rank] * s[:rank]) @ v[:rank]
