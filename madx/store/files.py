"""Save and load one module: a folder of `module.json`, `weights.safetensors` and a model card.

Saving is all or nothing (`madx.store.folders`). Loading runs no code and reads no pickle; it compares everything that
is recorded and names each mismatch. A module is never loaded in part.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from madx.base import Base
from madx.composition import HUB_MARK
from madx.errors import MadxError, StoreError
from madx.files.names import folded
from madx.files.places import user_path
from madx.files.reading import opened
from madx.files.reasons import explained
from madx.module import Module, ModuleInfo, require_base
from madx.store import folders
from madx.store.card import model_card
from madx.store.manifest import LAYOUT, Manifest
from madx.store.module_json import MOST_BYTES, from_text, to_text
from madx.store.tensors import TensorFile
from madx.store.version1 import to_current
from madx.store.weights import encode, own_faults, read_weights, to_state, undamaged

log = logging.getLogger("madx")

#: the one fault with which a module still loads
LACKS_CARD = f"lacks the file {LAYOUT.card}"

# ---- saving ----------------------------------------------------------------------------------------------------------


def save_module(module: Module, folder: str | Path, *, overwrite: bool = False, dtype: str = "float32") -> Path:
    """Store a module as a folder and give the folder; after a failure the folder is as it was before.

    dtype: float32 keeps every bit; float16 and bfloat16 halve the file. overwrite: replace a module that lies there.
    Raises StoreError when the folder is taken, a weight is not finite, something of the module cannot be recorded, or
    the disk refuses.
    """
    folder = absolute(folder)
    with explained(f"store the module {module.name!r} in {folder}", StoreError):
        check_target(folder, overwrite=overwrite)
    manifest, data = encode(module, dtype)
    return write_stored(folder, manifest, data, overwrite=overwrite)


def write_stored(
    folder: str | Path, manifest: Manifest, data: bytes, *, card: str | None = None, overwrite: bool = False
) -> Path:
    """Store a module that is at hand as its record and the bytes of its weights file, as `save_module` does.

    card: the text of README.md; None makes one from the record.
    """
    folder = absolute(folder)
    files = {
        LAYOUT.weights: data,
        LAYOUT.manifest: to_text(manifest).encode(),
        LAYOUT.card: (model_card(manifest) if card is None else card).encode(),
    }
    doing = f"store the module {manifest.name!r} in {folder} (what was there before is unchanged)"
    with explained(doing, StoreError):
        folders.write_folder(folder, files, check=lambda: check_target(folder, overwrite=overwrite))
    return folder


def check_target(folder: str | Path, *, overwrite: bool = False) -> None:
    """Raise StoreError when no module can be saved as this folder; a long training asks this before it starts."""
    folder = absolute(folder)
    if folder.is_symlink():
        raise StoreError(
            f"{folder} is a link, not a folder to replace. Save to {os.path.realpath(folder)} or remove it."
        )
    _require_own_case(folder)
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise StoreError(f"{folder} is a file; a module needs a folder of its own. Choose another name.")
    present = [entry.name for entry in folder.iterdir()]
    if present and not looks_stored(folder):
        raise StoreError(f"{folder} holds other files and no module. Choose another folder, or empty this one.")
    if looks_stored(folder) and not overwrite:
        raise StoreError(
            f"{folder} already holds a module. Pass overwrite=True (command: --overwrite) to replace it, or choose "
            "another name."
        )
    require_no_other_files(folder, "replaced")


def _require_own_case(folder: Path) -> None:
    """Raise StoreError where a module lies that is the same folder on systems which ignore the case of letters."""
    for other in folder.parent.iterdir() if folder.parent.is_dir() else ():
        if other.name != folder.name and folded(other.name) == folded(folder.name) and looks_stored(other):
            raise StoreError(
                f"{folder.parent} holds a module {other.name!r}; {folder.name!r} would be the same folder where the "
                "case of letters makes no difference. Choose another name, or remove that module first."
            )


# ---- loading ---------------------------------------------------------------------------------------------------------


def load_module(folder: str | Path, base: Base, *, allow_base_mismatch: bool = False) -> Module:
    """Load the module that a folder holds, onto the base's device and in float32.

    The folder may have any name; the module keeps its own. `allow_base_mismatch` admits another base of the same shape.
    Raises StoreError for anything missing, damaged or altered, BaseError for another base; each names every mismatch.
    """
    if str(folder).startswith(HUB_MARK):
        raise StoreError(f"{folder} is a place on the model hub, no folder. Load it with madx.load({folder!r}, base).")
    folder = absolute(folder)
    with reading(folder):
        manifest = read_manifest(folder)
        info = manifest.info()
        require_base(info, base, allow_base_mismatch=allow_base_mismatch)
        file = _weights(folder, manifest)
    if folder.name != info.name:
        log.info("The folder %s holds the module %r; it keeps that name.", folder, info.name)
    with undamaged(file, manifest, folder) as tensors:
        module = _skeleton(info, base, folder)
        state, faults = to_state(tensors, module, manifest)
        _require_none(faults, folder)
        module.load_state_dict(state, assign=True)
    if any(t.is_meta for t in chain(module.parameters(), module.buffers())):
        raise StoreError(
            f"A component of {info.name!r} keeps a buffer that is not stored; its module type must store it."
        )
    return module.to(base.device)


def read_info(folder: str | Path) -> ModuleInfo:
    """Read the record of a stored module, without its weights. Raises StoreError."""
    folder = absolute(folder)
    with reading(folder):
        return read_manifest(folder).info()


def read_stored(folder: str | Path) -> tuple[Manifest, bytes, str | None]:
    """Read the record of a stored module, the bytes of its weights file and its card; no base is needed.

    Record and weights of an earlier format are brought to the current one together. The card is None where there is
    none. Raises StoreError when anything is missing, damaged, altered or disagrees.
    """
    folder = absolute(folder)
    with reading(folder):
        manifest = read_manifest(folder)
        file = _weights(folder, manifest)
        card = _read(folder, LAYOUT.card).decode("utf-8", "replace") if (folder / LAYOUT.card).is_file() else None
    with undamaged(file, manifest, folder) as tensors:
        _require_none(own_faults(tensors, manifest), folder)
    return *to_current(manifest, file), card


def faults_of(folder: Path, base: Base | None) -> Iterator[str]:
    """Find the faults of a stored module by reading all of its files; with a base, every tensor is compared with it."""
    try:
        with reading(folder):
            manifest = read_manifest(folder)
            file = _weights(folder, manifest)
            if not (folder / LAYOUT.card).is_file():
                yield LACKS_CARD
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


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep writers away from a module's folder while it is read; complaints of the system become StoreErrors."""
    with explained(f"read the module {folder}", StoreError), folders.reading(folder):
        yield


def read_manifest(folder: Path) -> Manifest:
    """Read and check `module.json`. Raises StoreError."""
    return from_text(_read(folder, LAYOUT.manifest, most=MOST_BYTES + 1), str(folder / LAYOUT.manifest))


def absolute(path: str | Path) -> Path:
    """The path without `~` and `..`. Links are kept: the last one must stay visible as a link. Raises StoreError."""
    with explained(f"use the path {str(path)[:300]!r}", StoreError):
        found = Path(os.path.abspath(user_path(path)))
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(found)  # a path that no file can have is refused here
        return found


def looks_stored(folder: Path) -> bool:
    """Tell whether a folder holds a module, whole or damaged."""
    return any(os.path.lexists(folder / file) for file in (LAYOUT.manifest, LAYOUT.weights))


def require_no_other_files(folder: Path, what: str) -> None:
    """Raise StoreError when a module's folder holds files that are not madx's. what: replaced, removed."""
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in LAYOUT.files)
    if others:
        raise StoreError(
            f"{folder} is not {what}: beside the module it holds {', '.join(others)}. Move or delete these first."
        )


@contextmanager
def _there(folder: Path, file: str) -> Iterator[Path]:
    """Give the path of one of a module's files; a StoreError says so when it is missing."""
    try:
        yield folder / file
    except (FileNotFoundError, IsADirectoryError) as error:
        if not folder.is_dir():
            raise StoreError(f"There is no module at {folder}: no such folder.") from None
        raise StoreError(f"{folder} is no whole module: it lacks the file {file}. Fetch the module again.") from error


def _read(folder: Path, file: str, *, most: int = -1) -> bytes:
    """The first `most` bytes of a file; -1: all of them."""
    with _there(folder, file) as path, opened(path) as stream:
        return stream.read(most)


def _weights(folder: Path, manifest: Manifest) -> TensorFile:
    with _there(folder, LAYOUT.weights):
        return read_weights(folder, manifest)


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills a tensor with initial values: on the meta device that is idle and slow."""

    FILLS = frozenset(
        "uniform_ normal_ trunc_normal_ kaiming_uniform_ kaiming_normal_ xavier_uniform_ xavier_normal_ orthogonal_ "
        "zero_ zeros_ ones_ fill_ constant_".split()
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        values = {**(kwargs or {})}
        if getattr(func, "__name__", "") in self.FILLS:
            return args[0] if args else values["tensor"]
        return func(*args, **values)


def _skeleton(info: ModuleInfo, base: Base, folder: Path) -> Module:
    """Build the module without memory for its weights: no time goes into initial values, no random number is drawn."""
    try:
        with torch.device("meta"), _Unfilled():
            return Module(info, base.sites)
    except (MadxError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(f"The settings in {folder / LAYOUT.manifest} make no module on this base: {error}") from error


def _require_none(faults: list[str], folder: Path) -> None:
    if faults:
        raise StoreError(
            f"The weights in {folder} do not agree with its {LAYOUT.manifest}:\n  "
            + "\n  ".join(faults)
            + "\nOne of the files was altered or comes from another module. Fetch the module again."
        )
