"""The base: a frozen pretrained encoder with its masked-LM head, its tokenizer, and the description of its sites."""

import copy
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

from madx.base.answers import checked_answers
from madx.base.families import Family, family_of, layout, weights_site
from madx.base.fingerprints import base_fingerprint, tokenizer_fingerprint
from madx.base.guard import GIVE, vetted_revision
from madx.base.mlm_head import WITH_DISCRIMINATOR, MaskedLMHead
from madx.contract.sites import Site
from madx.errors import BaseError, MadxError

log = logging.getLogger("madx")

LEAST_PIECES = 8  # where files are missing, transformers makes a tokenizer that has special tokens alone


class Base:
    """A frozen masked-LM model of the transformers library, with its tokenizer and its sites by name.

    Args:
        model: the model; its parameters are closed to gradients.
        tokenizer: its tokenizer, or None.
        name: the path or id that it was loaded from.

    Attributes:
        config: the model's config; its attributes depend on the family.
        revision: the commit of a downloaded base, otherwise None.
        fingerprint, tokenizer_fingerprint: identify the weights and the tokenizer; see `madx.base.fingerprints`.
        sites: the sites by name; see `madx.contract.sites`.
        mlm_head: the masked-LM head, which a language module needs, and why it may not be a trained one.
        engine: the engine that the base carries, or None.
    """

    def __init__(self, model: "PreTrainedModel", tokenizer: Any, *, name: str):
        self.model, self.tokenizer, self.name = model, tokenizer, str(name)
        self.config: Any = model.config
        self.engine: object | None = None
        self.family: Family = family_of(self.config)
        self.encoder: nn.Module = model.base_model
        self.sites: dict[str, Site] = {
            "weights": weights_site(self.family, self.encoder, depth=self.depth, width=self.width),
            **layout(self.family, self.config, self.encoder, positions=self.max_tokens),
        }
        self.mlm_head = MaskedLMHead(model, name=self.name)
        self.revision: str | None = getattr(self.config, "_commit_hash", None)
        self.fingerprint = base_fingerprint(self.encoder)
        self.tokenizer_fingerprint = tokenizer_fingerprint(tokenizer) if tokenizer is not None else None
        self.model.requires_grad_(False)
        self.model.eval()

    @property
    def label(self) -> str:
        """The name to print: the model id, or the last two names of a folder's path, which do not tell the machine."""
        return "/".join(Path(self.name).parts[-2:]) if Path(self.name).exists() else self.name

    @property
    def width(self) -> int:
        """The size of a token's state in the last layer's output."""
        return int(self.config.hidden_size)

    @property
    def depth(self) -> int:
        """The number of layers."""
        return int(self.config.num_hidden_layers)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.model.parameters()).device

    def __deepcopy__(self, memo: dict[int, Any]) -> "Base":
        """Copy the base. Raises BaseError while it carries an engine, whose modules would act on the original alone."""
        if self.engine is not None:
            raise BaseError(
                "This base carries an engine. Copy both by copy.deepcopy(engine), or call engine.close() first."
            )
        twin: Base = object.__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__ = {name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()}
        return twin

    def to(self, device: torch.device) -> "Base":
        """Move the base to a device; gives the base."""
        nn.Module.to(self.model, device)
        return self

    @property
    def architecture(self) -> dict[str, Any]:
        """The model type, layers, width and vocabulary size, which must agree for a module to fit."""
        return {
            "model_type": self.config.model_type,
            "layers": self.depth,
            "width": self.width,
            "vocabulary": self.config.vocab_size,
        }

    @property
    def max_tokens(self) -> int:
        """The longest input in tokens, special tokens included. Raises BaseError for a tokenizer without a number."""
        positions = getattr(self.config, "max_position_embeddings", 512)
        if "roberta" in self.config.model_type or self.config.model_type == "camembert":
            positions -= self.config.pad_token_id + 1  # RoBERTa counts positions from the padding id + 1
        longest = getattr(self.tokenizer, "model_max_length", positions) or positions
        if not isinstance(longest, (int, float)) or not longest > 0:
            raise BaseError(
                f"The tokenizer of {self.name!r} has the longest input {longest!r:.80}, which is no number of tokens. "
                "Correct model_max_length in its tokenizer_config.json."
            )
        return int(min(positions, longest))

    def identity(self) -> dict[str, Any]:
        """Return the record that a stored module keeps of its base."""
        return {
            "name": self.name,
            "revision": self.revision,
            "architecture": self.architecture,
            "fingerprint": self.fingerprint,
        }

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Compute the scores of the base's masked-LM head: `(n, width)` -> `(n, vocabulary)`.

        Raises BaseError when the base has no trained head.
        """
        self.require_mlm_head()
        scores: Tensor = self.family.mlm_logits(self.model, hidden)
        return scores

    @property
    def has_mlm_head(self) -> bool:
        """True unless something says that the masked-LM head is not a trained one."""
        return self.mlm_head.fault is None

    def require_mlm_head(self) -> None:
        """Raises BaseError when the base has no trained masked-LM head."""
        self.mlm_head.require()


def load_base(name: str | Path, *, revision: str | None = None, dtype: torch.dtype = torch.float32) -> Base:
    """Load a base from a local folder or by a model id, through transformers' Auto classes.

    Its configs are vetted first (`madx.base.guard`); no code of a base is ever run.

    Raises BaseError for a base that cannot be found or read, whose config names code, whose family is not described, or
    whose tokenizer does not fit its vocabulary.

    Args:
        name: a folder or a model id.
        revision: a branch, tag or commit of a model id; None: its main branch.
        dtype: the number format of the weights.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM

    name = str(name)
    if Path(name).expanduser().exists():
        name = str(Path(name).expanduser())
    revision = vetted_revision(name, revision)
    own: dict[str, Any] = {"revision": revision, "trust_remote_code": False}  # None would ask a user in a terminal
    try:
        with checked_answers():
            config = AutoConfig.from_pretrained(name, **own)
            family_of(config)
            _prepare(config, name, revision)
            model, info = AutoModelForMaskedLM.from_pretrained(
                name, config=config, torch_dtype=torch.float32, output_loading_info=True, **own
            )
            tokenizer = _load_tokenizer(name, revision)
    except MadxError:
        raise
    except Exception as error:  # OSError, SafetensorError, UnpicklingError, TypeError ...: the file decides which
        raise BaseError(
            f"Cannot load the base {name!r}: {(str(error).strip() or type(error).__name__).splitlines()[0]} {GIVE}"
        ) from error
    missing = sorted(info["missing_keys"])
    prefix = model.base_model_prefix + "."
    if any(key.startswith(prefix) for key in missing):
        raise BaseError(
            f"The base {name!r} lacks weights of its encoder: "
            f"{', '.join(k for k in missing if k.startswith(prefix))[:300]}. "
            "The folder is incomplete, or its config.json belongs to another model."
        )
    _check_pieces(name, tokenizer)
    if len(tokenizer) > config.vocab_size:
        raise BaseError(
            f"The tokenizer of {name!r} has {len(tokenizer)} pieces, its embeddings {config.vocab_size}: they do not "
            "belong together."
        )
    base = Base(model, tokenizer, name=name)
    base.revision = None if Path(name).exists() else revision  # the commit that was vetted
    with_discriminator = config.model_type in WITH_DISCRIMINATOR
    base.mlm_head.doubt(missing=missing, stored=_stored_keys(name, revision) if with_discriminator else [])
    nn.Module.to(base.model, dtype)
    return base


def load_tokenizer(name: str | Path, *, revision: str | None = None) -> Any:
    """Load the tokenizer of a base without its weights. Raises BaseError when it cannot be found or read."""
    name = str(Path(name).expanduser()) if Path(name).expanduser().exists() else str(name)
    revision = vetted_revision(name, revision)
    try:
        with checked_answers():
            tokenizer = _load_tokenizer(name, revision)
    except MadxError:
        raise
    except Exception as error:  # as in load_base
        raise BaseError(
            f"Cannot load the tokenizer of {name!r}: {(str(error).strip() or type(error).__name__).splitlines()[0]} "
            "Give a folder with the tokenizer's files, or the id of a model that is downloaded or reachable."
        ) from error
    _check_pieces(name, tokenizer)
    return tokenizer


def _check_pieces(name: str, tokenizer: Any) -> None:
    if len(tokenizer) - len(set(tokenizer.all_special_ids)) < LEAST_PIECES:
        raise BaseError(
            f"The tokenizer of {name!r} has no pieces but its special tokens: its files are missing. Save the "
            "tokenizer into the folder of the base (tokenizer.save_pretrained)."
        )


def _load_tokenizer(name: str, revision: str | None) -> Any:
    """Load the base's tokenizer.

    Version 4 of transformers does not know the class names that version 5 writes, so it reads the fast tokenizer's
    file, which holds the same tokenizer.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast  # its annotations refuse the revision None, which it accepts
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except ValueError as error:
        if "TokenizersBackend" not in str(error):
            raise
        return fast.from_pretrained(name, revision=revision)


def _prepare(config: Any, name: str, revision: str | None) -> None:
    """Set the switches that a family needs before its model is built."""
    if config.model_type == "modernbert":
        config.reference_compile = False  # a compiled feed-forward block would not run the hooks at its sites
    if config.model_type == "deberta-v2" and any(k.startswith("lm_predictions.") for k in _stored_keys(name, revision)):
        config.legacy = False  # the published head is named lm_predictions; the default layout would leave it random
        # that head gets the embeddings as an argument; transformers 4.57 would also tie its dense layer to them
        config.tie_word_embeddings = False


def _stored_keys(name: str, revision: str | None) -> list[str]:
    """Return the names of the tensors in a base's weight files, if possible without reading the weights."""
    from safetensors import safe_open
    from transformers.utils import cached_file

    for file in (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ):
        path = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        if path and file.endswith(".json"):  # the table of a base in several files
            return list(json.loads(Path(path).read_text(encoding="utf-8"))["weight_map"])
        if path and file.endswith(".safetensors"):
            with safe_open(path, framework="pt") as weights:
                return list(weights.keys())
        if path:
            return list(torch.load(path, map_location="meta", weights_only=True, mmap=is_zipfile(path)))
    return []
