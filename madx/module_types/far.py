"""FAR, freeze and reconfigure: only those nodes of the feed-forward blocks train that matter most for the data.

Node i of a feed-forward block is row i of `up`, with its bias, and column i of `down`; in a gated block (ModernBERT)
both of its rows of `up`. After a short priming run over all nodes (Vucetic et al. 2022, arXiv:2205.01541) the nodes of
each layer are ranked by how much their weights have changed; the share `share` of them goes on learning and the
others are frozen:

    score of node i = sum |delta of its row| + sum |delta of its column|        the r largest of a layer train

The priming run takes `priming_steps` steps of AdamW over the first batches, with the rest of the module as it is; then
all deltas return to zero. From there on the module holds, trains and stores the r nodes of each layer alone. A module
that has not been primed yet holds all nodes. (The paper moves the learning nodes into a dense block, so that frozen
activations need not be kept; the base is shared by all modules here, so its order stays.)
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from madx.contract.module_type import MODULE_TYPES, ComponentConfig, Delta, WeightsType
from madx.contract.sites import BaseParameter, Site
from madx.errors import ConfigError, StoreError

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "far": ({}, "the tenth of the feed-forward nodes that a priming run changes most (Vucetic et al. 2022)"),
}


class FarConfig(ComponentConfig):
    """Settings of a FAR component."""

    share: float = Field(default=0.1, gt=0, le=1, description="Share of each layer's nodes that trains.")
    priming_steps: int = Field(default=20, ge=1, description="Steps of the priming run, over the first batches.")
    priming_rate: float = Field(
        default=1e-4, gt=0, allow_inf_nan=False, description="Learning rate of the priming run."
    )

    def blocks(self, site: Site) -> dict[int, dict[str, BaseParameter]]:
        """By layer the parameters of its block: `up`, `down` and, if there is one, `bias` of `up`.

        Raises ConfigError for a base whose blocks are not described, and for a share that leaves no node.
        """
        found: dict[int, dict[str, BaseParameter]] = {}
        for p in site.parameters:
            if p.layer in self.layers(site.depth) and p.map in ("ffn.up", "ffn.down"):
                name = p.map.removeprefix("ffn.") if p.kind == "weight" else "bias" if p.map == "ffn.up" else None
                if name is not None and p.layer is not None:
                    found.setdefault(p.layer, {})[name] = p
        if not found or any(not {"up", "down"} <= set(block) for block in found.values()):
            raise ConfigError("far needs the feed-forward maps `up` and `down`, which are not described for this base.")
        self.nodes(next(iter(found.values()))["down"].shape[1])
        return found

    def nodes(self, total: int) -> int:
        """r of `total` nodes. Raises ConfigError when none is left."""
        if (count := round(self.share * total)) < 1:
            raise ConfigError(
                f"far.share is {self.share}, which freezes all {total:,} nodes of a layer. Give at least "
                f"{1 / total:.6f}."
            )
        return count


@MODULE_TYPES.register("far")
class Far(WeightsType):
    """Deltas of the learning nodes of all feed-forward blocks; d is the base's width, g is 2 in a gated block, else 1.

    Attributes:
        nodes: `(layers, r)`, ascending in each layer; all nodes before the priming run.
        up: `(layers, g r, d)`; the rows of the gate's half stand after those of the other.
        bias: `(layers, g r)`; None for a base without.
        down: `(layers, d, r)`.
    """

    Config = FarConfig
    config: FarConfig
    packed = True
    nodes: Tensor

    def __init__(self, config: FarConfig, site: Site):
        super().__init__(config, site)
        self.blocks = config.blocks(site)
        first = next(iter(self.blocks.values()))
        self.width, self.inner = first["down"].shape
        self.gates, layers = first["up"].shape[0] // self.inner, len(self.blocks)
        self.register_buffer("nodes", torch.arange(self.inner, dtype=torch.int32).repeat(layers, 1))
        self.up = nn.Parameter(torch.zeros(layers, self.gates * self.inner, self.width))
        self.down = nn.Parameter(torch.zeros(layers, self.width, self.inner))
        self.bias = nn.Parameter(torch.zeros(layers, self.gates * self.inner)) if "bias" in first else None
        self._places = {p.name: (k, role) for k, b in enumerate(self.blocks.values()) for role, p in b.items()}
        self._primed = 0
        self._optimizer: torch.optim.Optimizer | None = None

    @property
    def learning(self) -> int:
        """The number of nodes of each layer that it holds."""
        return self.nodes.shape[1]

    def _rows(self, number: int) -> Tensor:
        """The rows of `up` that belong to the nodes of one block, `(g r,)`, ascending."""
        nodes = self.nodes[number].long()
        return torch.cat([nodes + gate * self.inner for gate in range(self.gates)])

    def _indices(self, number: int, role: str) -> Tensor:
        """The places of one parameter's entries in the flattened parameter, ascending."""
        if role == "bias":
            return self._rows(number)
        device = self.nodes.device
        if role == "up":
            return (self._rows(number)[:, None] * self.width + torch.arange(self.width, device=device)).flatten()
        return (torch.arange(self.width, device=device)[:, None] * self.inner + self.nodes[number].long()).flatten()

    @torch.no_grad()
    def deltas(self) -> list[Delta]:
        return [
            Delta(name, getattr(self, role)[number].flatten(), self._indices(number, role))
            for name, (number, role) in self._places.items()
        ]

    def touches(self) -> list[str]:
        return list(self._places)

    @torch.no_grad()
    def pull(self, parameter: str, gradient: Tensor) -> None:
        """Add the rows and columns of one parameter's gradient that belong to learning nodes."""
        if parameter not in self._places:
            return
        number, role = self._places[parameter]
        own = getattr(self, role)
        if own.grad is None:
            own.grad = torch.zeros_like(own)
        nodes = self.nodes[number].long()
        own.grad[number] += gradient[:, nodes] if role == "down" else gradient[self._rows(number)]

    def describe(self) -> str:
        """For example `307 of 3,072 nodes in 12 layers`."""
        return f"{self.learning:,} of {self.inner:,} nodes in {len(self.blocks)} layers"

    # ---- priming -----------------------------------------------------------------------------------------------------

    def prepare(self, gradients: dict[str, Tensor]) -> Literal["next batch"] | None:
        """Take a step of the priming run, or freeze all but the nodes that it changed most."""
        if self._optimizer is None and self.learning < self.inner or self.config.nodes(self.inner) == self.inner:
            return None  # it continues an earlier training, or all nodes learn
        if self._optimizer is None:
            self._optimizer = torch.optim.AdamW(self.parameters(), lr=self.config.priming_rate, weight_decay=0.0)
        for name, parameter in self.named_parameters():
            parameter.grad = gradients[name]
        self._optimizer.step()
        self._primed += 1
        if self._primed < self.config.priming_steps:
            return "next batch"
        self._freeze()
        self._optimizer, self._primed = None, 0
        return None

    def _freeze(self) -> None:
        """Keep the nodes with the largest scores in each layer, with deltas of zero."""
        halves = self.up.detach().abs().sum(2)
        if self.bias is not None:
            halves = halves + self.bias.detach().abs()
        scores = halves.view(len(halves), self.gates, self.inner).sum(1) + self.down.detach().abs().sum(1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, : self.config.nodes(self.inner)]
        self._hold(order.sort(1).values.to(torch.int32))

    def _hold(self, nodes: Tensor) -> None:
        """Hold these nodes, `(layers, r)`, with deltas of zero."""
        layers, count = nodes.shape
        self.nodes = nodes
        for name, shape in (("up", (self.gates * count, self.width)), ("down", (self.width, count))):
            own = getattr(self, name)
            setattr(self, name, nn.Parameter(own.new_zeros(layers, *shape), requires_grad=own.requires_grad))
        if self.bias is not None:
            zeros = self.bias.new_zeros(layers, self.gates * count)
            self.bias = nn.Parameter(zeros, requires_grad=self.bias.requires_grad)

    # ---- the stored form ---------------------------------------------------------------------------------------------

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take tensors of another number of nodes, as a trained module has them."""
        found = state_dict.get(f"{prefix}nodes")
        if found is not None and found.dim() == 2 and found.shape[1] != self.learning:
            self._hold(self.nodes.new_zeros(len(self.blocks), found.shape[1]))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def unpack(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        if faults := self.stored_faults(stored):
            raise StoreError("; ".join(faults))
        layers, count = stored["nodes"].shape
        wanted: dict[str, tuple[int, ...]] = {}
        wanted |= {"up": (layers, self.gates * count, self.width), "down": (layers, self.width, count)}
        wanted |= {"bias": (layers, self.gates * count)} if self.bias is not None else {}
        found = {name: tuple(t.shape) for name, t in stored.items() if name != "nodes"}
        if layers != len(self.blocks) or found != wanted:
            raise StoreError(
                f"its tensors do not fit this base, which has {len(self.blocks)} blocks of width {self.width}"
            )
        nodes = stored["nodes"]
        if count < 1 or int(nodes.min()) < 0 or int(nodes.max()) >= self.inner or bool((nodes.diff(dim=1) < 1).any()):
            raise StoreError(f"its nodes are not ascending numbers from 0 to {self.inner - 1}")
        return stored

    @classmethod
    def stored_faults(cls, stored: dict[str, Tensor]) -> list[str]:
        if not {"nodes", "up", "down"} <= set(stored) <= {"nodes", "up", "down", "bias"}:
            return [
                f"FAR is stored as nodes, up, down and perhaps bias, not as {', '.join(sorted(stored)) or 'nothing'}"
            ]
        if stored["nodes"].dtype != torch.int32 or stored["nodes"].dim() != 2:
            return ["nodes must be whole numbers of 32 bits, one row for each layer"]
        return [f"{n} is {t.dtype}" for n, t in stored.items() if n != "nodes" and not t.is_floating_point()]
