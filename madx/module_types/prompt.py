"""Prompt: learned vectors before the embeddings of the tokens.

The encoder reads [P; X] instead of the embeddings X `(tokens, width)` of the tokens, with P `(length, width)` learned
(Lester et al. 2021, arXiv:2104.08691). P comes in after the embedding block, past its position embeddings and its LN:
the tokens keep their own positions, and P takes part in the attention of every layer as tokens do. A prompt has no
identity to start from.
"""

from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from madx.contract.module_type import MODULE_TYPES, ComponentConfig, SlotsType
from madx.contract.sites import Site
from madx.contract.views import Slots

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "prompt": ({}, "prompt of 10 learned vectors before the tokens (Lester et al. 2021)"),
}


class PromptConfig(ComponentConfig):
    """Settings of a prompt component; the defaults are AdapterHub's."""

    length: int = Field(default=10, ge=1, description="How many vectors stand before the tokens.")
    init: Literal["uniform", "normal"] = Field(
        default="uniform", description="uniform: between -0.5 and 0.5, as in the paper; normal: N(0, 0.02)."
    )

    moves_tokens: bool = Field(
        default=False,
        description="Positions of the tokens count on behind the prompt, as in peft; false: the tokens keep their own.",
    )

    @field_validator("leave_out")
    @classmethod
    def _acts_before_all_layers(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value:
            raise ValueError(
                f"a prompt stands before all layers, so it cannot leave out {', '.join(map(str, value))}; remove the "
                "key, or use the module type prefix, which acts layer by layer"
            )
        return value


@MODULE_TYPES.register("prompt")
class Prompt(SlotsType):
    """The vectors of a prompt: `vectors` P, `(length, width)`."""

    Config = PromptConfig
    config: PromptConfig

    def __init__(self, config: PromptConfig, site: Site):
        super().__init__(config, site)
        self.require_room()
        self.vectors = nn.Parameter(torch.empty(config.length, site.width))
        if config.init == "normal":
            nn.init.normal_(self.vectors, std=0.02)
        else:
            nn.init.uniform_(self.vectors, -0.5, 0.5)

    @classmethod
    def acts_at(cls, config: PromptConfig, site: Site) -> bool:
        return site.kind == "slots" and site.layer is None

    @property
    def moves_tokens(self) -> bool:
        """As in the settings."""
        return self.config.moves_tokens

    @property
    def length(self) -> int:
        """How many vectors there are."""
        return self.config.length

    def forward(self, view: Slots) -> Tensor:
        """The vectors, `(length, width)`."""
        return self.vectors

    def describe(self) -> str:
        """For example `10 vectors of 64`."""
        return f"{self.length} vectors of {self.site.width}"
