"""The store: a folder of modules, each a folder of `module.json`, `weights.safetensors` and a model card.

Saving is all or nothing (`madx.store.folders`). Loading reads no code and no pickle, compares everything that is recorded,
and names each mismatch; a module is never partially loaded.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

from madx.base import Base
from madx.composition import HUB_MARK, check_name
from madx.errors import MadxError, StoreError, did_you_mean
from madx.module import Module, ModuleInfo, require_base
from madx.store import folders
from madx.store.card import model_card
from madx.store.manifest import FORMAT, LAYOUT, Manifest, WeightsRecord, check_language, from_text, to_text
from madx.store.tensors import TensorFile
from madx.store.weights import DTYPES, encode, own_faults, read_weights, to_state, undamaged

__all__ = [
    "DTYPES",
    "FORMAT",
    "LAYOUT",
    "Store",
    "StoredModule",
    "check_language",
    "check_target",
    "load_module",
    "read_info",
    "read_stored",
    "save_module",
    "write_stored",
]

log = logging.getLogger("madx")

# ---- saving ----------------------------------------------------------------------------------------------------------


def save_module(module: Module, folder: str | Path, *, overwrite: bool = False, dtype: str = "float32") -> Path:
    """Store a module as a folder, which holds the whole of it or is left as it was; gives the folder.

    dtype: float32 is bit-exact; float16 and bfloat16 halve the file. Raises StoreError when the folder is taken, a
    weight is not finite, something of the module cannot be recorded, or the disk refuses.
    """
    folder = _absolute(folder)
    with folders.explained(f"store the module {module.name!r} in {folder}"):
        check_target(folder, overwrite=overwrite)
    manifest, data = encode(module, dtype)
    return write_stored(folder, manifest, data, overwrite=overwrite)


def write_stored(
    folder: str | Path, manifest: Manifest, data: bytes, *, card: str | None = None, overwrite: bool = False
) -> Path:
    """As `save_module`, of a module at hand as its record and the bytes of its weights; card: None makes one."""
    folder = _absolute(folder)
    files = {
        LAYOUT.weights: data,
        LAYOUT.manifest: to_text(manifest).encode(),
        LAYOUT.card: (model_card(manifest) if card is None else card).encode(),
    }
    with folders.explained(f"store the module {manifest.name!r} in {folder} (what was there before is unchanged)"):
        folders.write_folder(folder, files, check=lambda: check_target(folder, overwrite=overwrite))
    return folder


def check_target(folder: str | Path, *, overwrite: bool = False) -> None:
    """Raises StoreError when a module cannot be saved as this folder; a long training asks this before it starts."""
    folder = _absolute(folder)
    if folder.is_symlink():
        raise StoreError(f"{folder} is a link, not a folder to replace. Save to {folder.resolve()} or remove it.")
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise StoreError(f"{folder} is a file; a module needs a folder of its own. Choose another name.")
    present = [entry.name for entry in folder.iterdir()]
    if present and not _looks_stored(folder):
        raise StoreError(f"{folder} holds other files and no module. Choose another folder, or empty this one.")
    if _looks_stored(folder) and not overwrite:
        raise StoreError(
            f"{folder} already holds a module. Pass overwrite=True (command: --overwrite) to replace it, or choose another name."
        )
    _require_no_other_files(folder, "replaced")


# ---- loading ---------------------------------------------------------------------------------------------------------


def load_module(folder: str | Path, base: Base, *, allow_base_mismatch: bool = False) -> Module:
    """The module that a folder holds, on the base's device, in float32.

    Raises StoreError for anything missing, damaged or altered, BaseError for another base; each names every mismatch.
    `allow_base_mismatch` admits another base of the same shape. The folder may have any name; the module keeps its own.
    """
    if str(folder).startswith(HUB_MARK):
        raise StoreError(f"{folder} is a place on the model hub, no folder. Load it with madx.load({folder!r}, base).")
    folder = _absolute(folder)
    with folders.explained(f"read the module {folder}"), folders.reading(folder):
        manifest = _read_manifest(folder)
        info = manifest.info()
        require_base(info, base, allow_base_mismatch=allow_base_mismatch)
        file = _weights(folder, manifest)
    if folder.name != info.name:
        log.info("The folder %s holds the module %r; it keeps that name.", folder, info.name)
    with undamaged(file, manifest, folder) as tensors:
        module = _skeleton(info, base, folder)
        state, faults = to_state(tensors, module, manifest)
        _require(faults, folder)
        module.load_state_dict(state, assign=True)
    if any(t.is_meta for t in chain(module.parameters(), module.buffers())):
        raise StoreError(
            f"A component of {info.name!r} keeps a buffer that is not stored; its module type must store it."
        )
    return module.to(base.device)


def read_info(folder: str | Path) -> ModuleInfo:
    """What a stored module says of itself; its weights are not read. Raises StoreError."""
    folder = _absolute(folder)
    with folders.explained(f"read the module {folder}"), folders.reading(folder):
        return _read_manifest(folder).info()


def read_stored(folder: str | Path) -> tuple[Manifest, bytes, str | None]:
    """The record of a stored module, the bytes of its weights and its card, as they lie there; no base is needed.

    Raises StoreError when anything is missing, damaged, altered or disagrees.
    """
    folder = _absolute(folder)
    with folders.explained(f"read the module {folder}"), folders.reading(folder):
        manifest = _read_manifest(folder)
        file = _weights(folder, manifest)
        card = _read(folder, LAYOUT.card).decode("utf-8", "replace") if (folder / LAYOUT.card).is_file() else None
    with undamaged(file, manifest, folder) as tensors:
        _require(own_faults(tensors, manifest), folder)
    return manifest, b"".join(file.pieces()), card


@contextmanager
def _there(folder: Path, file: str) -> Iterator[Path]:
    """A file of a module, to be read."""
    try:
        yield folder / file
    except (FileNotFoundError, IsADirectoryError) as error:
        if not folder.is_dir():
            raise StoreError(f"There is no module at {folder}: no such folder.") from None
        raise StoreError(f"{folder} is no whole module: it lacks the file {file}. Fetch the module again.") from error


def _read(folder: Path, file: str) -> bytes:
    with _there(folder, file) as path:
        return path.read_bytes()


def _weights(folder: Path, manifest: Manifest) -> TensorFile:
    with _there(folder, LAYOUT.weights):
        return read_weights(folder, manifest)


def _read_manifest(folder: Path) -> Manifest:
    return from_text(_read(folder, LAYOUT.manifest), str(folder / LAYOUT.manifest))


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills a tensor with initial values: on the meta device that is idle and slow."""

    FILLS = frozenset(
        "uniform_ normal_ trunc_normal_ kaiming_uniform_ kaiming_normal_ xavier_uniform_ xavier_normal_ orthogonal_ "
        "zero_ zeros_ ones_ fill_ constant_".split()
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        values = {**(kwargs or {})}
        if getattr(func, "__name__", "") in self.FILLS:
            return args[0] if args else values["tensor"]
        return func(*args, **values)


def _skeleton(info: ModuleInfo, base: Base, folder: Path) -> Module:
    """The module without memory for its weights: no time goes into initial values, no random number is drawn."""
    try:
        with torch.device("meta"), _Unfilled():
            return Module(info, base.sites)
    except (MadxError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(f"The settings in {folder / LAYOUT.manifest} make no module on this base: {error}") from error


def _require(faults: list[str], folder: Path) -> None:
    if faults:
        raise StoreError(
            f"The weights in {folder} do not agree with its {LAYOUT.manifest}:\n  "
            + "\n  ".join(faults)
            + "\nOne of the files was altered or comes from another module. Fetch the module again."
        )


# ---- the store -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredModule:
    """A row of `Store.list()`: what is stored under a name; info and weights are None when they cannot be read.

    bytes: size of its files on disk; fault: None for a module that looks whole (`Store.verify` reads the weights too).
    """

    name: str
    path: Path
    bytes: int
    info: ModuleInfo | None = None
    weights: WeightsRecord | None = None
    fault: str | None = None


class Store:
    """A folder of modules, each in the folder of its name.

    >>> store = Store("modules")                         # doctest: +SKIP
    >>> store.save(swa); engine.attach(store.load("swa", base))  # doctest: +SKIP

    Nothing outside the folder is read, written or removed: links in it are refused, and `remove` takes the link only.
    """

    def __init__(self, root: str | Path):
        self.root = _absolute(root)
        if os.path.lexists(self.root) and not self.root.is_dir():
            raise StoreError(f"The store {self.root} is not a folder. Give one that holds (or will hold) modules.")

    def save(self, module: Module, *, overwrite: bool = False, dtype: str = "float32") -> Path:
        """Store a module under its name; see `save_module`."""
        return save_module(module, self.root / check_name(module.name), overwrite=overwrite, dtype=dtype)

    def load(self, name: str, base: Base, *, allow_base_mismatch: bool = False) -> Module:
        """The module of that name; see `load_module`. Raises StoreError also when the folder was renamed."""
        folder = self._folder(name)
        module = load_module(folder, base, allow_base_mismatch=allow_base_mismatch)
        _require_own_name(folder, module.name)
        return module

    def names(self) -> list[str]:
        """The folders that hold a module, whole or damaged."""
        if not self.root.is_dir():
            return []
        with folders.explained(f"list the store {self.root}"):
            for name in folders.renamed_away(self.root):
                with folders.reading(self.root / name):
                    pass
            entries = [e for e in self.root.iterdir() if not e.name.startswith(".")]
            return sorted(e.name for e in entries if e.is_symlink() or e.is_dir() and _looks_stored(e))

    def show(self, name: str) -> StoredModule:
        """One module's row; raises StoreError when it is unknown or damaged."""
        self._folder(name)
        row = self._row(name)
        if row.fault:
            raise StoreError(row.fault)
        return row

    def verify(self, name: str | None = None, *, base: Base | None = None) -> list[str]:
        """Every fault of one module or of all, as `name: fault`; empty when all is well. All files are read.

        With a base, the modules are also compared with it, tensor by tensor.
        """
        names = [name] if name is not None else self.names()
        faults = []
        for each in names:
            if name is not None:
                check_name(each)
                self._require_known(each)
            for fault in _verified(self.root / each, lambda each=each: self._folder(each), base):
                faults.append(f"{each}: {fault}")
        return faults

    def remove(self, name: str) -> None:
        """Delete a module; raises StoreError when it is unknown or its folder holds files that are not madx's."""
        folder = self.root / check_name(name)
        with folders.explained(f"remove the module {folder}"):
            self._require_known(name)
            if not folder.is_symlink():
                _require_no_other_files(folder, "removed")
            folders.remove_folder(folder)

    def _require_known(self, name: str) -> None:
        if name not in (known := self.names()):
            raise StoreError(f"No module {name!r} in the store {self.root}; {did_you_mean(name, known)}")

    def read(self, name: str) -> tuple[Manifest, bytes, str | None]:
        """A module as it is stored; see `read_stored`."""
        folder = self._folder(name)
        found = read_stored(folder)
        _require_own_name(folder, found[0].name)
        return found

    def _folder(self, name: str) -> Path:
        """The folder of a module, if it and its files lie in this store and nowhere else."""
        folder = self.root / check_name(name)
        self._require_known(name)
        for path in (folder, *(folder / file for file in LAYOUT.files)):
            if path.is_symlink():
                raise StoreError(
                    f"{path} is a link; a store reads only its own files. Copy {path.resolve()} here, or load "
                    "that by its path."
                )
        return folder

    def _row(self, name: str) -> StoredModule:
        path = self.root / name
        size, manifest, fault = 0, None, None
        try:
            self._folder(name)
            with folders.explained(f"read the module {path}"), folders.reading(path):
                size = sum((path / file).stat().st_size for file in LAYOUT.files if (path / file).is_file())
                manifest = _read_manifest(path)
                stored = (path / LAYOUT.weights).stat().st_size if (path / LAYOUT.weights).is_file() else None
            if stored is None:
                fault = f"{path} is no whole module: it lacks the file {LAYOUT.weights}."
            elif stored != manifest.weights.bytes:
                fault = (
                    f"{path / LAYOUT.weights} is damaged: it has {stored} bytes, {LAYOUT.manifest} records {manifest.weights.bytes}. "
                    "Fetch the module again."
                )
            _require_own_name(path, manifest.name)
        except MadxError as error:
            fault = str(error)
        info, weights = (manifest.info(), manifest.weights) if manifest else (None, None)
        return StoredModule(name, path, size, info, weights, fault)

    # after the methods that name the type `list`
    def list(self) -> list[StoredModule]:
        """Every module, in order of name; a damaged one with its fault."""
        return [self._row(name) for name in self.names()]


def _verified(folder: Path, allowed: Callable[[], Path], base: Base | None) -> Iterator[str]:
    """The faults of a stored module, as far as one can look."""
    try:
        allowed()
        with folders.explained(f"read the module {folder}"), folders.reading(folder):
            manifest = _read_manifest(folder)
            file = _weights(folder, manifest)
            if not (folder / LAYOUT.card).is_file():
                yield f"lacks the file {LAYOUT.card}"
        if folder.name != manifest.name:
            yield f"calls itself {manifest.name!r}"
        with undamaged(file, manifest, folder) as tensors:
            if base is None:
                faults = own_faults(tensors, manifest)
            else:
                info = manifest.info()
                require_base(info, base)
                faults = to_state(tensors, _skeleton(info, base, folder), manifest)[1]
        yield from faults
    except MadxError as error:
        yield str(error)


def _absolute(path: str | Path) -> Path:
    """Without `~` and `..`, links kept: the last one must stay visible as a link."""
    return Path(os.path.abspath(Path(path).expanduser()))


def _looks_stored(folder: Path) -> bool:
    return any(os.path.lexists(folder / file) for file in (LAYOUT.manifest, LAYOUT.weights))


def _require_no_other_files(folder: Path, what: str) -> None:
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in LAYOUT.files)
    if others:
        raise StoreError(
            f"{folder} is not {what}: beside the module it holds {', '.join(others)}. Move or delete these first."
        )


def _require_own_name(folder: Path, name: str) -> None:
    if folder.name != name:
        raise StoreError(
            f"The folder {folder} holds a module that calls itself {name!r}. Rename the folder to {name!r}, or load "
            "it by its path."
        )
