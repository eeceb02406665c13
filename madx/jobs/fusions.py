"""Fusion modules in the jobs: their training over frozen modules, and their place in compositions.

A fusion module records the modules that it was trained over, as `joins` of its training. So a job that is given its
name where a module's is expected puts `fuse(a, b; f)` in its place.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from madx.composition import Average, Composition, Fuse, Item, Scaled, Stack, Ties, require_stack
from madx.contract.module_type import FusionType
from madx.engine import Engine
from madx.errors import ConfigError, did_you_mean
from madx.jobs.common import info_of
from madx.module import Module, ModuleInfo, new_module
from madx.module.components import components_of
from madx.module_types import MODULE_TYPES
from madx.store import Store

log = logging.getLogger("madx")


def check_fused(store: Store, fuse: Sequence[str], name: str, *, roles: Sequence[str]) -> str:
    """Check the modules that a fusion module shall join, before data and base are read; gives their common role.

    Raises ConfigError for fewer than two, for one named twice or as the new module, and for roles that cannot be fused
    or that differ; StoreError for a module that is not there.
    """
    if len(set(fuse)) < 2 or len(set(fuse)) < len(fuse):
        raise ConfigError(
            f"fuse names {', '.join(fuse)}: it joins at least two modules, each named once, e.g. fuse=[swa, hau]."
        )
    if name in fuse:
        raise ConfigError(f"fuse names {name!r}, and the new module would have the same name: set name to another one.")
    found = {each: info_of(store, each).role for each in fuse}
    if wrong := [each for each, role in found.items() if role not in roles]:
        raise ConfigError(
            f"fuse names {wrong[0]!r}, which has the role {found[wrong[0]]}; here modules of the role "
            f"{' or '.join(roles)} are fused. `madx modules list` shows the roles."
        )
    if len(set(found.values())) > 1:
        roles_shown = ", ".join(f"{each} ({role})" for each, role in found.items())
        raise ConfigError(f"fuse joins modules of one role, but names {roles_shown}: leave those of one role out.")
    return next(iter(found.values()))


def require_fusion(components: str | Mapping[str, Any]) -> None:
    """Raise ConfigError for components that join nothing."""
    chosen = components_of(components)
    if not chosen or not all(issubclass(MODULE_TYPES.get(name), FusionType) for name in chosen):
        fusing = [name for name, kind in MODULE_TYPES.items() if issubclass(kind, FusionType)]
        raise ConfigError(
            f"components {', '.join(chosen) or components!r} join no modules, but fuse is set: leave components out, "
            f"or name one of {', '.join(fusing)}."
        )


def new_fusion(engine: Engine, name: str, joined: Sequence[str], components: Any, **more: Any) -> Module:
    """Make a fusion module for attached modules, with a unit wherever one of them acts (unless settings say where).

    more: as for `new_module`. Raises CompositionError where the joined modules act at places that cannot be joined.
    """
    sites = [engine.base.sites[at] for at in dict.fromkeys(at for each in joined for at in engine.module(each).units)]
    fitted = {c: _kind(c).fitted(config, sites) for c, config in components_of(components).items()}
    module = new_module(name, engine.base, role="fusion", components=fitted, **more)
    module.info.training = {"joins": list(joined)}
    return module


def fingerprints(engine: Engine, names: Iterable[str]) -> dict[str, str]:
    """Module -> sha256 of its weights, for attached modules: a checkpoint is known by the modules under it."""
    found = {}
    for name in names:
        weights = engine.module(name).state_dict()
        found[name] = sha256(b"".join(v.cpu().numpy().tobytes() for v in weights.values())).hexdigest()
    return found


def _kind(component: str) -> type[FusionType]:
    return MODULE_TYPES.get(component)  # type: ignore[return-value]  # `require_fusion` has looked


def joins_of(infos: Iterable[ModuleInfo]) -> dict[str, tuple[str, ...]]:
    """Fusion module -> the modules that it was trained over, for those of some modules that record them."""
    return {info.name: info.joins for info in infos if len(info.joins) > 1}


def with_joined(store: Store, names: Iterable[str]) -> list[str]:
    """Names of modules, and of those that the fusion modules among them were trained over, each once.

    Raises StoreError for one that is not there, ConfigError for a fusion module that does not record what it joins.
    """
    found: dict[str, None] = {}
    for name in names:
        info = info_of(store, name)
        joined = joins_of([info]).get(name, ())
        if info.role == "fusion" and not joined:
            raise ConfigError(f"The fusion module {name!r} does not record which modules it joins: train it by madx.")
        if absent := [each for each in joined if each not in store.names()]:
            raise ConfigError(
                f"The fusion module {name!r} joins {', '.join(joined)}, but {', '.join(absent)} is not in "
                f"{store.root}; {did_you_mean(absent[0], store.names())}"
            )
        found |= dict.fromkeys([*joined, name])
    return list(found)


def spelled_out(composition: Composition, joins: Mapping[str, Sequence[str]]) -> Composition:
    """A composition with `fuse(a, b; f)` in the place of each fusion module f that stands alone.

    >>> str(spelled_out(Stack("f", "ner"), {"f": ("swa", "hau")}))
    'fuse(swa, hau; f) + ner'

    Raises CompositionError if a module would stand twice on one path, as in `swa + fuse(swa, hau; f)`.
    """
    if not joins:
        return composition
    return _spelled(require_stack(composition, "evaluated"), joins)


def _spelled(stack: Stack, joins: Mapping[str, Sequence[str]]) -> Stack:
    return Stack(*(_item(item, joins) for item in stack.items))


def _item(item: Item, joins: Mapping[str, Sequence[str]]) -> Item:
    if isinstance(item, str):
        return Fuse(*joins[item], fusion=item) if item in joins else item
    if isinstance(item, Scaled):
        return Scaled(_spelled(item.child, joins), item.factor)
    children = [_spelled(child, joins) for child in item.children]
    if isinstance(item, Average):
        return Average(*children, weights=item.weights)
    return Ties(*children) if isinstance(item, Ties) else Fuse(*children, fusion=item.fusion)


def remarks_on_fusions(composition: Composition, infos: Mapping[str, ModuleInfo]) -> list[str]:
    """A remark for each fusion module that joins others here than those it was trained over."""
    branches = getattr(composition, "branches", None) or [composition]
    found = []
    for fuse in (fuse for branch in branches for fuse in fused_in(branch)):
        here = [str(child) for child in fuse.children]
        trained = list(joins_of([infos[fuse.fusion]]).get(fuse.fusion, here))
        if sorted(here) != sorted(trained):
            found.append(
                f"{fuse.fusion} was trained over {', '.join(trained)}, and joins {', '.join(here)} here: its attention "
                "never saw some of them"
            )
    return found


def warn_of_fusions(composition: Composition, infos: Mapping[str, ModuleInfo]) -> None:
    """Log the remarks of `remarks_on_fusions`."""
    for remark in remarks_on_fusions(composition, infos):
        log.warning("%s", remark)


def fused_in(stack: Stack) -> list[Fuse]:
    """All fusions in a stack, also inside other items."""
    found: list[Fuse] = []
    for item in stack.items:
        if isinstance(item, str):
            continue
        found += [item] if isinstance(item, Fuse) else []
        children = [item.child] if isinstance(item, Scaled) else item.children
        found += [fuse for child in children for fuse in fused_in(child)]
    return found
