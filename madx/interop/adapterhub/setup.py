"""Compositions saved as an AdapterHub setup: `adapter_setup.json` and one adapter folder for each name in it."""

import json
from pathlib import Path

from madx.base import Base
from madx.composition import Average, Composition, Stack, as_composition, check_name, require_stack
from madx.errors import ConfigError, StoreError, did_you_mean
from madx.interop.adapterhub.config import check_version
from madx.interop.adapterhub.module import VERSION, export_adapterhub, import_adapterhub
from madx.interop.files import new_folder, read_json
from madx.interop.report import ImportReport
from madx.module import Module

SETUP = "adapter_setup.json"
#: blocks inside blocks at most; theirs go two deep
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
) -> tuple[Composition, dict[str, Module], list[ImportReport]]:
    """The composition of a setup, its modules by name, and a report on each.

    roles: "language" or "task" for every adapter named; languages: of those that have one. `Stack` and `Average` are
    read; Average as the mean that it is meant to be (the peer divides by the number of children once more).
    Raises ConfigError for other blocks and StoreError for a damaged setup, and what `import_adapterhub` raises.
    """
    folder = Path(path).expanduser()
    composition = read_setup(folder)
    if set(roles) != set(composition.names()):
        raise ConfigError(
            f"The setup names {', '.join(composition.names())}; give each a role, not {', '.join(roles) or 'none'}."
        )
    modules, reports = {}, []
    for name in composition.names():
        modules[name], report = import_adapterhub(
            folder / name,
            base,
            name=name,
            role=roles[name],
            language=(languages or {}).get(name),
            task=task if roles[name] == "task" else None,
            with_head=with_head,
            allow_base_mismatch=allow_base_mismatch,
        )
        reports.append(report)
    return composition, modules, reports


def read_setup(folder: Path) -> Composition:
    """The composition that a folder's setup describes; its modules are not read. Raises as `import_adapterhub_setup`."""
    if not (folder / SETUP).is_file():
        raise StoreError(f"{folder} has no {SETUP}, so it holds no composition of AdapterHub.")
    full = read_json(folder / SETUP)
    check_version(full.get("version"))
    return as_composition(_read(full.get("adapter_setup"), folder / SETUP))


def _read(block, path: Path, depth: int = 0) -> str | Stack | Average:
    """One block of their tree: {"type": "Stack", "children": [...], "kwargs": {...}}."""
    children = block.get("children") if isinstance(block, dict) else None
    if not isinstance(children, list) or not children or depth > MAX_DEPTH:
        raise StoreError(f"{path} is damaged: a block needs 'type' and 'children', at most {MAX_DEPTH} deep.")
    kind = block.get("type")
    if kind == "single":
        return check_name(children[0])
    if kind not in ("Stack", "Average"):
        raise ConfigError(
            f"{path} has a block {str(kind)[:40]!r}, which madx cannot read; {did_you_mean(kind, ['Stack', 'Average'])}"
        )
    inner = [_read(child, path, depth + 1) for child in children]
    if kind == "Stack":
        return Stack(*inner)
    options = block.get("kwargs") or {}
    weights = options.get("weights") if isinstance(options, dict) else options
    usable = isinstance(weights, list) and all(type(w) in (int, float) and abs(w) < 1e9 for w in weights)
    if weights is not None and not usable:
        raise StoreError(f"{path} has an Average with the weights {str(weights)[:80]}; a list of numbers is due.")
    return Average(*inner, weights=tuple(map(float, weights)) if weights is not None else None)


def export_adapterhub_setup(
    composition: Composition | str,
    modules: dict[str, Module],
    folder: str | Path,
    *,
    base: Base,
    safetensors: bool = False,
) -> Path:
    """Write a stack of modules as a setup that `adapters` 1.x loads (`model.load_adapter_setup(folder)`).

    Raises ConfigError for a composition that the peer computes otherwise: `Average` (it divides by the number of
    children twice), a parallel bottleneck in a stack (it drops its neighbours' changes), an invertible component in any but
    the first module.
    """
    composition = require_stack(as_composition(composition), "written as a setup")
    folder = Path(folder).expanduser()
    names = composition.names()
    faults = [
        f"{item} ({'divided by the number of its children twice' if isinstance(item, Average) else 'no such block there'})"
        for item in composition.items
        if not isinstance(item, str)
    ]
    if missing := [n for n in names if n not in modules]:
        raise ConfigError(f"No module is given for {', '.join(missing)}; {did_you_mean(missing[0], modules)}")
    if not names:
        raise ConfigError("The composition is the bare base; there is nothing to write.")
    for k, name in enumerate(names):
        components = modules[name].info.components
        if len(names) > 1 and "bottleneck" in components and components["bottleneck"].reads == "input":
            faults.append(f"the parallel bottleneck of {name} (it drops the changes of the others)")
        if k and "invertible" in components:
            faults.append(f"the invertible component of {name} (only the first module's is used)")
    if faults:
        raise ConfigError(
            f"The composition '{composition}' would act otherwise in AdapterHub's `adapters`:\n  " + "\n  ".join(faults)
        )
    with new_folder(folder) as made:
        for name in names:
            export_adapterhub(modules[name], made / name, base=base, safetensors=safetensors, as_name=name)
        tree = {"type": "Stack", "children": [{"type": "single", "children": [name]} for name in names]}
        setup = {"adapter_setup": tree, "head_setup": None, "version": VERSION}
        (made / SETUP).write_text(json.dumps(setup, indent=2) + "\n", encoding="utf-8")
    return folder
