"""The masked-LM head of a base: its parameters, why it may not be a trained one, and a trained head in its place.

The head is all of a masked-LM model that is not its encoder: a dense map, an activation, a LayerNorm and the bias over
the vocabulary. The decoder is the embedding matrix and belongs to the encoder, but for a base whose decoder is not tied
(RemBERT): there it is a part of the head.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from madx.errors import BaseError

#: beginnings of the tensors that mark an encoder trained by replaced token detection (ELECTRA, DeBERTa-v3)
DISCRIMINATOR = ("discriminator_predictions.", "mask_predictions.")
#: the model types that are published as a discriminator and, apart from it, a generator
WITH_DISCRIMINATOR = ("electra", "deberta-v2")


class MaskedLMHead:
    """The head of one masked-LM model.

    Args:
        model: a masked-LM model of the transformers library.
        name: of the base, for messages.

    Attributes:
        fault: why the head cannot be a trained one, as the end of a sentence about the base; None: nothing says so.
        random: parameters of the head were in no file and are drawn at random.
        sha256: identifies a head of `madx train-head` that was put on the base; None: the head is the base's own.
        told: (module, its own head) of warnings that were given about modules that were trained with another head.
    """

    def __init__(self, model: Any, *, name: str):
        self.model, self.name = model, name
        self.fault: str | None = None
        self.random = False
        self.sha256: str | None = None
        self.told: set[tuple[str, str | None]] = set()

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the head's parameters by their names in the model; those of a tied decoder are not its own."""
        inside = {id(parameter) for parameter in self.model.base_model.parameters()}
        return {name: p for name, p in sorted(self.model.named_parameters()) if id(p) not in inside}

    def open(self) -> dict[str, nn.Parameter]:
        """Open the head to gradients; returns its parameters by name."""
        found = self.parameters()
        for parameter in found.values():
            parameter.requires_grad_(True)
        return found

    def doubt(self, *, missing: Iterable[str], stored: Iterable[str]) -> None:
        """Set `fault` and `random` of a head that was just loaded.

        missing: the tensors that no file held; stored: the names of all tensors in the files (they are read for
        `WITH_DISCRIMINATOR` alone).
        """
        missing = sorted(missing)
        self.fault, self.random = why_untrained(self.model.config, missing, stored), bool(missing)

    def require(self) -> None:
        """Raises BaseError when the head cannot be a trained one."""
        if self.fault is not None:
            raise BaseError(self.complaint())

    def complaint(self) -> str:
        """Return what is wrong with a head that is not a trained one, and the ways out."""
        return (
            f"The base {self.name} {self.fault}; or train a head on this base, once for all its language modules: "
            f"madx train-head --base {self.name} --corpus LANG=TEXT.txt (Python: madx.train_head)."
        )

    def trust(self) -> None:
        """Take the base's own head as a trained one, whatever speaks against it.

        Raises BaseError for random weights: nothing was ever learnt in them.
        """
        if self.random:
            self.require()
        self.fault = None

    @torch.no_grad()
    def begin(self, *, seed: int, bias: Tensor) -> None:
        """Give the head fresh values, from which it is to be trained.

        A square map begins as the identity, since the last states of most encoders lie near their embeddings; other
        matrices are N(0, initializer_range^2), LayerNorms the identity, biases zero but the one over the vocabulary.
        seed: decides the random matrices, whatever was drawn before. bias: `(vocabulary,)`, log p(piece) of the
        training text, so that the frequencies of pieces need not be learnt step by step.
        """
        generator = torch.Generator().manual_seed(seed)
        std = float(getattr(self.model.config, "initializer_range", 0.02))
        for name, parameter in self.parameters().items():
            parameter.data = parameter.data.float()  # trained in float32, whatever the base's number format
            if parameter.dim() > 1 and parameter.shape[0] == parameter.shape[1]:
                nn.init.eye_(parameter)
            elif parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
            elif len(parameter) == len(bias):
                parameter.copy_(bias)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        self.fault, self.random, self.sha256 = None, False, None

    @torch.no_grad()
    def put(self, tensors: Mapping[str, Tensor], *, sha256: str) -> None:
        """Put a trained head in place of this one; sha256: identifies it.

        Raises BaseError, naming each difference, for tensors that are not those of a head of this base; nothing has
        changed then.
        """
        own = self.parameters()
        faults = [
            f"{name}: {_shape(own.get(name))} here, {_shape(tensors.get(name))} there"
            for name in sorted(own.keys() | tensors.keys())
            if _shape(own.get(name)) != _shape(tensors.get(name))
        ]
        if faults:
            raise BaseError(f"The head does not belong on the base {self.name}:\n  " + "\n  ".join(faults))
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
        self.fault, self.random, self.sha256 = None, False, sha256


def why_untrained(config: Any, missing: list[str], stored: Iterable[str]) -> str | None:
    """Return why the head of a loaded base cannot be a trained one, None where nothing says so; see `doubt`.

    A discriminator was trained to tell replaced tokens, not to predict them: the published ones carry no masked-LM
    head, or one that their training left behind (mDeBERTa-v3).
    """
    kinds = " ".join(getattr(config, "architectures", None) or ())
    rtd = any(key.startswith(DISCRIMINATOR) for key in stored) or "ElectraForPreTraining" in kinds
    if config.model_type in WITH_DISCRIMINATOR and rtd:
        return (
            "is a discriminator: it was trained to tell replaced tokens (RTD), so it has no trained masked-LM head. "
            "Use its generator as the base (of ELECTRA the repository with -generator in its name; of DeBERTa-v3 and "
            "mDeBERTa-v3 the files generator_config.json and pytorch_model.generator.bin of the same repository, put "
            "into a folder as config.json and pytorch_model.bin, with the tokenizer's files)"
        )
    if missing:
        return (
            f"was stored without its masked-LM head ({', '.join(missing[:3])}{', ...' if missing[3:] else ''}), so "
            "masked language modelling on it would train against random weights. Use a checkpoint that includes the "
            "head"
        )
    return None


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else str(tuple(tensor.shape))
