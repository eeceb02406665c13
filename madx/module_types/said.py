"""SAID, structure-aware intrinsic dimension: all weights move in one random subspace of few dimensions.

The d numbers t that are trained reach every weight by a fixed random projection (Aghajanyan et al. 2021,
arXiv:2012.13255). For a parameter theta with D entries in layer i:

    theta = theta_0 + lambda_i P t        lambda_i one learned number per layer, 1 at first; t is 0 at first

The embeddings and whatever stands outside the layers have a lambda each as well. P `(D, d)` is never built. It is the
Fastfood transform (Le et al. 2013, arXiv:1408.3060): with n the power of two from d on, t padded with zeros to n, and
D / n independent blocks, each of which gives n entries,

    P_k = H G_k Pi H B_k / (|G_k| sqrt(D))

    H    the Walsh-Hadamard matrix `(n, n)` of 1 and -1, applied by additions and subtractions in n log n steps
    B_k  random signs;  G_k  random numbers, nearly normal;  Pi  a random permutation, one for all blocks

so the change of a parameter is about as long as lambda t. A delta takes D log n additions and no memory beyond its
result. During training B and G are kept, in 3 bytes a weight.

P depends on `seed` and on the names of the parameters alone, to the last bit, on every device and version. Its random
bits are the raw words of numpy's Philox generator, whose stream is guaranteed; B, G and Pi are made of them in whole
numbers, and |G| is the root of a whole number. Everything else is an addition or a single multiplication, in a fixed
order. So a module is stored as d numbers, the lambdas, and (in its settings) the seed. Modules with the same seed lie
in the same subspace.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from madx.contract.module_type import MODULE_TYPES, ComponentConfig, Delta, WeightsType
from madx.contract.random_words import RandomWords
from madx.contract.sites import BaseParameter, Site
from madx.errors import ConfigError, StoreError
from madx.module_types.sparse_diff import Space

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "said": ({}, "all weights of the layers in a random subspace of 1,000 dimensions (Aghajanyan et al. 2021)"),
}

#: The number of weights that are projected together: they fit a processor's cache.
RUN = 1 << 16


class SaidConfig(ComponentConfig):
    """Settings of a SAID component."""

    dimension: int = Field(default=1000, ge=1, description="d, the number of dimensions of the subspace.")
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="Seed of the projection; modules of one seed share a subspace."
    )
    groups: tuple[Literal["embeddings", "layers", "other"], ...] = Field(
        default=("layers",), min_length=1, strict=False, description="Groups of parameters that move."
    )
    kinds: tuple[Literal["weight", "bias", "norm"], ...] = Field(
        default=("weight", "bias", "norm"),
        min_length=1,
        strict=False,
        description="Weight matrices, biases and the parameters of layer norms.",
    )

    def moved(self, site: Site) -> tuple[BaseParameter, ...]:
        """The parameters that move.

        Raises ConfigError when there are none, or when they have fewer entries than there are dimensions.
        """
        layers = self.layers(site.depth)
        found = tuple(
            p
            for p in site.parameters
            if p.group in self.groups and p.kind in self.kinds and (p.layer in layers or p.layer is None)
        )
        size = sum(p.numel for p in found)
        if not found:
            raise ConfigError(f"No parameter of the base moves with {self!r}: widen groups, kinds or layers.")
        if self.dimension > size:
            raise ConfigError(
                f"said.dimension is {self.dimension:,}, but the parameters that move have {size:,} entries: a subspace "
                f"has at most as many dimensions. Give at most {size:,}, or widen groups, kinds or layers."
            )
        return found


#: B `(n, blocks)`, G `(n, blocks)` and 1 / (|G| sqrt(D)) `(blocks,)` of some blocks
Table = tuple[Tensor, Tensor, Tensor]


class Fastfood:
    """P of one parameter, `(size, dimension)`, as two functions.

    Args:
        seed, name: what P depends on; name is that of the parameter.
        size: D, its number of entries.
        dimension: d.
    """

    def __init__(self, seed: int, name: str, *, size: int, dimension: int):
        self.seed, self.name, self.size, self.dimension = seed, name, size, dimension
        self.n = 1 << (dimension - 1).bit_length()
        self._kept: list[Table] | None = None

    def forward(self, t: Tensor) -> Tensor:
        """P t: `(dimension,)` -> `(size,)`."""
        start = torch.nn.functional.pad(t, (0, self.n - self.dimension))[:, None]
        order, found = _permutation(self.seed, self.n, t.device), []
        for signs, gains, factors in self._tables(t):
            x = hadamard(start * signs)[order]
            found.append((hadamard(x * gains) * factors).T.reshape(-1))
        return torch.cat(found)[: self.size]

    def adjoint(self, gradient: Tensor) -> Tensor:
        """P^T g: `(size,)` -> `(dimension,)`."""
        order = _permutation(self.seed, self.n, gradient.device)
        total, first = gradient.new_zeros(self.n), 0
        for signs, gains, factors in self._tables(gradient):
            here = gradient[first : first + signs.numel()]
            first += len(here)
            g = torch.nn.functional.pad(here, (0, signs.numel() - len(here)))
            x = hadamard(g.view(-1, self.n).T * factors) * gains
            back = torch.empty_like(x)
            back[order] = x
            total += (hadamard(back) * signs).sum(1)
        return total[: self.dimension]

    def keep(self, kept: bool) -> None:
        """Keep the random numbers after their next use, or draw them anew each time."""
        self._kept = (self._kept or []) if kept else None

    def _tables(self, like: Tensor) -> Iterator[Table]:
        if self._kept is not None:
            if not self._kept:
                self._kept.extend(self._drawn())
            self._kept[:] = [(b.to(like.device), g.to(like.device), f.to(like.device)) for b, g, f in self._kept]
        for signs, gains, factors in self._drawn() if self._kept is None else self._kept:
            yield signs.to(like), gains.to(like), factors.to(like)

    def _drawn(self) -> Iterator[Table]:
        """Draw B and G from the words of one stream, block by block: first those of G, then those of B."""
        n, words = self.n, RandomWords(f"{self.seed} {self.name}")
        for_g, for_b = -(-n // 2), -(-n // 64)
        blocks, at_once = -(-self.size // n), max(1, RUN // n)
        for first in range(0, blocks, at_once):
            raw = words.rows(min(at_once, blocks - first), for_g + for_b)
            quarters = raw[:, : 4 * n].to(torch.int16)
            # the sum of four bytes is nearly normal; made odd, G is never zero
            gains = 2 * (quarters[:, 0::4] + quarters[:, 1::4] + quarters[:, 2::4] + quarters[:, 3::4]) - 1019
            bits = raw[:, 8 * for_g :, None] >> torch.arange(8, dtype=torch.uint8) & 1
            factors = 1 / (gains.long().square().sum(1) * self.size).double().sqrt()
            signs = 2 * bits.flatten(1)[:, :n].to(torch.int8) - 1
            yield signs.T.contiguous(), gains.T.contiguous(), factors


@lru_cache(maxsize=8)
def _permutation(seed: int, n: int, device: torch.device) -> Tensor:
    """Pi `(n,)`: the order of n random words."""
    return RandomWords(str(seed)).permutation(n).to(device)


def hadamard(x: Tensor) -> Tensor:
    """H x for each column: `(n, columns)` -> `(n, columns)`, with H_1 = 1 and H_2n = [[H_n, H_n], [H_n, -H_n]].

    >>> hadamard(torch.tensor([[1.0], [2.0], [3.0], [4.0]])).T
    tensor([[10., -2., -4.,  0.]])
    """
    n, columns = x.shape
    here, there = (
        x.clone(memory_format=torch.contiguous_format),
        torch.empty(n, columns, dtype=x.dtype, device=x.device),
    )
    half = 1
    while half < n:
        shape = (n // (2 * half), 2, half * columns)
        a, b = here.view(shape).unbind(1)
        sums, differences = there.view(shape).unbind(1)
        torch.add(a, b, out=sums)
        torch.sub(a, b, out=differences)
        here, there = there, here
        half *= 2
    return here


@MODULE_TYPES.register("said")
class Said(WeightsType):
    """All weights in one random subspace; see the file's docstring for the formulas.

    Attributes:
        numbers: t, `(dimension,)`.
        scales: lambda, one for each layer in its order, then one for each other group that moves.
        parameters_digest: 32 bytes that identify names and shapes of the parameters that P was made for.
    """

    Config = SaidConfig
    config: SaidConfig
    packed = True
    parameters_digest: Tensor

    def __init__(self, config: SaidConfig, site: Site):
        super().__init__(config, site)
        moved = config.moved(site)
        places = sorted({_place(p) for p in moved})
        self.numbers = nn.Parameter(torch.zeros(config.dimension))
        self.scales = nn.Parameter(torch.ones(len(places)))
        with torch.device("cpu"):
            self.register_buffer("parameters_digest", Space(moved).digest())
        self._moved = {p.name: (p, places.index(_place(p))) for p in moved}
        self._projections = {
            p.name: Fastfood(config.seed, p.name, size=p.numel, dimension=config.dimension) for p in moved
        }

    def train(self, mode: bool = True) -> "Said":
        for projection in self._projections.values():
            projection.keep(mode)
        return super().train(mode)

    @torch.no_grad()
    def deltas(self) -> list[Delta]:
        return [
            Delta(name, (self._projections[name].forward(self.numbers) * self.scales[place]).view(p.shape))
            for name, (p, place) in self._moved.items()
        ]

    def touches(self) -> list[str]:
        return list(self._moved)

    @torch.no_grad()
    def pull(self, parameter: str, gradient: Tensor) -> None:
        """Add lambda P^T g to the gradient of t, and <P^T g, t> to that of lambda."""
        if parameter not in self._moved:
            return
        place = self._moved[parameter][1]
        pulled = self._projections[parameter].adjoint(gradient.reshape(-1).to(self.numbers.dtype))
        for own in (self.numbers, self.scales):
            if own.grad is None:
                own.grad = torch.zeros_like(own)
        self.numbers.grad += pulled * self.scales[place]  # type: ignore[operator]
        self.scales.grad[place] += pulled @ self.numbers  # type: ignore[index]

    def describe(self) -> str:
        """For example `1,000 dimensions over 48 parameters, 3 scales`."""
        return f"{self.config.dimension:,} dimensions over {len(self._moved)} parameters, {len(self.scales)} scales"

    # ---- the stored form ---------------------------------------------------------------------------------------------

    def unpack(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        if faults := self.stored_faults(stored):
            raise StoreError("; ".join(faults))
        if not torch.equal(stored["parameters_digest"], self.parameters_digest.cpu()):
            raise StoreError("its projection is for parameters of other names or shapes than those of this base")
        for name, own in (("numbers", self.numbers), ("scales", self.scales)):
            if stored[name].shape != own.shape:
                raise StoreError(f"it holds {stored[name].numel():,} {name}, but its settings ask for {own.numel():,}")
        return stored

    @classmethod
    def stored_faults(cls, stored: dict[str, Tensor]) -> list[str]:
        wanted = ("numbers", "parameters_digest", "scales")
        if sorted(stored) != list(wanted):
            found = ", ".join(sorted(stored)) or "nothing"
            return [f"a SAID component is stored as {', '.join(wanted)}, not as {found}"]
        faults = [f"{n} must be one row of numbers" for n in wanted if stored[n].dim() != 1]
        faults += [f"{n} is {stored[n].dtype}" for n in ("numbers", "scales") if not stored[n].is_floating_point()]
        if stored["parameters_digest"].dtype != torch.uint8:
            faults.append(f"parameters_digest is {stored['parameters_digest'].dtype}, not torch.uint8")
        return faults


def _place(parameter: BaseParameter) -> tuple[int, int | str]:
    """The owner of a parameter's lambda: its layer, or its group outside the layers, ordered after them."""
    return (0, parameter.layer) if parameter.layer is not None else (1, parameter.group)
