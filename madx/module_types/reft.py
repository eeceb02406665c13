"""ReFT: low-rank interventions on the states of a few tokens, after each layer.

With t `(width,)` the state of a token after a layer, W `(rank, width)`, b `(rank,)` and R `(rank, width)`
(Wu et al. 2024, arXiv:2404.03592):

    LoReFT    t <- t + R^T (W t + b - R t)     the rows of R are orthonormal: t is replaced within their subspace alone
    NoReFT    t <- t + R^T (W t + b - R t)     any R
    DiReFT    t <- t + R^T (W t + b)           any R

Only the first n and the last m tokens of a row are changed, each with an intervention of its own, or with one for both
(`tied`). Tokens are counted without padding and slots. Where a row has fewer than n + m tokens, a token that is among
the first and the last gets the intervention of the last. All interventions read t as the layer gave it.

R is kept orthonormal by Gram-Schmidt: the parameter is any matrix P of full rank, and R comes from P^T = R^T U with U
upper triangular and its diagonal positive (a QR decomposition, in float32 also under autocast). At the end of training
P becomes R, so what is stored are the rows themselves; for orthonormal rows R = P.

W and R start as in the paper's code, R orthonormal and W with Kaiming's uniform numbers, so a fresh unit does change
states. As there and in AdapterHub, dropout acts on the whole new state of the token.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from madx.contract.activations import ACTIVATIONS, check_activation
from madx.contract.module_type import MODULE_TYPES, ChangeType, ComponentConfig
from madx.contract.sites import Site
from madx.contract.views import LayerOutput
from madx.errors import ConfigError

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "loreft": ({}, "LoReFT of rank 1 on the first 3 tokens after each layer (Wu et al. 2024)"),
    "noreft": ({"orthogonal": False}, "LoReFT without orthonormal rows (Wu et al. 2024)"),
    "direft": (
        {"orthogonal": False, "subtract": False},
        "LoReFT without orthonormal rows and without R t, faster (Wu et al. 2024)",
    ),
}


class ReftConfig(ComponentConfig):
    """Settings of a ReFT component; the defaults are AdapterHub's LoReFT."""

    rank: int = Field(default=1, ge=1, description="Rows of W and R.")
    first: int = Field(default=3, ge=0, description="n, how many tokens at the beginning of a row are changed.")
    last: int = Field(default=0, ge=0, description="m, how many tokens at the end of a row are changed.")
    tied: bool = Field(default=False, description="One intervention for the first and the last tokens.")
    orthogonal: bool = Field(default=True, description="Keep the rows of R orthonormal (LoReFT).")
    subtract: bool = Field(default=True, description="Subtract R t (LoReFT, NoReFT); false: DiReFT.")
    activation: str = Field(default="identity", description="Nonlinearity on W t + b.")
    dropout: float = Field(default=0.05, ge=0.0, lt=1.0, description="Dropout on the new states in training.")

    _activation = field_validator("activation")(check_activation)

    @model_validator(mode="after")
    def _acts(self) -> "ReftConfig":
        if not self.first and not self.last:
            raise ValueError("first and last are both 0, so no token would be changed; give one of them at least 1")
        return self


class Intervention(nn.Module):
    """The intervention on some tokens.

    Attributes:
        source: W and b.
        projection: P, `(rank, width)`; R itself unless it is kept orthonormal.
    """

    def __init__(self, config: ReftConfig, width: int):
        super().__init__()
        self.config = config
        self.source = nn.Linear(width, config.rank)
        self.projection = nn.Parameter(torch.empty(config.rank, width))
        if config.orthogonal:
            nn.init.orthogonal_(self.projection)
        else:
            nn.init.kaiming_uniform_(self.projection, a=5**0.5)
        self.act = ACTIVATIONS[config.activation]

    def rows(self) -> Tensor:
        """R, `(rank, width)`."""
        return orthonormal(self.projection) if self.config.orthogonal else self.projection

    def forward(self, t: Tensor) -> Tensor:
        """The change of some states t, `(..., width)`."""
        R = self.rows()
        inner = self.act(self.source(t))
        if self.config.subtract:
            inner = inner - F.linear(t, R)
        change = F.linear(inner, R.T)
        if self.training and self.config.dropout:
            change = F.dropout(t + change, self.config.dropout) - t
        return change


def orthonormal(matrix: Tensor) -> Tensor:
    """Make the rows of a matrix `(rank, width)` of full rank orthonormal, one after the other (Gram-Schmidt).

    Rows that are orthonormal already stay as they are, to rounding.
    """
    with torch.autocast(matrix.device.type, enabled=False):
        Q, U = torch.linalg.qr(matrix.T)
        signs = torch.where(U.diagonal() < 0, -1.0, 1.0).to(Q.dtype)
        rows: Tensor = (Q * signs).T
        return rows


@MODULE_TYPES.register("reft")
class Reft(ChangeType):
    """The interventions after one layer: `front` on the first tokens, `back` on the last; see the file's docstring.

    `back` is None where `front` serves both (`tied`); each is None where there are no tokens for it.
    """

    Config = ReftConfig
    config: ReftConfig

    def __init__(self, config: ReftConfig, site: Site):
        super().__init__(config, site)
        if config.rank > site.width:
            raise ConfigError(
                f"reft.rank is {config.rank}, but a state has {site.width} numbers, so it has no subspace of more "
                f"dimensions. Give a rank of at most {site.width}."
            )
        self.front = Intervention(config, site.width) if config.first or config.tied else None
        self.back = Intervention(config, site.width) if config.last and not config.tied else None

    @classmethod
    def acts_at(cls, config: ReftConfig, site: Site) -> bool:
        return site.kind == "layer" and site.layer in config.layers(site.depth)

    def forward(self, view: LayerOutput) -> Tensor:
        """The change of the layer's output, `(batch, positions, width)`; zero but at the chosen tokens."""
        value, (order, count) = view.value, self._tokens(view)
        config, change = self.config, torch.zeros_like(view.value)
        first, last = (min(n, order.shape[1]) for n in (config.first, config.last))
        ranks = torch.arange(first, device=value.device).expand(len(order), -1)
        from_end = count[:, None] - last + torch.arange(last, device=value.device)
        # ranks of tokens from the beginning of the row, and the last tokens do not count among the first
        chosen = [(ranks, ranks < (count - last)[:, None]), (from_end, from_end >= 0)]
        for (rank, there), unit in zip(chosen, (self.front, self.front if config.tied else self.back)):
            if unit is None:
                continue
            at = order.gather(1, rank.clamp_min(0))[..., None].expand(-1, -1, value.shape[-1])
            new = unit(value.gather(1, at)) * there[..., None]
            change = change.scatter_add(1, at, new.to(value.dtype))
        return change

    @staticmethod
    def _tokens(view: LayerOutput) -> tuple[Tensor, Tensor]:
        """The positions of each row's tokens in order, then all others, `(batch, positions)`; how many there are."""
        mask, slots = view.mask, view.tokens.slots
        positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        tokens = mask & (positions >= slots)
        order = torch.where(tokens, positions, positions + mask.shape[1]).sort(1).indices
        return order, tokens.sum(1)

    @torch.no_grad()
    def settle(self) -> None:
        """Put R itself in place of P."""
        for unit in (self.front, self.back):
            if unit is not None:
                unit.projection.copy_(unit.rows())

    def describe(self) -> str:
        """For example `LoReFT of rank 1, first 3 tokens`."""
        config = self.config
        kind = ("LoReFT" if config.subtract else "orthonormal DiReFT") if config.orthogonal else ""
        kind = kind or ("NoReFT" if config.subtract else "DiReFT")
        places = [f"{name} {n}" for name, n in (("first", config.first), ("last", config.last)) if n]
        return f"{kind} of rank {config.rank}, {' and '.join(places)} tokens" + (", tied" if config.tied else "")
