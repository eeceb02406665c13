"""Bottleneck: a small two-layer network that changes the output of a sublayer.

    f(z) = scale * (U act(D z + b_D) + b_U),   D: width -> width / reduction_factor,  U: back

What z is, and how f changes the sublayer's output h, is said in `madx.contract.sublayer_network`, for the layouts of
Houlsby et al. 2019 (arXiv:1902.00751), Pfeiffer et al. 2020 (arXiv:2005.00052), He et al. 2022 (arXiv:2110.04366),
Bapna & Firat 2019 (arXiv:1909.08478) and Mao et al. 2022 (arXiv:2110.07577). All tensors are `(batch, tokens, width)`.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from madx.contract.module_type import MODULE_TYPES
from madx.contract.sites import Site
from madx.contract.sublayer_network import SublayerNetwork, SublayerNetworkConfig
from madx.contract.views import Sublayer

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "pfeiffer": ({}, "bottleneck after the feed-forward block, reduction 16: MAD-X task module"),
    "pfeiffer2": (
        {"leave_out": [-1], "activation": "gelu"},
        "MAD-X 2.0 task module: GELU, none in the last layer",
    ),
    "houlsby": (
        {"places": ["attention", "ffn"], "reads": "output", "activation": "swish"},
        "bottlenecks after attention and feed-forward block (Houlsby et al. 2019)",
    ),
    "bapna": (
        {"norm_before": True},
        "bottleneck with a layer norm of its own (Bapna & Firat 2019); the choice for pre-norm bases",
    ),
    "parallel": (
        {"reads": "input", "reduction_factor": 2.0, "scaling": 4.0, "init": "zero_up"},
        "bottleneck beside the feed-forward block, scale 4 (He et al. 2022)",
    ),
    "scaled_parallel": (
        {"reads": "input", "reduction_factor": 2.0, "scaling": "learned", "init": "zero_up"},
        "parallel with one learned scale a layer",
    ),
}


class BottleneckConfig(SublayerNetworkConfig):
    """Settings of a bottleneck component; the defaults are Pfeiffer's task module."""

    init: Literal["normal", "truncated", "zero_up"] = Field(
        default="normal",
        description="normal: N(0, 0.02); truncated: N(0, 0.01) cut at two deviations; zero_up: Kaiming D, zero U.",
    )


@MODULE_TYPES.register("bottleneck")
class Bottleneck(SublayerNetwork):
    """One bottleneck at one sublayer; see the file's docstring for the formula."""

    Config = BottleneckConfig
    config: BottleneckConfig

    def __init__(self, config: BottleneckConfig, site: Site):
        super().__init__(config, site)
        width, inner = site.width, config.bottleneck(site)
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        self.make_frame()
        self._init_weights(config.init)

    @torch.no_grad()
    def _init_weights(self, init: str) -> None:
        for layer in (self.down, self.up):
            layer.bias.zero_()
            if init == "truncated":
                nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            else:
                layer.weight.normal_(std=0.02)
        if init == "zero_up":
            nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
            self.up.weight.zero_()

    def network(self, z: Tensor, view: Sublayer) -> Tensor:
        """U act(D z + b_D) + b_U, `(batch, tokens, width)`."""
        changed: Tensor = self.up(self.act(self.down(z)))
        return changed

    def describe(self) -> str:
        """For example `64->32->64 relu, reads sum_norm`."""
        width = self.site.width
        return f"{width}->{self.down.out_features}->{width} {self.config.activation}, reads {self.config.reads}"
