"""The format `composable-sft`: sparse differences as the code of the LT-SFT paper stores them (Ansell et al. 2022,
arXiv:2110.07560), in and out.

A folder holds `pytorch_diff.bin` (`composable_sft_file`). Beside it may lie a `config.json` of transformers, as its
trainer leaves one; published files have none, so they say nothing of their base but names and shapes of parameters, and
nothing of their labels.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from madx.base import Base
from madx.composition import Composition, Stack, check_name
from madx.contract.sites import BaseParameter
from madx.data.text.corpora import sha256_of
from madx.errors import ConfigError, StoreError, did_you_mean
from madx.interop.base import FORMATS, Format, ImportRequest, ImportResult, single
from madx.interop.composable_sft.file import FILE, LARGEST, decoded, encoded, read_tables
from madx.interop.composable_sft.head import Head, read_head, write_config, write_head
from madx.interop.files import dense, new_folder, other_files, read_json
from madx.interop.matching import require_same_base, same_base_name
from madx.interop.report import ImportReport, ranges
from madx.module import ROLES, Module, ModuleInfo, require_base
from madx.module.presets import make_components

CONFIG = "config.json"
#: config.json -> what it is
SHAPE = {"hidden_size": "width", "num_hidden_layers": "layers", "vocab_size": "vocabulary"}


# ---- in --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entries:
    """Entries of one parameter of the encoder: indices `(entries,)` into it, row-major, ascending, in int64; values
    `(entries,)` in float32."""

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
    """A module with the sparse difference in a folder's `pytorch_diff.bin`, and a report of what became of its content.

    name, role, language: of the module made. The head of a token classifier becomes a task module's head, unless
    `with_head` is False; task: what it predicts. allow_base_mismatch admits another model type or name of the same shape,
    and files that leave out layers. Raises StoreError (damaged files, unknown keys), BaseError (made for another base),
    ConfigError; then nothing is made.
    """
    check_name(name)
    if role not in ROLES:
        raise ConfigError(f"The role is {role!r}; {did_you_mean(role, ROLES)}")
    folder = _require_folder(path)
    file, config = folder / FILE, read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    diffs, whole = read_tables(file)
    notes = _compare(diffs, config, base, allow_mismatch=allow_base_mismatch)
    known = {p.name: p for p in base.sites["weights"].parameters}
    prefix = base.model.base_model_prefix + "."
    found = [
        Entries(known[theirs.removeprefix(prefix)], theirs, *decoded(theirs, entry, file))
        for theirs, entry in diffs.items()
        if theirs.removeprefix(prefix) in known
    ]
    filled = [entries for entries in found if len(entries.indices)]
    if not filled:
        raise StoreError(f"{file} has no entry in any parameter of the base: it changes nothing.")
    tensors = {key: dense(key, value, file) for key, value in whole.items()}
    head = read_head(tensors, config, base=base, role=role, wanted=with_head, pooled=len(found) < len(diffs), file=file)
    settings = {
        "entries": sum(len(entries.indices) for entries in filled),
        "precision": "float32",
        "freeze_norms": not any(entries.parameter.kind == "norm" for entries in filled),
    }
    info = ModuleInfo(
        name=name,
        role=role,
        language=language,
        components=make_components({"sparse_diff": settings}),
        base=base.identity(),
        task=task if head.labels else None,
        labels=head.labels,
        tokenizer=base.tokenizer_fingerprint,
        training={"imported": {"format": "composable-sft", "sha256": sha256_of(file)}},
    )
    with torch.random.fork_rng(devices=[]):
        module = Module(info, base.sites)
    _fill(module, filled, head)
    return module.to(base.device), _report(module, folder, found, diffs, head, notes, bool(config))


def _require_folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise StoreError(f"{folder} {what}; give the folder with {FILE} (unpack an archive first).")
    if not (folder / FILE).is_file():
        raise StoreError(f"{folder} has no {FILE}, so it holds no sparse difference of composable-sft.")
    return folder


def _compare(diffs: dict, config: dict, base: Base, *, allow_mismatch: bool) -> list[tuple[str, str]]:
    """Raises BaseError, naming both sides, unless the files fit the base; returns what could not be compared."""
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
    """(parameters of the files that the base does not have so, layers of the base that the files leave out)."""
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


def _fill(module: Module, filled: list[Entries], head: Head) -> None:
    unit = module.units["weights"]["sparse_diff"]
    offsets = {p.name: offset for p, offset in zip(unit.space.parameters, unit.space.offsets)}
    filled = sorted(filled, key=lambda entries: offsets[entries.parameter.name])
    unit.set_entries(
        torch.cat([entries.indices + offsets[entries.parameter.name] for entries in filled]),
        torch.cat([entries.values for entries in filled]),
    )
    if head.tensors:
        module.head.load_state_dict({name.removeprefix("head."): value for name, value in head.tensors.items()})


def _report(
    module: Module, folder: Path, found: list[Entries], diffs: dict, head: Head, notes, with_config: bool
) -> ImportReport:
    unit, read = module.units["weights"]["sparse_diff"], {entries.theirs for entries in found}
    empty = [(f"{count} parameters", "no entries in them")] if (count := sum(not len(e.indices) for e in found)) else []
    pooler = [(theirs, "the base is used without its pooler") for theirs in diffs if theirs not in read]
    mapped = [(e.theirs, f"weights.sparse_diff, in {e.parameter.name}") for e in found if len(e.indices)]
    return ImportReport(
        name=module.name,
        folder=str(folder),
        source="a sparse difference of composable-sft",
        settings=(f"sparse_diff: {unit.describe()}",),
        mapped=tuple(mapped + head.mapped),
        ignored=tuple(
            notes + empty + pooler + head.ignored + other_files(folder, {FILE} | ({CONFIG} if with_config else set()))
        ),
    )


# ---- out -------------------------------------------------------------------------------------------------------------


def export_composable_sft(module: Module, folder: str | Path, *, base: Base) -> Path:
    """Write a sparse difference as a folder that composable-sft loads (`SFT(folder)`), its head as a token classifier's.

    Every parameter is listed, those without entries too, as its own writer does; beside it lies a `config.json` that
    names base and labels. All numbers are plain ones, so that `torch.load` needs no allowances. There a difference of the
    embeddings moves a tied decoder as well; here the decoder keeps the base's weights.
    Raises ConfigError for what the format cannot say, BaseError for a base that does not fit, StoreError for a folder in
    use.
    """
    require_base(module.info, base)
    if other := [component for component in module.info.components if component != "sparse_diff"]:
        raise ConfigError(
            f"The module {module.name!r} cannot be written as a file of composable-sft: it has "
            f"{', '.join(map(repr, other))}, and such a file holds a sparse difference alone (sparse_diff)."
        )
    parameters = base.sites["weights"].parameters
    if wide := [p for p in parameters if len(p.shape) > 2 or p.numel > LARGEST]:
        raise ConfigError(
            f"composable-sft cannot read {wide[0].name} {wide[0].shape}: it takes apart indices of at most two axes, and "
            f"counts up to {LARGEST} entries."
        )
    given = {d.parameter: d for d in module.units["weights"]["sparse_diff"].deltas()}
    prefix, empty = base.model.base_model_prefix + ".", (torch.empty(0, dtype=torch.int64), torch.empty(0))
    diffs = {
        prefix + p.name: encoded(
            p.shape, *((given[p.name].places().cpu(), given[p.name].values.cpu()) if p.name in given else empty)
        )
        for p in parameters
    }
    tensors, folder = write_head(module, base), Path(folder).expanduser()
    with new_folder(folder) as made:
        torch.save({"diffs": diffs, "abs": tensors}, made / FILE)
        (made / CONFIG).write_text(write_config(module, base), encoding="utf-8")
    return folder


# ---- the format ------------------------------------------------------------------------------------------------------


@FORMATS.register("composable-sft")
class ComposableSft(Format):
    """Folders with a `pytorch_diff.bin`; one holds one module."""

    title = "LT-SFT's composable-sft: sparse differences of weights, and a token classifier's head"
    files = f"{FILE}, and {CONFIG} where there is one"

    def members(self, folder: Path) -> tuple[str, ...]:
        """None: a folder holds one module."""
        return ()

    def base_of(self, folder: Path) -> str | None:
        """The name in `config.json`, if there is one."""
        folder = _require_folder(folder)
        made_for = read_json(folder / CONFIG).get("_name_or_path") if (folder / CONFIG).is_file() else None
        return made_for if isinstance(made_for, str) and made_for else None

    def read(self, folder: Path, wishes: tuple[ImportRequest, ...], base: Base) -> ImportResult:
        """The one module of a folder."""
        (wish,) = wishes
        module, report = import_composable_sft(
            folder,
            base,
            name=wish.name,
            role=wish.role,
            language=wish.language,
            task=wish.task,
            with_head=wish.with_head,
            allow_base_mismatch=wish.allow_base_mismatch,
        )
        return ImportResult({wish.name: module}, (report,), Stack(wish.name))

    def write(
        self,
        composition: Composition,
        modules: dict[str, Module],
        folder: Path,
        *,
        base: Base,
        as_name: str | None = None,
    ) -> Path:
        """A single module; the format has no names, so that `as_name` says nothing there."""
        if as_name is not None:
            raise ConfigError(f"A file of composable-sft holds no name, so it cannot be called {as_name!r} there.")
        return export_composable_sft(modules[single(composition, f"a {FILE}")], folder, base=base)
