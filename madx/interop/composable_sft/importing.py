"""Import of a sparse fine-tuning of composable-sft as a module with the component `sparse_diff`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madx.base import Base
from madx.composition import check_name
from madx.contract.sites import BaseParameter
from madx.data.text.files import sha256_of
from madx.errors import ConfigError, StoreError, did_you_mean
from madx.interop.composable_sft.file import CONFIG, FILE, decoded, read_tables, require_folder
from madx.interop.files import dense, other_files, read_json
from madx.interop.formats import IMPORTED_ROLES
from madx.interop.matching import require_same_base, same_base_name
from madx.interop.report import ImportReport, ranges
from madx.interop.token_head import Head, read_head
from madx.module import Module, ModuleInfo, require_task_head
from madx.module.presets import make_components

#: key of config.json -> the word for it in messages
SHAPE = {"hidden_size": "width", "num_hidden_layers": "layers", "vocab_size": "vocabulary"}


@dataclass(frozen=True)
class Entries:
    """Entries of one parameter of the encoder.

    Args:
        theirs: the parameter's name in the file.
        indices: `(entries,)` into the flattened (row-major) parameter, ascending, int64.
        values: `(entries,)`, float32.
    """

    parameter: BaseParameter
    theirs: str
    indices: Tensor
    values: Tensor


def import_composable_sft(
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
    """Make a module from the sparse fine-tuning in a folder, with a report on the folder's content.

    The head of a token classifier becomes the head of a task module.

    Args:
        name, role, language: of the module made.
        task: what its head predicts, e.g. "ner".
        with_head: False leaves a head out.
        allow_base_mismatch: admit another model type or name of the same shape, and files that leave out layers.
    Raises StoreError (damaged files, unknown keys), BaseError (made for another base) or ConfigError; then no module is
    made.
    """
    check_name(name)
    if role not in IMPORTED_ROLES:
        raise ConfigError(f"The role is {role!r}; {did_you_mean(role, IMPORTED_ROLES)}")
    folder = require_folder(path)
    file, config = folder / FILE, read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    diffs, whole = read_tables(file)
    notes = _compare(diffs, config, base, allow_mismatch=allow_base_mismatch)
    found = _entries(diffs, base, file)
    tensors = {key: dense(key, value, file) for key, value in whole.items()}
    head = read_head(tensors, config, base=base, role=role, wanted=with_head, pooled=len(found) < len(diffs), file=file)
    info = ModuleInfo(
        name=name,
        role=role,
        language=language,
        components=make_components({"sparse_diff": _settings(found)}),
        base=base.identity(),
        task=task if head.labels else None,
        labels=head.labels,
        tokenizer=base.tokenizer_fingerprint,
        training={"imported": {"format": "composable-sft", "sha256": sha256_of(file)}},
    )
    with torch.random.fork_rng(devices=[]):
        module = Module(info, base.sites)
    _fill(module, found, head)
    report = ImportReport(
        name=name,
        folder=str(folder),
        source="a sparse fine-tuning of composable-sft",
        settings=(f"sparse_diff: {_unit(module).describe()}",),
        mapped=(*_mapped(found), *head.mapped),
        ignored=(*notes, *_ignored(found, diffs), *head.ignored, *other_files(folder, _read(config))),
    )
    return module.to(base.device), report


def _read(config: dict[str, Any]) -> set[str]:
    return {FILE, CONFIG} if config else {FILE}


def _unit(module: Module) -> Any:
    return module.units["weights"]["sparse_diff"]


# ---- comparison with the base ----------------------------------------------------------------------------------------


def _compare(diffs: dict, config: dict, base: Base, *, allow_mismatch: bool) -> list[tuple[str, str]]:
    """Notes on what could not be compared. Raises BaseError, naming both sides, unless the files fit the base."""
    shape, other = [], []
    for key, word in SHAPE.items():
        here = getattr(base.config, key)
        if config.get(key) is not None and config[key] != here:
            shape.append(f"{word}: files {str(config[key])[:40]}, base {here}")
    made_for, kind = config.get("_name_or_path"), config.get("model_type")
    if kind is not None and kind != base.config.model_type:
        other.append(f"model type: files {str(kind)[:40]}, base {base.config.model_type}")
    if isinstance(made_for, str) and made_for and not same_base_name(made_for, base.name):
        other.append(f"name: files {made_for[:120]}, base {base.name}")
    wrong, missing = _other_parameters(diffs, base)
    require_same_base(shape + wrong, other + missing, base=base, allow_mismatch=allow_mismatch)
    why = "only names and shapes of parameters were compared" if not config else "names and shapes were compared"
    return [("the base's weights", f"the files have no fingerprint of their base; {why}")]


def _other_parameters(diffs: dict, base: Base) -> tuple[list[str], list[str]]:
    """Differences of shape (parameters of the files that the base does not have so), and other differences (layers of
    the base that the files leave out)."""
    prefix, known = base.model.base_model_prefix + ".", {p.name: p for p in base.sites["weights"].parameters}
    strange = [theirs for theirs in diffs if not theirs.startswith(prefix)]
    if strange:
        return [f"parameters: files {strange[0][:80]} (and {len(strange) - 1} more), base {prefix}..."], []
    inside = {theirs.removeprefix(prefix): tuple(entry["size"]) for theirs, entry in diffs.items()}
    stem = next(p.name for p in known.values() if p.layer == 0).partition(".0.")[0]
    numbers = (re.match(rf"{re.escape(stem)}\.([0-9]{{1,4}})\.", name) for name in inside)
    layers = sorted({int(found[1]) for found in numbers if found})
    if layers and layers[-1] >= base.depth:
        return [f"layers: files {ranges(layers)}, base 0-{base.depth - 1}"], []
    wrong = [
        f"{prefix}{name[:100]}: files {size}, base {known[name].shape if name in known else 'has no such parameter'}"
        for name, size in inside.items()
        if (size != known[name].shape if name in known else not name.startswith("pooler."))
    ]
    missing = [f"layers: files {ranges(layers)}, base 0-{base.depth - 1}"] if 0 < len(layers) < base.depth else []
    return wrong, missing


# ---- entries ---------------------------------------------------------------------------------------------------------


def _entries(diffs: dict, base: Base, file: Path) -> list[Entries]:
    """The entries of every parameter that the encoder has. Raises StoreError if there are none at all."""
    known = {p.name: p for p in base.sites["weights"].parameters}
    prefix = base.model.base_model_prefix + "."
    found = [
        Entries(known[theirs.removeprefix(prefix)], theirs, *decoded(theirs, entry, file))
        for theirs, entry in diffs.items()
        if theirs.removeprefix(prefix) in known
    ]
    if not any(len(entries.indices) for entries in found):
        raise StoreError(f"{file} has no entry in any parameter of the base: it changes nothing.")
    return found


def _settings(found: list[Entries]) -> dict[str, Any]:
    filled = [entries for entries in found if len(entries.indices)]
    return {
        "entries": sum(len(entries.indices) for entries in filled),
        "precision": "float32",
        "freeze_norms": not any(entries.parameter.kind == "norm" for entries in filled),
    }


def _fill(module: Module, found: list[Entries], head: Head) -> None:
    space = _unit(module).space
    offsets = {p.name: offset for p, offset in zip(space.parameters, space.offsets)}
    filled = [entries for entries in found if len(entries.indices)]
    filled.sort(key=lambda entries: offsets[entries.parameter.name])
    _unit(module).set_entries(
        torch.cat([entries.indices + offsets[entries.parameter.name] for entries in filled]),
        torch.cat([entries.values for entries in filled]),
    )
    if head.tensors:
        named = {name.removeprefix("head."): value for name, value in head.tensors.items()}
        require_task_head(module).load_state_dict(named)


def _mapped(found: list[Entries]) -> list[tuple[str, str]]:
    return [(e.theirs, f"weights.sparse_diff, in {e.parameter.name}") for e in found if len(e.indices)]


def _ignored(found: list[Entries], diffs: dict) -> list[tuple[str, str]]:
    empty, read = sum(not len(entries.indices) for entries in found), {entries.theirs for entries in found}
    lines = [(f"{empty} parameters", "no entries in them")] if empty else []
    return lines + [(theirs, "the base is used without its pooler") for theirs in diffs if theirs not in read]
