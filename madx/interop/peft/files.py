"""The files of a PEFT folder: their names, and their tensors."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madx.errors import StoreError
from madx.files.places import user_path
from madx.interop.files import dense, load

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
#: of transformers; madx writes and reads the names of labels there, for which PEFT has no place
LABELS = "config.json"


def require_folder(path: str | Path) -> Path:
    """The folder as a path. Raises StoreError unless it holds a config."""
    folder = user_path(path)
    if not folder.is_dir():
        what = "is a file (unpack an archive first)" if folder.exists() else "does not exist"
        raise StoreError(f"{folder} {what}; give the folder with {CONFIG} and {WEIGHTS[0]} or {WEIGHTS[1]}.")
    if not (folder / CONFIG).is_file():
        raise StoreError(f"{folder} has no {CONFIG}, so it is not a folder of PEFT.")
    return folder


def read_tensors(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """The tensors of a folder by name, on the CPU, and their file: real numbers as float32, whole numbers as int64.

    Raises StoreError if there is no file, or it is damaged or holds anything but named dense finite tensors.
    """
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise StoreError(f"{folder} has neither {WEIGHTS[0]} nor {WEIGHTS[1]}.")
    stored = load(path)
    if not isinstance(stored, dict) or not stored:
        raise StoreError(f"{path} holds no named tensors.")
    for key in stored:
        if not isinstance(key, str):
            raise StoreError(f"{path} has the key {str(key)[:80]!r}, which is no name.")
    return {key: _tensor(key, value, path) for key, value in stored.items()}, path


def _tensor(key: str, value: Any, path: Path) -> Tensor:
    whole = isinstance(value, Tensor) and value.dtype in (torch.int32, torch.int64)
    if whole and value.layout == torch.strided and value.numel() <= path.stat().st_size:
        return value.detach().to(torch.int64).contiguous()
    return dense(key, value, path)
