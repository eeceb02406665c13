"""Routes: one batch whose rows take different stacks.

The rows of a batch are sorted by branch once; at each site the steps then run on neighbouring rows:

    branch of the rows   swa swa yor yor yor hau
    at a site            |swa  | |yor      | |hau|     each language's part on its own rows,
                         |ner                    |     what these branches share at once on all of them

What runs at a site is merged once for each set of branches that a batch brings; after that a batch sets a few offsets.
A batch of one branch runs that stack's own plan. Branches with different differences of weights cannot share a forward
pass: such rows go through the base one after the other (`RoutePlan.passes`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, groupby

import numpy as np
import torch
from torch import Tensor

from madx.composition import Average, Item, Route, Scaled, Stack, Ties, parse
from madx.contract.module_type import Site
from madx.engine.last_layer import Positions
from madx.engine.plan import Watch, item_steps
from madx.engine.row_splits import SplitChange, SplitMap, merged
from madx.errors import CompositionError, did_you_mean
from madx.module import Module

#: for each row of a batch: the number of its branch, or the branch as text
Branches = Sequence[int | str] | Tensor | np.ndarray
Plan = dict[str, list[Callable]]
#: sets of branches whose plans a route keeps, the newest ones: batches of few rows out of many languages bring ever new sets
KEPT = 256


class Rows:
    """How the rows of one batch are sorted by branch.

    ranks `(rows,)`: the place of each row's stack in `RoutePlan.stacks`; present: the ranks that have rows, ascending;
    counts: rows of each of these; offsets: present[k] has the sorted rows offsets[k] to offsets[k + 1].
    """

    def __init__(self, ranks: np.ndarray, device: torch.device):
        counts = np.bincount(ranks).tolist()
        self.present = tuple(rank for rank, count in enumerate(counts) if count)
        self.counts = [count for count in counts if count]
        self.offsets = [0, *accumulate(self.counts)]
        self.order = self.back = None  # None: they lie sorted
        if (ranks[1:] < ranks[:-1]).any():
            order = ranks.argsort(kind="stable")
            self.order, self.back = (torch.from_numpy(places).to(device) for places in (order, order.argsort()))

    def sorted(self, tensor: Tensor) -> Tensor:
        """The rows of a tensor, sorted by branch."""
        return tensor if self.order is None else tensor.index_select(0, self.order)

    def places(self, at: Positions) -> Positions:
        """Positions in the batch -> in the sorted batch."""
        return at if self.back is None else (self.back[at[0]], at[1])

    def unsorted(self, tensor: Tensor) -> Tensor:
        """Sorted rows, back in the order of the batch."""
        return tensor if self.back is None else tensor.index_select(0, self.back)


class RoutePlan:
    """What a route compiles to.

    stacks: the different branches, each once, in the order in which rows are sorted: those with the same differences of
    weights side by side, then those that end alike. `watch` may wrap each instance: (site, module, instance) -> step.
    """

    def __init__(self, route: Route, sites: dict[str, Site], modules: dict[str, Module], watch: Watch | None = None):
        self.route, self.sites = route, [site for site in sites.values() if site.kind != "weights"]
        weights = {name for name in route.names() if "weights" in modules[name].units}
        held = {stack: _only(stack, weights) for stack in dict.fromkeys(route.branches)}
        classes = list(dict.fromkeys(held.values()))
        self.stacks = sorted(held, key=lambda s: (classes.index(held[s]), [str(item) for item in s.items[::-1]]))
        #: number of the differences of weights of each of `stacks`, ascending
        self.classes = [classes.index(held[stack]) for stack in self.stacks]
        self.several_weights = len(classes) > 1
        self.ranks = np.array([self.stacks.index(branch) for branch in route.branches])
        self._numbers: dict[str, int] = {}  # a branch as text: the first of that text
        for number, branch in enumerate(route.branches):
            self._numbers.setdefault(str(branch), number)
        items = {item: None for stack in self.stacks for item in stack.items}
        known = {s.name: {item: item_steps(s, item, modules, watch) for item in items} for s in self.sites}
        self._steps = {  # at each site the steps of each stack; an item that is in several gives all of them the same
            name: [[step for item in stack.items for step in at[item]] for stack in self.stacks]
            for name, at in known.items()
        }
        self._plans: dict[tuple[int, ...], tuple[Plan, list[int]]] = {}
        #: in force while no batch is under way: whoever calls the base past the engine is told, not given something wrong
        self.unbound: Plan = {"embeddings": [_Unbound(route)]}

    def numbers(self, branches: Branches | None, rows: int) -> np.ndarray:
        """The branch of each row as int64 `(rows,)`; raises CompositionError for anything that is none."""
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
            f"{what} Say it by number or by text, e.g. branches=[{', '.join(shown + ['...'] * (rows > 3))}]."
        )

    def _number(self, branch: str | Stack) -> int:
        """The first branch that is written so, or reads the same."""
        found = self._numbers.get(branch) if isinstance(branch, str) else None
        if found is None:
            found = self._numbers.get(str(parse(branch) if isinstance(branch, str) else branch))
        if found is None:
            raise CompositionError(f"'{branch}' is no branch of '{self.route}'; {did_you_mean(branch, self._numbers)}")
        return found

    def rows(self, branches: Branches | None, rows: int, device: torch.device) -> Rows:
        """How a batch of `rows` rows is sorted."""
        return Rows(self.ranks[self.numbers(branches, rows)], device)

    def stacks_of(self, rows: Rows) -> list[Stack]:
        """The stacks that have rows, in the order in which these are sorted."""
        return [self.stacks[rank] for rank in rows.present]

    def of_stack(self, stack: Stack) -> Plan:
        """What runs at each site for one of `stacks`: the lists that the plans of batches are merged from."""
        rank = self.stacks.index(stack)
        return {site: steps[rank] for site, steps in self._steps.items() if steps[rank]}

    def passes(self, rows: Rows) -> Iterator[tuple[Stack, slice, Plan]]:
        """The forward passes of a batch: a stack with the differences of weights to put on, sorted rows, what runs."""
        if not rows.present:
            yield self.stacks[0], slice(0, 0), {}
        for _, members in groupby(range(len(rows.present)), key=lambda k: self.classes[rows.present[k]]):
            members = list(members)
            a, b = members[0], members[-1] + 1
            first, offsets = rows.offsets[a], rows.offsets[a : b + 1]
            plan = self.plan(rows.present[a:b], [offset - first for offset in offsets])
            yield self.stacks[rows.present[a]], slice(first, offsets[-1]), plan

    def plan(self, present: tuple[int, ...], offsets: list[int]) -> Plan:
        """What runs at each site on rows of these ranks, lying at these offsets."""
        if present not in self._plans:
            if len(self._plans) >= KEPT:
                del self._plans[next(iter(self._plans))]
            here: list[int] = []  # the offsets of the batch at hand; all steps of this plan look here
            plan = {}
            for site in self.sites:
                kind = SplitChange if site.kind == "sublayer" else SplitMap
                lists = [self._steps[site.name][rank] for rank in present]
                steps = merged(lists, 0, lambda groups, kind=kind: kind(groups, here)) if lists else []
                if steps:
                    plan[site.name] = steps
            self._plans[present] = plan, here
        plan, here = self._plans[present]
        here[:] = offsets
        return plan


def _only(stack: Stack, names: set[str]) -> Stack:
    """What is left of a stack when all modules but these are taken out."""

    def kept(item: Item) -> Item | Stack:
        if isinstance(item, str):
            return item if item in names else Stack()
        if isinstance(item, Scaled):
            return Scaled(_only(item.child, names), item.factor)
        children = [_only(child, names) for child in item.children]
        return Average(*children, weights=item.weights) if isinstance(item, Average) else Ties(*children)

    return Stack(*map(kept, stack.items))


class _Unbound:
    """Stands at the embeddings while a route is active and no batch with its branches is under way."""

    def __init__(self, route: Route):
        self.route = route

    def __call__(self, x: Tensor) -> Tensor:
        raise CompositionError(
            f"'{self.route}' is active, and the base was called past the engine, where nobody says which branch each row takes. "
            "Call engine(input_ids, attention_mask, branches=[...]), or activate one of the branches."
        )

    inverse = __call__


# ---- under the engine --------------------------------------------------------------------------------------------------


def sort(route: RoutePlan | None, branches: Branches | None, tensor: Tensor) -> Rows | None:
    """How the rows of a tensor, its first dimension, are sorted by branch; None when no route is active and none is meant.
    Raises CompositionError for branches that fit neither route nor rows."""
    if route is None and branches is None:
        return None
    return _required(route).rows(branches, len(tensor), tensor.device)


def groups(route: RoutePlan | None, branches: Branches) -> list[list[int]]:
    """Places of the rows that can share a forward pass; see `Engine.groups`."""
    classes = np.array(_required(route).classes)[route.ranks[route.numbers(branches, len(branches))]]
    return [np.flatnonzero(classes == c).tolist() for c in np.unique(classes)]


def _required(route: RoutePlan | None) -> RoutePlan:
    if route is None:
        raise CompositionError(
            "branches were given, but the active composition is no route, so it has none: leave them out."
        )
    return route


@contextmanager
def running(engine, rows: Rows | None, plan: Plan | None = None) -> Iterator[None]:
    """For the length of one call: these rows' own plan is in force."""
    engine._rows = rows
    engine._plan = engine._route.plan(rows.present, rows.offsets) if plan is None else plan
    try:
        yield
    finally:
        engine._plan, engine._rows = engine._route.unbound, None


def hidden(
    engine, input_ids: Tensor, attention_mask: Tensor | None, *, rows: Rows, at: Positions | None = None
) -> Tensor:
    """The last layer's output of a batch: one forward pass, or one for each of several differences of weights. A last layer
    that splits the rows is not narrowed to `at`: there the positions would have to be split as well."""
    ids, mask = rows.sorted(input_ids), None if attention_mask is None else rows.sorted(attention_mask)
    found: list[Tensor] = []
    passes = list(engine._route.passes(rows))
    narrowed = rows.places(at) if at is not None and len(passes) == 1 else None
    for stack, part, plan in passes:
        if engine._route.several_weights:
            if found and found[-1].requires_grad:
                raise CompositionError(
                    f"The branches of '{engine.composition}' have different differences of weights, and gradients cannot flow "
                    "back through weights that have changed since. Train on rows of one such branch at a time, or use no_grad."
                )
            engine._put_on(stack)
        with running(engine, None, plan), engine._narrowing.to(narrowed, plan) as chosen:
            inputs = {"input_ids": ids[part], "attention_mask": None if mask is None else mask[part]}
            found.append(chosen(engine.base.encoder(**inputs).last_hidden_state))
    if narrowed is not None:
        return found[0]
    whole = rows.unsorted(found[0] if len(found) == 1 else torch.cat(found))
    return whole if at is None else whole[at]


def label_logits(engine, hidden: Tensor, rows: Rows) -> Tensor:
    """Scores of the heads of the rows' task modules, which must have the same labels."""
    any_head = [n for n in engine.composition.names() if engine.modules[n].head is not None][-1:]  # for no rows at all
    modules = [engine.task_module(stack) for stack in engine._route.stacks_of(rows) or [Stack(*any_head)]]
    if len({m.info.labels for m in modules}) > 1:
        raise CompositionError(
            f"These rows end in task modules with different labels, {', '.join(dict.fromkeys(m.name for m in modules))}, which "
            "cannot stand in one tensor. Call label_logits for the rows of each task by themselves."
        )
    if len(set(modules)) == 1:
        return modules[0].head(hidden)
    parts = rows.sorted(hidden).split(rows.counts)
    return rows.unsorted(torch.cat([m.head(part) for m, part in zip(modules, parts)]))
