"""SpIEL (Ansell et al. 2024, arXiv:2401.16405): no full phase; K random entries are trained and replaced on the way.

Every `reselect_every` steps the p entries with the smallest |value| are dropped and p others grow, with values of
zero; all of them the first time, then a share that falls linearly from `replaced` to 0. Where to grow depends on
`growth`:

    gradients   the K places with the largest |gradient| in one step are candidates; over the next `accumulate` steps
                their gradients g are summed, and the largest |sum| win. They begin with Adam's moments as if they had
                had the mean of g and of g^2 in that many steps. A dropped entry that wins stays as it was.
    momentum    estimates from rows and columns alone (SM3, Anil et al. 2019, arXiv:1901.11150), over the entries of a
                matrix: v_ij = min(r_i, c_j) + g_ij^2, r_i = max over j of v_ij, c_j = max over i of v_ij; the largest
                r_i c_j win.

Entries of all parameters compete. Memory beyond the sparse phase: 3 numbers an entry, or one a row and a column. Here
the momentum variant is trained by Adam as well; in the paper SM3 does that too. With several processes the first
one's share of a batch proposes the candidates, and all processes judge them.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from madx.errors import ConfigError
from madx.module_types.sparse_diff import SparseDiff
from madx.training.processes import all_reduce, broadcast
from madx.training.settings import SparseSettings
from madx.training.sparse.regrowth import BETAS, Regrown, Regrowth
from madx.training.sparse.selections.base import RUN, SELECTIONS, Importance, Selection, top, uniform


@SELECTIONS.register("drop_and_grow")
class DropAndGrow(Selection):
    """Begins with entries at random places."""

    def regrowth(self, unit: SparseDiff, *, steps: int) -> Regrowth:
        kinds = {"gradients": GradientRegrowth, "momentum": MomentumRegrowth}
        return kinds[self.settings.growth](unit, self.settings, steps)

    def least_steps(self) -> int:
        return self.settings.accumulate + 1

    def scores(self, importance: Importance, first: int, last: int) -> Tensor:
        return uniform(importance, first, last)


class ScheduledRegrowth(Regrowth):
    """Decides when entries are replaced, how many of them, and which are dropped; subclasses decide where entries grow.

    Attributes:
        place: the step's place in its period of `reselect_every` steps; the window in which gradients are accumulated
            ends at the place `accumulate`.
    """

    def __init__(self, unit: SparseDiff, settings: SparseSettings, steps: int):
        if steps <= settings.accumulate:
            raise ConfigError(
                f"Training for {steps} steps with selection drop_and_grow would never replace its random entries: the "
                f"first regrowth comes after {settings.accumulate + 1} steps. Train longer, or lower "
                "train.sparse.accumulate."
            )
        self.space, self.settings, self.steps = unit.space, settings, steps
        self.step, self.place = 0, 0

    def begin_step(self, step: int) -> None:
        self.step, self.place = step, step % self.settings.reselect_every

    def regrow(self, indices: Tensor, values: Tensor) -> Regrown | None:
        """Other entries at the end of a period's window, else None."""
        if self.place != self.settings.accumulate:
            return None
        falling = self.settings.replaced * (1 - (self.step + 1) / self.steps)
        share = 1.0 if self.step == self.settings.accumulate else falling
        if not (count := int(share * len(indices))):
            return None
        order = values.abs().argsort(stable=True)
        kept = indices[order[count:]].sort().values
        grown = self.grow(indices, kept, count).to(indices.dtype)
        if len(grown) < count:  # there are fewer candidates: the largest of the dropped entries stay
            dropped = indices[order[:count]]
            grown = torch.cat([grown, dropped[~torch.isin(dropped, grown)][len(grown) - count :]])
        new = torch.cat([kept, grown]).sort().values
        place = torch.searchsorted(indices, new).clamp_max(len(indices) - 1)
        return Regrown(new, torch.where(indices[place] == new, place, -1), self.moments(new))

    @abstractmethod
    def grow(self, indices: Tensor, kept: Tensor, count: int) -> Tensor:
        """At most `count` global indices that are not among those kept."""

    def moments(self, new: Tensor) -> dict[str, Tensor]:
        """Moments of the optimiser from which new entries start, `(K,)` by name."""
        return {}


class GradientRegrowth(ScheduledRegrowth):
    """Entries grow at candidates from the gradients of one step, judged by the gradients of the steps after it."""

    def __init__(self, unit: SparseDiff, settings: SparseSettings, steps: int):
        super().__init__(unit, settings, steps)
        values = unit.values.detach()
        self.candidates = torch.full_like(values, -1, dtype=unit.space.dtype)  # ascending; -1: none
        self.sums, self.squares = torch.zeros_like(values), torch.zeros_like(values)
        self._now = torch.zeros_like(values)  # gradients of the candidates in this step, in this process
        self._met: set[int] = set()  # parameters whose gradient was observed in this step
        self._sizes, self._places = values[:0], self.candidates[:0]  # the largest gradients so far

    def state_dict(self) -> dict[str, Tensor]:
        return {"candidates": self.candidates, "sums": self.sums, "squares": self.squares}

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        if self.place == 0:
            self._met, self._sizes, self._places = set(), self._sizes[:0], self._places[:0]

    def observe_gradient(self, offset: int, gradient: Tensor) -> None:
        if self.place == 0 and offset not in self._met:  # of a step that is cut into several batches, the first one
            self._met.add(offset)
            for a in range(0, len(gradient), RUN):
                self._merge(offset + a, gradient[a : a + RUN].abs())
        elif 0 < self.place <= self.settings.accumulate:
            border = self.candidates.new_tensor([offset, offset + len(gradient)])
            a, b = torch.searchsorted(self.candidates, border).tolist()
            self._now[a:b] += gradient[(self.candidates[a:b] - offset).long()]

    def _merge(self, offset: int, sizes: Tensor) -> None:
        """Keep the largest so far, of equal ones the first met; they stay in the order in which they were met."""
        limit = len(self.candidates)
        if len(self._sizes) == limit:  # only what is larger than the smallest of them
            places = (sizes > self._sizes.min()).nonzero().squeeze(1)
        else:
            places = torch.arange(len(sizes), device=sizes.device)
        self._places = torch.cat([self._places, (places + offset).to(self._places.dtype)])
        self._sizes = torch.cat([self._sizes, sizes[places]])
        if (surplus := len(self._sizes) - limit) > 0:
            least = _smallest(self._sizes, surplus)
            stays = self._sizes > least
            equal = (self._sizes == least).nonzero().squeeze(1)
            stays[equal[: limit - int(stays.sum())]] = True
            self._sizes, self._places = self._sizes[stays], self._places[stays]

    def observe_entries(self, indices: Tensor, gradient: Tensor) -> None:
        """The first process's candidates become those of all; their gradients are summed over all processes."""
        if self.place == 0:
            self.candidates.fill_(-1)
            self.candidates[len(self.candidates) - len(self._places) :] = self._places.sort().values
            self.candidates.copy_(broadcast(self.candidates))
            self.sums.zero_()
            self.squares.zero_()
            self._sizes, self._places = self._sizes[:0], self._places[:0]
        elif self.place <= self.settings.accumulate:
            now = all_reduce(self._now)
            self.sums += now
            self.squares.addcmul_(now, now)
            self._now.zero_()

    def grow(self, indices: Tensor, kept: Tensor, count: int) -> Tensor:
        free = (self.candidates >= 0) & ~torch.isin(self.candidates, kept)
        order = self.sums[free].abs().argsort(descending=True, stable=True)[:count]
        return self.candidates[free][order]

    def moments(self, new: Tensor) -> dict[str, Tensor]:
        steps = self.settings.accumulate
        place = torch.searchsorted(self.candidates, new).clamp_max(len(new) - 1)
        return {
            "age": torch.full_like(self.sums, steps),
            "exp_avg": self.sums[place] * ((1 - BETAS[0] ** steps) / steps),
            "exp_avg_sq": self.squares[place] * ((1 - BETAS[1] ** steps) / steps),
        }


def _smallest(sizes: Tensor, k: int) -> Tensor:
    """The k-th smallest. On a CPU sorting takes seven times as long and twice the memory; on a GPU `kthvalue` is
    refused where only deterministic algorithms are allowed."""
    return sizes.kthvalue(k).values if sizes.device.type == "cpu" else sizes.sort().values[k - 1]


class MomentumRegrowth(ScheduledRegrowth):
    """Entries grow by accumulators of the rows and columns of every parameter; a vector is one column."""

    def __init__(self, unit: SparseDiff, settings: SparseSettings, steps: int):
        super().__init__(unit, settings, steps)
        self.shapes = [(p.shape[0], p.numel // p.shape[0]) for p in unit.space.parameters]
        values = unit.values.detach()
        self.rows = [values.new_zeros(rows) for rows, _ in self.shapes]
        self.columns = [values.new_zeros(columns) for _, columns in self.shapes]
        self._number = {p.name: number for number, p in enumerate(unit.space.parameters)}

    def state_dict(self) -> dict[str, Tensor]:
        rows = {f"rows.{number}": tensor for number, tensor in enumerate(self.rows)}
        return rows | {f"columns.{number}": tensor for number, tensor in enumerate(self.columns)}

    def observe_gradient(self, offset: int, gradient: Tensor) -> None:
        """The gradients of the entries are enough."""

    def observe_entries(self, indices: Tensor, gradient: Tensor) -> None:
        for name, a, b, offset in self.space.split(indices):
            number = self._number[name]
            row, column = self._cell(number, indices[a:b].long() - offset)
            estimate = torch.minimum(self.rows[number][row], self.columns[number][column]) + gradient[a:b].square()
            self.rows[number].scatter_reduce_(0, row, estimate, "amax")
            self.columns[number].scatter_reduce_(0, column, estimate, "amax")

    def _cell(self, number: int, places: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of places in a flattened parameter."""
        width = self.shapes[number][1]
        row = places.div(width, rounding_mode="floor")
        return row, places - row * width

    def grow(self, indices: Tensor, kept: Tensor, count: int) -> Tensor:
        def scores(number: int, first: int, last: int) -> Tensor:
            row, column = self._cell(number, torch.arange(first, last, device=indices.device))
            return self.rows[number][row] * self.columns[number][column]

        count = min(count, self.space.size - len(indices))
        found = top(self.space, count, scores, taken=indices.cpu()) if count else torch.empty(0, dtype=torch.int64)
        return found.to(indices.device)
