"""The contract of module types: where a module acts (`Site`), what it sees there (`Sublayer`), and what it is (`ModuleType`).

Two families: "activations" compute something at a site during the forward pass; "weights" add a difference to the base's
parameters once, and nothing is left to compute.

A module type computes in torch alone. It never meets transformers or a model's name, so that it is tested in
milliseconds and runs on every base whose sites are described in `madx.base.families`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from madx.config import Settings
from madx.errors import ConfigError
from madx.registry import Registry

MODULE_TYPES: Registry["ModuleType"] = Registry("module type")

SiteKind = Literal["weights", "embeddings", "sublayer"]


@dataclass(frozen=True)
class BaseParameter:
    """A parameter of the encoder: its name and shape there, the group it lies in, its layer counted from 0 (None outside
    the layers), and whether it is a weight matrix, a bias or belongs to a layer norm."""

    name: str
    shape: tuple[int, ...]
    group: Literal["embeddings", "layers", "other"]
    layer: int | None
    kind: Literal["weight", "bias", "norm"]

    @property
    def numel(self) -> int:
        """Numbers in it."""
        return prod(self.shape)


@dataclass(frozen=True)
class Site:
    """A named place in the base where a module can act.

    name: `weights`, `embeddings`, `layer.3.ffn`, `layer.3.attention`; width: numbers per token there (at `parameters`
    the width of the layers); layer: counted from 0 (None outside the layers); place: `ffn` or `attention` (None outside
    the layers); depth: layers of the base; parameters: all of the encoder's, sorted by name (at `weights` alone).
    """

    name: str
    kind: SiteKind
    width: int
    depth: int
    layer: int | None = None
    place: str | None = None
    parameters: tuple[BaseParameter, ...] = ()


class Sublayer:
    """What a module sees at a sublayer (an attention or feed-forward block with its residual connection).

    With h the block's output and x the residual stream, the base computes LN(h + x) (post-norm) or h + x (pre-norm,
    where `norm` is the identity). Modules change h; a module sees h after the modules before it in the stack.
    All tensors are `(batch, tokens, width)`.
    """

    __slots__ = ("sum", "norm", "change", "final_norm", "_captured")

    def __init__(self, sum: Tensor, norm: Callable[[Tensor], Tensor], captured: Mapping[str, Tensor]):
        self.sum, self.norm, self._captured = sum, norm, captured
        self.change: Tensor | None = None  # what the modules so far added to h
        #: False: the sublayer gives h itself, without residual and norm; `(batch,)` where rows differ in this
        self.final_norm: bool | Tensor = True

    @property
    def residual(self) -> Tensor:
        """x, the residual stream that the block's output is added to."""
        return self._captured["residual"]

    @property
    def input(self) -> Tensor:
        """What the block reads: x in a post-norm base, LN(x) in a pre-norm base."""
        return self._captured["input"]

    @property
    def output(self) -> Tensor:
        """h, the block's output, with the changes made so far."""
        h = self._captured["output"]
        return h if self.change is None else h + self.change

    def add(self, change: Tensor) -> None:
        """h <- h + change."""
        self.sum = self.sum + change
        self.change = change if self.change is None else self.change + change

    def run(self, steps: Iterable[Callable]) -> Tensor | None:
        """The sum of the changes of some steps, each made after those before it; None without steps. The last one is not
        added here, for what `fork` or `rows` gave is not looked at again."""
        total = delta = None
        for step in steps:
            if delta is not None:
                self.add(delta)
            delta = step(self)
            total = delta if total is None else total + delta
        return total

    def fork(self) -> "Sublayer":
        """The same state to run another branch from; changes to one are not seen by the other."""
        twin = Sublayer(self.sum, self.norm, self._captured)
        twin.change, twin.final_norm = self.change, self.final_norm
        return twin

    def rows(self, first: int, last: int) -> "Sublayer":
        """The same state of the rows from the first to before the last."""
        component = Sublayer(self.sum[first:last], self.norm, _SomeRows(self._captured, first, last))
        component.change = None if self.change is None else self.change[first:last]
        component.final_norm = self.final_norm if isinstance(self.final_norm, bool) else self.final_norm[first:last]
        return component

    def result(self) -> Tensor:
        """What the sublayer gives: LN(h + x), or h where a module says so."""
        if isinstance(self.final_norm, bool):
            return self.norm(self.sum) if self.final_norm else self.output
        return torch.where(self.final_norm[:, None, None], self.norm(self.sum), self.output)


class _SomeRows(Mapping):
    """Neighbouring rows of captured tensors, cut only when they are read."""

    def __init__(self, captured: Mapping[str, Tensor], first: int, last: int):
        self.captured, self.first, self.last = captured, first, last

    def __getitem__(self, what: str) -> Tensor:
        return self.captured[what][self.first : self.last]

    def __iter__(self) -> Iterator[str]:
        return iter(self.captured)

    def __len__(self) -> int:
        return len(self.captured)


def all_tokenwise(steps: Iterable[Callable]) -> bool:
    """Whether all steps are `tokenwise`; one that does not say so is not."""
    return all(getattr(step, "tokenwise", False) for step in steps)


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
    """How a module acts: one instance acts at one site.

    A file adds a module type by a `ComponentConfig` and a subclass of this class registered with
    `@MODULE_TYPES.register("its_yaml_name")`.
    """

    Config: ClassVar[type[ComponentConfig]]
    #: "activations": computes something at a site during the forward pass; "weights": see `WeightsType`
    family: ClassVar[Literal["activations", "weights"]] = "activations"
    #: which tensors of `Sublayer` beyond `sum` it reads; the engine captures only what is read
    reads: frozenset[str] = frozenset()
    #: whether what it does to a token at a sublayer hangs on that token alone, so that it can be asked about some of them
    tokenwise: bool = False
    #: whether it is stored in a form of its own (`pack`, `unpack`, `stored_faults`); else tensor by tensor
    packed: ClassVar[bool] = False

    def __init__(self, config: ComponentConfig, site: Site):
        super().__init__()
        self.config, self.site = config, site

    @classmethod
    @abstractmethod
    def acts_at(cls, config: ComponentConfig, site: Site) -> bool:
        """Whether a component with this config has an instance at the site."""

    @abstractmethod
    def describe(self) -> str:
        """A few words for `engine.explain()`: the sizes and the switches that differ from the default."""

    def pack(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The stored form: tensors by name, floating-point numbers in `dtype` or in fewer bits where that loses nothing."""
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in self.state_dict().items()}

    def unpack(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of `state_dict()` from the stored form; raises StoreError for anything but what `pack` writes."""
        return stored

    @classmethod
    def stored_faults(cls, stored: dict[str, Tensor]) -> list[str]:
        """What is wrong with a stored form as far as can be told without a base."""
        return []


@dataclass(frozen=True)
class Delta:
    """What is added to one parameter of the encoder: values `(entries,)` at `indices - offset` `(entries,)`, which count
    through the flattened (row-major) parameter, ascending and each once. The offset spares a copy of global indices."""

    parameter: str
    indices: Tensor
    values: Tensor
    offset: int = 0

    def places(self) -> Tensor:
        """Indices into the flattened parameter, `(entries,)` in int64."""
        return self.indices.long() - self.offset


class WeightsType(ModuleType):
    """A module type that acts through the base's parameters: theta = theta_0 + delta. Its site is `weights`."""

    family = "weights"

    @classmethod
    def acts_at(cls, config: ComponentConfig, site: Site) -> bool:
        return site.kind == "weights"

    @abstractmethod
    def deltas(self) -> list[Delta]:
        """The differences it holds, at most one for a parameter."""

    @abstractmethod
    def state(self) -> list[Tensor]:
        """The tensors that the differences are made of: as long as these are the same and unchanged, so are those."""
