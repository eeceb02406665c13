"""ReFT: the module type `reft`.

Each layer has two units there, for the first and the last positions, or one for both (`tied_weights`). A unit for
positions of which there are none never acts. It is in their files, so it is written, and read by name alone.

An orthonormal R is stored as torch's parametrization keeps it. With `original` P `(r, width)`, whose diagonal holds
signs, and `base` B `(width, width)`:

    R^T = B H(P) diag(P),   H(P): the product of r Householder reflections, given by what lies right of P's diagonal

We write R itself into the first columns of B, with P = -I, for which H(P) diag(P) = I.

`subtract_projection` is no field of their config: it is neither saved nor kept when an adapter is loaded, so a DiReFT
adapter that they save is a NoReFT adapter from then on. Ours is therefore not written. The key is read where it stands.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from madx.config import Settings
from madx.errors import ConfigError, StoreError
from madx.interop.adapterhub.methods.activations import ACTIVATIONS_OUT, activation
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
from madx.module_types.reft import orthonormal

Positions = Annotated[int, Field(ge=0, le=1 << 20)]
#: the parameters of an orthonormal R, in a unit
ORIGINAL, BASE = "projection.parametrizations.weight.original", "projection.parametrizations.weight.0.base"


class ReftSchema(Settings):
    """Their config of ReFT, with the defaults of their LoReFT."""

    architecture: Literal["reft"] = "reft"
    layers: Literal["all"] | list[int] = "all"
    prefix_positions: Positions = 3
    suffix_positions: Positions = 0
    r: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    orthogonality: bool = True
    tied_weights: bool = False
    subtract_projection: bool = True
    dropout: Annotated[float, Field(allow_inf_nan=False)] = 0.05
    non_linearity: str | None = None
    dtype: str | None = None
    output_reft: Literal[True] = True
    init_weights_seed: int | None = None


class ReftMethod(Method):
    """Interventions on the first and the last tokens, after each layer."""

    components: ClassVar = ("reft",)

    def read(self, config: dict[str, Any], source: Source) -> Reading:
        """The component `reft`."""
        theirs, reading = validated(ReftSchema, config), Reading()
        left_out = _left_out(theirs.layers, source.depth, reading)
        if len(left_out) == source.depth:
            raise ConfigError("layers names no layer of the base, so this adapter would do nothing.")
        note(reading, f"dtype {theirs.dtype!r}", theirs.dtype, "weights are read as they are and kept as float32")
        note(reading, "init_weights_seed", theirs.init_weights_seed is not None, "the weights are here")
        if not theirs.orthogonality and "subtract_projection" not in config:
            why = (
                "adapters never saves it and loads this file as NoReFT (true), so it is read as such; if it was "
                'trained as DiReFT, add "subtract_projection": false to its config'
            )
            reading.ignored.append(("subtract_projection (absent)", why))
        settings = {
            "rank": theirs.r,
            "first": theirs.prefix_positions,
            "last": theirs.suffix_positions,
            "tied": theirs.tied_weights,
            "orthogonal": theirs.orthogonality,
            "subtract": theirs.subtract_projection,
            "activation": "identity" if theirs.non_linearity is None else activation(theirs.non_linearity),
            "dropout": theirs.dropout,
            "leave_out": left_out,
        }
        reading.components |= make_components({"reft": settings})
        return reading

    def write(self, components: Mapping[str, Any], target: Target) -> tuple[dict[str, Any], list[str]]:
        """Their config."""
        ours, faults, layers = components["reft"], [], components["reft"].layers(target.depth)
        if ours.activation not in ACTIVATIONS_OUT:
            faults.append(f"the activation {ours.activation!r} has no name there")
        config = ReftSchema(
            layers="all" if len(layers) == target.depth else sorted(layers),
            prefix_positions=ours.first,
            suffix_positions=ours.last,
            r=ours.rank,
            orthogonality=ours.orthogonal,
            tied_weights=ours.tied,
            dropout=ours.dropout,
            non_linearity=None if ours.activation == "identity" else ACTIVATIONS_OUT.get(ours.activation),
        )
        if not ours.subtract:
            faults.append("reft.subtract: false (DiReFT), which adapters loses when it loads a file")
        return config.model_dump(exclude={"subtract_projection"}), faults

    def links(self, component: str, config: Any, *, tensors: dict[str, Tensor], around: Surroundings) -> list[Link]:
        """The links of each unit's tensors, also of a unit that never acts."""
        sources = {name: t for name, t in tensors.items() if name.endswith("source.weight")}
        widths = {name.split(".")[1]: t.shape[1] for name, t in sources.items()}
        names = ("front",) if config.tied else ("front", "back")
        found = []
        for layer, width in widths.items():
            for number, unit in enumerate(names):
                start = f"{around.layout.layer}.{layer}.reft_layer.refts.{around.owner}.units.{number}."
                ours = f"layer.{layer}.{component}.{unit}."
                idle = not any(name.startswith(ours) for name in tensors)
                found += _unit(start, None if idle else ours, config, width)
        return found


def _unit(start: str, ours: str | None, config: Any, width: int) -> list[Link]:
    """The links of one unit there; ours: the beginning of our names, None for a unit that never acts."""
    rank, matrix = config.rank, (config.rank, width)
    source = [("learned_source.weight", "source.weight", matrix), ("learned_source.bias", "source.bias", (rank,))]
    if ours is None:
        zeros = [(name, torch.zeros(shape)) for name, _, shape in source]
        R = torch.eye(width)[:rank]
        kept = [(ORIGINAL, -R), (BASE, torch.eye(width))] if config.orthogonal else [("projection.weight", R)]
        why = "a unit for positions that this adapter does not change"
        return [Link.of_nothing(start + name, value, why) for name, value in [*zeros, *kept]]
    found = [Link(start + theirs, (ours + mine,), shape) for theirs, mine, shape in source]
    projection = (ours + "projection",)
    if not config.orthogonal:
        return [*found, Link(start + "projection.weight", projection, matrix)]
    also = {start + BASE: (width, width)}
    return [*found, Link(start + ORIGINAL, projection, matrix, also=also, read=_from_torch, write=_to_torch)]


def _from_torch(original: Tensor, base: Tensor) -> list[Tensor]:
    """R from torch's parametrization. Raises StoreError unless its rows are orthonormal."""
    with torch.device(original.device):
        X = original.float().T
        V = X.tril(-1)
        Q = torch.linalg.householder_product(V, 2 / (1 + V.square().sum(0)))
        R = (base.float() @ (Q * X.diagonal().int())).T
        off = (R @ R.T - torch.eye(len(R))).abs().max().item()
    if not off < 1e-3:
        raise StoreError(
            f"The projection of a ReFT unit is to have orthonormal rows, but R R^T differs from the identity by "
            f"{off:.2g}. Weight decay does that there, since it moves the signs on the diagonal of `original`, which "
            "are then cut to 0. Train it without weight decay, or with orthogonality=False."
        )
    return [R.contiguous()]


def _to_torch(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """`original` and `base` that give R: P = -I, and a basis of all states that begins with the rows of R."""
    R = orthonormal(values[0])
    basis, signs = torch.linalg.qr(R.T, mode="complete")
    basis[:, : len(R)] *= signs.diagonal().sign()
    return -torch.eye(*R.shape), basis


def _left_out(layers: str | list[int], depth: int, reading: Reading) -> list[int]:
    """The layers of the base without an intervention; numbers of other layers are reported."""
    if isinstance(layers, str):
        return []
    if other := sorted({i for i in layers if not 0 <= i < depth}):
        reading.ignored.append((f"layers {short(other)}", f"no layer has that number (0-{depth - 1})"))
    return sorted(set(range(depth)) - set(layers))
