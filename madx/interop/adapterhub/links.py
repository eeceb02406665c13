"""Tensors of a file as tensors of a module, and back: every key is translated, or refused by name."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from madx.base import Base
from madx.errors import BaseError, StoreError
from madx.interop.adapterhub.layouts import Key, layout_of
from madx.interop.adapterhub.methods import METHODS
from madx.interop.adapterhub.methods.method import Link, Surroundings
from madx.interop.report import ranges
from madx.module import Module


def links_of(module: Module, around: Surroundings) -> list[Link]:
    """The links of all tensors of a module but those of its head."""
    found = []
    for component, tensors in _by_component(module).items():
        method = next(method for method in METHODS.values() if component in method.components)
        found += method.links(component, module.info.components[component], tensors=tensors, around=around)
    return found


def _by_component(module: Module) -> dict[str, dict[str, Tensor]]:
    """The tensors of each component by their names in the module."""
    starts = {f"{site}.{component}.": component for site, units in module.units.items() for component in units}
    starts |= {f"shared.{component}.": component for component in module.info.components}
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in module.state_dict().items():
        for start, component in starts.items():
            if name.startswith(start):
                found.setdefault(component, {})[name] = tensor
    return found


@dataclass
class Translation:
    """Tensors of a module by name; pairs (their key, our name); pairs (their key, why it was ignored)."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    mapped: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)


def translate(stored: dict[str, Tensor], skeleton: Module, *, base: Base, owner: str | None, file: Path) -> Translation:
    """The tensors of a module from those of a file.

    Args:
        stored: the file's tensors by key.
        skeleton: a module with tensors of the right shapes, whose values do not matter.
        owner: name of the adapter by its config, if that has one.
    Raises StoreError or BaseError unless the file holds exactly the tensors that its config asks for on this base.
    """
    layout = layout_of(base.config.model_type)
    keys = {key: layout.parse(key) for key in stored}
    around = Surroundings(layout, _owner(keys, owner, file), base.depth, base.matrix)
    links = links_of(skeleton, around)
    layers = _require_layers(keys, base.depth, file)
    chosen, ignored = _match(stored, keys, links, file)
    shapes = {key: shape for link in links for key, shape in link.shapes.items()}
    faults = [f"missing: {key}" for key in shapes if key not in chosen]
    faults += [
        f"{key}: file {tuple(stored[theirs].shape)}, base and config {shapes[key]}"
        for key, theirs in chosen.items()
        if tuple(stored[theirs].shape) != shapes[key]
    ]
    if faults:
        raise StoreError(
            f"{file} does not fit its config on this base{layers}:\n  {_listed(faults)}\n"
            "The file is incomplete, its config belongs to another file, or it was made for another base."
        )
    result = Translation(ignored=ignored)
    for link in links:
        found = [chosen[key] for key in link.shapes]
        result.tensors |= zip(link.ours, link.read(*(stored[key] for key in found)), strict=True)
        result.mapped += [(key, name) for key in found for name in link.ours]
        result.ignored += [(key, link.unused) for key in found if not link.ours]
    return result


def _require_layers(keys: dict[str, Key], depth: int, file: Path) -> str:
    """The layers of file and base, for a message. Raises BaseError for layers that the base does not have."""
    layers = sorted({key.layer for key in keys.values() if key.layer is not None})
    if layers and layers[-1] >= depth:
        raise BaseError(
            f"{file} has tensors for the layers {ranges(layers)}; the base has only {depth} (0-{depth - 1}). "
            "Load the base that it was made for."
        )
    return f" (file: layers {ranges(layers)}; base: 0-{depth - 1})" if layers else ""


def _owner(keys: dict[str, Key], owner: str | None, file: Path) -> str:
    """The name of the adapter in the keys. Raises StoreError for several, or for another than the config's."""
    owners = {key.owner for key in keys.values() if key.owner is not None}
    if len(owners) > 1 or owners and owner is not None and owners != {owner}:
        raise StoreError(
            f"{file} holds tensors of {', '.join(repr(o[:60]) for o in sorted(owners)[:8])}, its config is of "
            f"{str(owner)[:60]!r}: one folder holds one adapter."
        )
    return owners.pop() if owners else owner or ""


def _match(
    stored: dict[str, Tensor], keys: dict[str, Key], links: list[Link], file: Path
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """(the file's key for each link, what the file stores twice). Raises StoreError that names keys without a link."""
    known = {name: (link.theirs, link) for link in links for name in (link.theirs, *link.copies)}
    known |= {name: (name, link) for link in links for name in link.also}
    chosen: dict[str, str] = {}
    ignored, unknown = [], []
    copies = {name for link in links for name in link.copies}
    for theirs, key in sorted(keys.items(), key=lambda item: item[1].name in copies):  # copies come last
        if key.name not in known:
            unknown.append(theirs)
            continue
        first, link = known[key.name]
        if first not in chosen:
            chosen[first] = theirs
        elif torch.equal(stored[chosen[first]], stored[theirs]):
            ignored.append((theirs, f"the same tensor as {chosen[first]}, stored twice"))
        else:
            used = f", the other tensor for {link.ours[0]}" if link.ours else ""
            unknown.append(f"{theirs} (differs from {chosen[first]}{used})")
    if unknown:
        raise StoreError(
            f"{file} has {len(unknown)} tensors that its config does not explain:\n  {_listed(unknown)}\n"
            "The config belongs to another file, or the adapter has components that madx does not read."
        )
    return chosen, ignored


def _listed(lines: list[str]) -> str:
    more = [f"... and {len(lines) - 8} more"] if len(lines) > 8 else []
    return "\n  ".join([line[:200] for line in lines[:8]] + more)


def written(module: Module, *, base: Base, owner: str) -> dict[str, Tensor]:
    """The tensors of a file for a module, by key; owner: name of the adapter in the file."""
    layout, ours = layout_of(base.config.model_type), module.state_dict()
    found = {}
    for link in links_of(module, Surroundings(layout, owner, base.depth, base.matrix)):
        made = link.write([ours[name].detach().to("cpu") for name in link.ours])
        values = made if isinstance(made, tuple) else (made,)
        for key, value in [*zip(link.shapes, values, strict=True), *((copy, values[0]) for copy in link.written)]:
            found[f"{layout.prefix}.{key}"] = value.clone().contiguous()
    return found
