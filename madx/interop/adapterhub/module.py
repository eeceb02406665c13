"""One module as a folder of AdapterHub's `adapters`, in and out: `import_adapterhub`, `export_adapterhub`.

A folder holds `adapter_config.json` with `pytorch_adapter.bin` or `adapter.safetensors`, and for a trained head
`head_config.json` with `pytorch_model_head.bin` or `model_head.safetensors`. The format stores no fingerprint of the
base and no tokenizer; what it does store is compared, before a module is given out: nothing is half loaded.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from madx.base import Base
from madx.composition import check_name
from madx.data.text.corpora import sha256_of
from madx.errors import BaseError, ConfigError, StoreError
from madx.interop.adapterhub.config import check_version, read_parts, write_config
from madx.interop.adapterhub.files import CONFIG, HEAD_CONFIG, HEAD_WEIGHTS, WEIGHTS, read_tensors, require_folder
from madx.interop.adapterhub.head import read_head, write_head
from madx.interop.adapterhub.keys import Key, KeyReader, foreign_keys, layout_of
from madx.interop.files import new_folder, other_files, read_json
from madx.interop.matching import public_name, require_same_base, same_base_name
from madx.interop.report import ImportReport, ranges
from madx.module import Module, ModuleInfo, require_base
from madx.module_types import MODULE_TYPES

#: the version written; every release since reads it
VERSION = "adapters.1.3.0"


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
    """A module from a folder of AdapterHub's `adapters` (any version), and a report of what became of its content.

    name, role, language: of the module made. A tagging head becomes its head, unless `with_head` is False; task: what
    that head predicts, e.g. "ner". allow_base_mismatch admits another model type or name of the same shape.
    Raises StoreError (damaged files, wrong keys), ConfigError (a module type or setting that is not read), BaseError
    (made for another base); then nothing is made.
    """
    check_name(name)
    if role not in ("language", "task"):
        raise ConfigError(f"The role is {role!r}; allowed: language, task.")
    layout, folder = layout_of(base.config.model_type), require_folder(path)
    full = read_json(folder / CONFIG)
    check_version(full.get("version"))
    _check_texts(full, folder / CONFIG)
    ignored = _compare_base(full, base, allow_base_mismatch)
    tensors, file = read_tensors(folder, WEIGHTS)
    invertible = any("invertible_" in key for key in tensors)
    reading = read_parts(full, depth=base.depth, has_invertible=invertible)
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
    skeleton = _skeleton(info, base, tensors, folder / file)
    bottleneck = reading.components.get("bottleneck")
    reader = KeyReader(layout, norm_before=bool(bottleneck and bottleneck.norm_before))
    ours, mapped, repeated = _translate(tensors, reader, owner=full.get("name"), file=folder / file)
    expected = {k: v for k, v in skeleton.state_dict().items() if not k.startswith("head.")}
    _compare(expected, ours, depth=base.depth, file=folder / file)
    skeleton.load_state_dict({k: v for k, (v, _) in ours.items()} | head.tensors, strict=True, assign=True)
    ignored += reading.ignored + repeated + head.ignored + other_files(folder, {CONFIG, file} | head.files)
    report = ImportReport(
        name=name,
        folder=str(folder),
        source=_source(full),
        mapped=tuple(mapped + head.mapped),
        ignored=tuple(ignored),
        settings=tuple(f"{component}: {_settings(config)}" for component, config in reading.components.items()),
    )
    return skeleton.to(base.device), report


def _check_texts(full: dict, path: Path) -> None:
    for key in ("name", "type", "model_name", "model_type", "model_class"):
        if not isinstance(full.get(key), str | None):
            raise StoreError(f"{path}: {key!r} is a {type(full[key]).__name__} where a text is due.")


def _compare_base(full: dict, base: Base, allow_mismatch: bool) -> list[tuple[str, str]]:
    """Raises BaseError when the config names another base; returns what could not be compared."""
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
    return [("model_name (empty)", "the files do not say which base they were made for; only shapes were compared")]


def _skeleton(info: ModuleInfo, base: Base, tensors: dict[str, Tensor], file: Path) -> Module:
    """The module with random weights, to compare names and shapes with; the random state stays as it was.

    Raises StoreError before building when the config asks for inner layers wider than any tensor of the file, so that a
    tiny reduction factor cannot fill the memory.
    """
    widest = max(size for value in tensors.values() for size in (1, *value.shape))
    for site in base.sites.values():
        for component, config in info.components.items():
            if not MODULE_TYPES.get(component).acts_at(config, site):
                continue
            width = site.width / 2 / config.reduction_factor if component == "invertible" else config.bottleneck(site)
            if width >= widest + 1:
                raise StoreError(
                    f"{file}: the config asks for a {component} {width:.4g} wide at {site.name}, the widest tensor in the file "
                    f"has {widest}. The config belongs to another file."
                )
    with torch.random.fork_rng(devices=[]):
        return Module(info, base.sites)


Ours = dict[str, tuple[Tensor, Key]]


def _translate(tensors: dict[str, Tensor], reader: KeyReader, *, owner, file: Path) -> tuple[Ours, list, list]:
    """(our tensors by name, pairs of names, what was stored twice); raises StoreError naming unknown keys."""
    ours, mapped, repeated, unknown, owners = {}, [], [], [], set()
    for theirs, value in tensors.items():
        key = reader(theirs)
        if key is None:
            unknown.append(theirs)
            continue
        owners.add(key.owner)
        if key.target not in ours:
            ours[key.target] = value, key
            mapped.append((theirs, key.target))
        elif torch.equal(ours[key.target][0], value):
            repeated.append((theirs, f"the same tensor as {key.target}, stored twice"))
        else:
            unknown.append(f"{theirs} (differs from the other tensor for {key.target})")
    if unknown:
        raise StoreError(
            f"{file} has {len(unknown)} tensors that the config does not explain:\n  "
            + _listed(unknown)
            + "\nThe config belongs to another file, or the adapter has components that madx does not read."
        )
    if len(owners) > 1 or owner is not None and owners != {owner}:
        raise StoreError(
            f"{file} holds tensors of {', '.join(repr(o[:60]) for o in sorted(owners)[:8])}, its config is of "
            f"{str(owner)[:60]!r}: one folder holds one adapter."
        )
    return ours, mapped, repeated


def _compare(expected: dict[str, Tensor], ours: Ours, *, depth: int, file: Path) -> None:
    """Raises BaseError or StoreError unless the file has exactly the tensors that its config asks for on this base."""
    in_file = sorted({key.layer for _, key in ours.values() if key.layer is not None})
    if in_file and in_file[-1] >= depth:
        raise BaseError(
            f"{file} has bottlenecks in the layers {ranges(in_file)}; the base has only {depth} (0-{depth - 1}). "
            "Load the base that it was made for."
        )
    faults = [f"missing: {name}" for name in expected if name not in ours]
    faults += [f"not asked for by the config: {name}" for name in ours if name not in expected]
    faults += [
        f"{name}: file {tuple(value.shape)}, base and config {tuple(expected[name].shape)}"
        for name, (value, _) in ours.items()
        if name in expected and value.shape != expected[name].shape
    ]
    if faults:
        layers = f" (file: layers {ranges(in_file)}; base: 0-{depth - 1})" if in_file else ""
        raise StoreError(
            f"{file} does not fit its config on this base{layers}:\n  {_listed(faults)}\n"
            "The file is incomplete, its config belongs to another file, or it was made for another base."
        )


def _listed(lines: list[str]) -> str:
    more = [f"... and {len(lines) - 8} more"] if len(lines) > 8 else []
    return "\n  ".join([line[:200] for line in lines[:8]] + more)


def _origin(full: dict) -> dict:
    keys = ("name", "version", "model_name", "model_class", "model_type")
    return {"format": "adapterhub"} | {k: full[k][:200] for k in keys if isinstance(full.get(k), str)}


def _source(full: dict) -> str:
    version = full.get("version") or "before 1.0"
    made_for = f", made for {full['model_name']}" if full.get("model_name") else ""
    return f"{str(full.get('name'))[:60]!r} ({version}{made_for})"


def _settings(config) -> str:
    changed = config.model_dump(exclude_defaults=True)
    return ", ".join(f"{k}={v!r}" for k, v in changed.items()) or "defaults"


# ---- out -----------------------------------------------------------------------------------------------------------


def export_adapterhub(
    module: Module, folder: str | Path, *, base: Base, safetensors: bool = False, as_name: str | None = None
) -> Path:
    """Write a module as a folder that `adapters` 1.x loads (`model.load_adapter(folder)`), its head as a tagging head.

    as_name: its name there, by default the module's. safetensors: False writes `.bin`, their default.
    Raises ConfigError for what the format cannot say, BaseError for a base that does not fit, StoreError for a folder
    in use.
    """
    require_base(module.info, base)
    layout, folder, name = layout_of(base.config.model_type), Path(folder).expanduser(), as_name or module.name
    if "." in name or hasattr(nn.ModuleDict(), name):
        raise ConfigError(
            f"An adapter cannot be called {name!r} there: names with '.' and names of torch's own attributes fail on "
            "loading. Pass as_name=..., e.g. as_name='" + name.replace(".", "_") + "_adapter'."
        )
    components = module.info.components
    full = {
        "config": write_config(components, depth=base.depth),
        "hidden_size": base.width,
        "model_class": layout.model_class,
        "model_name": public_name(base),
        "model_type": base.config.model_type,
        "name": name,
        "version": VERSION,
    }
    _check_inner_widths(module)
    tensors = {
        key: value.detach().to("cpu").clone().contiguous()
        for target, value in module.tensors().items()
        if not target.startswith("head.")
        for key in foreign_keys(target, layout, name, components)
    }
    with new_folder(folder) as made:
        _write(made, (CONFIG, full), WEIGHTS, tensors, safetensors)
        if module.head is not None:
            head, weights = write_head(module, name)
            _write(made, (HEAD_CONFIG, full | {"config": head}), HEAD_WEIGHTS, weights, safetensors)
    return folder


def _check_inner_widths(module: Module) -> None:
    """Their couplings are half / reduction wide, each by its own half, ours by the first: not the same for odd widths."""
    unit = module.units.get("embeddings", {}).get("invertible")
    for net in (unit.F, unit.G) if unit is not None else ():
        theirs = int(net.down.in_features // unit.config.reduction_factor)
        if theirs != net.down.out_features:
            raise ConfigError(
                f"The invertible component has a coupling {net.down.in_features}->{net.down.out_features}; there it would "
                f"be {net.down.in_features}->{theirs}. The format cannot say this size."
            )


def _write(folder: Path, config: tuple[str, dict], names: tuple[str, str], tensors: dict, safetensors: bool) -> None:
    text = json.dumps(config[1], indent=2)  # not sorted: their `get_labels` gives label2id's order in the file
    (folder / config[0]).write_text(text + "\n", encoding="utf-8")
    if safetensors:
        from safetensors.torch import save_file

        save_file(tensors, folder / names[0])
    else:
        torch.save(tensors, folder / names[1])
