"""Plans: compiled compositions. A plan holds the steps of a stack at each site, and the slots that it reserves.

A plan is made once for a composition and then only read. Steps come from the rule of a site's class
(`madx.contract.rules`), so this file knows the algebra of compositions but not the classes of module types.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from madx.composition import Average, Fuse, Item, Scaled, Stack, Ties
from madx.contract.module_type import FusionType, ModuleType, SlotsType
from madx.contract.rules import ROW_OFFSETS, RULES, FusedChange, Step, Steps
from madx.contract.sites import Site
from madx.engine.slots import NO_SLOTS, Block, SlotPlan, mixed, refuse_scaled
from madx.errors import CompositionError
from madx.module import Module

#: Wraps each unit when a plan is made: (site, module, component, unit) -> step.
Watch = Callable[[str, str, str, ModuleType], Step]


@dataclass(frozen=True)
class RowFlags:
    """A switch in which the branches of a batch differ."""

    flags: tuple[bool, ...]

    def rows(self, device: torch.device) -> Tensor:
        """The switch of each row, `(batch,)`."""
        counts = torch.tensor(ROW_OFFSETS.get()).diff()
        return torch.tensor(self.flags).repeat_interleave(counts).to(device)


class Plan(dict[str, Steps]):
    """Maps sites to their steps, in the order in which they run. A site without steps is absent.

    Attributes:
        slots: the positions that are reserved before the tokens.
        without_norm: the sublayers that return h itself, without residual and LN, for all rows or for some.
        refusal: the reason why the base may not be called without the engine under this plan; None: it may.
    """

    def __init__(
        self, steps: Mapping[str, Steps] | None = None, *, slots: SlotPlan = NO_SLOTS, refusal: str | None = None
    ):
        super().__init__(steps or {})
        self.slots, self.refusal = slots, refusal
        self.without_norm: dict[str, Literal[True] | RowFlags] = {}


class Compiler:
    """Makes the steps of items at sites, from the attached modules."""

    def __init__(self, sites: Mapping[str, Site], modules: Mapping[str, Module], watch: Watch | None = None):
        self.sites, self.modules, self.watch = sites, modules, watch
        self.at_steps = [site for site in sites.values() if site.kind in RULES]
        self._made: dict[tuple[str, Item], Steps] = {}

    def stack(self, stack: Stack) -> Plan:
        """Compile a stack. Raises CompositionError for modules that cannot act together."""
        plan = Plan({site.name: steps for site in self.at_steps if (steps := self.steps(site, stack))})
        plan.slots = SlotPlan.of([block for item in stack.items for block in self.blocks(item)])
        plan.without_norm = {site: True for site in plan if not self.final_norm(site, stack)}
        if lost := [site for site in plan.without_norm if not self.sites[site].norm_after]:
            raise CompositionError(
                f"A bottleneck with final_norm=False acts at {lost[0]}, but this base is pre-norm: it has no norm "
                "after the residual to leave out. Set final_norm to true."
            )
        return plan

    def steps(self, site: Site, stack: Stack) -> Steps:
        """Return the steps of a stack at a site, in order."""
        return [step for item in stack.items for step in self.item_steps(site, item)]

    def item_steps(self, site: Site, item: Item) -> Steps:
        """Return the steps of one item of a stack at a site.

        They are the same objects at every call, so that a route finds the steps that its branches share.
        """
        known = self._made.get((site.name, item))
        if known is None:
            known = self._made[site.name, item] = self._steps_of(site, item)
        return known

    def _steps_of(self, site: Site, item: Item) -> Steps:
        if isinstance(item, str):
            return self._units(site, item)
        if isinstance(item, Ties):
            self._require_weights_alone(item, site)
            return []
        if isinstance(item, Fuse):
            return self._fused(site, item)
        children, weights = (
            ((item.child,), (item.factor,)) if isinstance(item, Scaled) else (item.children, item.weights)
        )
        branches = [self.steps(site, child) for child in children]
        return [RULES[site.kind].weighted(branches, weights)] if any(branches) else []

    def _units(self, site: Site, name: str) -> Steps:
        units = self.modules[name].units.get(site.name, {})
        for component, unit in units.items():
            if isinstance(unit, FusionType):
                joined = ", ".join(self.modules[name].info.joins or ("swa", "hau"))
                raise CompositionError(
                    f"The module {name!r} joins the changes of other modules by {component!r}, so it cannot be in a "
                    f"stack without them. Name the modules that it joins: fuse({joined}; {name})."
                )
        if self.watch is None:
            return list(units.values())
        return [self.watch(site.name, name, component, unit) for component, unit in units.items()]

    def _fused(self, site: Site, item: Fuse) -> Steps:
        fusion = self.modules[item.fusion]
        found = [(c, u) for units in fusion.units.values() for c, u in units.items()]
        if not found or not all(isinstance(unit, FusionType) for _, unit in found):
            components = ", ".join(fusion.info.components) or "a head alone"
            raise CompositionError(
                f"'{item}' needs a fusion module after ';', but {item.fusion!r} has {components}. Train one "
                "by the setting fuse of train-task or train-language."
            )
        branches = [self.steps(site, child) for child in item.children]
        units = fusion.units.get(site.name, {})
        if not units:
            if not any(branches):
                return []
            if site.kind == "embeddings":  # maps have no change to attend over, so they are averaged
                return [RULES[site.kind].weighted(branches, [1 / len(branches)] * len(branches))]
            raise CompositionError(
                f"In '{item}' a module acts at {site.name}, where the fusion module has no component to join it. Train "
                "the fusion module for these modules (the setting fuse of train-task or train-language), or leave that "
                "component out of them."
            )
        if not any(branches):
            self._require_common_site(item)
            return []  # no change is made here, so there is nothing to join
        watch, names = self.watch, [str(child) for child, steps in zip(item.children, branches) if steps]
        branches = [steps for steps in branches if steps]
        return [
            FusedChange(branches, unit if watch is None else watch(site.name, item.fusion, component, unit), names)
            for component, unit in units.items()
            if isinstance(unit, FusionType)
        ]

    def _require_common_site(self, item: Fuse) -> None:
        sites = [self.sites[name] for name in self.modules[item.fusion].units]
        if not any(self.steps(site, child) for site in sites for child in item.children):
            raise CompositionError(
                f"In '{item}' the fusion module acts at {', '.join(s.name for s in sites[:3])}, where none of the "
                "modules to join acts. Train it for these modules, by the setting fuse of train-task or "
                "train-language."
            )

    def _require_weights_alone(self, item: Ties, site: Site) -> None:
        computing = [name for name in item.names() if self.modules[name].units.get(site.name)]
        if computing:
            raise CompositionError(
                f"'{item}' elects signs of weight deltas, but {', '.join(computing)} computes something during the "
                "forward pass and has none. Join such modules by average(...)."
            )

    # ---- residual and norm -----------------------------------------------------------------------------------------

    def final_norm(self, site: str, stack: Stack) -> bool:
        """Return true if a sublayer ends with residual and LN under a stack: the last unit there decides."""
        flag = self._flag(site, stack)
        return True if flag is None else flag

    def _flag(self, site: str, stack: Stack) -> bool | None:
        flags = [flag for item in stack.items if (flag := self._item_flag(site, item)) is not None]
        return flags[-1] if flags else None

    def _item_flag(self, site: str, item: Item) -> bool | None:
        if isinstance(item, str):
            units = list(self.modules[item].units.get(site, {}).values())
            return getattr(units[-1], "final_norm", True) if units else None
        if isinstance(item, Ties):
            return None
        if isinstance(item, Scaled):
            return self._flag(site, item.child)
        flags = [self._flag(site, child) for child in item.children]
        if all(flag is None for flag in flags):
            return None
        if isinstance(item, Fuse):
            flags.append(True)
        if len({flag is not False for flag in flags}) > 1:
            raise CompositionError(
                f"'{item}' joins modules of which some leave out the LN after {site} (final_norm: false) and some do "
                "not, so they have no common place to be joined. Join modules that agree in final_norm."
            )
        return flags[0] is not False

    # ---- slots -----------------------------------------------------------------------------------------------------

    def blocks(self, item: Item) -> list[Block]:
        """Return the slots that an item of a stack reserves."""
        if isinstance(item, str):
            return self._own_blocks(item)
        if isinstance(item, Scaled):
            refuse_scaled(item, found := self._stack_blocks(item.child))
            return found
        children = [self._stack_blocks(child) for child in item.children]
        if not any(children):
            return []
        if isinstance(item, Average):
            return mixed(item, children, item.weights)
        names = ", ".join(b.module for child in children for b in child)
        raise CompositionError(
            f"'{item}' joins modules that reserve slots before the tokens ({names}), which only a stack or an average "
            "can do. Stack or average them instead."
        )

    def _stack_blocks(self, stack: Stack) -> list[Block]:
        return [block for item in stack.items for block in self.blocks(item)]

    def _own_blocks(self, name: str) -> list[Block]:
        found: dict[str, dict[str, SlotsType]] = {}
        for site, units in self.modules[name].units.items():
            if self.sites[site].kind == "slots":
                for component, unit in units.items():
                    if isinstance(unit, SlotsType):
                        found.setdefault(component, {})[site] = unit
        blocks = []
        for component, units_by_site in found.items():
            at_front = {site: unit for site, unit in units_by_site.items() if site == "slots"}
            in_layers = {site: unit for site, unit in units_by_site.items() if site != "slots"}
            kinds: tuple[tuple[Literal["prefix", "prompt"], dict[str, SlotsType]], ...]
            kinds = (("prefix", in_layers), ("prompt", at_front))
            for kind, chosen in kinds:
                if chosen:
                    fills = {
                        s: u if self.watch is None else self.watch(s, name, component, u) for s, u in chosen.items()
                    }
                    one = next(iter(chosen.values()))
                    blocks.append(Block(kind, one.length, fills, name, one.moves_tokens))
        return blocks


def require_reached(plan: Plan, reached: Iterable[str]) -> None:
    """Raise CompositionError if a plan has steps at a site without a hook: they would not act."""
    fillable = [site for _, block in plan.slots.blocks for site in block.fills]
    lost = sorted((set(plan) | set(fillable)) - set(reached))
    if lost:
        shown = ", ".join(lost[:4]) + (" and more" if len(lost) > 4 else "")
        raise CompositionError(
            f"Nothing in this base reaches {shown}, so a module there would not act. Describe the place in "
            "madx/base/families.py, or leave the module out of the composition."
        )
