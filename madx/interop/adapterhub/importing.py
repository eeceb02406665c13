"""Import of one adapter: a folder with `adapter_config.json` and `pytorch_adapter.bin` or `adapter.safetensors`, and
for a trained head `head_config.json` with `pytorch_model_head.bin` or `model_head.safetensors`.

The format stores no fingerprint of the base and no tokenizer. What it does store is compared before a module is made.
"""

from pathlib import Path

import torch

from madx.base import Base
from madx.composition import check_name
from madx.data.text.files import sha256_of
from madx.errors import ConfigError
from madx.interop.adapterhub.config import check_version, read_config
from madx.interop.adapterhub.files import CONFIG, WEIGHTS, read_tensors, require_folder
from madx.interop.adapterhub.fusion import import_adapterhub_fusion
from madx.interop.adapterhub.head import read_head
from madx.interop.adapterhub.layouts import layout_of
from madx.interop.adapterhub.links import translate
from madx.interop.adapterhub.origin import check_texts, compare_base, origin, settings_of, source_of
from madx.interop.files import other_files, read_json
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
            The role fusion is that of a fusion layer (`madx.interop.adapterhub.fusion`).
        task: what its head predicts, e.g. "ner".
        with_head: False leaves a tagging head out.
        allow_base_mismatch: admit another model type or name of the same shape.
    Raises StoreError (damaged files, wrong keys), ConfigError (a method or setting that is not read) or BaseError (made
    for another base); then no module is made.
    """
    check_name(name)
    if role == "fusion":
        return import_adapterhub_fusion(
            *(path, base),
            name=name,
            language=language,
            task=task,
            with_head=with_head,
            allow_base_mismatch=allow_base_mismatch,
        )
    if role not in ("language", "task"):
        raise ConfigError(f"The role is {role!r}; allowed: language, task, fusion.")
    layout_of(base.config.model_type)  # raises for a base that the format does not cover
    folder = require_folder(path)
    full = read_json(folder / CONFIG)
    check_version(full.get("version"))
    check_texts(full, folder / CONFIG)
    ignored = compare_base(full, base, allow_base_mismatch)
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
        training={"imported": origin(full) | {"sha256": sha256_of(folder / file)}},
    )
    with torch.device("meta"):  # names and shapes alone, so that no setting of the file can fill the memory
        module = Module(info, base.sites)
    found = translate(stored, module, base=base, owner=full.get("name"), file=folder / file)
    module.load_state_dict(found.tensors | head.tensors, strict=True, assign=True)
    ignored += reading.ignored + found.ignored + head.ignored + other_files(folder, {CONFIG, file} | head.files)
    report = ImportReport(
        name=name,
        folder=str(folder),
        source=source_of(full),
        mapped=tuple(found.mapped + head.mapped),
        ignored=tuple(ignored),
        settings=tuple(f"{component}: {settings_of(config)}" for component, config in reading.components.items()),
    )
    return module.to(base.device), report
