"""The contract of selections, and the exact choice of the K largest scores over all parameters."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from madx.contract.sites import BaseParameter
from madx.errors import TrainingError
from madx.module_types.sparse_diff import Space, SparseDiff
from madx.registry import Registry
from madx.tasks.base import Task
from madx.training.settings import SparseSettings
from madx.training.sparse.importance import Importance
from madx.training.sparse.phases import DensePhase
from madx.training.sparse.regrowth import Regrowth
from madx.training.trainable import Trainee

SELECTIONS: Registry["Selection"] = Registry("selection")

RUN = 1 << 22  # scores that are computed together: 16 MB of them
BINS = 1 << 15  # values of the upper half of a float's bits, whose sign is +
INFINITE = 0x7F80  # the first of these values that is not of a finite number


class Selection(ABC):
    """Scores that are compared over all parameters; the K largest entries are selected, of equal ones the first.

    A rule that needs more than the weights overrides one of three hooks: `phase_before` for a training before the
    selection, `importance` for another measure of the weights, `regrowth` for entries that are replaced afterwards.
    """

    def __init__(self, settings: SparseSettings):
        self.settings = settings

    def phase_before(self, trainee: Trainee[SparseDiff], *, swaps: bool) -> DensePhase | None:
        """A phase that is trained before the selection, by whose `importance` entries are judged; or None.

        swaps: whether the steps of the run have different compositions.
        """
        return None

    def least_steps(self) -> int:
        """The number of steps below which a run makes no sense with this selection."""
        return 1

    @classmethod
    def trains_before(cls) -> bool:
        """True when there is a phase before the selection, of `full_share` of a run's steps."""
        return cls.phase_before is not Selection.phase_before

    def importance(
        self, trainee: Trainee[SparseDiff], task: Task, *, seed: int
    ) -> Callable[[BaseParameter], Importance]:
        """The importance of a parameter's weights where there is no phase before: the weights as they are."""
        encoder = trainee.engine.base.encoder
        return lambda p: Importance(p, encoder.get_parameter(p.name).detach(), seed=seed)

    def regrowth(self, unit: SparseDiff, *, steps: int) -> Regrowth | None:
        """The rule that replaces entries in the `steps` steps after the selection; None: they stay."""
        return None

    @abstractmethod
    def scores(self, importance: Importance, first: int, last: int) -> Tensor:
        """Scores `(last - first,)` >= 0 in float32 of the entries first..last-1 of the flattened parameter.

        It is called twice for each entry and must give the same score both times.
        """


def uniform(importance: Importance, first: int, last: int) -> Tensor:
    """Random scores `(last - first,)` between 0 and 1, which depend on seed, parameter and place alone."""
    key = f"{importance.seed} {importance.parameter.name} {first}".encode()
    seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1
    return torch.rand(last - first, generator=torch.Generator().manual_seed(seed))


def top(space: Space, count: int, scores: Callable[[int, int, int], Tensor], *, taken: Tensor) -> Tensor:
    """Global indices `(count,)`, ascending, of the `count` largest scores; of equal scores the first ones are taken.

    Scores are computed twice, in runs of 4 million: a float's bits, read as whole numbers, are ordered as floats >= 0
    are, so a histogram of their upper halves finds the one bin in which the threshold lies, and only this bin is
    sorted.

    Args:
        space: the parameters through which indices count.
        count: how many indices are wanted.
        scores: (number of the parameter, first entry, entry after the last) -> scores of these entries.
        taken: global indices, ascending, that must not be selected.

    Raises:
        TrainingError: a score is infinite or not a number, or there are fewer than `count` entries.
    """
    border, sure = _threshold_bin(space, count, scores, taken)
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


def _threshold_bin(space: Space, count: int, scores: Callable, taken: Tensor) -> tuple[int, int]:
    """(the bin in which the `count`-th largest score lies, the number of scores in the bins above it)."""
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
    return border, int(above[border + 1]) if border + 1 < BINS else 0


def _bits(space: Space, scores: Callable, taken: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(global index of the first, bits as whole numbers) of the scores, run by run; those of taken entries lie above
    all bins."""
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
                borders = torch.tensor([offset, offset + last - first], dtype=taken.dtype)
                a, b = torch.searchsorted(taken, borders).tolist()
                bits = bits.to(torch.int64)
                bits[taken[a:b].long() - offset] = BINS << 16
            yield offset, bits
