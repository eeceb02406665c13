"""Ladder: a small transformer beside the base, which reads the states of all layers and changes the last one.

With h_0 .. h_L `(batch, tokens, width)` the embeddings and the outputs of the layers, D_n: width -> r the rung at
layer n, r = width / reduction_factor, and B_n a transformer block of width r (Sung et al. 2022, arXiv:2206.06522):

    s_0 = D_0 h_0
    s_n = B_n(m_n D_n h_n + (1 - m_n) s_{n-1})      m_n = sigmoid(a_n / temperature), a gate that starts as 1/2
    h_L <- h_L + U LN(s_L)                          U: r -> width, zero at first, so a fresh unit changes nothing

    B(s) = t + W_2 gelu(W_1 LN(t)),  t = s + O attention(LN(s))      W_1: r -> 4 r

No gradient flows through the base, so it runs without keeping anything for a backward pass but its states: that saves
most of the memory of a training step. A block's tokens attend to the tokens of their row and to prompts. Layers in
`leave_out` have neither a rung nor a block.

In a stack h_L is the last state as the modules before this one have left it; the other states are the base's, with the
changes that modules make in its layers. A ladder acts after the last layer, so no module in the layers sees its change.
The paper starts the blocks from pruned weights of the base; here they start from N(0, 0.02), since a module is made
without the base's weights.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from madx.contract.module_type import MODULE_TYPES, ChangeType, ComponentConfig
from madx.contract.sites import Site
from madx.contract.views import LayerOutput
from madx.errors import ConfigError

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "ladder": ({}, "side network of an eighth of the width on the states of all layers (Sung et al. 2022)"),
}


class LadderConfig(ComponentConfig):
    """Settings of a ladder component; the defaults are the paper's."""

    reduction_factor: float = Field(
        default=8.0, ge=1, allow_inf_nan=False, description="width / width of the side network."
    )
    heads: int = Field(default=4, ge=1, description="Heads of its attention; they divide its width.")
    temperature: float = Field(default=0.1, gt=0, allow_inf_nan=False, description="Divisor of the gates' parameters.")

    def inner(self, site: Site) -> int:
        """r, the width of the side network. Raises ConfigError if the heads do not divide it."""
        width = max(1, int(site.width // self.reduction_factor))
        if width % self.heads:
            fitting = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0 and n <= 16)
            raise ConfigError(
                f"ladder.heads is {self.heads}, but the side network is {width} wide ({site.width} / "
                f"{self.reduction_factor:g}), which {self.heads} does not divide. Give heads: {fitting}; or another "
                "reduction_factor."
            )
        return width


class Block(nn.Module):
    """A transformer block B of width r with LNs before attention and feed-forward block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, s: Tensor, seen: Tensor) -> Tensor:
        """B(s), `(batch, positions, r)`; seen: `(batch, positions)`, true where a position is attended to."""
        batch, positions, width = s.shape
        parts = self.attention(self.attention_norm(s)).view(batch, positions, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind()
        joined = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
        t = s + self.output(joined.transpose(1, 2).reshape(batch, positions, width))
        result: Tensor = t + self.down(F.gelu(self.up(self.ffn_norm(t))))
        return result


@MODULE_TYPES.register("ladder")
class Ladder(ChangeType):
    """The side network of a base.

    Attributes:
        rungs: D_0 at the embeddings, then D_n of each layer.
        gates: a_n, one number for each layer with a rung.
        blocks: B_n of each layer with a rung.
        norm, up: LN and U.
    """

    Config = LadderConfig
    config: LadderConfig
    reads = frozenset({"states"})
    backward = False

    def __init__(self, config: LadderConfig, site: Site):
        super().__init__(config, site)
        self.layers, inner = sorted(config.layers(site.depth)), config.inner(site)
        self.rungs = nn.ModuleList([nn.Linear(site.width, inner) for _ in range(len(self.layers) + 1)])
        self.gates = nn.Parameter(torch.zeros(len(self.layers)))
        self.blocks = nn.ModuleList([Block(inner, config.heads) for _ in self.layers])
        self.norm, self.up = nn.LayerNorm(inner), nn.Linear(inner, site.width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.up.weight)

    @classmethod
    def acts_at(cls, config: LadderConfig, site: Site) -> bool:
        return site.kind == "encoder" and bool(config.layers(site.depth))

    def forward(self, view: LayerOutput) -> Tensor:
        """The change of the last state, `(batch, positions, width)`."""
        states = (*view.read("states")[:-1], view.value)
        seen = view.filled
        seen = seen | ~seen.any(1, keepdim=True)  # a row of padding alone would attend to nothing, which is NaN
        s = self.rungs[0](states[0])
        shares = torch.sigmoid(self.gates / self.config.temperature)
        for share, layer, rung, block in zip(shares, self.layers, self.rungs[1:], self.blocks):
            s = block(share * rung(states[layer + 1]) + (1 - share) * s, seen)
        change: Tensor = self.up(self.norm(s))
        return change

    def describe(self) -> str:
        """For example `12 blocks of width 96, 4 heads`."""
        return f"{len(self.layers)} blocks of width {self.norm.normalized_shape[0]}, {self.config.heads} heads"
