"""Import of one adapter: a folder with `adapter_config.json` and `pytorch_adapter.bin` or `adapter.safetensors`, and
for a trained head `head_config.json` with `pytorch_model_head.bin` or `model_head.safetensors`.

The format stores no fingerprint of the base and no tokenizer. What it does store is compared before a module is made.
"""

from pathlib import Path
from typing import Any

import torch

from madx.base import Base
from madx.composition import check_name
from madx.data.text.files import sha256_of
from madx.errors import ConfigError, StoreError
from madx.interop.adapterhub.config import check_version, read_config
from madx.interop.adapterhub.files import CONFIG, WEIGHTS, read_tensors, require_folder
from madx.interop.adapterhub.head import read_head
from madx.interop.adapterhub.layouts import layout_of
from madx.interop.adapterhub.links import translate
from madx.interop.files import other_files, read_json
from madx.interop.matching import require_same_base, same_base_name
from madx.interop.report import ImportReport
from madx.module import Module, ModuleInfo


def import_adapterhub(
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
    """Make a module from a folder of AdapterHub's `adapters` (any version), with a report on the folder's content.

    Args:
        name, role, language: of the module made.
        task: what its head predicts, e.g. "ner".
        with_head: False leaves a tagging head out.
        allow_base_mismatch: admit another model type or name of the same shape.
    Raises StoreError (damaged files, wrong keys), ConfigError (a method or setting that is not read) or BaseError (made
    for another base); then no module is made.
    """
    check_name(name)
    if role not in ("language", "task"):
        raise ConfigError(f"The role is {role!r}; allowed: language, task.")
    layout_of(base.config.model_type)  # raises for a base that the format does not cover
    folder = require_folder(path)
    full = read_json(folder / CONFIG)
    check_version(full.get("version"))
    _check_texts(full, folder / CONFIG)
    ignored = _compare_base(full, base, allow_base_mismatch)
    stored, file = read_tensors(folder, WEIGHTS)
    reading = read_config(full, depth=base.depth, has_invertible=any("invertible_" in key for key in stored))
    head = read_head(folder, base=base, role=role, owner=full.get("name"), wanted=with_head)
    info = ModuleInfo(
        name=name,
        role=role,
        language=language,
        components=reading.components,
        base=base.identity(),
        task=task if head.labels else None,
        labels=head.labels,
        tokenizer=base.tokenizer_fingerprint,
        training={"imported": _origin(full) | {"sha256": sha256_of(folder / file)}},
    )
    with torch.device("meta"):  # names and shapes alone, so that no setting of the file can fill the memory
        module = Module(info, base.sites)
    found = translate(stored, module, base=base, owner=full.get("name"), file=folder / file)
    module.load_state_dict(found.tensors | head.tensors, strict=True, assign=True)
    ignored += reading.ignored + found.ignored + head.ignored + other_files(folder, {CONFIG, file} | head.files)
    report = ImportReport(
        name=name,
        folder=str(folder),
        source=_source(full),
        mapped=tuple(found.mapped + head.mapped),
        ignored=tuple(ignored),
        settings=tuple(f"{component}: {_settings(config)}" for component, config in reading.components.items()),
    )
    return module.to(base.device), report


def _check_texts(full: dict[str, Any], path: Path) -> None:
    for key in ("name", "type", "model_name", "model_type", "model_class"):
        if not isinstance(full.get(key), str | None):
            raise StoreError(f"{path}: {key!r} is a {type(full[key]).__name__}; a text is expected.")


def _compare_base(full: dict[str, Any], base: Base, allow_mismatch: bool) -> list[tuple[str, str]]:
    """Notes on what could not be compared. Raises BaseError if the config names another base."""
    shape, other = [], []
    if full.get("hidden_size") is not None and full["hidden_size"] != base.width:
        shape.append(f"width: adapter {str(full['hidden_size'])[:40]}, base {base.width}")
    if full.get("model_type") is not None and full["model_type"] != base.config.model_type:
        other.append(f"model type: adapter {full['model_type'][:40]}, base {base.config.model_type}")
    made_for = full.get("model_name")
    if made_for and not same_base_name(made_for, base.name):
        other.append(f"name: adapter {made_for[:120]}, base {base.name}")
    require_same_base(shape, other, base=base, allow_mismatch=allow_mismatch)
    if made_for:
        return [(f"model_name {made_for[:120]!r}", "compared by name only: the format has no fingerprint of its base")]
    return [("model_name (empty)", "the files do not name the base they were made for; only shapes were compared")]


def _origin(full: dict[str, Any]) -> dict[str, str]:
    keys = ("name", "version", "model_name", "model_class", "model_type")
    return {"format": "adapterhub"} | {k: full[k][:200] for k in keys if isinstance(full.get(k), str)}


def _source(full: dict[str, Any]) -> str:
    version = full.get("version") or "before 1.0"
    made_for = f", made for {full['model_name']}" if full.get("model_name") else ""
    return f"{str(full.get('name'))[:60]!r} ({version}{made_for})"


def _settings(config: Any) -> str:
    changed = config.model_dump(exclude_defaults=True)
    return ", ".join(f"{k}={v!r}" for k, v in changed.items()) or "defaults"
