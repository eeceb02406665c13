"""Frozen output embeddings: the masked-LM decoder uses theta_0 although the tied embeddings carry a weight delta."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from madx.base import Base
from madx.engine.call import CurrentCall
from madx.engine.hooks import Hook
from madx.engine.mlm_loss import LossAtDecoder
from madx.engine.weight_deltas import WeightDeltas
from madx.errors import CompositionError


def decoder_hooks(deltas: WeightDeltas, current: CurrentCall, *, weights: bool) -> list[tuple[nn.Module, Hook]]:
    """Make the hooks at the masked-LM decoder. weights: a module with weight deltas is attached."""
    base = deltas.base
    found = list(frozen_output_embeddings(deltas, current)) if weights else []
    if (decoder := decoder_of(base)) is not None:
        found.append((decoder, LossAtDecoder(current, decoder)))
    return found


def frozen_output_embeddings(deltas: WeightDeltas, current: CurrentCall) -> Iterator[tuple[nn.Module, Hook]]:
    """Yield (module, hook) for all modules outside the encoder that share a weight with it.

    The masked-LM decoder uses theta_0 while the embeddings carry a delta (Ansell et al. 2022 untie and freeze it).
    """
    base = deltas.base
    names = {id(p): name for name, p in base.encoder.named_parameters()}
    for module, name in _tied(base, names):
        yield module, TiedDecoder(current, module, name, deltas)
    if (head := head_with_embeddings(base)) is not None:
        yield head, EmbeddingsArgument(current, names, deltas)


def _tied(base: Base, names: dict[int, str]) -> list[tuple[nn.Module, str]]:
    inside = set(base.encoder.modules())
    found = (
        (module, names.get(id(module._parameters.get("weight"))))
        for module in base.model.modules()
        if module not in inside
    )
    return [(module, name) for module, name in found if name is not None]


def decoder_weights(deltas: WeightDeltas) -> dict[str, Tensor]:
    """Return theta_0 by name in the masked-LM model, for the decoders whose embeddings carry a delta now.

    Raises CompositionError for a base whose head reads the embeddings themselves.
    """
    base = deltas.base
    names = {id(p): name for name, p in base.encoder.named_parameters()}
    paths = {module: path for path, module in base.model.named_modules()}
    embeddings: Any = base.model.get_input_embeddings()
    if head_with_embeddings(base) is not None and deltas.touched(embeddings.weight):
        raise CompositionError(
            "The masked-LM head of this base reads the embeddings themselves, so it cannot keep theta_0 when a delta "
            "in them is merged. Train with groups [layers], or keep the delta as a module."
        )
    found = {}
    for module, name in _tied(base, names):
        if (weight := deltas.original(name)) is not module.weight:
            found[f"{paths[module]}.weight"] = weight
    return found


def head_with_embeddings(base: Base) -> nn.Module | None:
    """Return the masked-LM head that gets the embedding module as an argument, if this base has one."""
    path = base.family.head_with_embeddings
    return base.model.get_submodule(path) if path is not None and hasattr(base.model, path.split(".")[0]) else None


def decoder_of(base: Base) -> nn.Linear | None:
    """Return the linear map from the masked-LM head to the vocabulary; None if the head has another form."""
    decoder: Any = base.model.get_output_embeddings()
    return decoder if isinstance(decoder, nn.Linear) and head_with_embeddings(base) is None else None


class TiedDecoder(Hook):
    """The hook at a decoder that shares its weight with the embeddings: it computes with theta_0, without gradients."""

    def __init__(self, current: CurrentCall, module: Any, name: str, deltas: WeightDeltas):
        super().__init__(current)
        self.module, self.name, self.deltas = module, name, deltas

    def __call__(self, x: Tensor) -> Any:
        shared = self.deltas.base.encoder.get_parameter(self.name)
        if self.module.weight is not shared:  # after a merge the decoder has a weight of its own
            return self.original(x)
        weight = self.deltas.original(self.name)
        if weight is shared and not weight.requires_grad:
            return self.original(x)
        return nn.functional.linear(x, weight.detach(), self.module.bias)


class _Weight:
    """Replaces an embedding module of which only the weight is read."""

    def __init__(self, weight: Tensor):
        self.weight = weight


class EmbeddingsArgument(Hook):
    """The hook at a masked-LM head that gets the embedding module as an argument: it gets theta_0 instead."""

    def __init__(self, current: CurrentCall, names: dict[int, str], deltas: WeightDeltas):
        super().__init__(current)
        self.names, self.deltas = names, deltas

    def __call__(self, hidden: Tensor, embeddings: Any) -> Any:
        weight = self.deltas.original(self.names[id(embeddings.weight)])
        return self.original(hidden, _Weight(weight.detach()))
