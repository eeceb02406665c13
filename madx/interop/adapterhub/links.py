"""Tensors of a file as tensors of a module, and back: every key is translated, or refused by name."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from madx.errors import BaseError, StoreError
from madx.interop.adapterhub.layouts import Key, Layout
from madx.interop.adapterhub.methods import METHODS
from madx.interop.adapterhub.methods.method import Link
from madx.interop.report import ranges
from madx.module import Module


def links_of(module: Module, layout: Layout, owner: str) -> list[Link]:
    """The links of all tensors of a module but those of its head; owner: name of the adapter in the file."""
    found = []
    for component, tensors in _by_component(module).items():
        method = next(method for method in METHODS.values() if component in method.components)
        config = module.info.components[component]
        found += method.links(component, config, tensors=tensors, layout=layout, owner=owner)
    return found


def _by_component(module: Module) -> dict[str, dict[str, Tensor]]:
    """The tensors of each component by their names in the module."""
    found: dict[str, dict[str, Tensor]] = {}
    for site, units in module.units.items():
        for component, unit in units.items():
            named = {f"{site}.{component}.{name}": t for name, t in unit.state_dict().items()}
            found.setdefault(component, {}).update(named)
    return found


@dataclass
class Translation:
    """Tensors of a module by name; pairs (their key, our name); pairs (their key, why it was ignored)."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    mapped: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)


def translate(
    stored: dict[str, Tensor], skeleton: Module, *, layout: Layout, owner: str | None, file: Path
) -> Translation:
    """The tensors of a module from those of a file.

    Args:
        stored: the file's tensors by key.
        skeleton: a module with tensors of the right shapes, whose values do not matter.
        owner: name of the adapter by its config, if that has one.
    Raises StoreError or BaseError unless the file holds exactly the tensors that its config asks for on this base.
    """
    keys = {key: layout.parse(key) for key in stored}
    links = links_of(skeleton, layout, _owner(keys, owner, file))
    layers = _require_layers(keys, _depth(skeleton), file)
    chosen, ignored = _match(stored, keys, links, file)
    ours = skeleton.state_dict()
    shapes = {link.theirs: tuple(link.write([ours[name] for name in link.ours]).shape) for link in links}
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
        result.tensors |= zip(link.ours, link.read(stored[chosen[link.theirs]]), strict=True)
        result.mapped += [(chosen[link.theirs], name) for name in link.ours]
    return result


def _depth(module: Module) -> int:
    """Layers of the base that a module is for."""
    return next(unit.site.depth for units in module.units.values() for unit in units.values())


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
    known = {name: link for link in links for name in (link.theirs, *link.copies)}
    chosen: dict[str, str] = {}
    ignored, unknown = [], []
    first = {link.theirs for link in links}
    for theirs, key in sorted(keys.items(), key=lambda item: item[1].name not in first):  # copies come last
        link = known.get(key.name)
        if link is None:
            unknown.append(theirs)
        elif link.theirs not in chosen:
            chosen[link.theirs] = theirs
        elif torch.equal(stored[chosen[link.theirs]], stored[theirs]):
            ignored.append((theirs, f"the same tensor as {chosen[link.theirs]}, stored twice"))
        else:
            unknown.append(f"{theirs} (differs from {chosen[link.theirs]}, the other tensor for {link.ours[0]})")
    if unknown:
        raise StoreError(
            f"{file} has {len(unknown)} tensors that its config does not explain:\n  {_listed(unknown)}\n"
            "The config belongs to another file, or the adapter has components that madx does not read."
        )
    return chosen, ignored


def _listed(lines: list[str]) -> str:
    more = [f"... and {len(lines) - 8} more"] if len(lines) > 8 else []
    return "\n  ".join([line[:200] for line in lines[:8]] + more)


def written(module: Module, layout: Layout, owner: str) -> dict[str, Tensor]:
    """The tensors of a file for a module, by key."""
    ours = {name: value.detach().to("cpu") for name, value in module.state_dict().items()}
    return {
        f"{layout.prefix}.{key}": value.clone().contiguous()
        for link in links_of(module, layout, owner)
        for value in [link.write([ours[name] for name in link.ours])]
        for key in (link.theirs, *link.written)
    }
