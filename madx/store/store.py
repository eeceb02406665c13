"""The store: a folder of modules, each in the folder of its name, and of masked-LM heads (`madx.store.heads`)."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madx.base import Base
from madx.composition import check_name
from madx.errors import MadxError, StoreError, did_you_mean
from madx.files.reasons import explained
from madx.module import Module, ModuleInfo
from madx.store import folders
from madx.store.files import (
    LACKS_CARD,
    absolute,
    faults_of,
    load_module,
    looks_stored,
    read_manifest,
    read_stored,
    reading,
    require_no_other_files,
    save_module,
)
from madx.store.heads import (
    StoredHead,
    check_head_target,
    find_heads,
    head_faults,
    head_name,
    head_row,
    put_head,
    save_head,
)
from madx.store.manifest import LAYOUT, Manifest, WeightsRecord

log = logging.getLogger("madx")


@dataclass(frozen=True)
class StoredModule:
    """A row of `Store.list()`: what is stored under a name.

    path: its folder; bytes: size of its files on disk; info, weights: its record, None when that cannot be read; fault:
    None for a module that looks whole (`Store.verify` reads the weights too); format: of its files, None when that
    cannot be read.
    """

    name: str
    path: Path
    bytes: int
    info: ModuleInfo | None = None
    weights: WeightsRecord | None = None
    fault: str | None = None
    format: int | None = None


class Store:
    """A folder of modules, each in the folder of its name.

    >>> store = Store("modules")                         # doctest: +SKIP
    >>> store.save(swa); engine.attach(store.load("swa", base))  # doctest: +SKIP

    Nothing outside the folder is read, written or removed: links in it are refused, and `remove` takes the link only.
    """

    def __init__(self, root: str | Path):
        self.root = absolute(root)
        if os.path.lexists(self.root) and not self.root.is_dir():
            raise StoreError(f"The store {self.root} is not a folder. Give one that holds (or will hold) modules.")

    def save(self, module: Module, *, overwrite: bool = False, dtype: str = "float32") -> Path:
        """Store a module under its name; see `save_module`."""
        return save_module(module, self.root / check_name(module.name), overwrite=overwrite, dtype=dtype)

    def load(self, name: str, base: Base, *, allow_base_mismatch: bool = False) -> Module:
        """Load the module of that name; see `load_module`. Raises StoreError also when the folder was renamed."""
        folder = self._folder(name)
        module = load_module(folder, base, allow_base_mismatch=allow_base_mismatch)
        _require_own_name(folder, module.name)
        return module

    def read(self, name: str) -> tuple[Manifest, bytes, str | None]:
        """Read a module as it is stored; see `read_stored`."""
        folder = self._folder(name)
        found = read_stored(folder)
        _require_own_name(folder, found[0].name)
        return found

    def names(self) -> list[str]:
        """The names of the folders that hold a module, whole or damaged."""
        if not self.root.is_dir():
            return []
        with explained(f"list the store {self.root}", StoreError):
            folders.put_back(self.root)
            entries = [e for e in self.root.iterdir() if not e.name.startswith(".")]
            return sorted(e.name for e in entries if e.is_symlink() or e.is_dir() and looks_stored(e))

    def show(self, name: str) -> StoredModule:
        """One module's row; raises StoreError when it is unknown or damaged."""
        self._folder(name)
        row = self._row(name)
        if row.fault:
            raise StoreError(row.fault)
        return row

    def verify(self, name: str | None = None, *, base: Base | None = None) -> list[str]:
        """Every fault of one module or of all, heads among them, as `name: fault`; empty when all is well. All files
        are read.

        With a base, the modules are also compared with it, tensor by tensor. A warning names the modules whose record
        cannot be verified, since it has no checksum (`unguarded`).
        """
        heads = [head for head in find_heads(self.root) if name in (None, head)]
        faults = [f"{head}: {fault}" for head in heads for fault in head_faults(self.root / head)]
        if name in heads:
            return faults
        if name is not None:
            check_name(name)
            self._require_known(name)
        chosen = self.names() if name is None else [name]
        if unguarded := self.unguarded(chosen):
            log.warning(
                "%s: stored in format 1 of madx 0.1.0, whose module.json has no checksum. The weights are compared "
                "with it, but a change of its labels, settings or scores would not show. A module that is loaded and "
                "saved again has one: store.save(store.load(name, base), overwrite=True).",
                ", ".join(unguarded),
            )
        return [fault for each in chosen for fault in self.faults(each, base=base)] + faults

    def unguarded(self, names: Sequence[str] | None = None) -> list[str]:
        """The modules, of these or of all, whose record has no checksum: those in format 1."""
        rows = [self._row(name) for name in (self.names() if names is None else names)]
        return [row.name for row in rows if row.format == 1]

    def remove(self, name: str) -> None:
        """Delete a module or a head; raises StoreError when it is unknown or its folder holds files that are not
        madx's."""
        folder = self.root / check_name(name)
        head = name in find_heads(self.root)
        with explained(f"remove the {'masked-LM head' if head else 'module'} {folder}", StoreError):
            if head:
                check_head_target(folder, overwrite=True)
            else:
                self._require_known(name)
                if not folder.is_symlink():
                    require_no_other_files(folder, "removed")
            folders.remove_folder(folder)

    # ---- masked-LM heads ---------------------------------------------------------------------------------------------

    def save_head(
        self, base: Base, *, languages: Sequence[str], training: dict[str, Any], overwrite: bool = False
    ) -> Path:
        """Store the masked-LM head that is on a base and was trained there; see `madx.store.heads.save_head`."""
        folder = self.root / head_name(base)
        save_head(folder, base, languages=languages, training=training, overwrite=overwrite)
        return folder

    def put_head(self, base: Base) -> str | None:
        """Put the masked-LM head that `madx train-head` trained for a base on it; gives its name, None where there is
        none.

        Raises StoreError for a damaged head, and for one of another base under this base's name.
        """
        name = head_name(base)
        if name not in find_heads(self.root):
            return None
        record = put_head(self.root / name, base)
        log.info(
            "The masked-LM head %s of the store %s is used on %s (trained on %s; held-out perplexity %s).",
            name,
            self.root,
            base.label,
            ", ".join(record.languages) or "text",
            record.perplexity,
        )
        return name

    def head(self, base: Base) -> StoredHead | None:
        """The row of the masked-LM head that was trained for a base; None where there is none."""
        name = head_name(base)
        return head_row(self.root, name) if name in find_heads(self.root) else None

    def heads(self) -> list[StoredHead]:
        """Every masked-LM head, in order of name; a damaged one with its fault."""
        return [head_row(self.root, name) for name in find_heads(self.root)]

    # ---- finding a module --------------------------------------------------------------------------------------------

    def _require_known(self, name: str) -> None:
        if name not in (known := self.names()):
            raise StoreError(f"No module {name!r} in the store {self.root}; {did_you_mean(name, known)}")

    def _folder(self, name: str) -> Path:
        """The folder of a known module; raises StoreError for a name that is not in the store."""
        check_name(name)
        self._require_known(name)
        return self._own_folder(name)

    def _own_folder(self, name: str) -> Path:
        """The folder of a module; raises StoreError unless it and its files lie in this store and nowhere else."""
        folder = self.root / check_name(name)
        for path in (folder, *(folder / file for file in LAYOUT.files)):
            if path.is_symlink():
                raise StoreError(
                    f"{path} is a link; a store reads only its own files. Copy {os.path.realpath(path)} here, or load "
                    "that by its path."
                )
        return folder

    def _row(self, name: str) -> StoredModule:
        """One module's row; whatever is wrong with it becomes its fault, so that it never hides the others."""
        path, size, manifest, fault = self.root / name, 0, None, None
        try:
            self._own_folder(name)
            with reading(path):
                size = sum((path / file).stat().st_size for file in LAYOUT.files if (path / file).is_file())
                manifest = read_manifest(path)
                fault = _fault_of_size(path, manifest)
            _require_own_name(path, manifest.name)
        except MadxError as error:
            fault = str(error)
        info, weights = (manifest.info(), manifest.weights) if manifest else (None, None)
        return StoredModule(name, path, size, info, weights, fault, manifest.format if manifest else None)

    def faults(self, name: str, *, base: Base | None = None, card: bool = True) -> list[str]:
        """Every fault of one module, as `verify` gives them, without its warning.

        card: whether a missing README.md counts; a module loads without one.
        """
        try:
            self._own_folder(name)
        except MadxError as error:
            return [f"{name}: {error}"]
        found = [fault for fault in faults_of(self.root / name, base) if card or fault != LACKS_CARD]
        return [f"{name}: {fault}" for fault in found]

    # after the methods that name the type `list`
    def list(self) -> list[StoredModule]:
        """Every module, in order of name; a damaged one with its fault."""
        return [self._row(name) for name in self.names()]


def _fault_of_size(folder: Path, manifest: Manifest) -> str | None:
    """The fault of a weights file that is missing or of another size than recorded."""
    path, recorded = folder / LAYOUT.weights, manifest.weights.bytes
    if not path.is_file():
        return f"{folder} is no whole module: it lacks the file {LAYOUT.weights}."
    if (stored := path.stat().st_size) == recorded:
        return None
    return f"{path} is damaged: it has {stored} bytes, {LAYOUT.manifest} records {recorded}. Fetch the module again."


def _require_own_name(folder: Path, name: str) -> None:
    if folder.name != name:
        raise StoreError(
            f"The folder {folder} holds a module that calls itself {name!r}. Rename the folder to {name!r}, or load "
            "it by its path."
        )
