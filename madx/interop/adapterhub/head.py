"""Prediction heads in AdapterHub folders: a tagging head becomes a module's head; others are reported and left out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from madx.base import Base
from madx.errors import BaseError, ConfigError, StoreError
from madx.interop.adapterhub.files import HEAD_CONFIG, HEAD_WEIGHTS, read_tensors
from madx.interop.files import read_json
from madx.interop.labels import numbered, placeholders
from madx.module import Module, require_task_head

_LANGUAGE_MODELS = ("masked_lm", "causal_lm")


@dataclass
class Head:
    """A head read from files.

    Args:
        labels: in the order of their numbers.
        tensors: `head.weight` `(labels, width)` and `head.bias` `(labels,)`.
        mapped, ignored: as in `ImportReport`.
        files: names of the files that were read.
    """

    labels: tuple[str, ...] = ()
    tensors: dict[str, Tensor] = field(default_factory=dict)
    mapped: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    files: set[str] = field(default_factory=set)


def read_head(folder: Path, *, base: Base, role: str, owner: str | None, wanted: bool) -> Head:
    """The head in a folder, if there is one.

    Args:
        role: of the module made; a language module gets no head.
        owner: name of the adapter in the files.
        wanted: False leaves the head out.
    Raises ConfigError for a tagging head with hidden layers (without it the task would be incomplete), BaseError for a
    masked-LM head over another vocabulary, StoreError for damaged files.
    """
    stored = [name for name in HEAD_WEIGHTS if (folder / name).is_file()]
    if not (folder / HEAD_CONFIG).is_file():
        why = f"without {HEAD_CONFIG} it cannot be read"
        return Head(ignored=[(f"file {f}", why) for f in stored], files=set(stored))
    full = read_json(folder / HEAD_CONFIG)
    config, kind = _config_and_kind(full)
    label = f"head {str(full.get('name'))[:60]!r} ({str(kind)[:40]})"
    if kind in _LANGUAGE_MODELS:
        _compare_vocabulary(config, base)
        why = "the base's own head is used; if the adapter's training changed the head's transform, scores differ"
    elif kind != "tagging":
        why = "madx has no task for this kind of head"
    elif not wanted:
        why = "with_head=False"
    elif role != "task":
        why = "the module made is a language module; pass role='task' to keep it"
    else:
        return _read_tagging(folder, full, config, owner=owner, width=base.width)
    return Head(ignored=[(label, why)], files={HEAD_CONFIG, *stored})


def _config_and_kind(full: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Settings and kind of a head. The head of a plain model class has no settings; the class names its kind."""
    config = full.get("config")
    if isinstance(config, dict):
        return config, config.get("head_type")
    model_class = str(full.get("model_class"))
    kind = "tagging" if model_class.endswith("ForTokenClassification") else model_class
    kind = "masked_lm" if model_class.endswith("ForMaskedLM") else kind
    return {"layers": 1, "num_labels": full.get("num_labels"), "label2id": full.get("label2id")}, kind


def _compare_vocabulary(config: dict[str, Any], base: Base) -> None:
    size = config.get("vocab_size")
    if size is not None and size != base.config.vocab_size:
        raise BaseError(
            f"This adapter was made for another base:\n  vocabulary: adapter's head {str(size)[:40]}, base "
            f"{base.config.vocab_size}\nLoad the base that it was made for."
        )


def _read_tagging(folder: Path, full: dict[str, Any], config: dict[str, Any], *, owner: str | None, width: int) -> Head:
    if config.get("layers") != 1:
        raise ConfigError(
            f"The tagging head has {str(config.get('layers'))[:20]} layers; madx reads heads of one linear map. "
            "Pass with_head=False to import the adapter without it."
        )
    labels, notes = _labels(config)
    tensors, file = read_tensors(folder, HEAD_WEIGHTS)
    name = full.get("name") if full.get("name") is not None else owner
    keys = {
        where + kind: f"head.{kind}" for where in (f"heads.{name}.1.", "classifier.") for kind in ("weight", "bias")
    }
    if unknown := [k[:120] for k in tensors if k not in keys]:
        raise StoreError(f"{folder / file} has tensors that its config does not explain: {', '.join(unknown[:8])}.")
    found = {keys[k]: v for k, v in tensors.items()}
    shapes = {"head.weight": (len(labels), width), "head.bias": (len(labels),)}
    faults = [
        f"{k}: file {tuple(found[k].shape) if k in found else 'missing'}, base and labels {shape}"
        for k, shape in shapes.items()
        if k not in found or tuple(found[k].shape) != shape
    ]
    if faults or len(tensors) != len(found):
        raise StoreError(
            f"{folder / file} does not fit its config on this base:\n  " + "\n  ".join(faults or sorted(tensors))
        )
    return Head(labels, found, [(k, keys[k]) for k in tensors], notes, {HEAD_CONFIG, file})


def _labels(config: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """Label names in the order of their numbers, and notes for the report."""
    table, count = config.get("label2id"), config.get("num_labels")
    if table is None and isinstance(count, int) and 0 < count <= 10_000:
        return placeholders(count), [("label2id (empty)", "labels are called LABEL_0, LABEL_1, ...")]
    return numbered(table, count), []


def write_head(module: Module, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Their settings and tensors for a module's head; name: of the adapter in the files."""
    labels = module.info.labels
    config = {
        "head_type": "tagging",
        "num_labels": len(labels),
        "layers": 1,
        "activation_function": "tanh",
        "dropout_prob": None,
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    head = require_task_head(module).state_dict()
    return config, {f"heads.{name}.1.{k}": v.detach().to("cpu").clone() for k, v in head.items()}
