"""Frozen output embeddings: the masked-LM decoder keeps theta_0 while the embeddings it is tied to carry a weight delta."""

from collections.abc import Iterator

from torch import Tensor, nn

from madx.base import Base
from madx.engine.call import CurrentCall
from madx.engine.hooks import Hook
from madx.engine.weight_deltas import WeightDeltas
from madx.errors import CompositionError


def frozen_output_embeddings(deltas: WeightDeltas, current: CurrentCall) -> Iterator[tuple[nn.Module, Hook]]:
    """(module, hook) for all modules outside the encoder that share a weight with it: the masked-LM decoder keeps theta_0
    while the embeddings carry a delta (Ansell et al. 2022 untie and freeze it)."""
    base = deltas.base
    names = {id(p): name for name, p in base.encoder.named_parameters()}
    for module, name in _tied(base, names):
        yield module, TiedDecoder(current, module, name, deltas)
    if (head := head_with_embeddings(base)) is not None:
        yield head, GivenEmbeddings(current, names, deltas)


def _tied(base: Base, names: dict[int, str]) -> list[tuple[nn.Module, str]]:
    inside = set(base.encoder.modules())
    found = (
        (module, names.get(id(module._parameters.get("weight"))))
        for module in base.model.modules()
        if module not in inside
    )
    return [(module, name) for module, name in found if name is not None]


def decoder_weights(deltas: WeightDeltas) -> dict[str, Tensor]:
    """Name in the masked-LM model -> theta_0, for the decoders whose embeddings carry a delta now.

    Raises CompositionError for a base whose head reads the embeddings themselves.
    """
    base = deltas.base
    names = {id(p): name for name, p in base.encoder.named_parameters()}
    paths = {module: path for path, module in base.model.named_modules()}
    if head_with_embeddings(base) is not None and deltas.touched(base.model.get_input_embeddings().weight):
        raise CompositionError(
            "The masked-LM head of this base reads the embeddings themselves, so it cannot keep theta_0 beside a delta in them. "
            "Train with groups [layers], or keep it as a module."
        )
    found = {}
    for module, name in _tied(base, names):
        if (weight := deltas.original(name)) is not module.weight:
            found[f"{paths[module]}.weight"] = weight
    return found


def head_with_embeddings(base: Base) -> nn.Module | None:
    """The masked-LM head that is handed the embedding module instead of sharing its weight, if this base has one."""
    path = base.family.head_with_embeddings
    return base.model.get_submodule(path) if path is not None and hasattr(base.model, path.split(".")[0]) else None


def decoder_of(base: Base) -> nn.Linear | None:
    """The linear map from the masked-LM head to the vocabulary; None where the head has another form."""
    decoder = base.model.get_output_embeddings()
    return decoder if isinstance(decoder, nn.Linear) and head_with_embeddings(base) is None else None


class TiedDecoder(Hook):
    """A decoder that shares its weight with the embeddings: it computes with theta_0 and trains nothing."""

    def __init__(self, current: CurrentCall, module: nn.Module, name: str, deltas: WeightDeltas):
        super().__init__(current)
        self.module, self.name, self.deltas = module, name, deltas

    def __call__(self, x: Tensor) -> Tensor:
        shared = self.deltas.base.encoder.get_parameter(self.name)
        if self.module.weight is not shared:  # after a merge the decoder has a weight of its own
            return self.original(x)
        weight = self.deltas.original(self.name)
        if weight is shared and not weight.requires_grad:
            return self.original(x)
        return nn.functional.linear(x, weight.detach(), self.module.bias)


class _Weight:
    """Stands in for an embedding module whose weight alone is read."""

    def __init__(self, weight: Tensor):
        self.weight = weight


class GivenEmbeddings(Hook):
    """A masked-LM head that is handed the embedding module: it gets theta_0 in its place."""

    def __init__(self, current: CurrentCall, names: dict[int, str], deltas: WeightDeltas):
        super().__init__(current)
        self.names, self.deltas = names, deltas

    def __call__(self, hidden: Tensor, embeddings: nn.Module) -> Tensor:
        weight = self.deltas.original(self.names[id(embeddings.weight)])
        return self.original(hidden, _Weight(weight.detach()))
