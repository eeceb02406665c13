"""Compacter: a bottleneck whose two matrices are sums of Kronecker products of few, partly shared numbers.

    f(z) = scale * (act(z H_D + b_D) H_U + b_U)          H_D `(width, inner)`, H_U `(inner, width)`
    H    = sum over i = 1 .. n of  kron(A_i, L_i R_i)     n is `dimension`

For a matrix of inputs x outputs, A_i `(n, n)` is the rule, L_i `(inputs / n, rank)` and R_i `(rank, outputs / n)`
(Mahabadi et al. 2021, arXiv:2106.04647; the parametrized hypercomplex multiplication is Zhang et al. 2021,
arXiv:2102.08597). The rules are shared by both matrices of all units of a component, and stored once. With
`rank: full` W_i `(inputs / n, outputs / n)` stands in place of L_i R_i.

What z is, and how f changes the sublayer's output, is said in `madx.contract.sublayer_network`.

The product z H needs no H. With z read as n rows of inputs / n numbers, Z `(n, inputs / n)`, and the result as Y
`(n, outputs / n)`:

    Y = sum over i of  A_i^T Z L_i R_i

For each token this takes rank n (inputs + outputs + n^2) multiplications instead of inputs x outputs. H is built only
where that is not cheaper: for a high rank or a narrow base.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from madx.contract.module_type import MODULE_TYPES
from madx.contract.sites import Site
from madx.contract.sublayer_network import SublayerNetwork, SublayerNetworkConfig
from madx.contract.views import Sublayer
from madx.errors import ConfigError

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "compacter": ({}, "Compacter after attention and feed-forward block, reduction 32 (Mahabadi et al. 2021)"),
    "compacterpp": (
        {"places": ["ffn"], "reads": "sum_norm"},
        "Compacter++: after the feed-forward block alone, reduction 32 (Mahabadi et al. 2021)",
    ),
}
#: other spellings of these presets
ALIASES = {"compacter++": "compacterpp"}

#: standard deviation of fresh rules, as in the paper's own settings: H starts at nearly zero
RULE_STD = 1e-4


class CompacterConfig(SublayerNetworkConfig):
    """Settings of a Compacter component; the defaults are the paper's."""

    places: tuple[Literal["attention", "ffn"], ...] = Field(
        default=("attention", "ffn"),
        min_length=1,
        strict=False,
        description="Sublayers of each layer that get a bottleneck.",
    )
    reduction_factor: float | dict[str, float] = Field(
        default=32.0,
        description="width / bottleneck width; by layer: {'3': 8, 'default': 16}. Below 1 it widens.",
    )
    reads: Literal["sum_norm", "output", "input"] = Field(
        default="output",
        description="Input z of the bottleneck: LN(h + x), the sublayer's output h, or the block's input (parallel).",
    )
    activation: str = Field(default="gelu", description="Nonlinearity between the two layers.")
    dimension: int = Field(
        default=4, ge=2, le=256, description="n, the number of Kronecker products; it divides both widths."
    )
    rank: Annotated[int, Field(ge=1)] | Literal["full"] = Field(
        default=1, description="Rank of the second factor L_i R_i; full: one matrix W_i in its place."
    )
    shared_rule: bool = Field(
        default=True, description="Share the rules A_i between all units; False: each matrix has its own."
    )


class Rules(nn.Module):
    """The rules that all units share: `rule` A, `(n, n, n)`, with A_i at `rule[i]`."""

    def __init__(self, dimension: int):
        super().__init__()
        self.rule = nn.Parameter(RULE_STD * torch.randn(dimension, dimension, dimension))


class PhmLinear(nn.Module):
    """y = x H + b, with H the sum of Kronecker products of the file's docstring.

    Attributes:
        left, right: L `(n, inputs / n, rank)` and R `(n, rank, outputs / n)`; `weight` W in their place at full rank.
        bias: b, `(outputs,)`.
        rule: A, `(n, n, n)`, of a matrix with rules of its own; None where they are shared.
    """

    def __init__(self, config: CompacterConfig, *, inputs: int, outputs: int):
        super().__init__()
        n, rank = config.dimension, config.rank
        self.inputs, self.outputs = inputs, outputs
        self.left = self.right = self.weight = None
        if rank == "full":
            self.weight = _glorot(n, inputs // n, outputs // n)
        else:
            self.left, self.right = _glorot(n, inputs // n, rank), _glorot(n, rank, outputs // n)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.rule = None if config.shared_rule else nn.Parameter(RULE_STD * torch.randn(n, n, n))
        inner = inputs * outputs if rank == "full" else rank * n
        #: true if the product takes fewer multiplications without the matrix
        self.factored = inner * (inputs + outputs + n * n) < inputs * outputs

    def matrix(self, rule: Tensor) -> Tensor:
        """H, `(inputs, outputs)`."""
        second = self.weight if self.left is None or self.right is None else self.left @ self.right
        return torch.einsum("iab,ipq->apbq", rule, second).reshape(self.inputs, self.outputs)

    def forward(self, x: Tensor, shared: Tensor | None) -> Tensor:
        """y, `(..., inputs)` -> `(..., outputs)`.

        shared: the rules of the component, `(n, n, n)`; None for a map with rules of its own.
        """
        rule: Tensor = self.rule if shared is None else shared  # type: ignore[assignment]
        if self.left is None or self.right is None or not self.factored:
            return x @ self.matrix(rule) + self.bias
        n, rank = len(rule), self.left.shape[2]
        blocks = x.unflatten(-1, (n, self.inputs // n))  # Z, (..., a, p)
        low = blocks @ self.left.permute(1, 0, 2).reshape(-1, n * rank)  # Z L_i, (..., a, i k)
        mixed = torch.einsum("...aik,iab->...bik", low.unflatten(-1, (n, rank)), rule)  # A_i^T Z L_i
        y = mixed.flatten(-2) @ self.right.reshape(n * rank, -1)  # summed over i, (..., b, q)
        return y.flatten(-2) + self.bias


def _glorot(*shape: int) -> nn.Parameter:
    """n matrices `(n, rows, columns)`, each initialised by itself (Glorot & Bengio 2010)."""
    made = torch.empty(shape)
    for matrix in made:
        nn.init.xavier_normal_(matrix)
    return nn.Parameter(made)


@MODULE_TYPES.register("compacter")
class Compacter(SublayerNetwork):
    """One Compacter bottleneck at one sublayer: `down` and `up`, two `PhmLinear`."""

    Config = CompacterConfig
    config: CompacterConfig

    def __init__(self, config: CompacterConfig, site: Site):
        super().__init__(config, site)
        width, inner = site.width, config.bottleneck(site)
        _require_divisible(config, site, inner)
        self.down = PhmLinear(config, inputs=width, outputs=inner)
        self.up = PhmLinear(config, inputs=inner, outputs=width)
        self.make_frame()

    @classmethod
    def shared(cls, config: CompacterConfig, sites: Sequence[Site]) -> nn.Module | None:
        """The rules, unless each matrix has its own."""
        return Rules(config.dimension) if config.shared_rule else None

    def network(self, z: Tensor, view: Sublayer) -> Tensor:
        """act(z H_D + b_D) H_U + b_U, `(batch, tokens, width)`."""
        rule = self.common.rule if self.config.shared_rule else None
        changed: Tensor = self.up(self.act(self.down(z, rule)), rule)
        return changed

    def describe(self) -> str:
        """For example `64->8->64 gelu, reads output, 4 products of rank 1`."""
        config, width = self.config, self.site.width
        products = f"{config.dimension} products of rank {config.rank}"
        return f"{width}->{self.down.outputs}->{width} {config.activation}, reads {config.reads}, {products}"


def _require_divisible(config: CompacterConfig, site: Site, inner: int) -> None:
    """Raises ConfigError unless `dimension` divides both widths, and the rank adds something."""
    n, width, rank = config.dimension, site.width, config.rank
    if width % n or inner % n:
        allowed = [str(k) for k in range(2, inner + 1) if width % k == 0 and inner % k == 0]
        ways = [f"a dimension of {' or '.join(allowed)}"] if allowed else []
        factors = [k for k in range(1, 33) if width // k and (width // k) % n == 0]
        if width % n == 0 and factors:
            ways.append(f"a reduction_factor that makes the bottleneck a multiple of {n}, e.g. {factors[-1]}")
        raise ConfigError(
            f"compacter.dimension is {n}, but {site.name} maps {width} numbers to {inner} (reduction_factor), and "
            f"Kronecker products need both to be multiples of it. Give {', or '.join(ways) or 'a smaller dimension'}."
        )
    if rank != "full" and rank > inner // n:
        raise ConfigError(
            f"compacter.rank is {rank}, but the second factors at {site.name} have {width // n} x {inner // n} "
            f"numbers: a rank above {inner // n} adds nothing. Give a lower rank, or rank: full."
        )
