"""AdapterFusion layers: the module type `fusion`. They lie in files of their own (`madx.interop.adapterhub.fusion`).

Their switches and our settings, with h the sublayer's output and x the residual stream:

    key, query, value      the same; their bias of the keys adds one number to all scores, so it is not kept
    query_before_ln        reads "output" (h); false: what the last joined adapter reads, "sum_norm" of a Pfeiffer one
    regularization         true: 0.01
    temperature            of training alone: a file does not hold it, and a loaded layer would begin at 50 again
    value_before_softmax   no difference, because the values are linear
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from madx.config import Settings
from madx.errors import ConfigError
from madx.interop.adapterhub.methods.method import (
    Link,
    Method,
    Reading,
    Source,
    Surroundings,
    Target,
    note,
    short,
    validated,
)
from madx.module.presets import make_components

#: their names of two configs
NAMED: dict[str, dict[str, Any]] = {
    "static": {"value": False, "regularization": False, "value_initialized": False},
    "dynamic": {},
}
#: the factor of their regularisation
REGULARIZATION = 0.01


class FusionSchema(Settings):
    """Their config of a fusion layer, with the defaults of `dynamic`."""

    key: bool = True
    query: bool = True
    value: bool = True
    query_before_ln: bool = False
    regularization: bool = True
    residual_before: bool = False
    temperature: bool = False
    value_before_softmax: bool = True
    value_initialized: bool | str = True
    dropout_prob: Annotated[float, Field(ge=0, lt=1)] | None = None


class FusionMethod(Method):
    """Fusion layers; where they stand is known from their keys alone."""

    components: ClassVar = ("fusion",)

    def read(self, config: dict[str, Any], source: Source) -> Reading:
        """The component `fusion` with its default places."""
        given: Any = NAMED.get(config, config) if isinstance(config, str) else config
        if not isinstance(given, dict):
            raise ConfigError(
                f"The fusion's config is {short(config)}; it must be a table of settings or static, dynamic."
            )
        theirs, reading = validated(FusionSchema, given), Reading()
        if theirs.residual_before:
            raise ConfigError(
                "This fusion has residual_before=true, so it adds the residual to the keys and values; madx does not "
                "read that. Nothing was loaded. Train it without residual_before."
            )
        settings = {
            "query": theirs.query,
            "key": theirs.key,
            "value": theirs.value,
            "reads": "output" if theirs.query_before_ln else "sum_norm",
            "regularization": REGULARIZATION if theirs.regularization else 0.0,
            "dropout": theirs.dropout_prob or 0.0,
        }
        reading.components |= make_components({"fusion": settings})
        note(reading, "key.bias", theirs.key, "it adds one number to all scores, which the softmax does not see")
        note(reading, "temperature", theirs.temperature, "it falls to 1 in training, and the files do not hold it")
        if theirs.dropout_prob is None:
            reading.ignored.append(("dropout_prob null", "there the model's dropout of attention, in training alone"))
        return reading

    def write(self, components: Mapping[str, Any], target: Target) -> tuple[dict[str, Any], list[str]]:
        """Their config of a fusion layer."""
        ours, faults = components["fusion"], []
        if other := [place for place in ours.places if place not in ("attention", "ffn")]:
            faults.append(f"a fusion at {', '.join(other)}; there only bottlenecks are joined")
        if ours.reads == "input":
            faults.append("a fusion that reads 'input'")
        if ours.regularization not in (0.0, REGULARIZATION):
            faults.append(f"a regularization of {ours.regularization}; there it is {REGULARIZATION} or none")
        config = FusionSchema(
            key=ours.key,
            query=ours.query,
            value=ours.value,
            query_before_ln=ours.reads == "output",
            regularization=bool(ours.regularization),
            dropout_prob=ours.dropout or None,
        )
        return config.model_dump(), faults

    def links(self, component: str, config: Any, *, tensors: dict[str, Tensor], around: Surroundings) -> list[Link]:
        """One link for each tensor, and one for the bias of the keys, which is written as zeros."""
        found = []
        for name, tensor in tensors.items():
            site, inner = name.split(".fusion.")
            start = f"{around.layout.at(site)}.adapter_fusion_layer.{around.owner}."
            if inner == "heat":  # 1 in a trained module
                continue
            found.append(Link(start + inner, (name,), tuple(tensor.shape)))
            if inner == "key.weight":
                bias = start + "key.bias"
                found.append(Link(bias, (), (len(tensor),), read=_nothing, write=partial(_zeros, len(tensor))))
        return found


def _nothing(value: Tensor) -> list[Tensor]:
    return []


def _zeros(width: int, values: Sequence[Tensor]) -> Tensor:
    return torch.zeros(width)
