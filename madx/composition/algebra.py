"""The algebra of compositions: pure data, no tensors.

    base                            the bare base
    swa                             one module
    swa + ner                       a stack: ner acts on the result of swa
    average(swa, hau) + ner         the mean of the changes that swa and hau would make, then ner
    average(0.7*swa, 0.3*hau)       a weighted mean (weights are scaled to sum to one)
    0.5*swa + ner                   half of the change that swa would make, then ner
    ties(swa, hau) + ner            weight deltas, joined by an election of signs (Yadav et al. 2023, arXiv:2306.01708)
    fuse(swa, hau; f) + ner         the changes that swa and hau would make, joined by the fusion module f, then ner
    route(swa + ner, yor + ner)     each row of a batch takes one of these branches; outermost only

Normal form: stacks inside stacks are joined, equal children of an average are merged, children of weight zero are left
out, and an average or election of one child is that child; so Average(c, c) = c exactly. A factor of a factor is their
product, a factor of one is left out, and what has the factor zero is left out. Along any path through a composition a
module may stand once. A route keeps its branches as they were given, equal ones too: rows name them by number.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Union

from madx.composition.names import check_name
from madx.errors import CompositionError

LEAST_SUM = 1e-12  # a sum of weights below this counts as zero,
LEAST_SHARE = 1e-6  # and so does one that is this small beside the weights: scaled by it, rounding would show


@dataclass(frozen=True, init=False)
class Average:
    """The weighted mean of the changes that its children would make: sum of w_i * change_i, where the w_i sum to one.

    >>> str(Average("swa", "hau", weights=(0.75, 0.25)))
    'average(0.75*swa, 0.25*hau)'
    """

    children: tuple["Stack", ...]
    weights: tuple[float, ...]

    def __init__(self, *children: Union["Item", "Stack"], weights: tuple[float, ...] | None = None):
        if not children:
            raise CompositionError("average() of nothing: name at least one module, e.g. average(swa, hau).")
        weights = tuple(weights) if weights is not None else (1.0,) * len(children)
        if len(weights) != len(children):
            raise CompositionError(f"average() has {len(children)} children but {len(weights)} weights: give one each.")
        merged: dict[Stack, float] = {}
        for child, weight in zip(children, weights):
            stack = child if isinstance(child, Stack) else Stack(child)
            merged[stack] = merged.get(stack, 0.0) + weight
        kept = {stack: weight for stack, weight in merged.items() if weight != 0.0}
        object.__setattr__(self, "children", tuple(kept))
        object.__setattr__(self, "weights", _scaled(tuple(kept.values()), given=weights))

    def __str__(self) -> str:
        """The text that `parse` reads as this average."""
        if len(set(self.weights)) == 1:
            return f"average({', '.join(map(_unweighted, self.children))})"
        return f"average({', '.join(f'{w!r}*{_grouped(c)}' for w, c in zip(self.weights, self.children))})"


@dataclass(frozen=True, init=False)
class Scaled:
    """A factor times the change that its child would make: lambda * (f(h) - h), or lambda * (weight delta).

    >>> str(Scaled("swa", 0.5)), str(Scaled(Scaled("swa", 0.5), 0.5))
    ('0.5*swa', '0.25*swa')
    """

    child: "Stack"
    factor: float

    def __init__(self, child: Union[str, "Item", "Stack"], factor: float):
        stack, factor = child if isinstance(child, Stack) else Stack(child), float(factor)
        if len(stack.items) == 1 and isinstance(inner := stack.items[0], Scaled):
            stack, factor = inner.child, factor * inner.factor
        if not math.isfinite(factor):
            raise CompositionError(f"A module cannot be scaled by {factor}: the factor must be finite.")
        object.__setattr__(self, "child", stack)
        object.__setattr__(self, "factor", factor)

    def __str__(self) -> str:
        return f"{self.factor!r}*{_grouped(self.child)}"


@dataclass(frozen=True, init=False)
class Ties:
    """Weight deltas joined place by place: the sign of their sum is elected, and the values of that sign are averaged.

    A child that does not touch a place has no vote there, so the bare base is left out. A child that is given twice has
    two votes.

    >>> str(Ties("swa", "hau"))
    'ties(swa, hau)'
    """

    children: tuple["Stack", ...]

    def __init__(self, *children: Union[str, "Item", "Stack"]):
        if not children:
            raise CompositionError("ties() of nothing: name at least one module, e.g. ties(swa, hau).")
        stacks = [child if isinstance(child, Stack) else Stack(child) for child in children]
        object.__setattr__(self, "children", tuple(stack for stack in stacks if stack.items))

    def names(self) -> tuple[str, ...]:
        """Every module named, each once."""
        return tuple(dict.fromkeys(_names(self)))

    def __str__(self) -> str:
        return f"ties({', '.join(map(str, self.children))})"


@dataclass(frozen=True, init=False)
class Fuse:
    """The changes of at least two children, joined by a trained fusion module (AdapterFusion; Pfeiffer et al. 2021,
    arXiv:2005.00247).

    >>> str(Fuse("swa", "hau", fusion="f"))
    'fuse(swa, hau; f)'
    """

    children: tuple["Stack", ...]
    fusion: str

    def __init__(self, *children: Union[str, "Item", "Stack"], fusion: str):
        stacks = tuple(child if isinstance(child, Stack) else Stack(child) for child in children)
        if len(set(stacks)) < 2 or not all(stack.items for stack in stacks) or len(set(stacks)) < len(stacks):
            raise CompositionError(
                f"fuse() got {', '.join(map(str, stacks)) or 'nothing'}: it joins at least two different modules, e.g. "
                "fuse(swa, hau; f), none of them the bare base."
            )
        object.__setattr__(self, "children", stacks)
        object.__setattr__(self, "fusion", check_name(fusion))
        if self.fusion in (name for stack in stacks for name in stack.names()):
            raise CompositionError(
                f"The fusion module {fusion!r} cannot be one of the modules that it joins in '{self}'."
            )

    def names(self) -> tuple[str, ...]:
        """Every module named, each once; the fusion module last."""
        return tuple(dict.fromkeys(_names(self)))

    def __str__(self) -> str:
        return f"fuse({', '.join(map(str, self.children))}; {self.fusion})"


Item = Union[str, Average, Scaled, Ties, Fuse]


@dataclass(frozen=True, init=False)
class Stack:
    """Modules one after the other, the first nearest to the base; empty, it is the bare base.

    >>> str(Stack("swa", "ner"))
    'swa + ner'
    """

    items: tuple[Item, ...]

    def __init__(self, *items: Union[Item, "Stack"]):
        flat: list[Item] = []
        for item in items:
            if isinstance(item, str):
                flat.append(check_name(item))
            elif isinstance(item, Stack):
                flat.extend(item.items)
            elif isinstance(item, Average):
                flat.extend(item.children[0].items if len(item.children) == 1 else [item])
            elif isinstance(item, Scaled):
                if item.factor != 0.0 and item.child.items:
                    flat.extend(item.child.items if item.factor == 1.0 else [item])
            elif isinstance(item, Ties):
                if item.children:
                    flat.extend(item.children[0].items if len(set(item.children)) == 1 else [item])
            elif isinstance(item, Fuse):
                flat.append(item)
            elif isinstance(item, Route):
                raise CompositionError(NESTED.format(item))
            else:
                raise CompositionError(
                    f"A stack holds module names, Average, Scaled, Ties, Fuse and Stack, not {type(item).__name__}."
                )
        object.__setattr__(self, "items", tuple(flat))
        met: set[str] = set()
        for item in flat:  # paths choose freely in each item, so two items may not share a name
            names = dict.fromkeys(_names(item))
            for name in names:
                if name in met:
                    raise CompositionError(
                        f"The composition '{self}' applies the module '{name}' twice in one stack. "
                        "Name each module once."
                    )
            met.update(names)

    def __str__(self) -> str:
        return " + ".join(map(str, self.items)) or "base"

    def names(self) -> tuple[str, ...]:
        """Every module named, in order of appearance, each once."""
        return tuple(dict.fromkeys(name for item in self.items for name in _names(item)))


@dataclass(frozen=True, init=False)
class Route:
    """Several stacks for one batch: each row takes one of the branches, which are counted from 0.

    A branch is a Stack or an item of one; `parse("route(swa + ner, yor + ner)")` makes a route from text. Branches may
    share modules; a module that all rows share is computed for all of them together.

    >>> str(Route(Stack("swa", "ner"), Stack("yor", "ner"), Stack()))
    'route(swa + ner, yor + ner, base)'
    """

    branches: tuple[Stack, ...]

    def __init__(self, *branches: Union[Item, Stack]):
        if not branches:
            raise CompositionError("route() of nothing: give at least one branch, e.g. route(swa + ner, yor + ner).")
        object.__setattr__(self, "branches", tuple(Stack(branch) for branch in branches))

    def names(self) -> tuple[str, ...]:
        """Every module named in some branch, in order of appearance, each once."""
        return tuple(dict.fromkeys(name for branch in self.branches for name in branch.names()))

    def __str__(self) -> str:
        return f"route({', '.join(map(str, self.branches))})"


Composition = Union[Stack, Route]

NESTED = (
    "'{}' cannot be inside another composition: a route gives whole rows of a batch to its branches, so it is "
    "outermost. Write each branch in full, e.g. route(swa + ner, yor + ner) instead of route(swa, yor) + ner."
)


def _grouped(stack: Stack) -> str:
    """Return the text of a stack after a factor or a weight: in brackets if it has several items."""
    return f"({stack})" if len(stack.items) > 1 else _unweighted(stack)


def _unweighted(stack: Stack) -> str:
    """Return the text of a stack, in brackets if it begins with a number, which would be read as a weight."""
    return f"({stack})" if stack.items and isinstance(stack.items[0], Scaled) else str(stack)


def _names(item: Item) -> Iterator[str]:
    """Yield the names in an item of a stack, as written; a name may come more than once."""
    if isinstance(item, str):
        yield item
    elif isinstance(item, Scaled):
        yield from item.child.names()
    else:
        for child in item.children:
            yield from child.names()
        if isinstance(item, Fuse):
            yield item.fusion


def _scaled(weights: tuple[float, ...], *, given: tuple[float, ...]) -> tuple[float, ...]:
    """Divide the weights by their sum; scaling twice changes nothing.

    Raises CompositionError for weights that are not finite or that cancel out. given: the weights for its message.
    """
    size = sum(map(abs, weights))
    total = math.fsum(weights) if math.isfinite(size) else 0.0
    if abs(total) < LEAST_SUM or abs(total) < LEAST_SHARE * size:
        raise CompositionError(
            f"average() got the weights {given}: they must be finite and not cancel out, so that they can be scaled to "
            "sum to one."
        )
    if len(set(weights)) == 1:
        return (1.0 / len(weights),) * len(weights)
    return weights if abs(total - 1.0) < 1e-9 else tuple(w / total for w in weights)


def require_stack(composition: Composition, what: str) -> Stack:
    """Return a composition that is the same for all rows.

    Raises CompositionError for a route. what: completes its message, "cannot be ...".
    """
    if isinstance(composition, Route):
        raise CompositionError(
            f"'{composition}' cannot be {what}: a route is for a batch of mixed rows. Use one of its branches."
        )
    return composition
