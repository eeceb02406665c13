"""Reading and writing foreign files: JSON, pickles of tensors only, folders that are complete or not there."""

import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from madx.errors import StoreError
from madx.files.reading import read_bytes, why_no_file
from madx.files.reasons import reason
from madx.files.writing import check_folder, temporary_folder

#: the largest JSON file that is read, in bytes; a config has a few kilobytes
MAX_JSON = 1 << 20


def read_json(path: Path) -> dict:
    """The JSON object in a file. Raises StoreError for anything else."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise StoreError(f"{path} is larger than {MAX_JSON} bytes, so it cannot be a config.")
        value = json.loads(read_bytes(path, most=MAX_JSON).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path} cannot be read as JSON ({type(error).__name__}). It is damaged; download it again."
        ) from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} holds a {type(value).__name__}; a JSON object is expected.")
    return value


def load(path: Path, *, stand_ins: tuple[tuple[Callable, str], ...] = ()) -> Any:
    """The content of a file of weights, on the CPU: safetensors, or a pickle that is read with `weights_only`.

    Args:
        stand_ins: pairs of a harmless function or class of madx and the name in the pickle that it stands in for.
    Raises StoreError for a damaged file, and for one that holds or calls anything else.
    """
    if fault := why_no_file(path):
        raise StoreError(f"{path} cannot be read as weights: {fault}. Name the folder with the weights themselves.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        _require_uncompressed(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(stand_ins)):
            warnings.simplefilter("ignore")  # files of 2020 name storage classes that torch has since deprecated
            return torch.load(path, map_location="cpu", weights_only=True)
    except StoreError:
        raise
    except Exception as error:  # a damaged pickle or archive fails in dozens of ways, none of which madx can foresee
        raise StoreError(
            f"{path} cannot be read as weights ({type(error).__name__}): it is damaged, or it holds more than tensors. "
            "Pickles are read with weights_only, so that none can execute anything; convert such a file to safetensors."
        ) from error


def _require_uncompressed(path: Path) -> None:
    """Raises StoreError for a compressed archive: torch writes none, and one could fill the memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        size = sum(entry.file_size for entry in entries)
        if size > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise StoreError(
                f"{path} is a compressed archive, but torch.save writes uncompressed ones. Save it again with torch."
            )


def dense(key: str, value: Any, path: Path) -> Tensor:
    """A tensor of finite real numbers as float32, in memory of its own. Raises StoreError for anything else."""
    usable = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    if not usable or not value.is_floating_point():
        raise StoreError(f"{path}: {key[:120]!r} is not a dense tensor of real numbers.")
    if value.numel() > path.stat().st_size:  # a view that repeats a few stored values, to fill the memory
        raise StoreError(f"{path}: {key[:120]!r} claims {value.numel()} values, more than the file has bytes.")
    try:
        value = value.detach().to(torch.float32).contiguous().clone()
        finite = bool(torch.isfinite(value).all())
    except (RuntimeError, MemoryError) as error:
        raise StoreError(f"{path}: the tensor {key[:120]!r} cannot be read ({type(error).__name__}).") from error
    if not finite:
        raise StoreError(f"{path}: {key[:120]!r} has values that are not finite numbers.")
    return value


def other_files(folder: Path, read: set[str]) -> list[tuple[str, str]]:
    """The files of a folder that were not read, as lines of a report."""
    return [(f"file {f.name}", "not part of the module") for f in sorted(folder.iterdir()) if f.name not in read]


def require_free(folder: Path) -> Path:
    """The absolute path of a folder that can be made, or is empty. Raises StoreError for any other."""
    check_folder(folder, "the files", kind=StoreError)
    if folder.exists() and any(folder.iterdir()):
        raise StoreError(f"{folder} is in use: it is not an empty folder. Give one that does not exist or is empty.")
    return Path(os.path.abspath(folder))


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill. It becomes `folder` if no error occurs; otherwise nothing is written.

    Raises StoreError for a folder in use, and if the operating system refuses to write.
    """
    folder = require_free(folder)
    try:
        with temporary_folder(folder) as temporary:
            yield temporary
            temporary.replace(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):  # torch's for a full disk
            raise
        raise StoreError(f"Cannot write {folder}: {reason(error)}. Nothing was written.") from error
