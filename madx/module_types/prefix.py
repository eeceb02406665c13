"""Prefix: learned keys and values before those of the tokens, in the attention of each layer.

With P reserved positions, layer i attends over [P_K; K] and [P_V; V], P_K and P_V `(P, width)` (Li & Liang 2021,
arXiv:2101.00190). To train more stably, the paper computes the prefixes of all layers by one small network:

    h   = act(D E + b_D)                     E `(P, width)`, D: width -> bottleneck, h `(P, bottleneck)`
    P_K = h U_2i^T + b_2i,   P_V = h U_2i+1^T + b_2i+1

U_j `(width, bottleneck)` is the j-th block of rows of the network's last map, two for each layer where the component
acts, counted from the lowest. E, D and U are shared by all layers and stored once; each layer computes its own two
blocks alone. With `flat` each layer holds P_K and P_V themselves. A prefix has no identity to start from: E and flat
prefixes start from N(0, 1), as in AdapterHub.

With a gate (UniPELT, Mao et al. 2022, arXiv:2110.07577) each layer multiplies its keys and values by g, one number per
sentence: g is the mean of sigmoid(w x + b) over all positions of the attention's input x `(batch, positions, width)`;
the mean includes padding, as in AdapterHub. `gate: each` gives keys and values a number each. Keys and values then
differ between the rows of a batch, `(batch, P, width)`.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from madx.contract.activations import ACTIVATIONS, check_activation
from madx.contract.module_type import MODULE_TYPES, ComponentConfig, SlotsType
from madx.contract.sites import Site
from madx.contract.views import Slots

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "prefix": ({}, "prefix of 30 keys and values in each layer, through an MLP of 512 (Li & Liang 2021)"),
    "prefix_flat": ({"flat": True}, "prefix of 30 keys and values in each layer, held directly"),
}


class PrefixConfig(ComponentConfig):
    """Settings of a prefix component; the defaults are AdapterHub's."""

    length: int = Field(default=30, ge=1, description="P, how many keys and values stand before those of the tokens.")
    flat: bool = Field(default=False, description="Hold the keys and values themselves, without the network.")
    bottleneck: int = Field(default=512, ge=1, description="Inner width of the network.")
    activation: str = Field(default="tanh", description="Nonlinearity of the network.")
    gate: bool | Literal["each"] = Field(
        default=False,
        description="Multiply keys and values by a learned gate, one number per sentence; each: by one gate each.",
    )
    dropout: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="Dropout on keys and values in training, the same for all rows of a batch.",
    )

    moves_tokens: bool = Field(
        default=False,
        description="Positions of the tokens count on behind the prefix, as in peft; false: the tokens keep their own.",
    )

    _activation = field_validator("activation")(check_activation)


class PrefixNetwork(nn.Module):
    """The network that computes the prefixes of all layers.

    Attributes:
        vectors: E, `(P, width)`.
        down: D, width -> bottleneck.
        up: U, bottleneck -> layers * 2 * width; its block 2i gives the keys of the i-th layer, 2i + 1 the values.
    """

    def __init__(self, config: PrefixConfig, *, layers: int, width: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(config.length, width))
        self.down = nn.Linear(width, config.bottleneck)
        self.up = nn.Linear(config.bottleneck, layers * 2 * width)
        self.act = ACTIVATIONS[config.activation]

    def forward(self, number: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the layer of that number, `(P, width)` each."""
        width = self.vectors.shape[1]
        rows = slice(2 * number * width, 2 * (number + 1) * width)
        inner = self.act(self.down(self.vectors))
        keys, values = F.linear(inner, self.up.weight[rows], self.up.bias[rows]).chunk(2, dim=-1)
        return keys, values


@MODULE_TYPES.register("prefix")
class Prefix(SlotsType):
    """Keys and values of one layer; see the file's docstring.

    With `flat` the unit has the parameters `keys` and `values`, `(P, width)` each. Without, it computes them by the
    shared `PrefixNetwork`. gate: a linear map to one number, or to two; None without a gate.
    """

    Config = PrefixConfig
    config: PrefixConfig

    def __init__(self, config: PrefixConfig, site: Site):
        super().__init__(config, site)
        self.require_room()
        #: the number of this layer among those where the component acts
        self.number = sorted(config.layers(site.depth)).index(int(site.layer or 0))
        if config.flat:
            self.keys = nn.Parameter(torch.randn(config.length, site.width))
            self.values = nn.Parameter(torch.randn(config.length, site.width))
        self.gate = None
        if config.gate:
            self.gate = nn.Linear(site.width, 2 if config.gate == "each" else 1)
            nn.init.normal_(self.gate.weight, std=0.02)
            nn.init.zeros_(self.gate.bias)
        # keys and values depend on the tokens of their row, and the gate's mean runs over padding
        self.scope = "batch" if config.gate else "row"

    @classmethod
    def acts_at(cls, config: PrefixConfig, site: Site) -> bool:
        return site.kind == "slots" and site.layer is not None and site.layer in config.layers(site.depth)

    @classmethod
    def shared(cls, config: PrefixConfig, sites: Sequence[Site]) -> nn.Module | None:
        """The network, unless the prefix is flat."""
        return None if config.flat else PrefixNetwork(config, layers=len(sites), width=sites[0].width)

    @property
    def moves_tokens(self) -> bool:
        """As in the settings."""
        return self.config.moves_tokens

    @property
    def length(self) -> int:
        """P."""
        return self.config.length

    def forward(self, view: Slots) -> tuple[Tensor, Tensor]:
        """Keys and values, `(P, width)` each; with a gate `(batch, P, width)`."""
        keys, values = (self.keys, self.values) if self.config.flat else self.common(self.number)
        if self.training and self.config.dropout:
            keys, values = F.dropout(keys, self.config.dropout), F.dropout(values, self.config.dropout)
        if self.gate is not None:
            gates = view.tokens.mean(torch.sigmoid(self.gate(view.input)))  # (batch, 1, 1 or 2)
            keys, values = keys * gates[..., :1], values * gates[..., -1:]
        return keys, values

    def describe(self) -> str:
        """For example `30 keys and values, MLP of 512 tanh`."""
        form = "flat" if self.config.flat else f"MLP of {self.config.bottleneck} {self.config.activation}"
        gated = f", {'gates' if self.config.gate == 'each' else 'gate'}" if self.config.gate else ""
        return f"{self.length} keys and values, {form}{gated}"
