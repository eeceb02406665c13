"""LoRA: a low-rank change of the base's linear maps, with rank-stabilised scaling and DoRA as switches.

For a linear map y = W x + b of the base, W `(width, input width)`, a unit holds A `(rank, input width)` and B
`(width, rank)` (Hu et al. 2021, arXiv:2106.09685):

    y <- y + s B A x        s = alpha / rank, or alpha / sqrt(rank) with `rslora` (Kalajdzievski 2023, arXiv:2312.03732)

B is zero at first, so a fresh unit changes nothing. In a stack the changes of several units add up.

Two initialisations start from W itself, so that training begins in directions that matter to the base:

    init "pissa"   s B_0 A_0 = U_r S_r V_r^T, the largest r singular values of W (Meng et al. 2024, arXiv:2404.02948)
    init "olora"   B_0 = Q_r, A_0 = R_r of W = Q R                       (Buyukakyuz 2024, arXiv:2406.01775)

There B_0 A_0 is taken out of W, which then stays frozen. Here the base is shared and keeps W, so the unit adds the
difference: y <- y + s (B A - B_0 A_0) x, which is the same function. A fresh unit still changes nothing. A unit keeps
A_0 and B_0, so it needs no decomposition of the base to be loaded, and holds A - A_0 and B - B_0 as its parameters:

    B A - B_0 A_0 = (B - B_0) A + B_0 (A - A_0)

so nothing is lost to rounding, in half-precision files neither. It is stored in twice the numbers of a LoRA.

A gate (UniPELT, Mao et al. 2022, arXiv:2110.07577) takes the place of s: it is the mean of sigmoid(w x + b) over all
positions, one number per sentence; the mean includes padding, as in AdapterHub.

DoRA (Liu et al. 2024, arXiv:2402.09353) learns the length m_i of each row of the changed matrix apart from its
direction. With || || the norm of each row, and y as the units before it in a stack have left it:

    dora_form "paper"       y <- f (y - b + s B A x) + b    f = m / ||W + s B A||    as in the paper and in peft
    dora_form "adapterhub"  y <- f (y + s B A x)            f = m / ||W + B A||      as AdapterHub computes it

With alpha = rank and without a bias the two are the same.

m starts as ||W||, but a module is made without the base's weights. So a unit holds g = m / ||W|| `(width,)`, which
starts as one, and computes f = g ||W|| / ||W + c B A||, with c = s or 1. For files that store m itself this is exact to
the last bits of float32 (`set_magnitude`, `magnitude`). A step of the optimiser in g changes m in proportion to ||W||.
Where weight deltas act on the base as well, W is the matrix with them, and a fresh unit still changes nothing.

The paper treats the norm as a constant in the backward pass to save memory. Here it is computed from products of the
size of the rank, so its exact gradient costs little. Row by row, with * and sum over the entries of a row:

    ||W + c B A||^2 = ||W||^2 + 2 c sum(W A^T * B) + c^2 sum(B A A^T * B)
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from madx.contract.module_type import MODULE_TYPES, ChangeType, ComponentConfig
from madx.contract.sites import Site
from madx.contract.views import Projection
from madx.errors import BaseError, ConfigError

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "lora": ({}, "LoRA of rank 8 on query and value (Hu et al. 2021)"),
    "lora_all": (
        {"maps": ["query", "key", "value", "output", "up", "down"]},
        "LoRA of rank 8 on all linear maps of attention and feed-forward block",
    ),
    "rslora": ({"rank": 32, "rslora": True}, "rank-stabilised LoRA of rank 32 (Kalajdzievski 2023)"),
    "dora": ({"dora": True}, "DoRA of rank 8 on query and value (Liu et al. 2024)"),
    "pissa": ({"init": "pissa"}, "LoRA of rank 8 that starts from the largest singular values (Meng et al. 2024)"),
    "olora": ({"init": "olora"}, "LoRA of rank 8 that starts from a QR decomposition (Buyukakyuz 2024)"),
}


DEFAULT_ALPHA = 8.0


class LoraConfig(ComponentConfig):
    """Settings of a LoRA component; the defaults are the paper's for RoBERTa base."""

    rank: int = Field(default=8, ge=1, description="Rank of B A.")
    alpha: float = Field(
        default=DEFAULT_ALPHA,
        gt=0,
        allow_inf_nan=False,
        description="Numerator of the scale s = alpha / rank of B A x.",
    )
    maps: tuple[Literal["query", "key", "value", "output", "up", "down"], ...] = Field(
        default=("query", "value"),
        min_length=1,
        strict=False,
        description="Linear maps of each layer that are changed.",
    )
    rslora: bool = Field(default=False, description="Scale by alpha / sqrt(rank) instead of alpha / rank.")
    dora: bool = Field(
        default=False, description="Learn the length of each row of the changed matrix by itself (DoRA)."
    )
    dora_form: Literal["paper", "adapterhub"] = Field(
        default="paper",
        description="DoRA of the paper and of peft, or of AdapterHub (norm of W + B A; the bias is scaled too).",
    )
    gate: bool = Field(
        default=False, description="Scale by a learned gate, one number per sentence, in place of alpha / rank."
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout on the input of A in training.")
    init: Literal["kaiming", "normal", "pissa", "olora"] = Field(
        default="kaiming",
        description="kaiming: Kaiming A, zero B; normal: N(0, 0.02) for both; pissa, olora: from the base's matrix.",
    )

    @model_validator(mode="after")
    def _switches_act(self) -> "LoraConfig":
        if self.dora_form != "paper" and not self.dora:
            raise ValueError(f"dora_form {self.dora_form!r} needs dora: true")
        taken = [name for name, on in (("rslora", self.rslora), ("dora", self.dora)) if on]
        taken += [f"alpha {self.alpha:g}"] if self.alpha != DEFAULT_ALPHA else []
        if self.gate and taken:
            raise ValueError(
                f"gate takes the place of alpha / rank, so {' and '.join(taken)} cannot act beside it: leave one out"
            )
        return self

    @property
    def scale(self) -> float:
        """s, the factor of B A x."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


@MODULE_TYPES.register("lora")
class Lora(ChangeType):
    """A low-rank change of one linear map; see the file's docstring for the formulas.

    Attributes:
        A: `(rank, input width)`; with `init` pissa or olora it holds A - A_0.
        B: `(width, rank)`; then it holds B - B_0.
        start_A, start_B: A_0 and B_0, which are not trained; None with another `init`.
        ratio: g = m / ||W|| of DoRA, `(width,)`; None without DoRA.
        gate: a linear map from the input to one number; None without a gate.
    """

    Config = LoraConfig
    config: LoraConfig
    affine = True
    reads = frozenset({"input"})

    def __init__(self, config: LoraConfig, site: Site):
        super().__init__(config, site)
        inputs = site.width if site.input_width is None else site.input_width
        if config.rank > min(inputs, site.width):
            raise ConfigError(
                f"lora.rank is {config.rank}, but {site.name} maps {inputs} numbers to {site.width}: a rank above "
                f"{min(inputs, site.width)} adds nothing. Give a lower rank, or take {site.map} out of lora.maps."
            )
        self.A = nn.Parameter(torch.empty(config.rank, inputs))
        self.B = nn.Parameter(torch.zeros(site.width, config.rank))
        self.ratio = nn.Parameter(torch.ones(site.width)) if config.dora else None
        self.gate = nn.Linear(inputs, 1) if config.gate else None
        self.scope = "batch" if config.gate else "token"  # the gate's mean runs over padding
        self.affine = not config.gate  # its factor depends on the input
        if self.gate is not None:
            nn.init.normal_(self.gate.weight, std=0.02)
            nn.init.zeros_(self.gate.bias)
        from_base = config.init in ("pissa", "olora")
        self.start_A: Tensor | None
        self.start_B: Tensor | None
        self.register_buffer("start_A", torch.zeros_like(self.A) if from_base else None)
        self.register_buffer("start_B", torch.zeros_like(self.B) if from_base else None)
        if from_base:
            nn.init.zeros_(self.A)
        elif config.init == "normal":
            nn.init.normal_(self.A, std=0.02)
            nn.init.normal_(self.B, std=0.02)
        else:
            nn.init.kaiming_uniform_(self.A, a=5**0.5)

    @classmethod
    def acts_at(cls, config: LoraConfig, site: Site) -> bool:
        return site.kind == "linear" and site.map in config.maps and site.layer in config.layers(site.depth)

    @torch.no_grad()
    def start(self, weight: Callable[[], Tensor]) -> None:
        """Take A_0 and B_0 from the base's matrix, where `init` says so.

        Raises BaseError for a matrix of integers, which a quantised base has.
        """
        if self.start_A is None or self.start_B is None:
            return
        config, W = self.config, weight()
        if not W.is_floating_point():
            raise BaseError(
                f"lora.init {config.init!r} starts from the base's matrix, but that of {self.site.name} is stored as "
                f"{str(W.dtype)[6:]}: a quantised matrix has no decomposition. Take init: kaiming, or the base itself."
            )
        rank, W = config.rank, W.float()
        if config.init == "pissa":
            U, S, V = torch.linalg.svd(W, full_matrices=False)
            root = (S[:rank] / config.scale).sqrt()
            B, A = U[:, :rank] * root, root[:, None] * V[:rank]
        else:
            Q, R = torch.linalg.qr(W)
            B, A = Q[:, :rank], R[:rank]
        self.start_A.copy_(A)
        self.start_B.copy_(B)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Two factors whose product times s is the change of W: `(k, input width)` and `(width, k)`.

        They are A and B; with `init` pissa or olora k is twice the rank, for the two terms of the file's docstring.
        """
        if self.start_A is None or self.start_B is None:
            return self.A, self.B
        return torch.cat([self.start_A + self.A, self.A]), torch.cat([self.B, self.start_B], dim=1)

    def forward(self, view: Projection) -> Tensor:
        """The change of y, `(..., width)`."""
        config, x = self.config, view.read("input")
        scale = config.scale if self.gate is None else view.mean(torch.sigmoid(self.gate(x)))
        if self.training and config.dropout:
            x = F.dropout(x, config.dropout)
        A, B = self.factors()
        low = F.linear(F.linear(x, A), B) * scale
        if self.ratio is None:
            return low
        y = view.value
        scaled = y if config.dora_form == "adapterhub" or view.bias is None else y - view.bias
        factor = self.ratio * self._shrinkage(view.weight, A, B)
        return ((factor - 1) * scaled + factor * low).to(y.dtype)  # under autocast y has fewer bits than the factors

    def _shrinkage(self, weight: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """||W|| / ||W + c B A||, `(width,)`, in the number format of B also under autocast."""
        c = self.config.scale if self.config.dora_form == "paper" else 1.0
        with torch.autocast(weight.device.type, enabled=False):
            W = weight.detach().to(B.dtype)
            own = W.square().sum(1)
            both = own + 2 * c * (W @ A.T * B).sum(1) + c**2 * (B @ (A @ A.T) * B).sum(1)
            least = torch.finfo(own.dtype).tiny  # rounding must not make the square of a vanishing row negative
            return (own / both.clamp_min(least)).sqrt()

    # ---- exchange with libraries that store m itself -----------------------------------------------------------------

    @torch.no_grad()
    def magnitude(self, weight: Tensor) -> Tensor:
        """m = g ||W||, `(width,)`, for the base's own W `(width, input width)` without weight deltas.

        Raises ConfigError for a component without DoRA.
        """
        return self._ratio() * _row_norms(weight, self.B.dtype)

    @torch.no_grad()
    def set_magnitude(self, m: Tensor, weight: Tensor) -> None:
        """Take m, `width` numbers in any shape, for the base's own W `(width, input width)` without weight deltas.

        Raises ConfigError for a component without DoRA, BaseError where a row of W is zero, which has no ratio to m.
        """
        ratio, norms = self._ratio(), _row_norms(weight, self.B.dtype)
        if not bool(norms.all()):
            row = int((norms == 0).nonzero()[0])
            raise BaseError(
                f"Row {row} of the weight at {self.site.name} is zero, so the magnitude of DoRA cannot be kept as a "
                "ratio to its length. Load the base that the module was trained on."
            )
        ratio.copy_(m.reshape(-1).to(norms) / norms)

    def _ratio(self) -> nn.Parameter:
        if self.ratio is None:
            raise ConfigError("This LoRA component has no magnitude; only one with dora: true has.")
        return self.ratio

    def describe(self) -> str:
        """For example `rank 8, alpha 8, dora`."""
        config = self.config
        switches: list[str] = [config.init] if self.start_A is not None else []
        switches += [name for name in ("rslora", "dora") if getattr(config, name)]
        if config.dora_form != "paper":
            switches[-1] += f" ({config.dora_form})"
        scale = "gate" if config.gate else f"alpha {config.alpha:g}"
        return ", ".join([f"rank {config.rank}", scale, *switches])


def _row_norms(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.detach().to(dtype).square().sum(1).sqrt()
