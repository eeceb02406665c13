"""The contract of a method of PEFT: its config and its tensors, both ways."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from madx.base import Base
from madx.contract.module_type import ComponentConfig
from madx.errors import ConfigError, StoreError
from madx.interop.peft.schema import TargetSchema
from madx.interop.peft.targets import linear_paths, matching, site_paths
from madx.module import Module


@dataclass(frozen=True)
class Place:
    """Facts about a file and the base that it is read for.

    Args:
        prefix: of the encoder in the names of the file, with its point, or "".
        file: of the tensors, for messages.
    """

    base: Base
    prefix: str
    file: Path

    def matrix(self, site: str) -> Tensor:
        """The base's own matrix at the site of a linear map, `(width, input width)`, on the CPU."""
        return self.base.matrix(site).to("cpu")


@dataclass
class Reading:
    """Our components; tensors of the module by name; pairs (their name, ours); pairs (what was ignored, why)."""

    components: dict[str, ComponentConfig] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    mapped: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Writing:
    """Settings that differ from PEFT's defaults, and tensors by name without `base_model.model.` and the prefix.

    whole: names in `tensors` that stand before no module of the encoder, such as `prompt_embeddings`.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    whole: frozenset[str] = frozenset()


class Method(ABC):
    """One method of PEFT, the counterpart of a module type."""

    #: the module type that it is here
    component: ClassVar[str]
    #: every key that PEFT 0.21 writes for it, with its default
    defaults: ClassVar[dict[str, Any]]
    #: ends of the names of its tensors behind a module's path; empty: its tensors belong to no module
    tails: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def read(self, config: dict[str, Any], tensors: dict[str, Tensor], place: Place) -> Reading:
        """The component and its tensors.

        Args:
            tensors: of the method, by their names without `base_model.model.` and the prefix of the encoder.
        Raises ConfigError for a setting or target that is not read, StoreError for tensors that do not fit the config.
        """

    def writes(self, module: Module) -> bool:
        """True for a module that this method may express, by its components."""
        return list(module.info.components) == [self.component]

    @abstractmethod
    def write(self, module: Module, base: Base) -> Writing:
        """Their config and tensors. Raises ConfigError for a module that the method cannot express."""


def by_module(tensors: dict[str, Tensor], tails: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a method by the path of their module, then by the end of their names."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        tail = next(tail for tail in tails if key.endswith("." + tail))
        found.setdefault(key.removesuffix("." + tail), {})[tail] = value
    return found


def without_pooler(groups: dict[str, Any], reading: Reading) -> dict[str, Any]:
    """The groups of tensors but those of the pooler, which are reported."""
    reading.ignored += [(path, "the base is used without its pooler") for path in groups if path.startswith("pooler.")]
    return {path: group for path, group in groups.items() if not path.startswith("pooler.")}


def require_targets(groups: dict[str, Any], config: TargetSchema, place: Place) -> dict[str, str]:
    """The site of each module that has tensors.

    Raises ConfigError for a module that is no site of madx, StoreError if the file and its config name other modules.
    """
    sites = site_paths(place.base)
    if other := [path for path in groups if path not in sites]:
        raise ConfigError(
            f"{place.file} changes {listed(place.prefix + path for path in other)}, which madx does not read on a base "
            f"of type {place.base.config.model_type}. Read are changes of the linear maps of each layer: "
            f"{listed(dict.fromkeys(path.split('.', 3)[-1] for path in sites))}. Nothing was loaded."
        )
    if config.target_modules is None:
        return {path: sites[path] for path in groups}
    require_named(groups, matching(config, linear_paths(place.base), place.prefix), place)
    return {path: sites[path] for path in groups}


def require_named(groups: dict[str, Any], named: set[str], place: Place) -> None:
    """Raises StoreError unless the modules with tensors are those that the config names on this base."""
    faults = [f"missing: {place.prefix}{p}" for p in sorted(named - set(groups)) if not p.startswith("pooler.")]
    faults += [f"not in the config: {place.prefix}{p}" for p in sorted(set(groups) - named)]
    if faults:
        raise StoreError(
            f"{place.file} does not fit its config on this base (0-{place.base.depth - 1} are its layers):\n  "
            f"{listed(faults, chr(10) + '  ')}\nThe file is incomplete, its config belongs to another file, or it was "
            "made for another base."
        )


def require_shapes(shapes: dict[str, tuple[int, ...]], group: dict[str, Tensor], path: str, place: Place) -> None:
    """Raises StoreError unless a module has exactly the tensors of these shapes."""
    faults = [f"missing: {place.prefix}{path}.{tail}" for tail in shapes if tail not in group]
    faults += [f"not in the config: {place.prefix}{path}.{tail}" for tail in group if tail not in shapes]
    faults += [
        f"{place.prefix}{path}.{tail}: file {tuple(value.shape)}, base and config {shapes[tail]}"
        for tail, value in group.items()
        if tail in shapes and tuple(value.shape) != shapes[tail]
    ]
    if faults:
        raise StoreError(f"{place.file} does not fit its config on this base:\n  " + "\n  ".join(faults))


def product(sites: Sequence[str], base: Base) -> tuple[list[str], list[int], list[str]]:
    """Maps and left-out layers of a component that has a unit at each of some sites, and the sites that it has besides.

    A component acts at the same maps in all of its layers, so maps and layers are those of any of the sites.
    """
    here = [base.sites[name] for name in sites]
    maps = list(dict.fromkeys(str(site.map) for site in here))
    layers = {site.layer for site in here}
    more = [
        name
        for name, site in base.sites.items()
        if site.kind == "linear" and site.map in maps and site.layer in layers and name not in set(sites)
    ]
    return maps, sorted(set(range(base.depth)) - {int(layer) for layer in layers if layer is not None}), more


def units_of(module: Module, component: str) -> dict[str, Any]:
    """The units of a component by the name of their site."""
    return {site: units[component] for site, units in module.units.items() if component in units}


def paths_of(module: Module, component: str, base: Base) -> dict[str, str]:
    """The path in the encoder of each site where a component acts.

    Raises ConfigError for a map that the base computes together with others.
    """
    paths = {site: path for path, site in site_paths(base).items()}
    units = units_of(module, component)
    if joined := [site for site in units if site not in paths]:
        raise ConfigError(
            f"{module.name!r} changes {listed(joined)}, which a base of type {base.config.model_type} computes in one "
            "matrix with other maps: PEFT has no name for it."
        )
    return {site: paths[site] for site in units}


def listed(names: Any, between: str = ", ") -> str:
    """Up to 8 names, and how many more there are."""
    names = [str(name)[:120] for name in names]
    more = [f"... and {len(names) - 8} more"] if len(names) > 8 else []
    return between.join(names[:8] + more)
