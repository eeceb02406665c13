"""A module: one named, trained, stored unit of role `language` or `task`, made of components and a task's head."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from madx.base import Base
from madx.base.guard import require_known
from madx.composition import check_name
from madx.contract.module_type import ComponentConfig, FusionType, ModuleType, class_of
from madx.contract.sites import READS, Site
from madx.errors import BaseError, ConfigError
from madx.module.components import components_of
from madx.module.pooling import FIRST, Pooling, check_pooling
from madx.module_types import MODULE_TYPES
from madx.registry import provided

ROLES = ("language", "task", "fusion")


@dataclass
class ModuleInfo:
    """The record of a module beside its weights; it is stored as `module.json`.

    name: its name in compositions; role: `language` or `task`; language: ISO 639-3 or BCP 47; components: settings by
    module type, in the order in which they act; base: `Base.identity()` of the base it was made for; tokenizer:
    fingerprint of that base's tokenizer; task, labels: of a task module; training: data files with sha256, steps, seed,
    settings, versions, scores (`madx.store.training_record`); licence: SPDX; pooling: the pieces of a word that the
    head reads (`madx.module.pooling`).
    """

    name: str
    role: str
    language: str | None
    components: dict[str, ComponentConfig]
    base: dict[str, Any] | None = None
    tokenizer: str | None = None
    task: str | None = None
    labels: tuple[str, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None
    pooling: str = FIRST

    @property
    def joins(self) -> tuple[str, ...]:
        """The modules that a fusion module was trained over, as its training records them; empty without a record."""
        joined = self.training.get("joins")
        if self.role != "fusion" or not isinstance(joined, list) or not all(isinstance(name, str) for name in joined):
            return ()
        return tuple(joined)

    def base_to_load(self, given: str | None = None, revision: str | None = None) -> dict[str, str | None]:
        """The arguments of `load_base`, name and revision: those given, else those that the module records.

        Raises BaseError when no name is given and the module records no base; UntrustedBaseError when the module was
        pulled from a hub and names a base that was never fetched to this machine.
        """
        if given:
            return {"name": given, "revision": revision}
        if self.base is None:
            raise BaseError(f"The module {self.name!r} records no base. Name one, e.g. xlm-roberta-base.")
        name, wanted = str(self.base["name"]), revision or self.base["revision"]
        if pulled := self.training.get("pulled"):
            require_known(name, wanted, named_by=f"The module {self.name!r}, pulled from {pulled['repository']},")
        return {"name": name, "revision": wanted}


class Module(nn.Module):
    """The weights of a module: one instance of a module type for each site and component, and the head of a task.
    A task module may be its head alone (preset `head_only`).

    head: a linear map `(..., width) -> (..., labels)` or None; pooling: makes the vectors of words that it reads, or
    None. Tensors are named `layer.3.ffn.bottleneck.down.weight`, `embeddings.invertible.F.down.weight`, `head.weight`.
    """

    def __init__(self, info: ModuleInfo, sites: dict[str, Site]):
        super().__init__()
        check_name(info.name)
        if info.role not in ROLES:
            raise ConfigError(f"The module {info.name!r} has the role {info.role!r}; allowed: {', '.join(ROLES)}.")
        if not info.components and not info.labels:  # a head alone is the feature-based baseline
            raise ConfigError(
                f"The module {info.name!r} has no components; choose a preset or name at least one module type."
            )
        self.info = info
        _require_role(info)
        _require_words(info)
        self.units: dict[str, dict[str, ModuleType]] = {}  # site -> component -> its unit
        found = {component: self._sites(component, config, sites) for component, config in info.components.items()}
        shared = {c: MODULE_TYPES.get(c).shared(info.components[c], acting) for c, acting in found.items()}
        for component, common in shared.items():
            if common is not None:
                self._place(f"shared.{component}", common)
        for site in sites.values():
            for component, config in info.components.items():
                if site in found[component]:
                    unit = MODULE_TYPES.get(component)(config, site)
                    self._require_readable(component, unit)
                    unit.take_common(shared[component])
                    self._place(f"{site.name}.{component}", unit)
                    self.units.setdefault(site.name, {})[component] = unit
        width = sites["encoder"].width
        self.head = nn.Linear(width, len(info.labels)) if info.labels else None
        self.pooling = Pooling(info.pooling, width) if info.labels else None

    def _require_readable(self, component: str, unit: ModuleType) -> None:
        """Raises ConfigError where a unit wants to read a tensor that its site does not have."""
        there = READS.get(unit.site.kind, frozenset())
        if lost := sorted(unit.reads - there):
            raise ConfigError(
                f"The module type {component!r} reads {', '.join(lost)} at {unit.site.name}, which is not there. A "
                f"site of the kind {unit.site.kind} has: {', '.join(sorted(there)) or 'its value alone'}."
            )

    def _sites(self, component: str, config: ComponentConfig, sites: dict[str, Site]) -> list[Site]:
        """The sites where a component acts; raises ConfigError where it acts at none, or at one of another class."""
        kind = MODULE_TYPES.get(component)
        found = [site for site in sites.values() if kind.acts_at(config, site)]
        if not found:
            raise ConfigError(
                f"The component {component!r} of module {self.info.name!r} acts at no site of this base: {config!r}. "
                "Change its settings (`leave_out`, `places`, `maps`), or drop the component."
            )
        for site in found:
            if site.kind not in kind.kinds:
                raise ConfigError(
                    f"The module type {component!r} is a {class_of(kind).__name__}, which acts at sites of the kind "
                    f"{', '.join(sorted(kind.kinds))}, but its acts_at() names {site.name} ({site.kind}): it would not "
                    "act there."
                )
        return found

    def _place(self, path: str, module: nn.Module) -> None:
        """Register a module so that its tensors are named path.tensor."""
        parent: nn.Module = self
        *steps, last = path.split(".")
        for step in steps:
            child = parent._modules.get(step)
            if child is None:
                child = nn.Module()
                # add_module would refuse a site that is named as one of this module's own attributes
                parent._modules[step] = child
            parent = child
        parent.add_module(last, module)

    @property
    def name(self) -> str:
        return self.info.name

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name, in a fixed order."""
        return dict(sorted(self.state_dict().items()))

    def packed_units(self) -> dict[str, ModuleType]:
        """The instances that are stored in a form of their own, by the beginning of their tensors' names."""
        return {
            f"{site}.{component}.": unit
            for site, units in self.units.items()
            for component, unit in units.items()
            if unit.packed
        }

    def start_of(self, unit: ModuleType) -> str:
        """The beginning of the names of the tensors of one of `packed_units`."""
        return next(start for start, each in self.packed_units().items() if each is unit)

    def push_to_hub(self, repository: str, **options: Any) -> Any:
        """Publish the module on the Hugging Face hub as `owner/name`; options and result are those of `madx.Hub.push`.

        >>> module.push_to_hub("juma/xlmr-swa", licence="cc-by-4.0")   # doctest: +SKIP
        """
        return provided("hub")().push(self, repository, **options)

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the head and of its pooling; none for a module without a head."""
        return [p for part in (self.head, self.pooling) if part is not None for p in part.parameters()]

    def parameter_count(self) -> int:
        """Trainable numbers, the head's included."""
        return sum(p.numel() for p in self.parameters())


def _require_role(info: ModuleInfo) -> None:
    """Raises ConfigError unless the role is `fusion` exactly when the components are of fusion types."""
    fusing = [c for c in info.components if issubclass(MODULE_TYPES.get(c), FusionType)]
    others = [c for c in info.components if c not in fusing]
    if fusing and (others or info.role != "fusion"):
        raise ConfigError(
            f"The module {info.name!r} has the role {info.role!r} and the components {', '.join(info.components)}. "
            f"{fusing[0]!r} joins other modules, so it stands alone in a module of role fusion: set role='fusion' "
            f"and drop {', '.join(others) or 'nothing'}; in train-task and train-language, name the modules to join by "
            "the setting fuse."
        )
    if info.role == "fusion" and not fusing:
        raise ConfigError(
            f"The module {info.name!r} has the role fusion, but {', '.join(others) or 'no component'} joins nothing: "
            "take a fusion type, or the role language or task."
        )


def _require_words(info: ModuleInfo) -> None:
    """Raises ConfigError for an unknown pooling, and for one other than `first` of a module without a head."""
    if check_pooling(info.pooling) != FIRST and not info.labels:
        raise ConfigError(
            f"The module {info.name!r} has the pooling {info.pooling!r}, but no labels, so no head reads words: "
            "leave pooling out, or give labels."
        )


def new_module(
    name: str,
    base: Base,
    *,
    role: str = "language",
    language: str | None = None,
    components: str | dict[str, dict[str, Any]] = "madx",
    task: str | None = None,
    labels: tuple[str, ...] = (),
    licence: str | None = None,
    pooling: str = FIRST,
) -> Module:
    """Make a fresh module for a base, on the base's device.

    components: a preset's name, or settings by module type (`madx.module.components`); labels: of a task module, one
    output of its head each; pooling: the pieces of a word that its head reads (`madx.module.pooling`). Raises
    ConfigError for unknown presets, module types, settings and poolings, and for components that act nowhere on this
    base.

    >>> new_module("swa", base, language="swa")                      # doctest: +SKIP
    >>> new_module("ner", base, role="task", components="pfeiffer", task="ner", labels=("O", "B-PER"))  # doctest: +SKIP
    """
    made = components_of(components)
    info = ModuleInfo(
        name=name,
        role=role,
        language=language,
        components=made,
        base=base.identity(),
        task=task,
        labels=tuple(labels),
        tokenizer=base.tokenizer_fingerprint,
        licence=licence,
        pooling=pooling,
    )
    module = Module(info, base.sites).to(base.device)
    for site, units in module.units.items():
        for unit in units.values():
            if unit.site.kind == "linear":
                unit.start(partial(base.matrix, site))
    return module
