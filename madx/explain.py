"""What a composition does, in words and figures: per site, which modules act in which order, and how much they change.

It must be impossible to believe that a module acts when it does not. `explain` reads the plan that the forward pass
runs (not the intention behind it); with an input it also runs it once and counts. `silent` names every module of the
composition that acts nowhere, never ran, or changed nothing. At the site `parameters` it reads what is written into the base:
the change there is |written - found| / |found| over the touched places.
"""

from dataclasses import asdict, dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from madx.composition import Average, Composition, Scaled
from madx.differences import changes
from madx.plan import WeightedMap


@dataclass
class Action:
    """One instance at one site. change: |change| / |what it changed| over the whole input (None: not measured);
    calls: how often it ran in one forward pass; averaged: number of the average it stands in (None: in none)."""

    site: str
    module: str
    part: str
    what: str
    change: float | None = None
    calls: int | None = None
    averaged: int | None = None


@dataclass
class Explanation:
    """The actions of a composition in the order of the forward pass, and the modules that are silent."""

    composition: str
    base: str
    actions: list[Action]
    decoder: str
    head: str
    silent: list[str] = field(default_factory=list)
    measured: bool = False

    def as_dict(self) -> dict:
        """Plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [("site", "acts, in this order")]
        rows += [(site, "  then  ".join(texts)) for site, texts in self._grouped()]
        rows += [("decoder", self.decoder), ("head", self.head)]
        width = max(len(site) for site, _ in rows)
        silent = f"SILENT: {', '.join(self.silent)} does not act" if self.silent else "every module named acts"
        note = " (measured on one forward pass)" if self.measured else ""
        lines = [f"{self.composition}   on {self.base}"] + [f"  {s:<{width}}  {t}" for s, t in rows]
        return "\n".join(lines + [f"  {silent}{note}"])

    def _grouped(self) -> list[tuple[str, list[str]]]:
        """Sites with their actions as text; runs of layers that read the same are joined: `layer.0-3.ffn`."""
        groups: list[tuple[list[str], list[str]]] = []
        last_of_place: dict[str, int] = {}
        for site in dict.fromkeys(a.site for a in self.actions):
            texts = self._texts([a for a in self.actions if a.site == site])
            place = site.split(".")[-1]
            previous = last_of_place.get(place)
            if previous is not None and groups[previous][1] == texts and _adjacent(groups[previous][0][-1], site):
                groups[previous][0].append(site)
            else:
                groups.append(([site], texts))
                last_of_place[place] = len(groups) - 1
        return [(_span(sites), texts) for sites, texts in groups]

    def _texts(self, actions: list[Action]) -> list[str]:
        """One text for each step: an instance, or all instances whose mean is taken."""
        steps = groupby(actions, key=lambda a: (a.averaged is None and a.module, a.averaged))
        return [
            f"mean of ({',  '.join(map(self._text, members))})" if number is not None else "  then  ".join(map(self._text, members))
            for (_, number), members in ((key, list(group)) for key, group in steps)
        ]

    def _text(self, action: Action) -> str:
        change = "" if action.change is None else f" [changes {_percent(action.change)}]"
        return f"{action.module}: {action.part} {action.what}{change}"


def _percent(share: float) -> str:
    """A share in percent with two significant digits, so that layers of like effect read alike."""
    if share == 0:
        return "nothing"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _adjacent(site: str, later: str) -> bool:
    """Whether two sites `layer.N.place` lie in neighbouring layers."""
    return int(later.split(".")[1]) == int(site.split(".")[1]) + 1


def _span(sites: list[str]) -> str:
    if len(sites) == 1:
        return sites[0]
    first, last = sites[0].split("."), sites[-1].split(".")
    return f"layer.{first[1]}-{last[1]}.{first[2]}"


def explain(engine, input_ids: Tensor | None = None, attention_mask: Tensor | None = None) -> Explanation:
    """The explanation of an engine's active composition; with an input, measured in one forward pass without dropout."""
    composition, names = engine.composition, engine.composition.names()
    actions: dict[tuple[str, str, str], Action] = {}
    averaged, factors = _roles(composition)

    def watch(site: str, module: str, unit):
        part = next(p for p, u in engine.modules[module].units[site].items() if u is unit)
        what = unit.describe() + (f", times {factors[module]:g}" if factors[module] != 1.0 else "")
        action = Action(site, module, part, what, averaged=averaged.get(module))
        action = actions.setdefault((site, module, part), action)
        return _Watched(unit, action)

    for applied in sorted(engine.differences.applied, key=lambda a: names.index(a.term.shares[0].module)):
        for share in applied.term.shares:
            factor = applied.term.scale * share.scale
            what = share.unit.describe() + (f", times {factor:g}" if factor != 1.0 else "")
            what += ", by election" if share.kept is not None else ""
            actions["parameters", share.module, share.part] = Action("parameters", share.module, share.part, what)
    plan = engine.compile(composition, watch)
    if input_ids is not None:
        for action in actions.values():
            action.change, action.calls = 0.0, 0
        for applied in engine.differences.applied:
            for (module, part), change in changes(applied).items():
                action = actions["parameters", module, part]
                action.change, action.calls = change, 1
        _run(engine, plan, input_ids, attention_mask)
    acting = {a.module for a in actions.values() if input_ids is None or (a.calls and a.change)}
    inverted = [a.module for a in actions.values() if a.site == "embeddings"][::-1]
    if not inverted:
        decoder = "the base's own"
    elif not engine.base.family.tied:
        decoder = "the base's own, not tied to the embeddings: nothing is undone before it"
    elif any(not isinstance(step, _Watched) for step in plan["embeddings"]):
        scaled = any(isinstance(step, WeightedMap) and step.rest for step in plan["embeddings"])
        decoder = f"none: a {'scaled invertible part' if scaled else 'mean of invertible parts'} has no inverse"
    else:
        decoder = "after undoing " + ", then ".join(inverted)
    heads = [n for n in names if engine.modules[n].head is not None]
    acting |= {n for n in heads[-1:] if not engine.modules[n].units}  # a head alone changes no site: it predicts
    head = f"{heads[-1]}: {len(engine.modules[heads[-1]].info.labels)} labels" if heads else "none"
    return Explanation(
        str(composition), f"{engine.base.label} ({engine.base.config.model_type}, {engine.base.depth} layers)",
        list(actions.values()), decoder, head, [n for n in names if n not in acting], input_ids is not None,
    )  # fmt: skip


def _roles(composition: Composition) -> tuple[dict[str, int], dict[str, float]]:
    """For the modules of a composition: the number of the outermost average each stands in, and the product of the
    factors that it is scaled by."""
    averaged: dict[str, int] = {}
    factors: dict[str, float] = {}

    def walk(stack: Composition, factor: float, number: int | None) -> None:
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

    walk(composition, 1.0, None)
    return averaged, factors


class _Watched:
    """A step that does what the instance does and notes how much that changed."""

    def __init__(self, unit, action: Action):
        self.unit, self.action = unit, action

    def __call__(self, at):
        result = self.unit(at)
        before, change = (at, result - at) if isinstance(at, Tensor) else (at.sum, result)
        self.action.calls += 1
        self.action.change = (change.float().norm() / before.float().norm().clamp_min(1e-30)).item()
        return result

    def inverse(self, y: Tensor) -> Tensor:
        return self.unit.inverse(y)


@torch.no_grad()
def _run(engine, plan: dict, input_ids: Tensor, attention_mask: Tensor | None) -> None:
    """One forward pass under the watched plan, in inference mode; modes and plan are restored afterwards."""
    modes = [(m, m.training) for m in [engine.base.model, *engine.modules.values()]]
    before = engine._plan
    try:
        for module, _ in modes:
            module.eval()
        engine._plan = plan
        engine(input_ids, attention_mask)
    finally:
        engine._plan = before
        for module, mode in modes:
            module.train(mode)
