"""The contract of an adapter method of AdapterHub: its config and its tensors, both ways."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError
from torch import Tensor

from madx.config import Settings
from madx.contract.module_type import ComponentConfig
from madx.errors import ConfigError, did_you_mean
from madx.interop.adapterhub.layouts import Layout

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Source:
    """Facts about a file that decide how a config in it is read.

    Args:
        depth: layers of the base.
        version: of the file; None before the first version.
        role: `text_lang` or `text_task`, in old files.
        has_invertible: True if the weights hold an invertible component, which old configs do not say truthfully.
    """

    depth: int
    version: str | None = None
    role: str | None = None
    has_invertible: bool = False


@dataclass
class Reading:
    """Settings of our components, and pairs (their setting, why it was ignored)."""

    components: dict[str, ComponentConfig] = field(default_factory=dict)
    ignored: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """The base that a config is written for: the number of its layers and its width."""

    depth: int
    width: int


@dataclass(frozen=True)
class Link:
    """A tensor of a file and the tensors of a module that hold the same numbers.

    Args:
        theirs: key in the file, without the model's prefix.
        ours: names in the module.
        shape: of the tensor in the file.
        copies: further keys under which a file may hold the same tensor.
        written: those of `copies` that are written too.
        also: further tensors of the file that hold these numbers together with `theirs`: shape by key.
        unused: the reason why the file holds a tensor without a counterpart in the module (`ours` is empty).
        read: gives our tensors from theirs, which are `theirs` and then those of `also`.
        write: gives their tensor from ours, or a tuple of all of theirs.
    """

    theirs: str
    ours: tuple[str, ...]
    shape: tuple[int, ...]
    copies: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    also: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unused: str = ""
    read: Callable[..., Sequence[Tensor]] = lambda value: [value]
    write: Callable[[Sequence[Tensor]], Tensor | tuple[Tensor, ...]] = lambda values: values[0]

    @classmethod
    def of_nothing(cls, theirs: str, value: Tensor, why: str) -> "Link":
        """A tensor that the format demands and nothing uses; `value` is written for it."""
        return cls(
            theirs, (), tuple(value.shape), unused=why, read=lambda value: [], write=lambda values: value.clone()
        )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all of their tensors, by key."""
        return {self.theirs: self.shape, **self.also}


@dataclass(frozen=True)
class Surroundings:
    """Facts that decide how the tensors of a file are called and what they mean.

    Args:
        layout: of the model class.
        owner: name of the adapter in the file.
        depth: layers of the base.
        weight: gives the base's matrix `(width, input width)` at the site of a linear map.
    """

    layout: Layout
    owner: str
    depth: int
    weight: Callable[[str], Tensor]


class Method(ABC):
    """One adapter method: the counterpart of one or more module types."""

    #: module types that one config of this method can stand for
    components: ClassVar[tuple[str, ...]]

    @abstractmethod
    def read(self, config: dict[str, Any], source: Source) -> Reading:
        """Settings of our components. Raises ConfigError for a setting that is unknown or makes no sense."""

    @abstractmethod
    def write(self, components: Mapping[str, Any], target: Target) -> tuple[dict[str, Any], list[str]]:
        """Their config for our components, and the faults: what the config cannot express."""

    @abstractmethod
    def links(self, component: str, config: Any, *, tensors: dict[str, Tensor], around: Surroundings) -> list[Link]:
        """The links of all tensors of one component.

        Args:
            component: its module type.
            config: its settings.
            tensors: its tensors by their names in the module; their values do not matter.
        """


def validated(schema: type[S], config: dict[str, Any]) -> S:
    """Their config as typed settings. Raises ConfigError with all faults at once."""
    try:
        return schema.model_validate(config)
    except ValidationError as error:
        faults = "\n  ".join(_faults(error, list(schema.model_fields)))
        raise ConfigError(f"The config of this adapter cannot be read:\n  {faults}") from None


def _faults(error: ValidationError, known: list[str]) -> list[str]:
    faults = []
    for fault in error.errors():
        key = ".".join(map(str, fault["loc"]))[:80]
        hint = (
            f"; {did_you_mean(key, known)}" if fault["type"] == "extra_forbidden" else f", got {short(fault['input'])}"
        )
        faults.append(f"{key}: {fault['msg']}{hint}")
    return faults[:20]


def layers_left_out(leave_out: list[int], depth: int, reading: Reading) -> list[int]:
    """The layers of the base that `leave_out` names; other numbers leave out nothing there and are reported."""
    if other := sorted({i for i in leave_out if not 0 <= i < depth}):
        why = f"no layer has that number (0-{depth - 1}), and there they leave out nothing"
        reading.ignored.append((f"leave_out {short(other)}", why))
    return sorted({i for i in leave_out if 0 <= i < depth})


def require_layers(left_out: list[int], depth: int) -> None:
    """Raises ConfigError if every layer is left out."""
    if len(left_out) == depth:
        raise ConfigError("leave_out names every layer of the base, so this adapter would do nothing.")


def note(reading: Reading, name: str, value: Any, why: str) -> None:
    """Report a setting that is ignored, unless it has no value."""
    if value not in (None, False):
        reading.ignored.append((name, why))


def short(value: Any) -> str:
    """A foreign value for a message: as Python would print it, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
