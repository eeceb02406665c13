"""The contract of module types: five abstract classes, one for each way in which a module can act on a base.

    ChangeType     adds a change to what a site gives           layer.N.ffn, layer.N.attention, their linear maps, layer.N, encoder
    MapType        maps the embeddings, with an inverse          embeddings
    SlotsType      fills positions reserved before the tokens    slots, layer.N.slots
    WeightsType    adds deltas to the base's parameters          weights
    FusionType     joins the changes of several modules          sites of changes, in `fuse(a, b; f)`

How several units act together at a site follows from the class:

    rule       change               map                      slots                     weights              fusion
    stack      sum, each after      compose                  concatenate               sum                  as one change
               those before
    average    sum of w_i c_i       sum of w_i A_i(x)        sum of w_i v_i,           sum of w_i delta_i   sum of w_i c_i
                                    (no inverse)             lengths must agree
    route      each row its own     each row its own         padded and masked         separate passes      each row its own

A module type computes in torch alone. It never meets transformers or a model's name, so it is tested in milliseconds and
runs on every base whose sites are described in `madx.base.families`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from madx.config import Settings
from madx.contract.sites import Site, SiteKind
from madx.contract.views import Slots, View
from madx.errors import ConfigError
from madx.registry import Registry

MODULE_TYPES: Registry["ModuleType"] = Registry("module type")

#: what the change of one token depends on. token: on that token alone; row: on the tokens of its row, however the row is
#: padded and whatever its company; batch: on padding or on other rows as well
Scope = Literal["token", "row", "batch"]


def scope_of(steps: Iterable[Callable]) -> Scope:
    """The widest scope of some steps; a step that does not state its scope counts as `batch`."""
    scopes = {getattr(step, "scope", "batch") for step in steps}
    return "batch" if "batch" in scopes else "row" if "row" in scopes else "token"


class ComponentConfig(Settings):
    """Settings common to all module types."""

    leave_out: tuple[int, ...] = Field(
        default=(),
        strict=False,
        description="Layers without this component, counted from 0; negative ones from the end (-1: the last layer).",
    )

    def layers(self, depth: int) -> set[int]:
        """The layers of a base with `depth` layers where the component acts.

        Raises ConfigError when `leave_out` names a layer that the base does not have.
        """
        for layer in self.leave_out:
            if not -depth <= layer < depth:
                raise ConfigError(
                    f"leave_out names layer {layer}, but the base has {depth} layers: allowed are 0 to {depth - 1}, or "
                    f"-{depth} to -1 counted from the end."
                )
        return set(range(depth)) - {layer % depth for layer in self.leave_out}


class ModuleType(nn.Module, ABC):
    """What all five classes share: one instance (a unit) acts at one site.

    A file adds a module type by a `ComponentConfig` and a subclass of one of the five classes, registered with
    `@MODULE_TYPES.register("its_yaml_name")`. It is never sub-classed further.
    """

    Config: ClassVar[type[ComponentConfig]]
    name: ClassVar[str]  # set by the registry
    #: the kinds of sites where types of this class act
    kinds: ClassVar[frozenset[SiteKind]] = frozenset()
    #: tensors of the base that the unit asks its view for by `view.read(name)`; the engine keeps only what is listed
    reads: frozenset[str] = frozenset()
    #: what the change of one token depends on; decides whether the last layer may compute needed positions alone, and
    #: whether states of lower layers may be cached between batches
    scope: Scope = "row"
    #: False: no gradient has to flow through the base to train this type, so the base runs without
    backward: ClassVar[bool] = True
    #: whether it is stored in a form of its own (`pack`, `unpack`, `stored_faults`); else tensor by tensor
    packed: ClassVar[bool] = False

    def __init__(self, config: Any, site: Site):
        super().__init__()
        self.config, self.site = config, site

    @classmethod
    @abstractmethod
    def acts_at(cls, config: Any, site: Site) -> bool:
        """Whether a component with this config has a unit at the site."""

    @classmethod
    def shared(cls, config: Any, sites: Sequence[Site]) -> nn.Module | None:
        """Parameters that all units of one component share, stored once; `sites` are those where the component acts. Each
        unit finds them as `self.common`."""
        return None

    @property
    def common(self) -> Any:
        """What `shared` gave for this unit's component; None for a type that shares nothing."""
        return self.__dict__.get("_common")

    def take_common(self, common: nn.Module | None) -> None:
        """Remember the shared parameters without owning them: they are stored and trained as the module's, not the unit's."""
        self.__dict__["_common"] = common

    @abstractmethod
    def describe(self) -> str:
        """A few words for `engine.explain()`: the sizes and the switches that differ from the default."""

    # ---- training; nothing needs to be overridden ------------------------------------------------------------------

    def begin(self, step: int, seed: int) -> None:
        """A training step begins. Whatever is random in it must be a function of `seed` and `step`, so that a resumed run
        ends with the same weights."""
        return None

    def penalty(self) -> Tensor | None:
        """A term that is added to the loss of each step, a scalar that depends on parameters alone; None: no penalty."""
        return None

    def prepare(self, gradients: dict[str, Tensor]) -> None:
        """Called once before the first step with the gradients of the first batch, by parameter name within the unit.
        A type that does not override it costs nothing."""
        return None

    def settle(self) -> None:
        """Called once when training has ended, before the module is stored."""
        return None

    # ---- the stored form -------------------------------------------------------------------------------------------

    def pack(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The stored form: tensors by name, floating-point numbers in `dtype` or in fewer bits where that loses nothing."""
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in self.state_dict().items()}

    def unpack(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of `state_dict()` from the stored form; raises StoreError for anything but what `pack` writes."""
        return stored

    @classmethod
    def stored_faults(cls, stored: dict[str, Tensor]) -> list[str]:
        """The faults of a stored form, as far as they can be found without a base."""
        return []


class ChangeType(ModuleType):
    """Adds a change: value <- value + forward(view).

    `forward` gets a view of the site (`Sublayer`, `Projection` or `LayerOutput` of `madx.contract.views`) and returns the
    change of `view.value`, with its shape. It writes nothing.
    """

    kinds = frozenset({"sublayer", "linear", "layer", "encoder"})

    @property
    def final_norm(self) -> bool:
        """At a sublayer: whether the sublayer ends with residual and LN, as the base does; False: it gives h itself. In a
        stack the last unit decides; modules that differ in it cannot be averaged."""
        return True

    @abstractmethod
    def forward(self, view: Any) -> Tensor:
        """The change of `view.value`, `(batch, positions, width)`."""


class MapType(ModuleType):
    """Maps the output of the embedding block: x <- forward(x), `(..., width)`."""

    kinds = frozenset({"embeddings"})
    scope: Scope = "token"

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A(x), `(..., width)`."""

    def inverse(self, y: Tensor) -> Tensor | None:
        """A^-1(y), `(..., width)`, which is applied before the masked-LM decoder. None: the map has no inverse, and masked
        words cannot be predicted with it."""
        return None


class SlotsType(ModuleType):
    """Fills `length` positions that are reserved before the tokens.

    At the site `slots`, `forward` returns vectors `(length, width)`, which take part in attention as tokens do. At
    `layer.N.slots` it returns keys and values of that layer's attention, `(length, width)` each.
    """

    kinds = frozenset({"slots"})

    @property
    @abstractmethod
    def length(self) -> int:
        """How many positions it fills; the same at all sites of a component."""

    @abstractmethod
    def forward(self, view: Slots) -> Tensor | tuple[Tensor, Tensor]:
        """Vectors, or keys and values; see above."""


@dataclass(frozen=True)
class Delta:
    """What is added to one parameter of the encoder.

    Args:
        parameter: its name in the encoder.
        values: at `indices`: `(entries,)`; without indices: for the whole parameter, in its shape.
        indices: `indices - offset` `(entries,)` count through the flattened (row-major) parameter, ascending and each once;
            None: the delta is dense.
        offset: spares a copy of indices that count through several parameters.
    """

    parameter: str
    values: Tensor
    indices: Tensor | None = None
    offset: int = 0

    def places(self) -> Tensor:
        """Indices into the flattened parameter, `(entries,)` in int64."""
        if self.indices is None:
            return torch.arange(self.values.numel(), device=self.values.device)
        return self.indices.long() - self.offset


class WeightsType(ModuleType):
    """Acts through the base's parameters: theta = theta_0 + delta. Its site is `weights`.

    The engine adds the deltas when a composition is activated, and restores theta_0 exactly when it is deactivated. Training
    asks for gradients of the base's parameters and hands them to `pull`.
    """

    kinds = frozenset({"weights"})

    @classmethod
    def acts_at(cls, config: ComponentConfig, site: Site) -> bool:
        return site.kind == "weights"

    @abstractmethod
    def deltas(self) -> list[Delta]:
        """The deltas it holds, at most one for a parameter."""

    def state(self) -> list[Tensor]:
        """The tensors that the deltas are made of: as long as these are the same and unchanged, so are the deltas."""
        shared = self.common
        more = [*shared.parameters(), *shared.buffers()] if isinstance(shared, nn.Module) else []
        return [*self.parameters(), *self.buffers(), *more]

    def touches(self) -> list[str]:
        """Names of the parameters that its deltas may change; in training their gradients are computed."""
        return [delta.parameter for delta in self.deltas()]

    def pull(self, parameter: str, gradient: Tensor) -> None:
        """Add to the gradients of the type's own parameters what follows from `gradient`, the gradient of the loss by one
        parameter of the encoder: with delta = D(phi), grad(phi) += (dD/dphi)^T gradient.

        By default this is computed by differentiating `deltas()`.
        """
        with torch.enable_grad():
            for delta in self.deltas():
                if delta.parameter != parameter or not delta.values.requires_grad:
                    continue
                wanted = gradient if delta.indices is None else gradient.reshape(-1)[delta.places()]
                delta.values.backward(wanted.to(delta.values.dtype).view_as(delta.values))


class FusionType(ModuleType):
    """Joins the changes of several modules, in a composition `fuse(a, b; f)`: value <- value + forward(view, changes)."""

    kinds = frozenset({"sublayer", "linear", "layer"})

    @abstractmethod
    def forward(self, view: Any, changes: Sequence[Tensor]) -> Tensor:
        """The change of `view.value`; changes: those that the children would make, `(batch, positions, width)` each."""


CLASSES: tuple[type[ModuleType], ...] = (ChangeType, MapType, SlotsType, WeightsType, FusionType)


def class_of(kind: type[ModuleType]) -> type[ModuleType]:
    """Which of the five classes a module type extends. Raises ConfigError for one that extends none of them."""
    for base in CLASSES:
        if issubclass(kind, base):
            return base
    raise ConfigError(
        f"The module type {getattr(kind, 'name', kind.__name__)!r} extends none of the five classes of the contract: "
        f"{', '.join(c.__name__ for c in CLASSES)}. See docs/architecture.md, 'A new module type'."
    )


def acts_on_weights(name: str) -> bool:
    """Whether the registered module type of that name acts through the base's parameters."""
    return issubclass(MODULE_TYPES.get(name), WeightsType)


__all__ = [
    "CLASSES",
    "MODULE_TYPES",
    "ChangeType",
    "ComponentConfig",
    "Delta",
    "FusionType",
    "MapType",
    "ModuleType",
    "Scope",
    "SlotsType",
    "View",
    "WeightsType",
    "acts_on_weights",
    "class_of",
    "scope_of",
]
