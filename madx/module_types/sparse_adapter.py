"""SparseAdapter: a bottleneck of which most weights are pruned before training; only the survivors exist.

A unit is a bottleneck (`madx.module_types.bottleneck`, with all its settings) whose matrices lose the share `sparsity`
of their entries w when training begins (He et al. 2022, arXiv:2210.04284). The scores of all matrices of the component
are compared with each other, and the largest survive. With the gradient g of the first batch:

    prune "random"       a uniform number
    prune "magnitude"    |w|
    prune "snip"         |w g|                Lee et al. 2019 (arXiv:1810.02340)
    prune "grasp"        w (H g), by sign     Wang et al. 2020 (arXiv:2002.07376); H is the Hessian of the loss
    prune "erdos_renyi"  random within each matrix, whose share of survivors is proportional to (inputs + outputs) /
                         (inputs outputs): small matrices lose less (Mocanu et al. 2018, arXiv:1707.04780)

GraSP's score says how much of the gradient's flow is lost with a weight. H g is the difference of two gradients,
(g(w + e g) - g(w)) / e, with |e g| a thousandth of |w|, over all matrices together.

Biases, norms and scales are not pruned. A matrix is held as its K surviving values and their places, so the optimiser
and the file hold K numbers: a wider bottleneck of the same budget (preset `large_sparse`) costs no more. The places are
stored as one bit for each entry, or as delta-encoded bytes where that is smaller. A module that has not been trained
yet is still dense.
"""

import hashlib
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from madx.contract import index_coding
from madx.contract.module_type import MODULE_TYPES, ChangeType
from madx.contract.sites import Site
from madx.contract.views import Sublayer
from madx.errors import ConfigError, StoreError
from madx.module_types.bottleneck import Bottleneck, BottleneckConfig

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "sparse_adapter": ({}, "Pfeiffer bottleneck with 40 % of its weights pruned by SNIP (He et al. 2022)"),
    "large_sparse": (
        {"reduction_factor": 4.0, "sparsity": 0.75},
        "bottleneck four times as wide with the same number of weights (Large-Sparse, He et al. 2022)",
    ),
}

#: |e g| / |w| of the step by which GraSP's Hessian-gradient product is measured
STEP = 1e-3


class SparseAdapterConfig(BottleneckConfig):
    """Settings of a SparseAdapter component: those of a bottleneck, and how it is pruned."""

    sparsity: float = Field(default=0.4, ge=0.0, lt=1.0, description="Share of the matrices' weights that is pruned.")
    prune: Literal["random", "magnitude", "erdos_renyi", "snip", "grasp"] = Field(
        default="snip", description="The score by which weights survive."
    )
    prune_seed: int = Field(default=0, ge=0, description="Seed of the random scores.")

    @model_validator(mode="after")
    def _scores_differ(self) -> "SparseAdapterConfig":
        if self.init == "zero_up" and self.prune in ("magnitude", "snip", "grasp"):
            raise ValueError(
                f"init 'zero_up' gives all weights of the upper matrix the same score with prune {self.prune!r}: give "
                "init 'normal' or 'truncated', or prune 'random' or 'erdos_renyi'"
            )
        return self

    def survivors(self, total: int) -> int:
        """K of `total` weights. Raises ConfigError when none would survive."""
        count = round((1 - self.sparsity) * total)
        if count < 1:
            raise ConfigError(
                f"sparse_adapter.sparsity is {self.sparsity}, which prunes all {total:,} weights. Give at most "
                f"{1 - 1 / total:.6f}, or a smaller reduction_factor."
            )
        return count


class SparseLinear(nn.Module):
    """A linear map of which some weights exist: `values` `(K,)` at `places` `(K,)`, ascending, of the flattened matrix.

    It takes over a dense map; `keep` prunes it.
    """

    places: Tensor

    def __init__(self, dense: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = dense.in_features, dense.out_features
        self.values = nn.Parameter(dense.weight.detach().flatten())
        self.bias = dense.bias
        self.register_buffer("places", torch.arange(len(self.values), dtype=torch.int32))

    @property
    def size(self) -> int:
        """The number of entries of the matrix, pruned ones included."""
        return self.in_features * self.out_features

    @property
    def weight(self) -> Tensor:
        """The matrix `(out, in)`, zero at pruned places."""
        flat: Tensor = self.values
        if len(flat) < self.size:
            flat = flat.new_zeros(self.size).scatter(0, self.places.long(), flat)
        return flat.view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` -> `(..., out)`."""
        return F.linear(x, self.weight, self.bias)

    def keep(self, kept: Tensor) -> None:
        """Prune all values but those of these indices `(K,)`, ascending, into the present values."""
        self.values = nn.Parameter(self.values.detach()[kept], requires_grad=self.values.requires_grad)
        self.places = self.places[kept]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take tensors of another K, as a trained module has them."""
        found = state_dict.get(f"{prefix}places")
        if found is not None and len(found) != len(self.places):
            self.values = nn.Parameter(self.values.new_zeros(len(found)), requires_grad=self.values.requires_grad)
            self.places = self.places.new_zeros(len(found))
        super()._load_from_state_dict(state_dict, prefix, *args)


class Scores(nn.Module):
    """Scores that the units of a component compare while they are pruned; it has no parameters.

    Attributes:
        found: scores of each unit's weights, by site.
        squares: sum of g^2 and of w^2 over all units, for GraSP.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Tensor] = {}
        self.squares = [0.0, 0.0]
        self._masks: dict[str, Tensor] = {}

    def mask(self, site: str, config: SparseAdapterConfig) -> Tensor:
        """Take the mask over one unit's weights: true for those among the largest of all; of equal ones the first."""
        if self.found:
            scores = torch.cat(list(self.found.values()))
            kept = torch.zeros(len(scores), dtype=torch.bool)
            kept[scores.argsort(descending=True, stable=True)[: config.survivors(len(scores))]] = True
            self._masks = dict(zip(self.found, kept.split([len(s) for s in self.found.values()])))
            self.found, self.squares = {}, [0.0, 0.0]
        return self._masks.pop(site)


@MODULE_TYPES.register("sparse_adapter")
class SparseAdapter(ChangeType):
    """A pruned bottleneck at one sublayer.

    Attributes:
        network: the bottleneck, with `SparseLinear` maps in it.
        pruned: 1 once it has been pruned, `(1,)`.
    """

    Config = SparseAdapterConfig
    config: SparseAdapterConfig
    packed = True
    common: Scores
    pruned: Tensor

    def __init__(self, config: SparseAdapterConfig, site: Site):
        super().__init__(config, site)
        self.network = Bottleneck(config, site)
        self.reads, self.scope = self.network.reads, self.network.scope
        for name in ("down", "up"):
            setattr(self.network, name, SparseLinear(getattr(self.network, name)))
        self.register_buffer("pruned", torch.zeros(1, dtype=torch.uint8))
        self._round = 0
        self._before: list[tuple[Tensor, Tensor]] = []  # (w, g) of each map, for GraSP

    @classmethod
    def acts_at(cls, config: SparseAdapterConfig, site: Site) -> bool:
        return Bottleneck.acts_at(config, site)

    @classmethod
    def shared(cls, config: SparseAdapterConfig, sites: Any) -> Scores:
        config.survivors(sum(2 * site.width * config.bottleneck(site) for site in sites))
        return Scores()

    @property
    def final_norm(self) -> bool:
        return self.network.final_norm

    @property
    def maps(self) -> dict[str, SparseLinear]:
        """The pruned maps by their names in the unit."""
        return {name: m for name, m in self.named_modules() if isinstance(m, SparseLinear)}

    def forward(self, view: Sublayer) -> Tensor:
        """The change of the sublayer's output h, `(batch, tokens, width)`."""
        changed: Tensor = self.network(view)
        return changed

    def describe(self) -> str:
        """For example `64->32->64 relu, reads sum_norm, 2,457 of 4,096 weights`."""
        kept, size = (sum(n) for n in zip(*((len(m.values), m.size) for m in self.maps.values())))
        return f"{self.network.describe()}, {kept:,} of {size:,} weights"

    # ---- pruning -----------------------------------------------------------------------------------------------------

    def prepare(self, gradients: dict[str, Tensor]) -> Literal["same batch"] | None:
        """Prune the unit, in turns with the other units of the component, whose scores are compared with its own.

        A unit that is pruned already, because it continues an earlier training, stays as it is.
        """
        maps = self.maps
        if self._round == 0 and bool(self.pruned):
            return None
        g = [gradients[f"{name}.values"] for name in maps]
        self._round += 1
        grasp = self.config.prune == "grasp"
        if grasp and self._round == 1:
            self._before = [(m.values.detach().clone(), own.clone()) for m, own in zip(maps.values(), g)]
            for k in (0, 1):
                self.common.squares[1 - k] += sum(float(pair[k].double().square().sum()) for pair in self._before)
            return "same batch"
        if grasp and self._round == 2:
            for m, (w, own) in zip(maps.values(), self._before):
                m.values.copy_(w + self._step() * own)
            return "same batch"
        if self._round == (3 if grasp else 1):
            if grasp:
                for m, (w, _) in zip(maps.values(), self._before):
                    m.values.copy_(w)
            self.common.found[self.site.name] = torch.cat([s.float().cpu() for s in self._scores(g)])
            return "same batch"
        self._prune()
        self._round, self._before = 0, []
        self.pruned.fill_(1)
        return None

    def _step(self) -> float:
        """e, so that |e g| is a fixed share of |w| over all matrices; 0 where there is no gradient."""
        g, w = self.common.squares
        return STEP * float((w / g) ** 0.5) if g else 0.0

    def _scores(self, g: list[Tensor]) -> list[Tensor]:
        """The scores of the maps' weights."""
        rule, maps = self.config.prune, self.maps
        if rule in ("random", "erdos_renyi"):
            return [self._uniform(name, m.size) for name, m in maps.items()]
        weights = [m.values.detach() for m in maps.values()]
        if rule == "magnitude":
            return [w.abs() for w in weights]
        if rule == "snip":
            return [(w * own).abs() for w, own in zip(weights, g)]
        step = self._step() or 1.0
        return [w * (new - old) / step for w, new, (_, old) in zip(weights, g, self._before)]

    def _uniform(self, name: str, count: int) -> Tensor:
        key = f"{self.config.prune_seed} {self.site.name} {name}".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1
        return torch.rand(count, generator=torch.Generator().manual_seed(seed))

    def _prune(self) -> None:
        maps = self.maps
        if self.config.prune == "erdos_renyi":
            own = self.common.found.pop(self.site.name).split([m.size for m in maps.values()])
            for m, scores in zip(maps.values(), own):
                best = scores.argsort(descending=True, stable=True)[: round(self._density(m) * m.size)]
                m.keep(best.sort().values.to(m.places.device))
            return
        kept = self.common.mask(self.site.name, self.config).split([m.size for m in maps.values()])
        for m, mask in zip(maps.values(), kept):
            m.keep(mask.nonzero()[:, 0].to(m.places.device))

    def _density(self, own: SparseLinear) -> float:
        """The share of a matrix's weights that survive: c (in + out) / (in out), at most 1, with c from the budget."""
        width, depth = self.site.width, self.site.depth
        layers = [Site("", "sublayer", width, depth, layer) for layer in sorted(self.config.layers(depth))]
        sizes = sorted((width * inner, width + inner) for inner in map(self.config.bottleneck, layers))
        budget = (1 - self.config.sparsity) * sum(size for size, _ in sizes)
        factor = 0.0
        for k, (size, _) in enumerate(sizes):  # the smallest matrices are the first whose share would exceed 1
            factor = budget / sum(both for _, both in sizes[k:])
            if factor * sizes[k][1] <= size:
                break
            budget -= size
        return min(1.0, factor * (own.in_features + own.out_features) / own.size)

    # ---- the stored form ---------------------------------------------------------------------------------------------

    def pack(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Values, and in the stead of `places` either `bits` or `gaps`, whichever is smaller."""
        stored = super().pack(dtype)
        for name, m in self.maps.items():
            places = stored.pop(f"{name}.places").cpu()
            gaps, length = index_coding.encode(places), -(-m.size // 8)
            if len(gaps) < length:
                stored[f"{name}.gaps"] = gaps
            else:
                mask = torch.zeros(8 * length, dtype=torch.uint8)
                mask[places.long()] = 1
                powers = (2 ** torch.arange(8)).to(torch.uint8)
                stored[f"{name}.bits"] = (mask.view(-1, 8) * powers).sum(1, dtype=torch.uint8)
        return stored

    def unpack(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        if faults := self.stored_faults(stored):
            raise StoreError("; ".join(faults))
        found = dict(stored)
        for name, m in self.maps.items():
            if (bits := found.pop(f"{name}.bits", None)) is not None:
                places = ((bits[:, None].int() >> torch.arange(8)) & 1).flatten().nonzero()[:, 0]
            else:
                places = index_coding.decode(found.pop(f"{name}.gaps"))
            values = found[f"{name}.values"]
            if len(places) != len(values) or len(places) and int(places[-1]) >= m.size:
                raise StoreError(
                    f"{name} has {len(values):,} values at {len(places):,} places, of a matrix of {m.size:,} entries"
                )
            found[f"{name}.places"] = places.to(torch.int32)
        own = self.state_dict()
        if found.keys() != own.keys():
            strange = sorted(found.keys() ^ own.keys())
            raise StoreError(f"its tensors do not fit its settings: {', '.join(strange[:4])}")
        return found

    @classmethod
    def stored_faults(cls, stored: dict[str, Tensor]) -> list[str]:
        values = [name.removesuffix("values") for name in stored if name.endswith(".values")]
        if not values:
            return ["a SparseAdapter is stored with the values of its maps, and here are none"]
        faults = []
        for name in values:
            forms = [stored[name + form] for form in ("bits", "gaps") if name + form in stored]
            if len(forms) != 1 or forms[0].dtype != torch.uint8 or forms[0].dim() != 1:
                faults.append(f"{name}values needs one row of bytes, {name}bits or {name}gaps")
            elif f"{name}gaps" in stored and index_coding.ends_within_an_entry(forms[0]):
                faults.append(f"{name}gaps end within an entry: the file was cut")
            if stored[f"{name}values"].dim() != 1 or not stored[f"{name}values"].is_floating_point():
                faults.append(f"{name}values must be one row of floating-point numbers")
        return faults
