"""The head in files that hold whole tensors, named as in the model class that was trained (composable-sft, PEFT).

A token classifier's `classifier.{weight, bias}` becomes a task module's head; others are reported and left out. The
names of the head's rows are not in the file; a `config.json` beside it may have them.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from madx.base import Base
from madx.errors import ConfigError, StoreError
from madx.interop.labels import numbered, placeholders
from madx.interop.matching import public_name, require_same_base
from madx.module import Module

CLASSIFIER = {"classifier.weight": "head.weight", "classifier.bias": "head.bias"}
#: beginnings of the names of tensors of masked-LM heads
LANGUAGE_MODEL = ("lm_head.", "cls.", "generator_", "lm_predictions.", "vocab_", "head.", "decoder.")
#: those of them with a row for each piece of the vocabulary
VOCABULARY = (
    "lm_head.bias",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "cls.predictions.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "vocab_projector.weight",
    "vocab_projector.bias",
    "generator_lm_head.weight",
    "generator_lm_head.bias",
    "decoder.weight",
    "decoder.bias",
)


@dataclass
class Head:
    """A head read from a file.

    Args:
        labels: in the order of their numbers.
        tensors: `head.weight` `(labels, width)` and `head.bias` `(labels,)`.
        mapped, ignored: as in `ImportReport`.
    """

    labels: tuple[str, ...] = ()
    tensors: dict[str, Tensor] = field(default_factory=dict)
    mapped: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)


def read_head(
    tensors: dict[str, Tensor], config: dict, *, base: Base, role: str, wanted: bool, pooled: bool, file: Path
) -> Head:
    """The head among the whole tensors of a file, if there is one.

    Args:
        config: of the model that was trained; may be empty.
        role: of the module made; a language module gets no head.
        wanted: False leaves the head out.
        pooled: True if the file changes the pooler, so that its head reads whole sentences.
    Raises StoreError for whole tensors of the encoder and for a classifier that is not whole, BaseError for a masked-LM
    head over another vocabulary.
    """
    prefix = base.model.base_model_prefix + "."
    if inside := [key for key in tensors if key.startswith(prefix)]:
        raise StoreError(
            f"{file} has whole tensors of the encoder under 'abs': {', '.join(key[:80] for key in inside[:4])}. Only a "
            "head is read from there; the encoder's deltas belong under 'diffs'."
        )
    for key in VOCABULARY:
        rows = tuple(tensors[key].shape[:1]) if key in tensors else ()
        if rows not in ((), (base.config.vocab_size,)):
            fault = f"vocabulary: files {rows[0]} ({key}), base {base.config.vocab_size}"
            require_same_base([fault], [], base=base, allow_mismatch=False)
    kind = str((config.get("architectures") or [""])[0]) if isinstance(config.get("architectures"), list | None) else ""
    sentences = pooled or bool(kind) and not kind.endswith(("ForTokenClassification", "ForMaskedLM"))
    if set(CLASSIFIER) & set(tensors) and role == "task" and wanted and not sentences:
        return _classifier(tensors, config, width=base.width, file=file)
    return Head(ignored=[(key, _why_ignored(key, sentences, wanted)) for key in tensors])


def _why_ignored(key: str, sentences: bool, wanted: bool) -> str:
    if key.startswith(LANGUAGE_MODEL):
        return "the base's own masked-LM head is used"
    if key not in CLASSIFIER or sentences:
        return "madx has no task for this kind of head"
    return "the module made is a language module; pass role='task' to keep it" if wanted else "with_head=False"


def _classifier(tensors: dict[str, Tensor], config: dict, *, width: int, file: Path) -> Head:
    """The head of a token classifier. Raises StoreError unless it is complete and fits the base."""
    if set(tensors) != set(CLASSIFIER):
        raise StoreError(
            f"{file} has the whole tensors {', '.join(key[:80] for key in list(tensors)[:8])}; the head of a token "
            f"classifier is {' and '.join(CLASSIFIER)}. Pass with_head=False to import the deltas without it."
        )
    count = tensors["classifier.bias"].numel()
    shapes = {"classifier.weight": (count, width), "classifier.bias": (count,)}
    faults = [
        f"{k}: file {tuple(tensors[k].shape)}, base {s}" for k, s in shapes.items() if tuple(tensors[k].shape) != s
    ]
    if faults or not count:
        raise StoreError(f"{file} has a head that does not fit the base:\n  " + "\n  ".join(faults or ["no rows"]))
    labels: tuple[str, ...] = placeholders(count)
    notes: list[tuple[str, str]] = []
    if config.get("label2id") is not None:
        labels = numbered(config["label2id"], count)
    if labels == placeholders(count):
        why = "not in the files; they are called LABEL_0, LABEL_1, ... (pass labels to name them)"
        notes = [("names of the labels", why)]
    return Head(labels, {ours: tensors[theirs] for theirs, ours in CLASSIFIER.items()}, list(CLASSIFIER.items()), notes)


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_head(module: Module, base: Base) -> dict[str, Tensor]:
    """The whole tensors of a module's head, named as in the base's token classification model.

    Raises ConfigError unless that model is the encoder and one linear layer.
    """
    if module.head is None:
        return {}
    own = _token_classifier(base)
    if own != sorted(CLASSIFIER):
        raise ConfigError(
            f"transformers' token classification model of {base.config.model_type} has more than a linear layer over "
            f"the encoder ({', '.join(own)}), so it cannot compute what the head of {module.name!r} does."
        )
    return {theirs: module.get_parameter(ours).detach().cpu().clone() for theirs, ours in CLASSIFIER.items()}


def _token_classifier(base: Base) -> list[str]:
    """Names of the parameters of the base's token classification model outside the encoder."""
    from transformers import AutoModelForTokenClassification

    with torch.device("meta"):
        model = AutoModelForTokenClassification.from_config(base.config)
    prefix = model.base_model_prefix + "."
    return sorted(name for name, _ in model.named_parameters() if not name.startswith(prefix))


def write_config(module: Module, base: Base) -> str:
    """The text of `config.json`: the base's config with its public name and the labels."""
    labels, config = module.info.labels, base.config.to_dict() | {"_name_or_path": public_name(base)}
    config["architectures"] = None
    if labels:
        config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return json.dumps(config, indent=2, default=str) + "\n"
