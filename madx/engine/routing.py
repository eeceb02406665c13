"""Routes: the rows of one batch take different stacks.

The rows of a batch are sorted by branch once; at each site the steps then run on neighbouring rows:

    branch of the rows   swa swa yor yor yor hau
    at a site            |swa  | |yor      | |hau|     each language's units on their own rows,
                         |ner                    |     the units that these branches share on all of them at once

The steps at a site are merged once for each set of branches that occurs in a batch; after that a batch only sets a few
offsets. A batch of one branch runs that stack's own plan. Branches with different weight deltas cannot share a forward
pass, and neither can branches that differ at a linear map that the base also applies to positions without rows
(DeBERTa): such rows go through the base one group after the other (`RoutePlan.passes`).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from madx.composition import Average, Fuse, Item, Route, Scaled, Stack, Ties, parse
from madx.contract.rules import RULES
from madx.contract.sites import Site
from madx.engine.call import Positions
from madx.engine.plan import Compiler, Plan, RowFlags, Watch
from madx.engine.row_splits import merged
from madx.engine.slots import SlotPlan
from madx.errors import CompositionError, did_you_mean
from madx.module import Module

#: for each row of a batch: the number of its branch, or the branch as text
Branches = Sequence[int | str] | Tensor | np.ndarray
#: The number of sets of branches whose plans a route keeps, the newest ones: small batches of many languages have ever
#: new sets.
KEPT = 256


class Rows:
    """The order of one batch's rows by branch.

    Attributes:
        present: the ranks that have rows, ascending; a rank is the place of a stack in `RoutePlan.stacks`.
        counts: the number of rows of each of these.
        offsets: present[k] has the sorted rows offsets[k] to offsets[k + 1] - 1.
        order, back: the order of the sorted rows and its inverse, `(rows,)`; None: the batch is sorted.
    """

    def __init__(self, ranks: np.ndarray, device: torch.device):
        counts = np.bincount(ranks).tolist()
        self.present = tuple(rank for rank, count in enumerate(counts) if count)
        self.counts = [count for count in counts if count]
        self.offsets = [0, *accumulate(self.counts)]
        self.order: Tensor | None = None
        self.back: Tensor | None = None
        if (ranks[1:] < ranks[:-1]).any():
            order = ranks.argsort(kind="stable")
            self.order, self.back = (torch.from_numpy(places).to(device) for places in (order, order.argsort()))

    def sorted(self, tensor: Tensor) -> Tensor:
        """Sort the rows of a tensor by branch."""
        return tensor if self.order is None else tensor.index_select(0, self.order)

    def places(self, at: Positions) -> Positions:
        """Map positions in the batch to positions in the sorted batch."""
        return at if self.back is None else (self.back[at[0]], at[1])

    def unsorted(self, tensor: Tensor) -> Tensor:
        """Bring sorted rows back into the order of the batch."""
        return tensor if self.back is None else tensor.index_select(0, self.back)


class Pass(NamedTuple):
    """One forward pass of a batch under a route.

    stack: has the weight deltas of the pass. rows: the sorted rows that it takes. plan: of these rows. offsets: the
    first row of each branch. slots: the slots of neighbouring rows.
    """

    stack: Stack
    rows: slice
    plan: Plan
    offsets: tuple[int, ...]
    slots: tuple[tuple[int, int, SlotPlan], ...]


class RoutePlan:
    """A compiled route.

    stacks: the different branches, each once, in the order in which rows are sorted: branches that can share a forward
    pass are neighbours, and among them branches with the same last steps. watch: as in `madx.engine.plan`.
    """

    def __init__(
        self, route: Route, sites: Mapping[str, Site], modules: Mapping[str, Module], watch: Watch | None = None
    ):
        self.route = route
        self.sites = [site for site in sites.values() if site.kind in RULES]
        apart = {site.name for site in sites.values() if site.kind == "weights" or site.rows_share}
        held = {stack: _only(stack, _acting_at(apart, route, modules)) for stack in dict.fromkeys(route.branches)}
        classes = list(dict.fromkeys(held.values()))
        self.stacks = sorted(held, key=lambda s: (classes.index(held[s]), [str(item) for item in s.items[::-1]]))
        #: For each of `stacks` the number of its group, ascending; the stacks of a group can share a forward pass.
        self.classes = [classes.index(held[stack]) for stack in self.stacks]
        weights = _acting_at({"weights"}, route, modules)
        self.several_weights = len({_only(stack, weights) for stack in self.stacks}) > 1
        self.ranks = np.array([self.stacks.index(branch) for branch in route.branches])
        self._numbers: dict[str, int] = {}  # text of a branch -> number of the first branch with that text
        for number, branch in enumerate(route.branches):
            self._numbers.setdefault(str(branch), number)
        compiler = Compiler(sites, modules, watch)
        self.plans = [compiler.stack(stack) for stack in self.stacks]
        self._merged: dict[tuple[int, ...], Plan] = {}
        self.refusal = (
            f"'{route}' is active, and a call of the base without the engine does not tell which branch each row "
            "takes. Call engine(input_ids, attention_mask, branches=[...]), or activate one of the branches."
        )

    def numbers(self, branches: Branches | None, rows: int) -> np.ndarray:
        """Return the number of each row's branch, `(rows,)` in int64. Raises CompositionError for other values."""
        count = len(self.route.branches)
        if branches is None:
            raise self._refused(
                f"'{self.route}' has {count} branches: which one does each of the {rows} rows take?", rows
            )
        if isinstance(branches, Tensor):
            branches = (branches.float() if branches.is_floating_point() else branches).detach().cpu().numpy()
        if not isinstance(branches, np.ndarray):
            if isinstance(branches, (str, int)):
                raise self._refused(f"branches is {branches!r}: a list with one entry for each row is needed.", rows)
            branches = [self._number(b) if isinstance(b, (str, Stack)) else b for b in branches]
            wrong = [b for b in branches if isinstance(b, bool) or not hasattr(b, "__index__")]
            if wrong:
                raise self._refused(f"branches holds {wrong[0]!r}: whole numbers or texts are needed.", rows)
            branches = np.array([int(b) for b in branches], dtype=np.int64)
        if branches.dtype.kind not in "iu" or branches.ndim != 1:
            raise self._refused(
                f"branches has the shape {branches.shape} and holds {branches.dtype}: one whole number a row.", rows
            )
        if len(branches) != rows:
            raise self._refused(
                f"branches has {len(branches)} entries for {rows} rows: one for each row is needed.", rows
            )
        if rows and (branches.min() < 0 or branches.max() >= count):
            outside = branches[(branches < 0) | (branches >= count)][0]
            raise self._refused(
                f"branches names {outside}, but the branches of '{self.route}' are 0 to {count - 1}.", rows
            )
        return branches.astype(np.int64)

    def _refused(self, what: str, rows: int) -> CompositionError:
        shown = [str(k % len(self.route.branches)) for k in range(min(max(rows, 1), 3))]
        return CompositionError(
            f"{what} Give it by number or by text, e.g. branches=[{', '.join(shown + ['...'] * (rows > 3))}]."
        )

    def _number(self, branch: str | Stack) -> int:
        """Return the number of the first branch that has this text, or the same normal form."""
        found = self._numbers.get(branch) if isinstance(branch, str) else None
        if found is None:
            found = self._numbers.get(str(parse(branch) if isinstance(branch, str) else branch))
        if found is None:
            hint = did_you_mean(str(branch), self._numbers)
            raise CompositionError(f"'{branch}' is no branch of '{self.route}'; {hint}")
        return found

    def rows(self, branches: Branches | None, rows: int, device: torch.device) -> Rows:
        """Return the order of a batch of `rows` rows."""
        return Rows(self.ranks[self.numbers(branches, rows)], device)

    def stacks_of(self, rows: Rows) -> list[Stack]:
        """Return the stacks that have rows, in the order in which the rows are sorted."""
        return [self.stacks[rank] for rank in rows.present]

    def of_stack(self, stack: Stack) -> Plan:
        """Return the plan of one of `stacks`."""
        return self.plans[self.stacks.index(stack)]

    def passes(self, rows: Rows) -> Iterator[Pass]:
        """Yield the forward passes of a batch."""
        if not rows.present:
            yield Pass(self.stacks[0], slice(0, 0), Plan(), (), ())
        for _, members in groupby(range(len(rows.present)), key=lambda k: self.classes[rows.present[k]]):
            group = list(members)
            a, b = group[0], group[-1] + 1
            first, present = rows.offsets[a], rows.present[a:b]
            offsets = tuple(offset - first for offset in rows.offsets[a : b + 1])
            slots = tuple((offsets[k], offsets[k + 1], self.plans[rank].slots) for k, rank in enumerate(present))
            yield Pass(self.stacks[present[0]], slice(first, rows.offsets[b]), self.plan(present), offsets, slots)

    def plan(self, present: tuple[int, ...]) -> Plan:
        """Return the plan for rows of these ranks; the first row of each rank is told with each forward pass."""
        if len(present) == 1:
            return self.plans[present[0]]
        plan = self._merged.get(present)
        if plan is None:
            while len(self._merged) >= KEPT:
                self._merged.pop(next(iter(self._merged)), None)
            plan = self._merged[present] = self._merge(present)
        return plan

    def _merge(self, present: tuple[int, ...]) -> Plan:
        plan, plans = Plan(), [self.plans[rank] for rank in present]
        for site in self.sites:
            lists = [each.get(site.name, []) for each in plans]
            steps = merged(lists, 0, RULES[site.kind].split) if lists else []
            if steps:
                plan[site.name] = steps
            flags = tuple(bool(each.without_norm.get(site.name)) for each in plans)
            if any(flags):
                plan.without_norm[site.name] = True if all(flags) else RowFlags(flags)
        return plan


def _acting_at(sites: set[str], route: Route, modules: Mapping[str, Module]) -> set[str]:
    """Return the modules of a route that have a unit at one of some sites."""
    return {name for name in route.names() if sites & modules[name].units.keys()}


def _only(stack: Stack, names: set[str]) -> Stack:
    """Return the stack without all modules but these."""

    def kept(item: Item) -> Item | Stack:
        if isinstance(item, str):
            return item if item in names else Stack()
        if isinstance(item, Scaled):
            return Scaled(_only(item.child, names), item.factor)
        children = [_only(child, names) for child in item.children]
        if isinstance(item, Fuse):
            return item if any(child.items for child in children) or item.fusion in names else Stack()
        return Average(*children, weights=item.weights) if isinstance(item, Average) else Ties(*children)

    return Stack(*map(kept, stack.items))


def sort(route: RoutePlan | None, branches: Branches | None, tensor: Tensor) -> Rows | None:
    """Return the order by branch of the rows of a tensor, its first dimension; None without route and branches.

    Raises CompositionError for branches that do not fit the route or the rows.
    """
    if route is None and branches is None:
        return None
    return required(route).rows(branches, len(tensor), tensor.device)


def groups(route: RoutePlan | None, branches: Branches) -> list[list[int]]:
    """Return the places of the rows of each group that can share a forward pass; see `Engine.groups`."""
    plan = required(route)
    classes = np.array(plan.classes)[plan.ranks[plan.numbers(branches, len(branches))]]
    return [np.flatnonzero(classes == c).tolist() for c in np.unique(classes)]


def required(route: RoutePlan | None) -> RoutePlan:
    """Return the route's plan. Raises CompositionError if branches were given without a route."""
    if route is None:
        raise CompositionError(
            "branches were given, but the active composition is no route, so it has none: leave them out."
        )
    return route
