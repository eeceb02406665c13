"""Prefix tuning: the module type `prefix`.

    prompt_embeddings (length, layers * 2 * width)      keys of layer i at block 2i, its values at block 2i + 1

PEFT stores what its network (`prefix_projection`) computes, never the network, so a prefix read from files is flat.
"""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from madx.base import Base
from madx.errors import BaseError, ConfigError, StoreError
from madx.interop.peft.methods.method import Method, Place, Reading, Writing, units_of
from madx.interop.peft.schema import PeftSchema, checked
from madx.module import Module
from madx.module.presets import make_components

PROMPT = "prompt_embeddings"
Size = Annotated[int, Field(ge=1, le=1 << 20)]
#: bases whose attention PEFT can give a prefix; the others take no keys and values from outside
BASES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "xlm-roberta-xl", "rembert")


class PromptLearningSchema(PeftSchema):
    """The keys of prefix and prompt tuning."""

    num_virtual_tokens: Size
    token_dim: Size | None = None
    num_layers: Size | None = None
    num_attention_heads: Size | None = None
    num_transformer_submodules: int | None = 1


class PrefixSchema(PromptLearningSchema):
    """Their config of prefix tuning."""

    encoder_hidden_size: Size | None = None
    prefix_projection: bool = False
    init_weights: str | None = None


class PrefixMethod(Method):
    """Keys and values before those of the tokens, in all layers."""

    component: ClassVar = "prefix"
    defaults: ClassVar = {
        "encoder_hidden_size": None,
        "init_weights": None,
        "num_attention_heads": None,
        "num_layers": None,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": None,
        "prefix_projection": False,
        "token_dim": None,
    }

    def read(self, config: dict[str, Any], tensors: dict[str, Tensor], place: Place) -> Reading:
        """The component `prefix`, flat."""
        theirs, reading = checked(PrefixSchema, config), Reading()
        require_base_type(place.base)
        length, width, depth = theirs.num_virtual_tokens, place.base.width, place.base.depth
        blocks = the_only(tensors, (length, depth * 2 * width), place).view(length, 2 * depth, width).unbind(1)
        reading.components = make_components({"prefix": {"length": length, "flat": True, "moves_tokens": True}})
        for i in range(depth):
            for kind, block in (("keys", blocks[2 * i]), ("values", blocks[2 * i + 1])):
                reading.tensors[f"layer.{i}.slots.prefix.{kind}"] = block.contiguous()
                reading.mapped.append((f"{PROMPT}, layer.{i}", f"layer.{i}.slots.prefix.{kind}"))
        if theirs.prefix_projection:
            why = "its network is not in the files, only the keys and values that it gave, so the prefix is flat"
            reading.ignored.append(("prefix_projection", why))
        return reading

    def write(self, module: Module, base: Base) -> Writing:
        """Their config and the table of all prefixes. A prefix of a network is written as what the network gives."""
        ours: Any = module.info.components["prefix"]
        require_base_type(base)
        if not ours.moves_tokens:
            raise ConfigError(
                f"Beside the prefix of {module.name!r} the tokens keep their positions; under PEFT they count on "
                "behind it. Train it with moves_tokens: true, or export it to adapterhub."
            )
        if len(ours.layers(base.depth)) < base.depth:
            raise ConfigError(
                f"The prefix of {module.name!r} leaves out layers ({', '.join(map(str, ours.leave_out))}); PEFT has a "
                "prefix in every layer. Export it to adapterhub."
            )
        units = units_of(module, "prefix")
        training = module.training
        with torch.no_grad():
            filled = [units[f"layer.{i}.slots"].eval()(None) for i in range(base.depth)]
        module.train(training)
        table = torch.cat([torch.cat([keys, values], dim=1) for keys, values in filled], dim=1)
        return Writing(
            sizes(ours.length, base) | {"encoder_hidden_size": base.width}, {PROMPT: table}, frozenset({PROMPT})
        )


def sizes(length: int, base: Base) -> dict[str, Any]:
    """Their settings that describe the base."""
    heads = getattr(base.config, "num_attention_heads", None)
    return {
        "num_virtual_tokens": length,
        "token_dim": base.width,
        "num_layers": base.depth,
        "num_attention_heads": heads,
    }


def require_base_type(base: Base) -> None:
    """Raises BaseError for a base whose attention takes no keys and values from outside in PEFT."""
    if base.config.model_type not in BASES:
        raise BaseError(
            f"PEFT has no prefix tuning for bases of type {base.config.model_type!r}, whose attention takes no keys "
            f"and values from outside. Load a base of one of these types: {', '.join(BASES)}."
        )


def the_only(tensors: dict[str, Tensor], shape: tuple[int, ...], place: Place) -> Tensor:
    """The tensor `prompt_embeddings`. Raises StoreError for other tensors, and for another shape."""
    if set(tensors) != {PROMPT}:
        raise StoreError(
            f"{place.file} must hold {PROMPT} (and a head); it holds {', '.join(k[:80] for k in tensors)}."
        )
    if tuple(tensors[PROMPT].shape) != shape:
        raise StoreError(
            f"{place.file} does not fit its config on this base: {PROMPT} is {tuple(tensors[PROMPT].shape)}, base and "
            f"config ask for {shape}."
        )
    return tensors[PROMPT]
