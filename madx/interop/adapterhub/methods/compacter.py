"""Compacter: the module type `compacter`. There it is a bottleneck whose config says `phm_layer`.

    phm_dim, phm_rank         dimension, rank; without factorized_phm_W the rank is "full"
    shared_phm_rule           shared_rule; the rules are stored once as shared_parameters.NAME.phm_rule
    W_left, W_right, W, b     left, right, weight, bias of `down` and of `up`

All other switches are those of a bottleneck.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from madx.errors import ConfigError
from madx.interop.adapterhub.methods.activations import ACTIVATIONS_OUT
from madx.interop.adapterhub.methods.bottleneck import (
    BottleneckSchema,
    read_frame,
    read_rest,
    sublayer_link,
    write_frame,
)
from madx.interop.adapterhub.methods.method import (
    Link,
    Method,
    Reading,
    Source,
    Surroundings,
    Target,
    note,
    validated,
)
from madx.module.presets import make_components

WORDS = {"left": "W_left", "right": "W_right", "weight": "W", "bias": "b", "rule": "phm_rule"}


class CompacterSchema(BottleneckSchema):
    """Their config of a bottleneck with PHM layers, with the defaults of `adapters`."""

    phm_layer: Literal[True] = True
    phm_dim: int = Field(default=4, ge=1, le=256)
    phm_rank: int = Field(default=1, ge=1, le=1 << 16)
    factorized_phm_W: bool = True
    shared_W_phm: bool = False
    shared_phm_rule: bool = True
    factorized_phm_rule: bool = False
    learn_phm: bool = True
    phm_bias: bool = True
    phm_c_init: str = "normal"
    phm_init_range: float = 0.0001
    hypercomplex_nonlinearity: str = "glorot-uniform"


class CompacterMethod(Method):
    """Bottlenecks of parametrized hypercomplex multiplications, in all layouts."""

    components: ClassVar = ("compacter",)

    def read(self, config: dict[str, Any], source: Source) -> Reading:
        """The component `compacter`, and `invertible` if the config has one."""
        theirs, reading = validated(CompacterSchema, config), Reading()
        _refuse(theirs)
        if (settings := read_frame(theirs, source.depth, reading)) is not None:
            settings |= {
                "dimension": theirs.phm_dim,
                "rank": theirs.phm_rank if theirs.factorized_phm_W else "full",
                "shared_rule": theirs.shared_phm_rule,
            }
            reading.components |= make_components({"compacter": settings})
        read_rest(theirs, reading)
        note(reading, "learn_phm false", not theirs.learn_phm, "the rules are here; they would be trained further")
        return reading

    def write(self, components: Mapping[str, Any], target: Target) -> tuple[dict[str, Any], list[str]]:
        """Their config."""
        ours, faults = components["compacter"], []
        if ours.activation not in ACTIVATIONS_OUT:
            faults.append(f"the activation {ours.activation!r} has no name there")
        config = write_frame(ours, target.depth, faults) | {
            "non_linearity": ACTIVATIONS_OUT.get(ours.activation, "gelu"),
            "phm_dim": ours.dimension,
            "phm_rank": 1 if ours.rank == "full" else ours.rank,
            "factorized_phm_W": ours.rank != "full",
            "shared_phm_rule": ours.shared_rule,
        }
        return CompacterSchema(**config).model_dump(), faults

    def links(self, component: str, config: Any, *, tensors: dict[str, Tensor], around: Surroundings) -> list[Link]:
        """One link for each tensor, and one for the shared rules."""
        found = []
        for name, tensor in tensors.items():
            if name.startswith("shared."):
                found.append(Link(f"shared_parameters.{around.owner}.phm_rule", (name,), tuple(tensor.shape)))
            else:
                found.append(sublayer_link(name, tensor, config, around, words=WORDS))
        return found


def _refuse(theirs: CompacterSchema) -> None:
    """Raises ConfigError for a variant that the module type does not have."""
    for switch, only in (("shared_W_phm", False), ("factorized_phm_rule", False), ("phm_bias", True)):
        if getattr(theirs, switch) != only:
            raise ConfigError(
                f"This Compacter has {switch}={str(not only).lower()}; read is {switch}={str(only).lower()} alone, the "
                "default of adapters. Nothing was loaded. Train it with the default."
            )
