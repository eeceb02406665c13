"""Projected attention: a small attention of its own, beside each layer.

With h `(batch, tokens, width)` the input of a layer, V_E `(size, width)`, V_D `(width, size)` and g a multi-head
self-attention of width `size` without an output map (Stickland & Murray 2019, arXiv:1902.02671):

    TS(h) = V_D g(V_E h)
    g(u)  = [A_1 .. A_heads],   A_i = softmax(Q_i u (K_i u)^T / sqrt(size / heads)) V_i u

TS(h) stands beside the whole layer: it is computed from the layer's input and added to the output of the feed-forward
block, before the residual and its LN. V_E and V_D are shared by all layers and stored once; Q, K and V belong to each
layer. A token attends to the tokens of its row and to prompts, but not to padding. All weights start from N(0, 0.02),
as in BERT, so a fresh unit changes little.

The paper trains the base as well, several tasks at once. Here the base stays as it is. The paper's code has biases and
applies GELU to TS(h) (`activation: gelu`); its formula, which is followed here, has neither.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from madx.contract.activations import ACTIVATIONS, check_activation
from madx.contract.module_type import MODULE_TYPES, ChangeType, ComponentConfig
from madx.contract.sites import Site
from madx.contract.views import Sublayer

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "pal": ({}, "attention of 204 numbers and 12 heads beside each layer (Stickland & Murray 2019)"),
}


class PalConfig(ComponentConfig):
    """Settings of a projected attention component; the defaults are the paper's for a width of 768."""

    size: int = Field(default=204, ge=1, description="Width of the attention.")
    heads: int = Field(default=12, ge=1, description="Heads of the attention; they divide its width.")
    activation: str = Field(default="identity", description="Nonlinearity on the whole change.")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout on the attention's weights in training.")

    _activation = field_validator("activation")(check_activation)

    @model_validator(mode="after")
    def _divides(self) -> "PalConfig":
        if self.size % self.heads:
            lower = self.size - self.size % self.heads
            near = " or ".join(str(size) for size in (lower, lower + self.heads) if size)
            raise ValueError(f"{self.heads} heads do not divide a size of {self.size}; give a size of {near}")
        return self


class Projections(nn.Module):
    """The maps that all layers share: `encode` V_E, width -> size, and `decode` V_D, size -> width."""

    def __init__(self, config: PalConfig, width: int):
        super().__init__()
        self.encode = nn.Linear(width, config.size, bias=False)
        self.decode = nn.Linear(config.size, width, bias=False)
        for layer in (self.encode, self.decode):
            nn.init.normal_(layer.weight, std=0.02)


@MODULE_TYPES.register("pal")
class Pal(ChangeType):
    """The attention of one layer: `attention` holds Q, K and V, `(3 * size, size)`."""

    Config = PalConfig
    config: PalConfig
    reads = frozenset({"layer_input"})

    def __init__(self, config: PalConfig, site: Site):
        super().__init__(config, site)
        self.attention = nn.Linear(config.size, 3 * config.size, bias=False)
        nn.init.normal_(self.attention.weight, std=0.02)
        self.act = ACTIVATIONS[config.activation]

    @classmethod
    def acts_at(cls, config: PalConfig, site: Site) -> bool:
        return site.kind == "sublayer" and site.place == "ffn" and site.layer in config.layers(site.depth)

    @classmethod
    def shared(cls, config: PalConfig, sites: Sequence[Site]) -> nn.Module:
        """V_E and V_D."""
        return Projections(config, sites[0].width)

    def forward(self, view: Sublayer) -> Tensor:
        """The change of the feed-forward block's output, `(batch, positions, width)`."""
        u = self.common.encode(view.read("layer_input"))
        batch, positions, size = u.shape
        parts = self.attention(u).view(batch, positions, 3, self.config.heads, -1).permute(2, 0, 3, 1, 4)
        seen = view.filled
        seen = seen | ~seen.any(1, keepdim=True)  # a row of padding alone would attend to nothing, which is NaN
        dropout = self.config.dropout if self.training else 0.0
        q, k, v = parts.unbind()
        joined = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None], dropout_p=dropout)
        g = joined.transpose(1, 2).reshape(batch, positions, size)
        changed: Tensor = self.act(self.common.decode(g))
        return changed

    def describe(self) -> str:
        """For example `attention of 204, 12 heads`."""
        config = self.config
        more = "" if config.activation == "identity" else f", {config.activation}"
        return f"attention of {config.size}, {config.heads} heads{more}"
