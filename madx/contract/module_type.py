"""The contract of module types: five abstract classes, one for each way in which a module can act on a base.

    ChangeType    adds a change to the output of a site         layer.N.{attention,ffn}, linear maps, layer.N, encoder
    MapType       maps the embeddings, with an inverse          embeddings
    SlotsType     fills positions reserved before the tokens    slots, layer.N.slots
    WeightsType   adds weight deltas to the base's parameters   weights
    FusionType    joins the changes of several modules          sites of changes, in `fuse(a, b; f)`

The class decides how several units act together at a site:

    rule       change              map                 slots                weights              fusion
    stack      sum, each after     compose             concatenate          sum                  as one change
               those before it
    average    sum of w_i c_i      sum of w_i A_i(x)   sum of w_i v_i,      sum of w_i delta_i   sum of w_i c_i
                                   (no inverse)        lengths must agree
    route      by rows             by rows             padded and masked    separate passes      by rows

A module type needs torch alone. It knows neither transformers nor the name of a model, so it is tested in milliseconds
and runs on every base whose sites are described in `madx.base.families`.
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

#: The input that the change of one token depends on. token: that token alone; row: the tokens of its row, but neither
#: the padding nor the other rows of the batch; batch: padding or other rows as well.
Scope = Literal["token", "row", "batch"]


def scope_of(steps: Iterable[Callable[..., Any]]) -> Scope:
    """Return the widest scope of some steps; a step that does not state its scope counts as `batch`."""
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
        """Return the layers where the component acts, for a base with `depth` layers.

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
    """The common base of the five classes. One instance, called a unit, acts at one site.

    A file adds a module type by a `ComponentConfig` and a subclass of one of the five classes, registered with
    `@MODULE_TYPES.register("its_yaml_name")`. The subclass is final.
    """

    Config: ClassVar[type[ComponentConfig]]
    name: ClassVar[str]  # set by the registry
    #: The kinds of sites where types of this class act.
    kinds: ClassVar[frozenset[SiteKind]] = frozenset()
    #: Tensors of the base that the unit reads by `view.read(name)`; the engine keeps only those that are listed.
    reads: frozenset[str] = frozenset()
    #: The input that the change of one token depends on. It decides if the last layer may compute the needed positions
    #: alone, and if the states of lower layers may be cached between batches.
    scope: Scope = "row"
    #: False: training this type needs no gradient through the base, so the base runs without gradients.
    backward: ClassVar[bool] = True
    #: True: the type has its own stored form (`pack`, `unpack`, `stored_faults`). False: it is stored tensor by tensor.
    packed: ClassVar[bool] = False

    def __init__(self, config: Any, site: Site):
        super().__init__()
        self.config, self.site = config, site

    @classmethod
    @abstractmethod
    def acts_at(cls, config: Any, site: Site) -> bool:
        """Return true if a component with this config has a unit at the site."""

    @classmethod
    def shared(cls, config: Any, sites: Sequence[Site]) -> nn.Module | None:
        """Make the parameters that all units of one component share. They are stored once.

        sites: the sites where the component acts. Each unit finds the parameters as `self.common`.
        """
        return None

    @property
    def common(self) -> Any:
        """The parameters that `shared` made for this unit's component; None for a type that shares nothing."""
        return self.__dict__.get("_common")

    def take_common(self, common: nn.Module | None) -> None:
        """Refer to the shared parameters without owning them: the module stores and trains them."""
        self.__dict__["_common"] = common

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Start from the base: called once for a fresh unit at a linear map; nothing needs to be done.

        weight: gives the base's own matrix there, `(width, input width)`, without weight deltas.
        """
        return None

    @abstractmethod
    def describe(self) -> str:
        """Describe the unit for `engine.explain()` in a few words: its sizes and the settings that are not defaults."""

    # ---- training; nothing needs to be overridden ------------------------------------------------------------------

    def begin(self, step: int, seed: int) -> None:
        """Begin a training step.

        Everything random in the step must be a function of `seed` and `step`, so that a resumed run ends with the same
        weights.
        """
        return None

    def consistency(self) -> float:
        """Return the weight of a term of the loss that keeps two passes of a step consistent; 0: no second pass.

        Each batch is then computed with two draws (`use_draw`), and half the sum of the two KL divergences between the
        predictions is added to its loss with this weight; see `madx.training.consistency`.
        """
        return 0.0

    def use_draw(self, number: int) -> None:
        """Choose which draw of the step acts from now on: 0, which `begin` chooses, or 1 in a second pass."""
        return None

    def penalty(self) -> Tensor | None:
        """Return a scalar to add to the loss of each step, which depends on parameters alone; None: no penalty."""
        return None

    def prepare(self, gradients: dict[str, Tensor]) -> Literal["same batch", "next batch"] | None:
        """Prepare for training; called before the first step, with the gradients of the first batch.

        A unit that returns the name of a batch is called once more when all units have had their turn, with the
        gradients of that batch at the parameters as they are then. So units can compare what they hold, by what they
        share, measure how gradients change, and take some steps of their own. While one unit asks for the same batch,
        all get it.

        gradients: by parameter name within the unit. They are computed only for types that override this method.
        """
        return None

    def settle(self) -> None:
        """Finish training; called once when training has ended, before the module is stored."""
        return None

    # ---- the stored form -------------------------------------------------------------------------------------------

    def pack(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the stored form: tensors by name; floating-point numbers in `dtype`, or in fewer bits if exact."""
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in self.state_dict().items()}

    def unpack(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of `state_dict()` from the stored form.

        Raises StoreError for anything that `pack` does not write.
        """
        return stored

    @classmethod
    def stored_faults(cls, stored: dict[str, Tensor]) -> list[str]:
        """Return the faults of a stored form that can be found without a base."""
        return []


class ChangeType(ModuleType):
    """Adds a change: value <- value + forward(view).

    `forward` gets a view of the site (`Sublayer`, `Projection` or `LayerOutput` of `madx.contract.views`) and returns
    the change of `view.value`, in the same shape. It writes nothing.
    """

    kinds = frozenset({"sublayer", "linear", "layer", "encoder"})
    #: True: at a linear map, the changed output is an affine function of the map's input as long as the unit is in
    #: evaluation: W' x + b'. The engine can then merge the unit into the base (`madx.engine.merge`).
    affine: bool = False

    @property
    def final_norm(self) -> bool:
        """True: the sublayer ends with residual and LN, as in the base. False: it returns h itself.

        In a stack the last unit decides. Modules that differ in it cannot be averaged.
        """
        return True

    @abstractmethod
    def forward(self, view: Any) -> Tensor:
        """Return the change of `view.value`, `(batch, positions, width)`."""


class MapType(ModuleType):
    """Maps the output of the embedding block: x <- A(x) = forward(x), `(..., width)`."""

    kinds = frozenset({"embeddings"})
    scope: Scope = "token"

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return A(x), `(..., width)`."""

    def inverse(self, y: Tensor) -> Tensor | None:
        """Return A^-1(y), `(..., width)`, which is applied before the masked-LM decoder.

        None: the map has no inverse, and masked words cannot be predicted with it.
        """
        return None


class SlotsType(ModuleType):
    """Fills `length` positions that are reserved before the tokens.

    At the site `slots`, `forward` returns vectors `(length, width)`, which take part in attention as tokens do. At
    `layer.N.slots` it returns keys and values of that layer's attention, `(length, width)` each, or
    `(batch, length, width)` if they differ between rows.
    """

    kinds = frozenset({"slots"})

    @property
    def moves_tokens(self) -> bool:
        """True: the tokens count their positions on behind these slots. False: they keep their own positions."""
        return False

    def require_room(self) -> None:
        """Raise ConfigError if the slots leave no room for text; a type calls it once its length is known."""
        positions = self.site.positions
        if positions is not None and self.length >= positions:
            raise ConfigError(
                f"{self.name}.length is {self.length}, but the longest input of this base has {positions} positions, "
                f"so no room is left for text. Give a length below {positions}."
            )

    @property
    @abstractmethod
    def length(self) -> int:
        """The number of positions that it fills; it is the same at all sites of a component."""

    @abstractmethod
    def forward(self, view: Slots) -> Tensor | tuple[Tensor, Tensor]:
        """Return vectors, or keys and values, as described above."""


@dataclass(frozen=True)
class Delta:
    """The weight delta of one parameter of the encoder.

    Args:
        parameter: its name in the encoder.
        values: with indices `(entries,)`; without them one value for each weight, in the parameter's shape.
        indices: `(entries,)`, ascending, each once; `indices - offset` are places in the flattened (row-major)
            parameter. None: the delta is dense.
        offset: avoids a copy of indices that count through several parameters.
    """

    parameter: str
    values: Tensor
    indices: Tensor | None = None
    offset: int = 0

    def places(self) -> Tensor:
        """Return indices into the flattened parameter, `(entries,)` in int64."""
        if self.indices is None:
            return torch.arange(self.values.numel(), device=self.values.device)
        return self.indices.long() - self.offset


class WeightsType(ModuleType):
    """Acts through the base's parameters: theta = theta_0 + delta. Its site is `weights`.

    The engine adds the deltas when a composition is activated, and restores theta_0 exactly when another one replaces
    it. Training computes gradients of the base's parameters and passes them to `pull`.
    """

    kinds = frozenset({"weights"})

    @classmethod
    def acts_at(cls, config: ComponentConfig, site: Site) -> bool:
        return site.kind == "weights"

    @abstractmethod
    def deltas(self) -> list[Delta]:
        """Return the deltas that it holds, at most one for each parameter."""

    def state(self) -> list[Tensor]:
        """Return the tensors that the deltas are computed from: the deltas change only if one of these changes."""
        shared = self.common
        more = [*shared.parameters(), *shared.buffers()] if isinstance(shared, nn.Module) else []
        return [*self.parameters(), *self.buffers(), *more]

    def touches(self) -> list[str]:
        """Return the names of the parameters that its deltas may change; training computes their gradients."""
        return [delta.parameter for delta in self.deltas()]

    def pull(self, parameter: str, gradient: Tensor) -> None:
        """Add to the gradients of the type's own parameters: with delta = D(phi), grad(phi) += (dD/dphi)^T gradient.

        By default this is computed by differentiating `deltas()`.

        Args:
            parameter: the name of a parameter of the encoder.
            gradient: the gradient of the loss with respect to it, in its shape.
        """
        with torch.enable_grad():
            for delta in self.deltas():
                if delta.parameter != parameter or not delta.values.requires_grad:
                    continue
                wanted = gradient if delta.indices is None else gradient.reshape(-1)[delta.places()]
                delta.values.backward(wanted.to(delta.values.dtype).view_as(delta.values))


class FusionType(ModuleType):
    """Joins the changes of several modules in `fuse(a, b; f)`: value <- value + forward(view, changes)."""

    kinds = frozenset({"sublayer", "linear", "layer"})

    @abstractmethod
    def forward(self, view: Any, changes: Sequence[Tensor]) -> Tensor:
        """Return the change of `view.value`.

        changes: the changes that the children would make, `(batch, positions, width)` each; a child without a unit
            here makes none.
        """

    def child_weights(self, view: Any, changes: Sequence[Tensor]) -> Tensor | None:
        """Return the weight of each child, `(batch, positions, children)`, which `engine.explain()` shows.

        None: the type has no such weights.
        """
        return None

    @classmethod
    def fitted(cls, config: Any, sites: Sequence[Site]) -> Any:
        """Return the config of a component that joins modules which act at these sites; training asks for it."""
        return config


CLASSES: tuple[type[ModuleType], ...] = (ChangeType, MapType, SlotsType, WeightsType, FusionType)


def class_of(kind: type[ModuleType]) -> type[ModuleType]:
    """Return the class of the five that a module type extends. Raises ConfigError for a type that extends none."""
    for base in CLASSES:
        if issubclass(kind, base):
            return base
    raise ConfigError(
        f"The module type {getattr(kind, 'name', kind.__name__)!r} extends none of the five classes of the contract: "
        f"{', '.join(c.__name__ for c in CLASSES)}. See docs/architecture.md, 'A new module type'."
    )


def acts_on_weights(name: str) -> bool:
    """Return true if the registered module type of that name acts through the base's parameters."""
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
