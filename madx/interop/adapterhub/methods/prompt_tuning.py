"""Prompt tuning: the module type `prompt`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from madx.config import Settings
from madx.errors import ConfigError
from madx.interop.adapterhub.methods.method import (
    Link,
    Method,
    Reading,
    Source,
    Surroundings,
    Target,
    note,
    validated,
)
from madx.module.presets import make_components


class PromptTuningSchema(Settings):
    """Their config of prompt tuning, with the defaults of `adapters`."""

    architecture: Literal["prompt_tuning"] = "prompt_tuning"
    prompt_length: Annotated[int, Field(ge=1, le=1 << 20)] = 10
    prompt_init: Literal["random_uniform", "from_string"] = "random_uniform"
    prompt_init_text: str | None = None
    combine: Literal["prefix", "prefix_after_bos"] = "prefix"
    init_weights_seed: int | None = None


class PromptTuningMethod(Method):
    """Vectors before the embeddings of the tokens."""

    components: ClassVar = ("prompt",)

    def read(self, config: dict[str, Any], source: Source) -> Reading:
        """The component `prompt`."""
        theirs, reading = validated(PromptTuningSchema, config), Reading()
        if theirs.combine != "prefix":
            raise ConfigError(
                f"This prompt is combined as {theirs.combine!r}, behind the first token; madx reads prompts that stand "
                "before all tokens (combine='prefix')."
            )
        note(reading, "prompt_init 'from_string'", theirs.prompt_init == "from_string", "the weights are here")
        note(reading, "prompt_init_text", theirs.prompt_init_text, "the weights are here")
        note(reading, "init_weights_seed", theirs.init_weights_seed is not None, "the weights are here")
        reading.components |= make_components({"prompt": {"length": theirs.prompt_length}})
        return reading

    def write(self, components: Mapping[str, Any], target: Target) -> tuple[dict[str, Any], list[str]]:
        """Their config; how the vectors were initialised is not written, since the weights are."""
        ours = components["prompt"]
        faults = (
            ["a prompt behind which the tokens count their positions on (moves_tokens)"] if ours.moves_tokens else []
        )
        return PromptTuningSchema(prompt_length=ours.length).model_dump(), faults

    def links(self, component: str, config: Any, *, tensors: dict[str, Tensor], around: Surroundings) -> list[Link]:
        """The only tensor."""
        theirs = f"prompt_tuning.prompt_tunings.{around.owner}.prompt_embedding.weight"
        return [Link(theirs, (name,), tuple(tensor.shape)) for name, tensor in tensors.items()]
