"""Rules: how units act together at a site, one rule for each class of module types.

A stack runs its steps one after the other. Everything else is made of two operations that a rule defines for its class:

    weighted(branches, weights)     one step for an average or a factor: sum of w_i * (the effect of branch i)
    split(groups)                   one step that gives neighbouring rows of a batch to different steps (a route)

and of one measure for `engine.explain()`. So a plan asks the rule of a site and never the kind of a module type.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from madx.contract.module_type import Scope, scope_of
from madx.contract.sites import SiteKind
from madx.contract.views import Sublayer, View
from madx.errors import CompositionError

#: A unit, or several of them joined: view -> change at a site of changes, x -> A(x) at a site of maps.
Step = Callable[..., Any]
Steps = list[Step]
#: The first row of each branch in a batch of sorted rows, then the number of rows. It belongs to one forward pass.
ROW_OFFSETS: ContextVar[Sequence[int]] = ContextVar("row offsets", default=())
#: (first branch, branch after the last, steps): neighbouring branches of a batch with the steps of all their rows.
Group = tuple[int, int, Steps]


class Rule(ABC):
    """Defines averages, factors, routes and explanations for one class of module types."""

    @abstractmethod
    def weighted(self, branches: Sequence[Steps], weights: Sequence[float]) -> Step:
        """Make one step for an average or a factor."""

    @abstractmethod
    def split(self, groups: list[Group]) -> Step:
        """Make one step that gives each group of neighbouring rows to its own steps."""

    @abstractmethod
    def share(self, given: Tensor | View, result: Tensor) -> float:
        """Return |change| / |changed tensor| of one run of a unit."""


class ChangeRule(Rule):
    """The rule at sites of changes: sublayers, linear maps, layers, the encoder."""

    def weighted(self, branches: Sequence[Steps], weights: Sequence[float]) -> Step:
        return WeightedChange(branches, weights)

    def split(self, groups: list[Group]) -> Step:
        return SplitChange(groups)

    def share(self, given: Tensor | View, result: Tensor) -> float:
        return _share(whole(given), result)


class MapRule(Rule):
    """The rule at the site of maps: the embeddings."""

    def weighted(self, branches: Sequence[Steps], weights: Sequence[float]) -> Step:
        return WeightedMap(branches, weights)

    def split(self, groups: list[Group]) -> Step:
        return SplitMap(groups)

    def share(self, given: Tensor | View, result: Tensor) -> float:
        before = whole(given)
        return _share(before, result - before)


def whole(given: Tensor | View) -> Tensor:
    """Return the tensor that a unit changes: h + x at a sublayer, otherwise the value itself."""
    if isinstance(given, Tensor):
        return given
    return given.sum if isinstance(given, Sublayer) else given.value


def _share(before: Tensor, change: Tensor) -> float:
    return float((change.float().norm() / before.float().norm().clamp_min(1e-30)).item())


_CHANGES, _MAPS = ChangeRule(), MapRule()
#: The rule of each kind of site where a plan runs steps. Slots and weights do not act by steps; see `madx.engine`.
RULES: dict[SiteKind, Rule] = {
    "sublayer": _CHANGES,
    "linear": _CHANGES,
    "layer": _CHANGES,
    "encoder": _CHANGES,
    "embeddings": _MAPS,
}


class WeightedChange:
    """The weighted sum of the changes that several branches would make: sum of w_i * change_i."""

    def __init__(self, branches: Sequence[Steps], weights: Sequence[float]):
        self.branches = branches
        self.weights: Sequence[float] | Tensor = weights
        self.scope: Scope = scope_of([step for steps in branches for step in steps])

    def __call__(self, view: View) -> Tensor:
        total = None
        for steps, weight in zip(self.branches, self.weights):
            if not steps:  # a branch without a unit here changes nothing
                continue
            change = view.fork().run(steps)
            if change is not None:
                change = weight * change
                total = change if total is None else total + change
        return torch.zeros_like(whole(view)) if total is None else total


class WeightedMap:
    """The weighted sum of maps: x + sum of w_i * (A_i(x) - x), with A_i the branches' maps."""

    scope: Scope = "token"

    def __init__(self, branches: Sequence[Steps], weights: Sequence[float]):
        self.branches = branches
        self.weights: Sequence[float] | Tensor = weights
        rest = 1.0 - sum(weights)
        self.rest = rest if abs(rest) > 1e-9 else 0.0  # the share of x itself; none in a mean

    def __call__(self, x: Tensor) -> Tensor:
        total = self.rest * x if self.rest else None
        for steps, weight in zip(self.branches, self.weights):
            y = x
            for step in steps:
                y = step(y)
            total = weight * y if total is None else total + weight * y
        return x if total is None else total

    def inverse(self, y: Tensor) -> Tensor:
        """Raises CompositionError: such a map has no inverse in closed form."""
        raise CompositionError(
            "This composition averages or scales invertible components. Such a map has no inverse in closed form, so "
            "it cannot feed the masked-LM decoder. Use one language module, unscaled, for masked language modelling."
        )


class FusedChange:
    """The step of `fuse(a, b; f)`: the fusion unit joins the changes that its children would make.

    children: their texts, one for each branch. Children without a unit at the site have no branch.
    """

    def __init__(
        self,
        branches: Sequence[Steps],
        fusion: Callable[[View, Sequence[Tensor]], Tensor],
        children: Sequence[str] = (),
    ):
        self.branches, self.fusion, self.children = branches, fusion, children
        self.scope: Scope = scope_of([fusion, *(step for steps in branches for step in steps)])

    def __call__(self, view: View) -> Tensor:
        runs = [view.fork().run(steps) for steps in self.branches]
        return self.fusion(view, [change for change in runs if change is not None])


class _Split:
    """A step that gives each group of neighbouring rows to its own steps; branches are counted within the batch."""

    def __init__(self, groups: list[Group]):
        self.groups = groups

    def slices(self, rows: int) -> list[tuple[int, int, Steps]]:
        """Return (first row, row after the last, steps) within the rows that the step gets."""
        offsets = ROW_OFFSETS.get()
        start, end = offsets[self.groups[0][0]], offsets[self.groups[-1][1]]
        if end - start != rows:
            raise CompositionError(
                f"A route expects {end - start} rows here, but the base passes {rows}: it joins rows without padding, "
                'so the route cannot separate them. Load it with attn_implementation="sdpa" or "eager".'
            )
        return [(offsets[a] - start, offsets[b] - start, steps) for a, b, steps in self.groups]


class SplitChange(_Split):
    """A split at a site of changes: concatenates the changes that the groups' steps make."""

    def __init__(self, groups: list[Group]):
        super().__init__(groups)
        # a split needs whole rows, even if its steps have the scope `token`, because it finds its groups by rows
        self.scope: Scope = "batch" if scope_of([s for *_, steps in groups for s in steps]) == "batch" else "row"

    def __call__(self, view: View) -> Tensor:
        like = whole(view)
        changes = []
        for a, b, steps in self.slices(len(like)):
            change = view.rows(a, b).run(steps)
            changes.append(torch.zeros_like(like[a:b]) if change is None else change)
        return torch.cat(changes)


class SplitMap(_Split):
    """A split at the embeddings: concatenates the mapped rows; each map is inverted on its own rows."""

    scope: Scope = "row"

    def __call__(self, x: Tensor) -> Tensor:
        parts = []
        for a, b, steps in self.slices(len(x)):
            part = x[a:b]
            for step in steps:
                part = step(part)
            parts.append(part)
        return torch.cat(parts)

    def inverse(self, y: Tensor) -> Tensor:
        """Invert each map on its own rows, the last one first."""
        return torch.cat([undone(y[a:b], steps) for a, b, steps in self.slices(len(y))])


def undone(y: Tensor, steps: Steps) -> Tensor:
    """Apply the inverses of some maps, the last one first. Raises CompositionError for a map that has none."""
    for step in reversed(steps):
        x = step.inverse(y)  # type: ignore[attr-defined]
        if x is None:
            raise CompositionError(
                f"{type(step).__name__} has no inverse, so masked words cannot be predicted under a composition with "
                "it at the embeddings. Use a module type with an inverse in language modules."
            )
        y = x
    return y
