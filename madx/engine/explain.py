"""Explains a composition: the modules that act at each site, their order, and the size of their changes.

A module that does not act must never go unnoticed. So `explain` reads the plan that the forward pass runs, and with an
input it also runs that plan once and counts. `inactive` names every module of the composition that acts nowhere, never
ran, or changed nothing. A route is explained branch by branch. At the site `weights` the change is |new - old| / |old|
over the touched places. For slots it is the change of the last layer's output at the tokens, compared with a pass
without these slots.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from madx.composition import Average, Fuse, Scaled, Stack, require_stack
from madx.contract.module_type import FusionType, ModuleType
from madx.contract.rules import RULES, FusedChange, Steps, WeightedMap
from madx.engine import routing
from madx.engine.explanation import Action, Explanation, RouteExplanation
from madx.engine.plan import Plan
from madx.engine.protocols import RunningEngine
from madx.engine.routing import Branches, RoutePlan
from madx.engine.slots import Fill, SlotPlan
from madx.engine.weight_deltas import changes
from madx.module import Module
from madx.module.pooling import FIRST


def explain(
    engine: RunningEngine,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    branches: Branches | None = None,
) -> Explanation | RouteExplanation:
    """Explain an engine's active composition; with an input, also measure one forward pass without dropout.

    Args:
        engine: the engine.
        input_ids, attention_mask: `(batch, tokens)`.
        branches: under a route, the branch of each row; None: every row runs through every branch.
    """
    actions: dict[tuple[str, str, str], Action] = {}

    def watch(site: str, module: str, component: str, unit: ModuleType) -> "_Watched":
        action = actions.setdefault((site, module, component), Action(site, module, component, unit.describe()))
        return _Watched(unit, action, engine.base.sites[site].kind)

    plan, measured = engine.compile(engine.composition, watch), input_ids is not None
    if input_ids is not None and isinstance(plan, RoutePlan) and branches is None:
        count = len(plan.route.branches)
        branches = torch.arange(count).repeat_interleave(len(input_ids))
        input_ids = input_ids.repeat(count, 1)
        attention_mask = None if attention_mask is None else attention_mask.repeat(count, 1)
    if input_ids is not None:
        for action in actions.values():
            action.change, action.calls = 0.0, 0
        _run(engine, plan, input_ids, attention_mask, branches)
    if isinstance(plan, RoutePlan):
        return _of_route(engine, plan, plan.numbers(branches, len(input_ids)) if input_ids is not None else None)
    return _of_stack(engine, require_stack(engine.composition, "explained"), plan, measured)


def _of_stack(engine: RunningEngine, stack: Stack, plan: Plan, measured: bool) -> Explanation:
    """Explain a stack by its watched plan; the weight deltas of the stack are on the base."""
    names, (averaged, factors) = stack.names(), _roles(stack)
    slots = (a for _, block in plan.slots.blocks for a in _filling(block.fills.values()))
    weights = dict(pair for steps in plan.values() for pair in _fusion_weights(steps))
    found = {id(a): a for a in (*slots, *(a for steps in plan.values() for a in _actions(steps)))}.values()
    actions = _weights(engine, names, measured) + [
        replace(
            a,
            what=a.what + _times(factors[a.module]),
            averaged=averaged.get(a.module),
            change=a.change if measured else None,
            calls=a.calls if measured else None,
            weights=weights.get(id(a)) if measured else None,
        )
        for a in found
    ]
    acting = {a.module for a in actions if not measured or (a.calls and a.change)}
    heads = [n for n in names if engine.modules[n].head is not None]
    acting |= {n for n in heads[-1:] if not engine.modules[n].units}  # a head alone changes no site: it predicts
    return Explanation(
        str(stack),
        _base(engine),
        actions,
        _decoder(engine, plan.get("embeddings", [])),
        _head(engine.modules[heads[-1]]) if heads else "none",
        [n for n in names if n not in acting],
        measured,
    )


def _of_route(engine: RunningEngine, plan: RoutePlan, numbers: np.ndarray | None) -> RouteExplanation:
    """Explain a route by its watched plan. numbers: the branches of the rows that were measured; None: none were."""
    met = set(numbers.tolist()) if numbers is not None else set()
    found = []
    for number, stack in enumerate(plan.route.branches):
        with engine.with_weights_of(stack):
            found.append(_of_stack(engine, stack, plan.of_stack(stack), number in met))
    whole = plan.plan(tuple(range(len(plan.stacks))))
    shared = dict.fromkeys(a.module for steps in whole.values() for a in _actions(steps))
    inactive = dict.fromkeys(name for branch in found for name in branch.inactive)
    passes = routing.groups(plan, range(len(plan.route.branches)))
    return RouteExplanation(
        str(plan.route), _base(engine), found, list(shared), passes, list(inactive), numbers is not None
    )


def _head(module: Module) -> str:
    """The head in words, with its pooling where that is not the usual one."""
    pooling = module.info.pooling
    return f"{module.name}: {len(module.info.labels)} labels" + (f", pooling {pooling}" if pooling != FIRST else "")


def _base(engine: RunningEngine) -> str:
    return f"{engine.base.label} ({engine.base.config.model_type}, {engine.base.depth} layers)"


def _times(factor: float) -> str:
    return f", times {factor:g}" if factor != 1.0 else ""


def _actions(steps: Steps) -> Iterator[Action]:
    """Yield the actions of all units in watched steps, also inside averages and factors, but not inside row splits."""
    for step in steps:
        if isinstance(step, _Watched):
            yield step.action
        else:
            yield from (action for branch in getattr(step, "branches", ()) for action in _actions(branch))
            if (fusion := getattr(step, "fusion", None)) is not None:
                yield from _actions([fusion])


def _fusion_weights(steps: Steps) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the action of each watched fusion unit, by its id, with the mean weight of each of its children."""
    for step in steps:
        for branch in getattr(step, "branches", ()):
            yield from _fusion_weights(branch)
        if isinstance(step, FusedChange) and isinstance(watched := step.fusion, _Watched):
            if watched.weights is not None:
                yield id(watched.action), dict(zip(step.children, watched.weights.tolist(), strict=True))


def _weights(engine: RunningEngine, names: tuple[str, ...], measured: bool) -> list[Action]:
    """Return the actions of the weight deltas that are on the base."""
    found = []
    for applied in sorted(engine.deltas.applied, key=lambda a: names.index(a.term.shares[0].module)):
        sizes = changes(applied) if measured else {}
        for share in applied.term.shares:
            what = share.unit.describe() + _times(applied.term.scale * share.scale)
            what += ", by election" if share.kept is not None else ""
            change = sizes.get((share.module, share.component))
            found.append(Action("weights", share.module, share.component, what, change, None if change is None else 1))
    return found


def _decoder(engine: RunningEngine, steps: Steps) -> str:
    """Describe the maps that are inverted before the decoder. steps: those at the embeddings."""
    inverted = [action.module for action in _actions(steps)][::-1]
    if not inverted:
        return "the base's own"
    if not engine.base.family.tied:
        return "the base's own, not tied to the embeddings: nothing is undone before it"
    if any(not isinstance(step, _Watched) for step in steps):
        scaled = any(isinstance(step, WeightedMap) and step.rest for step in steps)
        return f"none: a {'scaled invertible component' if scaled else 'mean of invertible components'} has no inverse"
    return "after undoing " + ", then ".join(inverted)


def _roles(composition: Stack) -> tuple[dict[str, int], dict[str, float]]:
    """Return, by module, the number of the outermost average around it, and the product of the factors around it."""
    averaged: dict[str, int] = {}
    factors: dict[str, float] = {}

    def walk(stack: Stack, factor: float, number: int | None) -> None:
        for position, item in enumerate(stack.items):
            if isinstance(item, str):
                factors[item] = factor
                if number is not None:
                    averaged[item] = number
            elif isinstance(item, Scaled):
                walk(item.child, factor * item.factor, number)
            else:
                inside = len(factors) + position if number is None and isinstance(item, Average) else number
                for child in item.children:
                    walk(child, factor, inside)
                if isinstance(item, Fuse):
                    factors[item.fusion] = factor

    walk(composition, 1.0, None)
    return averaged, factors


class _Watched:
    """A step that runs its unit and records the size of the change."""

    def __init__(self, unit: ModuleType, action: Action, kind: str):
        self.unit, self.action, self.rule = unit, action, RULES.get(kind)  # type: ignore[call-overload]
        self.weights: Tensor | None = None  # of a fusion unit: the mean weight of each child, `(children,)`

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unit, name)

    def __call__(self, given: Any, *more: Any) -> Any:
        result = self.unit(given, *more)
        self.action.calls = (self.action.calls or 0) + 1
        if self.rule is not None:
            self.action.change = max(self.action.change or 0.0, self.rule.share(given, result))
        if isinstance(self.unit, FusionType) and (weights := self.unit.child_weights(given, *more)) is not None:
            self.weights = weights[given.mask].float().mean(0)
        return result

    def inverse(self, y: Tensor) -> Tensor:
        """Apply the unit's own inverse."""
        unit: Any = self.unit
        x: Tensor = unit.inverse(y)
        return x


@torch.no_grad()
def _run(
    engine: RunningEngine,
    plan: Plan | RoutePlan,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    branches: Branches | None,
) -> None:
    """Run one forward pass under the watched plan without dropout, and one more for each module with slots."""
    every: list[nn.Module] = [engine.base.model, *engine.modules.values()]
    modes = [(m, m.training) for m in every]
    try:
        for module, _ in modes:
            module.eval()
        with engine.under(plan):
            found = engine(input_ids, attention_mask, branches=branches)
            _measure_slots(engine, plan, found, input_ids, attention_mask, branches)
    finally:
        for module, mode in modes:
            module.train(mode)


def _measure_slots(
    engine: RunningEngine,
    plan: Plan | RoutePlan,
    found: Tensor,
    ids: Tensor,
    mask: Tensor | None,
    branches: Branches | None,
) -> None:
    """Measure the effect of slots: |with - without| / |without| at the tokens, by a pass without one module's slots."""
    plans = plan.plans if isinstance(plan, RoutePlan) else [plan]
    before = [each.slots for each in plans]
    actions = {id(a): a for slots in before for _, block in slots.blocks for a in _filling(block.fills.values())}
    counts = {key: action.calls for key, action in actions.items()}
    tokens = torch.ones_like(ids) if mask is None else mask
    try:
        for module in dict.fromkeys(action.module for action in actions.values()):
            for each, slots in zip(plans, before):
                each.slots = SlotPlan.of([block for _, block in slots.blocks if module not in block.module.split(", ")])
            without = engine(ids, mask, branches=branches)
            difference, reference = ((t.float() * tokens[..., None]).norm() for t in (found - without, without))
            change = difference / reference
            for action in actions.values():
                if action.module == module and action.calls:
                    action.change = change.item()
    finally:
        for each, slots in zip(plans, before):
            each.slots = slots
        for key, action in actions.items():
            action.calls = counts[key]


def _filling(fills: Iterable[Fill]) -> Iterator[Action]:
    """Yield the actions of the units that fill slots, also inside averages."""
    for fill in fills:
        if isinstance(fill, _Watched):
            yield fill.action
        else:
            yield from _filling(getattr(fill, "fills", ()))
