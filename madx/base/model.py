"""The base: a frozen pretrained encoder with its masked-LM head, its tokenizer, and the description of its sites."""

import logging
from pathlib import Path
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from madx.base.families import Family, family_of, layout, weights_site
from madx.base.fingerprints import base_fingerprint, tokenizer_fingerprint
from madx.contract.sites import Site
from madx.errors import BaseError

log = logging.getLogger("madx")

LEAST_PIECES = 8  # transformers makes a tokenizer of special tokens alone where its files are missing


class Base:
    """A frozen masked-LM model of the transformers library, with its tokenizer and its sites by name.

    name: path or id it was loaded from; revision: the commit of a downloaded base, else None; has_mlm_head: whether
    the stored weights include the masked-LM head (a language module needs it); fingerprint: identifies the weights.
    """

    def __init__(self, model: nn.Module, tokenizer, *, name: str, has_mlm_head: bool = True):
        self.model, self.tokenizer, self.name = model, tokenizer, str(name)
        self.config = model.config
        self.family: Family = family_of(self.config)
        self.encoder: nn.Module = model.base_model
        self.sites: dict[str, Site] = {
            "weights": weights_site(self.family, self.encoder, depth=self.depth, width=self.width),
            **layout(self.family, self.config, self.encoder, positions=self.max_tokens),
        }
        self.has_mlm_head = has_mlm_head
        self.revision: str | None = getattr(self.config, "_commit_hash", None)
        self.fingerprint = base_fingerprint(self.encoder)
        self.tokenizer_fingerprint = tokenizer_fingerprint(tokenizer) if tokenizer is not None else None
        self.model.requires_grad_(False)
        self.model.eval()

    @property
    def label(self) -> str:
        """A name to print: the model id, or the last two steps of a folder's path, which says nothing of the machine."""
        return "/".join(Path(self.name).parts[-2:]) if Path(self.name).exists() else self.name

    @property
    def width(self) -> int:
        """Numbers per token in the last layer's output."""
        return self.config.hidden_size

    @property
    def depth(self) -> int:
        """Layers."""
        return self.config.num_hidden_layers

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def architecture(self) -> dict:
        """What must agree for a module to fit: model type, layers, width, vocabulary size."""
        return {
            "model_type": self.config.model_type,
            "layers": self.depth,
            "width": self.width,
            "vocabulary": self.config.vocab_size,
        }

    @property
    def max_tokens(self) -> int:
        """The longest input in tokens, special tokens included."""
        positions = getattr(self.config, "max_position_embeddings", 512)
        if "roberta" in self.config.model_type or self.config.model_type == "camembert":
            positions -= self.config.pad_token_id + 1  # RoBERTa counts positions from the padding id + 1
        return min(positions, getattr(self.tokenizer, "model_max_length", positions) or positions)

    def identity(self) -> dict:
        """What a stored module records of its base."""
        return {
            "name": self.name,
            "revision": self.revision,
            "architecture": self.architecture,
            "fingerprint": self.fingerprint,
        }

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Scores of the base's own masked-LM head: `(n, width)` -> `(n, vocabulary)`.

        Raises BaseError when the stored base has no trained head.
        """
        self.require_mlm_head()
        return self.family.mlm_logits(self.model, hidden)

    def require_mlm_head(self) -> None:
        """Raises BaseError when the stored base has no trained masked-LM head."""
        if not self.has_mlm_head:
            raise BaseError(
                f"The base {self.name} was stored without its masked-LM head, so masked language modelling on it would "
                "train against random weights. Use a checkpoint that includes the head (of ELECTRA, the generator)."
            )


def load_base(name: str | Path, *, revision: str | None = None, dtype: torch.dtype = torch.float32) -> Base:
    """A base from a local folder or a model id, through transformers' Auto classes.

    Raises BaseError when it cannot be found or read, is of a family that is not described, or has a tokenizer that
    does not fit its vocabulary.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM

    name = str(name)
    if Path(name).expanduser().exists():
        name = str(Path(name).expanduser())
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
        family_of(config)
        _prepare(config, name, revision)
        model, info = AutoModelForMaskedLM.from_pretrained(
            name, config=config, revision=revision, torch_dtype=torch.float32, output_loading_info=True
        )
        tokenizer = _load_tokenizer(name, revision)
    except BaseError:
        raise
    except Exception as error:  # what is broken decides which: OSError, SafetensorError, UnpicklingError, TypeError ...
        raise BaseError(
            f"Cannot load the base {name!r}: {(str(error).strip() or type(error).__name__).splitlines()[0]} "
            "Give a folder with config.json, model.safetensors and tokenizer files, or the id of a model that is "
            "downloaded or reachable."
        ) from error
    missing = sorted(info["missing_keys"])
    prefix = model.base_model_prefix + "."
    if any(key.startswith(prefix) for key in missing):
        raise BaseError(
            f"The base {name!r} lacks weights of its encoder: {', '.join(k for k in missing if k.startswith(prefix))[:300]}. "
            "The folder is incomplete, or its config.json belongs to another model."
        )
    _check_pieces(name, tokenizer)
    if len(tokenizer) > config.vocab_size:
        raise BaseError(
            f"The tokenizer of {name!r} has {len(tokenizer)} pieces, its embeddings {config.vocab_size}: they do not "
            "belong together."
        )
    base = Base(model, tokenizer, name=name, has_mlm_head=not missing)
    base.model.to(dtype)
    return base


def load_tokenizer(name: str | Path, *, revision: str | None = None):
    """The tokenizer of a base alone, without its weights. Raises BaseError when it cannot be found or read."""
    name = str(Path(name).expanduser()) if Path(name).expanduser().exists() else str(name)
    try:
        tokenizer = _load_tokenizer(name, revision)
    except Exception as error:  # as in load_base
        raise BaseError(
            f"Cannot load the tokenizer of {name!r}: {(str(error).strip() or type(error).__name__).splitlines()[0]} "
            "Give a folder with the tokenizer's files, or the id of a model that is downloaded or reachable."
        ) from error
    _check_pieces(name, tokenizer)
    return tokenizer


def _check_pieces(name: str, tokenizer) -> None:
    if len(tokenizer) - len(set(tokenizer.all_special_ids)) < LEAST_PIECES:
        raise BaseError(
            f"The tokenizer of {name!r} has no pieces but its special tokens: its files are missing. Save the tokenizer "
            "into the folder of the base (tokenizer.save_pretrained)."
        )


def _load_tokenizer(name: str, revision: str | None):
    """The base's tokenizer. Version 4 of transformers does not know the class names that version 5 writes; the fast
    tokenizer's own file says all the same."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        return AutoTokenizer.from_pretrained(name, revision=revision)
    except ValueError as error:
        if "TokenizersBackend" not in str(error):
            raise
        return PreTrainedTokenizerFast.from_pretrained(name, revision=revision)


def _prepare(config, name: str, revision: str | None) -> None:
    """Settings that a family needs before its model is built."""
    if config.model_type == "modernbert":
        config.reference_compile = False  # else its feed-forward block may run compiled, past the sites
    if config.model_type == "deberta-v2" and any(k.startswith("lm_predictions.") for k in _stored_keys(name, revision)):
        config.legacy = False  # the published head lies under lm_predictions; the default layout would leave it random
        # that head is handed the embeddings; transformers 4.57 would moreover put them in place of its dense layer
        config.tie_word_embeddings = False


def _stored_keys(name: str, revision: str | None) -> list[str]:
    """Names of the tensors in a base's weight file, read without loading the weights where the format allows it."""
    from safetensors import safe_open
    from transformers.utils import cached_file

    for file in ("model.safetensors", "pytorch_model.bin"):
        path = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        if path and file.endswith(".safetensors"):
            with safe_open(path, framework="pt") as weights:
                return list(weights.keys())
        if path:
            return list(torch.load(path, map_location="meta", weights_only=True, mmap=is_zipfile(path)))
    return []
