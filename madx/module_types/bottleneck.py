"""Bottleneck: a small two-layer network that changes the output of a sublayer.

    f(z) = scale * (U act(D z + b_D) + b_U),   D: width -> width / reduction_factor,  U: back

What z is, and how f changes the sublayer's output h, is said in `madx.contract.sublayer_network`, for the layouts of
Houlsby et al. 2019 (arXiv:1902.00751), Pfeiffer et al. 2020 (arXiv:2005.00052), He et al. 2022 (arXiv:2110.04366),
Bapna & Firat 2019 (arXiv:1909.08478), Mao et al. 2022 (arXiv:2110.07577) and Steitz & Roth 2024 (arXiv:2406.06820). All
tensors are `(batch, tokens, width)`.

The variants that Houlsby et al. tried (section 3.6) are switches. With a = D z + b_D, `(batch, tokens, inner)`:

    norm_inside "layer"      a <- LN(a), over the inner numbers of each token
    norm_inside "batch"      a <- (a - mean) / sqrt(variance + 1e-5) * gain + shift, for each inner number over all
                             tokens of the batch without padding; outside training with the running means of both
    inner_layers k           act(a) passes k more layers, each act(V_i . + c_i), V_i `(inner, inner)`, before U
    interaction "multiply"   f(z) = scale * (U act(D z + b_D) + b_U) * h: it scales the numbers of the sublayer's output

Attention alone is `places: [attention]`, and another nonlinearity `activation`.
"""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
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
    "adapter_plus": (
        {
            "reduction_factor": 96.0,
            "activation": "gelu",
            "residual": "read",
            "final_norm": False,
            "scaling": "channel",
            "stochastic_depth": 0.1,
            "init": "truncated",
        },
        "Adapter+: after the sublayer's own norm, a factor for each channel, stochastic depth (Steitz & Roth 2024)",
    ),
    "scaled_parallel": (
        {"reads": "input", "reduction_factor": 2.0, "scaling": "learned", "init": "zero_up"},
        "parallel with one learned scale a layer",
    ),
}


class BottleneckConfig(SublayerNetworkConfig):
    """Settings of a bottleneck component; the defaults are Pfeiffer's task module."""

    norm_inside: Literal["none", "layer", "batch"] = Field(
        default="none", description="Norm of the inner numbers before the nonlinearity: none, layer or batch."
    )
    inner_layers: int = Field(
        default=0, ge=0, le=16, description="Further layers between the two, inner width -> inner width."
    )
    interaction: Literal["add", "multiply"] = Field(
        default="add", description="multiply: f is multiplied by the sublayer's output h, so h is scaled by 1 + f."
    )
    init: Literal["normal", "truncated", "zero_up"] = Field(
        default="normal",
        description="normal: N(0, 0.02); truncated: N(0, 0.01) cut at two deviations; zero_up: Kaiming D, zero U.",
    )

    @model_validator(mode="after")
    def _product_is_the_change(self) -> "BottleneckConfig":
        if self.interaction == "multiply" and (self.residual != "output" or self.norm_after_residual):
            found = "norm_after_residual" if self.residual == "output" else f"residual {self.residual!r}"
            raise ValueError(f"interaction 'multiply' scales h by 1 + f, so it needs residual 'output'; got {found}")
        return self


class TokenBatchNorm(nn.Module):
    """Batch norm over the tokens of a batch (Ioffe & Szegedy 2015), with padding and slots left out.

    Attributes:
        weight, bias: gain and shift, `(inner,)`.
        mean, variance: running means, `(inner,)`; they are stored with the module.
    """

    momentum, epsilon = 0.1, 1e-5

    def __init__(self, inner: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(inner)), nn.Parameter(torch.zeros(inner))
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(inner))
        self.register_buffer("variance", torch.ones(inner))

    def forward(self, a: Tensor, tokens: Tensor) -> Tensor:
        """The normed numbers, `(batch, tokens, inner)`; tokens: true at tokens, `(batch, tokens)`."""
        x, mean, variance = a.to(self.mean.dtype), self.mean, self.variance  # under autocast `a` has fewer bits
        if self.training:
            share = tokens.to(x.dtype)[..., None] / tokens.sum().clamp_min(1)
            mean = (x * share).sum((0, 1))
            variance = ((x - mean).square() * share).sum((0, 1))
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance, self.momentum)
        return ((x - mean) * (variance + self.epsilon).rsqrt() * self.weight + self.bias).to(a.dtype)


@MODULE_TYPES.register("bottleneck")
class Bottleneck(SublayerNetwork):
    """One bottleneck at one sublayer; see the file's docstring for the formula."""

    Config = BottleneckConfig
    config: BottleneckConfig

    def __init__(self, config: BottleneckConfig, site: Site):
        super().__init__(config, site)
        width, inner = site.width, config.bottleneck(site)
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        self.deeper = nn.ModuleList(nn.Linear(inner, inner) for _ in range(config.inner_layers))
        self.norm_inside: nn.LayerNorm | TokenBatchNorm | None = None
        if config.norm_inside != "none":
            self.norm_inside = nn.LayerNorm(inner) if config.norm_inside == "layer" else TokenBatchNorm(inner)
        self.make_frame()
        if config.norm_inside == "batch":
            self.scope = "batch"  # in training; the states of a batch must not be cached or cut short then
        if config.interaction == "multiply":
            self.reads |= {"output"}
        self._init_weights(config.init)

    @torch.no_grad()
    def _init_weights(self, init: str) -> None:
        for layer in (self.down, self.up, *self.deeper):
            layer.bias.zero_()
            if init == "truncated":
                nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            else:
                layer.weight.normal_(std=0.02)
        if init == "zero_up":
            for layer in (self.down, *self.deeper):
                nn.init.kaiming_uniform_(layer.weight, a=5**0.5)
            self.up.weight.zero_()

    def network(self, z: Tensor, view: Sublayer) -> Tensor:
        """U act(D z + b_D) + b_U with the variants of the file's docstring, `(batch, tokens, width)`."""
        a = self.down(z)
        if isinstance(self.norm_inside, TokenBatchNorm):
            a = self.norm_inside(a, view.text)
        elif self.norm_inside is not None:
            a = self.norm_inside(a)
        a = self.act(a)
        for layer in self.deeper:
            a = self.act(layer(a))
        f: Tensor = self.up(a)
        return f * view.value if self.config.interaction == "multiply" else f

    def describe(self) -> str:
        """For example `64->32->64 relu, reads sum_norm`."""
        config, width = self.config, self.site.width
        inner = "->".join([str(self.down.out_features)] * (1 + config.inner_layers))
        more = [f"{config.norm_inside} norm inside"] if config.norm_inside != "none" else []
        more += ["multiplied"] if config.interaction == "multiply" else []
        return ", ".join([f"{width}->{inner}->{width} {config.activation}", f"reads {config.reads}", *more])
