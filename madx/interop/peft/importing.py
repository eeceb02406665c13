"""Import of a PEFT folder: `adapter_config.json` with `adapter_model.safetensors` or `adapter_model.bin`.

The format stores no fingerprint of the base and no names of labels. What it does store is compared before a module is
made. A `config.json` of transformers beside the files, as madx writes it, names the labels.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madx.base import Base
from madx.composition import check_name
from madx.data.text.files import sha256_of
from madx.errors import ConfigError, StoreError, did_you_mean
from madx.interop.adapterhub.methods.method import short
from madx.interop.files import other_files, read_json
from madx.interop.formats import IMPORTED_ROLES
from madx.interop.matching import require_same_base, same_base_name
from madx.interop.peft.files import CONFIG, LABELS, read_tensors, require_folder
from madx.interop.peft.methods import Method, method_of
from madx.interop.peft.methods.method import Place, Reading, listed
from madx.interop.report import ImportReport
from madx.interop.token_head import LANGUAGE_MODEL, Head, read_head
from madx.module import Module, ModuleInfo

#: what stands before the names of all tensors; prefix and prompt tuning put the second before a head
MODEL, MODEL_OF_PROMPTS = "base_model.model.", "base_model."
#: names of a token classifier's head in the model classes of transformers
HEADS = ("classifier.", "score.", "qa_outputs.")
#: keys of config.json that a base must agree with -> the word for it in messages
SHAPE = {"hidden_size": "width", "num_hidden_layers": "layers", "vocab_size": "vocabulary"}


def import_peft(
    path: str | Path,
    base: Base,
    *,
    name: str,
    role: str,
    language: str | None = None,
    task: str | None = None,
    with_head: bool = True,
    allow_base_mismatch: bool = False,
) -> tuple[Module, ImportReport]:
    """Make a module from a folder that PEFT saved, with a report on the folder's content.

    Args:
        name, role, language: of the module made.
        task: what its head predicts, e.g. "ner".
        with_head: False leaves a token classifier's head out.
        allow_base_mismatch: admit another name of the base, of the same shape.
    Raises StoreError (damaged files, wrong keys), ConfigError (a method, target or setting that is not read) or
    BaseError (made for another base); then no module is made.
    """
    check_name(name)
    if role not in IMPORTED_ROLES:
        raise ConfigError(f"The role is {role!r}; {did_you_mean(role, IMPORTED_ROLES)}")
    folder = require_folder(path)
    config, labels = read_json(folder / CONFIG), _model_config(folder)
    method = method_of(config)
    notes = _compare_base(config, labels, base, allow_base_mismatch)
    stored, file = read_tensors(folder)
    inside, whole, prefix = _split(stored, method, base, file)
    reading = method.read(config, inside, Place(base, prefix, file))
    head = _head(whole, config, labels, base=base, role=role, wanted=with_head, file=file)
    module = _module(
        reading, head, base, name=name, role=role, language=language, task=task, origin=_origin(config, file)
    )
    read = {CONFIG, file.name} | ({LABELS} if labels else set())
    report = ImportReport(
        name=name,
        folder=str(folder),
        source=_source(config),
        settings=tuple(f"{part}: {_settings(c)}" for part, c in reading.components.items()),
        mapped=(*reading.mapped, *head.mapped),
        ignored=(*notes, *reading.ignored, *head.ignored, *other_files(folder, read)),
    )
    return module.to(base.device), report


def _model_config(folder: Path) -> dict[str, Any]:
    return read_json(folder / LABELS) if (folder / LABELS).is_file() else {}


def _module(
    reading: Reading, head: Head, base: Base, *, origin: dict[str, Any], task: str | None, **names: Any
) -> Module:
    info = ModuleInfo(
        components=reading.components,
        base=base.identity(),
        task=task if head.labels else None,
        labels=head.labels,
        tokenizer=base.tokenizer_fingerprint,
        training={"imported": origin},
        **names,
    )
    with torch.device("meta"):  # names and shapes alone, so that no setting of the file can fill the memory
        module = Module(info, base.sites)
    module.load_state_dict(reading.tensors | head.tensors, strict=True, assign=True)
    return module


# ---- comparison with the base ----------------------------------------------------------------------------------------


def _compare_base(config: dict, labels: dict, base: Base, allow_mismatch: bool) -> list[tuple[str, str]]:
    """Notes on what could not be compared. Raises BaseError if the configs name another base."""
    shape, other = [], []
    sizes = [(key, word, labels.get(key)) for key, word in SHAPE.items()]
    sizes += [
        ("hidden_size", "width", config.get("token_dim")),
        ("num_hidden_layers", "layers", config.get("num_layers")),
    ]
    for key, word, there in sizes:
        here = getattr(base.config, key)
        if there is not None and there != here:
            shape.append(f"{word}: files {str(there)[:40]}, base {here}")
    if labels.get("model_type") not in (None, base.config.model_type):
        other.append(f"model type: files {str(labels['model_type'])[:40]}, base {base.config.model_type}")
    made_for = base_named(config)
    if made_for and not same_base_name(made_for, base.name):
        other.append(f"name: files {made_for[:120]}, base {base.name}")
    require_same_base(shape, other, base=base, allow_mismatch=allow_mismatch)
    if made_for:
        why = "compared by name only: the format has no fingerprint of its base"
        return [(f"base_model_name_or_path {made_for[:120]!r}", why)]
    why = "the files do not name the base they were made for; only shapes were compared"
    return [("base_model_name_or_path (empty)", why)]


def base_named(config: dict[str, Any]) -> str | None:
    """The base that a config names. Raises StoreError unless it is a text."""
    made_for = config.get("base_model_name_or_path")
    if not isinstance(made_for, str | None):
        raise StoreError(f"{CONFIG}: base_model_name_or_path is a {type(made_for).__name__}; a text is expected.")
    return made_for or None


# ---- tensors ---------------------------------------------------------------------------------------------------------


def _split(
    stored: dict[str, Tensor], method: Method, base: Base, file: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """(the method's tensors by their names in the encoder, whole tensors by their names in the model, prefix).

    Raises ConfigError for a tensor of the method outside the encoder, StoreError for a name that is explained by
    nothing.
    """
    start = base.model.base_model_prefix + "."
    names = {key: _bare(key, file) for key in stored}
    ours = {key: name for key, name in names.items() if _of_method(name, method)}
    prefix = start if any(name.startswith(start) for name in ours.values()) else ""
    known = {path for path, _ in base.encoder.named_modules()}
    inside, whole, other = {}, {}, []
    for key, name in names.items():
        path = name.removeprefix(prefix)
        if key in ours and method.tails and (not name.startswith(prefix) or _module_of(path, method) not in known):
            if not _tied_copy(name, method, stored, key):
                other.append(key)
        elif key in ours:
            inside[path] = stored[key]
        elif name.startswith((*HEADS, *LANGUAGE_MODEL)):
            whole[name] = stored[key]
        else:
            other.append(key)
    if other:
        raise ConfigError(
            f"{file} has {len(other)} tensors that madx does not read on a base of type {base.config.model_type} with "
            f"{base.depth} layers: {listed(other)}. Read are the tensors of its method in the encoder, and the head of "
            "a token classifier. Nothing was loaded."
        )
    return inside, whole, prefix


def _bare(key: str, file: Path) -> str:
    """A name as in the model that was trained."""
    name = key.removeprefix(MODEL) if key.startswith(MODEL) else key.removeprefix(MODEL_OF_PROMPTS)
    if not name:
        raise StoreError(f"{file} has the key {key[:80]!r}, which names no tensor.")
    return name


def _of_method(name: str, method: Method) -> bool:
    return any(name.endswith("." + tail) for tail in method.tails) if method.tails else name == "prompt_embeddings"


def _module_of(name: str, method: Method) -> str:
    tail = next(tail for tail in method.tails if name.endswith("." + tail))
    return name.removesuffix("." + tail)


def _tied_copy(name: str, method: Method, stored: dict[str, Tensor], key: str) -> bool:
    """True for rows of tokens of a tied decoder, which PEFT stores a second time."""
    if method is not method_of({"peft_type": "TRAINABLE_TOKENS"}) or not name.startswith(LANGUAGE_MODEL):
        return False
    tail = name.removeprefix(_module_of(name, method))
    return any(other != key and other.endswith(tail) and torch.equal(stored[other], stored[key]) for other in stored)


def _head(
    whole: dict[str, Tensor], config: dict, labels: dict, *, base: Base, role: str, wanted: bool, file: Path
) -> Head:
    """The head of a token classifier among whole tensors. `score` is the name that some model classes give it."""
    kind = config.get("task_type")
    if {"score.weight", "classifier.weight"} <= set(whole):
        raise StoreError(f"{file} holds two heads, classifier and score; one is expected.")
    renamed = {f"classifier.{k.removeprefix('score.')}" if k.startswith("score.") else k: v for k, v in whole.items()}
    sentences = kind in ("SEQ_CLS", "QUESTION_ANS")
    return read_head(renamed, labels, base=base, role=role, wanted=wanted, pooled=sentences, file=file)


# ---- the report ------------------------------------------------------------------------------------------------------


def _origin(config: dict[str, Any], file: Path) -> dict[str, str]:
    keys = ("peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision")
    texts = {key: config[key][:200] for key in keys if isinstance(config.get(key), str)}
    return {"format": "peft"} | texts | {"sha256": sha256_of(file)}


def _source(config: dict[str, Any]) -> str:
    version = f" {short(config['peft_version'])}" if config.get("peft_version") else ""
    return f"a {config['peft_type']} of PEFT{version}"


def _settings(config: Any) -> str:
    changed = config.model_dump(exclude_defaults=True)
    return ", ".join(f"{k}={v!r}" for k, v in changed.items()) or "defaults"
