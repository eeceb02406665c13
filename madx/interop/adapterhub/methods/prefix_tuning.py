"""Prefix tuning: the module type `prefix`.

The prefixes of all layers are one table there: `(length, 2 * layers, width)`, with keys at 2i and values at 2i + 1 of
the i-th layer that is not left out. With `flat` it is stored as one vector. Otherwise it is computed by the network

    wte (length, width) -> control_trans.0 (bottleneck_size) -> activation -> control_trans.2 (2 * layers * width)

Files of `.bin` repeat the tensors under every layer. Gates (`use_gating`, one for keys and values or with
`shared_gating: false` one each) stand in the layers, as prefix_gates.NAME of the attention.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from madx.config import Settings
from madx.errors import ConfigError
from madx.interop.adapterhub.methods.activations import ACTIVATIONS_OUT, activation
from madx.interop.adapterhub.methods.method import (
    Link,
    Method,
    Reading,
    Source,
    Surroundings,
    Target,
    layers_left_out,
    note,
    require_layers,
    validated,
)
from madx.module.presets import make_components

Size = Annotated[int, Field(ge=1, le=1 << 20)]
#: their layers of the network -> ours
NETWORK = {"down": "control_trans.0", "up": "control_trans.2"}


class PrefixTuningSchema(Settings):
    """Their config of prefix tuning, with the defaults of `adapters`."""

    architecture: Literal["prefix_tuning"] = "prefix_tuning"
    encoder_prefix: bool = True
    cross_prefix: bool = True
    leave_out: list[int] = Field(default_factory=list)
    flat: bool = False
    prefix_length: Size = 30
    bottleneck_size: Size = 512
    non_linearity: str = "tanh"
    dropout: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    use_gating: bool = False
    shared_gating: bool = True
    init_weights_seed: int | None = None


class PrefixTuningMethod(Method):
    """Prefixes, flat or computed by a network."""

    components: ClassVar = ("prefix",)

    def read(self, config: dict[str, Any], source: Source) -> Reading:
        """The component `prefix`."""
        theirs, reading = validated(PrefixTuningSchema, config), Reading()
        left_out = layers_left_out(theirs.leave_out, source.depth, reading)
        require_layers(left_out, source.depth)
        note(reading, "init_weights_seed", theirs.init_weights_seed is not None, "the weights are here")
        note(reading, "encoder_prefix", not theirs.encoder_prefix, "a model that is only an encoder has it always")
        settings = {
            "length": theirs.prefix_length,
            "flat": theirs.flat,
            "bottleneck": theirs.bottleneck_size,
            "activation": activation(theirs.non_linearity),
            "gate": theirs.use_gating and (True if theirs.shared_gating else "each"),
            "dropout": theirs.dropout,
            "leave_out": left_out,
        }
        reading.components |= make_components({"prefix": settings})
        return reading

    def write(self, components: Mapping[str, Any], target: Target) -> tuple[dict[str, Any], list[str]]:
        """Their config."""
        ours, faults = components["prefix"], []
        if ours.activation not in ACTIVATIONS_OUT:
            faults.append(f"the activation {ours.activation!r} has no name there")
        if ours.moves_tokens:
            faults.append("a prefix behind which the tokens count their positions on (moves_tokens)")
        config = PrefixTuningSchema(
            leave_out=sorted(set(range(target.depth)) - ours.layers(target.depth)),
            flat=ours.flat,
            prefix_length=ours.length,
            bottleneck_size=ours.bottleneck,
            non_linearity=ACTIVATIONS_OUT.get(ours.activation, "tanh"),
            dropout=ours.dropout,
            use_gating=bool(ours.gate),
            shared_gating=ours.gate != "each",
        )
        return config.model_dump(), faults

    def links(self, component: str, config: Any, *, tensors: dict[str, Tensor], around: Surroundings) -> list[Link]:
        """One link for each tensor of the network, or one for the vector of all flat prefixes; and for each gate's.

        Raises ConfigError for a base with relative positions: there prefixes have none.
        """
        if around.layout.prefixes is None:
            raise ConfigError(
                "Prefixes of AdapterHub have no relative positions in a DeBERTa base, those of madx stand before the "
                "tokens, so the two compute different attentions. Take a base of another type, or a prompt."
            )
        gates = {name: tensor for name, tensor in tensors.items() if ".gate." in name}
        tensors = {name: tensor for name, tensor in tensors.items() if name not in gates}
        found = [_gate_link(name, tensor, around) for name, tensor in gates.items()]
        if config.flat:
            return [*found, _flat_link(config.length, tensors, around)]
        for name, tensor in tensors.items():
            inner = name.removeprefix("shared.prefix.")
            layer, _, kind = inner.partition(".")
            theirs = "wte.weight" if inner == "vectors" else f"{NETWORK[layer]}.{kind}"
            found.append(_link(theirs, (name,), tuple(tensor.shape), around))
        return found


def _link(theirs: str, ours: tuple[str, ...], shape: tuple[int, ...], around: Surroundings, **convert: Any) -> Link:
    layout = around.layout
    end = f"prefix_tunings.{around.owner}.{layout.prefixes}.{theirs}"
    copies = tuple(f"{layout.layer}.{i}.{layout.attention}.prefix_tuning.pool.{end}" for i in range(around.depth))
    return Link(f"prefix_tuning.{end}", ours, shape, copies=copies, **convert)


def _gate_link(name: str, tensor: Tensor, around: Surroundings) -> Link:
    """`layer.3.slots.prefix.gate.weight` here."""
    layout, (_, number, *_, kind) = around.layout, name.split(".")
    attention = f"{layout.layer}.{number}.{layout.attention}"
    return Link(f"{attention}.prefix_tuning.prefix_gates.{around.owner}.{kind}", (name,), tuple(tensor.shape))


def _flat_link(length: int, tensors: dict[str, Tensor], around: Surroundings) -> Link:
    """Keys and values of the layers, each `(length, width)`, as one vector."""
    names = sorted(tensors, key=lambda name: (int(name.split(".")[1]), name.endswith(".values")))
    width = tensors[names[0]].shape[1]

    def read(value: Tensor) -> Sequence[Tensor]:
        return [block.contiguous() for block in value.view(length, len(names), width).unbind(1)]

    def write(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values), dim=1).reshape(-1)

    shape = (length * len(names) * width,)
    return _link("control_trans", tuple(names), shape, around, read=read, write=write)
