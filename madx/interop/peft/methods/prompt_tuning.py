"""Prompt tuning: the module type `prompt`.

PEFT puts its vectors before the embeddings of words, ahead of the base's embedding block; madx puts them behind it:

    there   E([P; words])       here   [P'; E(words)]       E: positions, LN, and a projection where there is one

E treats each vector by itself, so P' = E(P) is the same, and the tokens count their positions on behind the prompt
(`moves_tokens`). No prompt is written, since E has no inverse.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from madx.base import Base
from madx.errors import ConfigError
from madx.interop.peft.methods.method import Method, Place, Reading, Writing
from madx.interop.peft.methods.prefix_tuning import PROMPT, PromptLearningSchema, the_only
from madx.interop.peft.schema import checked
from madx.module import Module
from madx.module.presets import make_components


class PromptSchema(PromptLearningSchema):
    """Their config of prompt tuning."""

    prompt_tuning_init: str | None = None
    prompt_tuning_init_text: str | None = None
    tokenizer_name_or_path: str | None = None
    tokenizer_kwargs: dict[str, Any] | None = None


class PromptMethod(Method):
    """Vectors before the embeddings of the tokens."""

    component: ClassVar = "prompt"
    defaults: ClassVar = {}

    def read(self, config: dict[str, Any], tensors: dict[str, Tensor], place: Place) -> Reading:
        """The component `prompt`."""
        theirs, reading, base = checked(PromptSchema, config), Reading(), place.base
        table = the_only(tensors, (theirs.num_virtual_tokens, word_width(base)), place)
        reading.components = make_components({"prompt": {"length": theirs.num_virtual_tokens, "moves_tokens": True}})
        reading.tensors = {"slots.prompt.vectors": through_embeddings(base, table)}
        reading.mapped = [(PROMPT, "slots.prompt.vectors (behind the embedding block)")]
        return reading

    def write(self, module: Module, base: Base) -> Writing:
        """Refused; see the file's docstring."""
        raise ConfigError(
            f"{module.name!r} has a prompt, which stands behind the embedding block of the base; PEFT's stands ahead "
            "of it, and the block has no inverse. Export it to adapterhub."
        )


def word_width(base: Base) -> int:
    """The width of the embeddings of words."""
    encoder: Any = base.encoder
    return int(encoder.get_input_embeddings().weight.shape[1])


@torch.no_grad()
def through_embeddings(base: Base, table: Tensor) -> Tensor:
    """P' = E(P), `(length, width)` on the CPU, without dropout."""
    block: Any = base.encoder.embeddings
    device = next(base.encoder.parameters()).device
    training = block.training
    forward = type(block).forward  # of the class: an engine may have hooked the instance
    try:
        found = forward(block.eval(), inputs_embeds=table[None].to(device))
    finally:
        block.train(training)
    vectors: Tensor = found[0].to("cpu").contiguous()
    return vectors
