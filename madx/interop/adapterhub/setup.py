"""Compositions saved as an AdapterHub setup: `adapter_setup.json` and one adapter folder for each name in it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from madx.base import Base
from madx.composition import Average, Composition, Fuse, Item, Scaled, Stack, as_composition, check_name, require_stack
from madx.errors import ConfigError, StoreError, did_you_mean
from madx.files.places import user_path
from madx.interop.adapterhub.config import check_version
from madx.interop.adapterhub.exporting import VERSION, export_adapterhub, export_adapterhub_fusion
from madx.interop.adapterhub.fusion import import_adapterhub_fusion, joined_otherwise
from madx.interop.adapterhub.importing import import_adapterhub
from madx.interop.files import new_folder, read_json
from madx.interop.formats import require_modules
from madx.interop.report import ImportReport
from madx.module import Module

SETUP = "adapter_setup.json"
#: the blocks of several adapters that are read
BLOCKS = ("Stack", "Average", "Fuse")
#: how deep blocks may be nested; theirs go two deep
MAX_DEPTH = 4


def import_adapterhub_setup(
    path: str | Path,
    base: Base,
    *,
    roles: dict[str, str],
    languages: dict[str, str] | None = None,
    task: str | None = None,
    with_head: bool = True,
    allow_base_mismatch: bool = False,
) -> tuple[Stack, dict[str, Module], list[ImportReport]]:
    """The composition of a setup, its modules by name, and a report on each module.

    `Stack`, `Fuse` and `Average` are read; `Average` as the mean that it is meant to be (the peer divides by the number
    of children once more). The fusion layer of `Fuse` is called `a,b` there after the adapters that it joins, and `a_b`
    here.

    Args:
        roles: "language" or "task" for every adapter in the setup, "fusion" for a fusion layer.
        languages: of the adapters that have one.
        task, with_head, allow_base_mismatch: as in `import_adapterhub`.
    Raises ConfigError for other blocks, StoreError for a damaged setup, and what `import_adapterhub` raises.
    """
    folder = user_path(path)
    composition = read_setup(folder)
    if set(roles) != set(composition.names()):
        raise ConfigError(
            f"The setup names {', '.join(composition.names())}; give each a role, not {', '.join(roles) or 'none'}."
        )
    modules: dict[str, Module] = {}
    reports: list[ImportReport] = []
    fused = {item.fusion: item for item in fused_in(composition)}
    for name in composition.names():
        options: dict[str, Any] = {
            "name": name,
            "language": (languages or {}).get(name),
            "task": task if roles[name] == "task" else None,
            "with_head": with_head,
            "allow_base_mismatch": allow_base_mismatch,
        }
        if (roles[name] == "fusion") != (name in fused):
            raise ConfigError(
                f"{name!r} has the role {roles[name]} in '{composition}'; a fusion layer has the role fusion."
            )
        if name in fused:  # it comes after the adapters that it joins
            last: Any = modules[_last(fused[name].children[-1])].info.components.get("bottleneck")
            reads = last.reads if last is not None else None
            place = folder / _their_name(fused[name], folder)
            modules[name], report = import_adapterhub_fusion(place, base, reads=reads, **options)
            otherwise = [
                (str(fused[name]), f"acts otherwise there: {why}") for why in joined_otherwise(fused[name], modules)
            ]
            report = replace(report, ignored=report.ignored + tuple(otherwise))
        else:
            modules[name], report = import_adapterhub(folder / name, base, role=roles[name], **options)
        reports.append(report)
    return composition, modules, reports


def fused_in(composition: Stack) -> list[Fuse]:
    """The fusions in a composition, also those inside other items."""
    found: list[Fuse] = []
    for item in composition.items:
        found += [item] if isinstance(item, Fuse) else []
        children = getattr(item, "children", None) or ([item.child] if isinstance(item, Scaled) else [])
        found += [fuse for child in children for fuse in fused_in(child)]
    return found


def _last(child: Stack) -> str:
    return child.names()[-1]


def _joined_names(item: Fuse) -> list[str]:
    """The names by which the peer calls the layer of a fusion: the last one of each child."""
    return [_last(child) for child in item.children]


def _their_name(item: Fuse, folder: Path) -> str:
    """The folder of a fusion layer in a setup: named as here, or after the adapters that it joins."""
    return item.fusion if (folder / item.fusion).is_dir() else ",".join(_joined_names(item))


def read_setup(folder: Path) -> Stack:
    """The composition in a folder's setup, without its modules. Raises as `import_adapterhub_setup` does."""
    if not (folder / SETUP).is_file():
        raise StoreError(f"{folder} has no {SETUP}, so it holds no composition of AdapterHub.")
    full = read_json(folder / SETUP)
    check_version(full.get("version"))
    return require_stack(as_composition(_read(full.get("adapter_setup"), folder / SETUP)), "read from a setup")


def _read(block: Any, path: Path, depth: int = 0) -> str | Stack | Average | Fuse:
    """One block of their tree: {"type": "Stack", "children": [...], "kwargs": {...}}."""
    children = block.get("children") if isinstance(block, dict) else None
    if not isinstance(children, list) or not children or depth > MAX_DEPTH:
        raise StoreError(f"{path} is damaged: a block needs 'type' and 'children', at most {MAX_DEPTH} deep.")
    kind = block.get("type")
    if kind == "single":
        return check_name(children[0])
    if kind not in BLOCKS:
        raise ConfigError(
            f"{path} has a block {str(kind)[:40]!r}, which madx cannot read; {did_you_mean(kind, BLOCKS)}"
        )
    inner = [_read(child, path, depth + 1) for child in children]
    if kind == "Stack":
        return Stack(*inner)
    options = block.get("kwargs") or {}
    if kind == "Fuse":
        named = options.get("name") if isinstance(options, dict) else None
        stacks = [Stack(child) for child in inner]
        return Fuse(*stacks, fusion=check_name(named or "_".join(_last(stack) for stack in stacks if stack.items)))
    weights = options.get("weights") if isinstance(options, dict) else options
    usable = isinstance(weights, list) and all(type(w) in (int, float) and abs(w) < 1e9 for w in weights)
    if weights is not None and not usable:
        raise StoreError(f"{path} has an Average with the weights {str(weights)[:80]}; a list of numbers is expected.")
    return Average(*inner, weights=tuple(map(float, weights)) if weights is not None else None)


def export_adapterhub_setup(
    composition: Composition | str,
    modules: dict[str, Module],
    folder: str | Path,
    *,
    base: Base,
    safetensors: bool = False,
) -> Path:
    """Write a stack of modules and fusions as a setup that `adapters` 1.x loads (`model.load_adapter_setup(folder)`).

    Raises ConfigError for a composition that the peer computes otherwise: see `_computed_otherwise`.
    """
    composition = require_stack(as_composition(composition), "written as a setup")
    folder = user_path(folder)
    require_modules(composition, modules)
    names = composition.names()
    if faults := _computed_otherwise(composition, modules):
        raise ConfigError(
            f"The composition '{composition}' would act otherwise in AdapterHub's `adapters`:\n  " + "\n  ".join(faults)
        )
    with new_folder(folder) as made:
        fused = {item.fusion: _joined_names(item) for item in fused_in(composition)}
        for name in names:
            if name in fused:
                place = made / ",".join(fused[name])
                export_adapterhub_fusion(modules[name], place, base=base, joined=fused[name], safetensors=safetensors)
            else:
                export_adapterhub(modules[name], made / name, base=base, safetensors=safetensors, as_name=name)
        tree = {"type": "Stack", "children": [_written(item) for item in composition.items]}
        setup = {"adapter_setup": tree, "head_setup": None, "version": VERSION}
        (made / SETUP).write_text(json.dumps(setup, indent=2) + "\n", encoding="utf-8")
    return folder


def _written(item: Item) -> dict[str, Any]:
    """One block of their tree; a fusion layer is called there after the adapters that it joins."""
    if isinstance(item, Fuse):
        return {"type": "Fuse", "children": [_written(name) for name in _joined_names(item)]}
    return {"type": "single", "children": [str(item)]}


def _computed_otherwise(composition: Stack, modules: dict[str, Module]) -> list[str]:
    """The parts of a composition that the peer computes otherwise, each with the reason."""
    faults = []
    for item in composition.items:
        if isinstance(item, Average):
            faults.append(f"{item} (divided by the number of its children twice)")
        elif isinstance(item, Fuse):
            faults += joined_otherwise(item, modules)
        elif not isinstance(item, str):
            faults.append(f"{item} (no such block there)")
    names = composition.names()
    for k, name in enumerate(names):
        components = modules[name].info.components
        networks: list[Any] = [components[c] for c in ("bottleneck", "compacter") if c in components]
        if len(names) > 1 and any(network.reads == "input" for network in networks):
            faults.append(f"the parallel bottleneck of {name} (it drops the changes of the others)")
        for component in ("invertible", "prompt", "reft"):
            if k and component in components:
                faults.append(f"the {component} component of {name} (only the first module's is used)")
    return faults + _multiplied([modules[name] for name in names])


def _multiplied(stack: list[Module]) -> list[str]:
    """The low-rank changes of one linear map by several modules: they add up here, and are multiplied there."""
    faults, seen = [], dict[str, tuple[str, str]]()
    for module in stack:
        for site, units in module.units.items():
            for component in {"lora", "ia3"} & set(units):
                before, kind = seen.get(site, ("", component))
                if "lora" in (kind, component) and before:
                    faults.append(f"{kind} of {before} and {component} of {module.name} at {site} (multiplied there)")
                seen[site] = (module.name, component)
    return faults
