"""The contract of selections, and the exact choice of the K largest scores over all parameters."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from madx.contract.sites import BaseParameter
from madx.engine import Engine
from madx.errors import TrainingError
from madx.module_types.sparse_diff import Space, SparseDiff
from madx.registry import Registry
from madx.tasks.base import Task
from madx.training.settings import SparseSettings
from madx.training.sparse.importance import Importance
from madx.training.sparse.phases import DensePhase
from madx.training.sparse.regrowth import Regrowth

SELECTIONS: Registry["Selection"] = Registry("selection")

RUN = 1 << 22  # scores looked at together: 16 MB of them
BINS = 1 << 15  # of the upper half of a float's bits, its sign being +
INFINITE = 0x7F80  # the first of them that is no finite number


class Selection(ABC):
    """Scores that are compared over all parameters; the K largest entries are selected, equal ones from the first on.

    A rule that needs more than the weights says so by one of three hooks: a phase `before` the selection, `evidence` of
    another kind, an `exchange` of entries after it.
    """

    def __init__(self, settings: SparseSettings):
        self.settings = settings

    def before(self, engine: Engine, name: str, unit: SparseDiff, *, swaps: bool) -> DensePhase | None:
        """What moves in a phase before the selection; its `evidence` is judged. None: nothing is trained for it.
        swaps: whether the steps of the run have different compositions."""
        return None

    def least_steps(self) -> int:
        """How many steps a run must have for this selection to make sense."""
        return 1

    @classmethod
    def trains_before(cls) -> bool:
        """Whether something is trained `before` the selection, for `full_share` of a run's steps."""
        return cls.before is not Selection.before

    def importance(
        self, engine: Engine, name: str, unit: SparseDiff, task: Task, *, seed: int
    ) -> Callable[[BaseParameter], Importance]:
        """What is judged where no phase comes before: the weights as they are."""
        return lambda p: Importance(p, engine.base.encoder.get_parameter(p.name).detach(), seed=seed)

    def regrowth(self, unit: SparseDiff, *, steps: int) -> Regrowth | None:
        """What replaces entries in the `steps` steps after the selection; None: they stay."""
        return None

    @abstractmethod
    def scores(self, evidence: Importance, first: int, last: int) -> Tensor:
        """Scores `(last - first,)` >= 0 in float32 of the entries first..last-1 of the flattened parameter. It is asked
        for each entry twice and gives the same score both times."""


def uniform(evidence: Importance, first: int, last: int) -> Tensor:
    """Chance: scores between 0 and 1 by seed, parameter and place."""
    key = f"{evidence.seed} {evidence.parameter.name} {first}".encode()
    seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1
    return torch.rand(last - first, generator=torch.Generator().manual_seed(seed))


def top(space: Space, count: int, scores: Callable[[int, int, int], Tensor], *, taken: Tensor) -> Tensor:
    """Global indices `(count,)`, ascending, of the `count` largest scores; `scores(parameter's number, first, last)`.

    Exactly `count`: of equal scores the first ones are taken. taken: global indices, ascending, that are out of the
    question. Two passes in runs of 4 million: the scores' bits, read as whole numbers, are ordered as they are, so a
    histogram of their upper halves finds the one bin in which the threshold lies; only this bin is sorted.
    Raises TrainingError for scores that are infinite or not a number.
    """
    histogram = torch.zeros(BINS + 1, dtype=torch.int64)
    for _, bits in _bits(space, scores, taken):
        histogram += torch.bincount((bits >> 16).clamp_(max=BINS), minlength=BINS + 1)
    if int(histogram[INFINITE:BINS].sum()):
        raise TrainingError(
            "A score for the selection of entries is infinite or not a number; lower train.learning_rate."
        )
    if int(histogram[:BINS].sum()) < count:
        raise TrainingError(f"{count:,} entries are to be selected, but only {int(histogram[:BINS].sum()):,} can be.")
    above = histogram[:BINS].flip(0).cumsum(0).flip(0)  # scores in this bin or above
    border = int((above >= count).nonzero()[-1])
    sure = int(above[border + 1]) if border + 1 < BINS else 0
    chosen, undecided, their_bits = [], [], []
    for offset, bits in _bits(space, scores, taken):
        found = bits.numpy()  # numpy finds places several times as fast
        chosen.append(np.flatnonzero((found >= (border + 1) << 16) & (found < BINS << 16)) + offset)
        inside = np.flatnonzero((found >= border << 16) & (found < (border + 1) << 16))
        undecided.append(inside + offset)
        their_bits.append(found[inside])
    # stable: of equal scores the first ones come first
    best = np.argsort(-np.concatenate(their_bits).astype(np.int64), kind="stable")[: count - sure]
    won = np.sort(np.concatenate(undecided)[best])
    return torch.from_numpy(np.sort(np.concatenate([*chosen, won]), kind="stable"))  # two ascending runs: one merge


def _bits(space: Space, scores: Callable, taken: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(global index of the first, bits as whole numbers) of the scores, run by run; those of taken entries lie above all
    bins."""
    for number, parameter in enumerate(space.parameters):
        for first in range(0, parameter.numel, RUN):
            last = min(first + RUN, parameter.numel)
            offset = space.offsets[number] + first
            bits = scores(number, first, last).to("cpu", torch.float32).contiguous().view(torch.int32)
            if int(bits.min()) < 0:
                bits = torch.where(bits == -(2**31), 0, bits)  # -0.0
                if int(bits.min()) < 0:
                    raise TrainingError("A score for the selection of entries is negative or not a number.")
            if taken.numel():
                a, b = torch.searchsorted(
                    taken, torch.tensor([offset, offset + last - first], dtype=taken.dtype)
                ).tolist()
                bits = bits.to(torch.int64)
                bits[taken[a:b].long() - offset] = BINS << 16
            yield offset, bits
