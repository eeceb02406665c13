"""Chance: what a selection must beat. Each entry's score is a uniform number drawn by seed, parameter and place."""

import hashlib

import torch
from torch import Tensor

from madx.training.selections.base import SELECTIONS, Evidence, Selection


@SELECTIONS.register("random")
class Random(Selection):
    """A number between 0 and 1, the same whenever it is asked for."""

    needs = "nothing"

    def scores(self, evidence: Evidence, first: int, last: int) -> Tensor:
        key = f"{evidence.seed} {evidence.parameter.name} {first}".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1
        return torch.rand(last - first, generator=torch.Generator().manual_seed(seed))
