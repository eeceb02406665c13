"""The files of an AdapterHub folder: JSON, and tensors from safetensors or from a pickle that may hold tensors only."""

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor

from madx.errors import StoreError

CONFIG, HEAD_CONFIG = "adapter_config.json", "head_config.json"
WEIGHTS = ("adapter.safetensors", "pytorch_adapter.bin")
HEAD_WEIGHTS = ("model_head.safetensors", "pytorch_model_head.bin")
#: bytes of a JSON file at most: a config is a few kilobytes
MAX_JSON = 1 << 20


def require_folder(path) -> Path:
    """The folder, if it holds a config; raises StoreError otherwise."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        what = "is a file (unpack an archive first)" if folder.exists() else "does not exist"
        raise StoreError(f"{folder} {what}; give the folder with {CONFIG} and {WEIGHTS[1]} or {WEIGHTS[0]}.")
    if not (folder / CONFIG).is_file():
        raise StoreError(f"{folder} has no {CONFIG}, so it is no adapter of AdapterHub.")
    return folder


def read_json(path: Path) -> dict:
    """A JSON object; raises StoreError for anything else."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise StoreError(f"{path} is larger than {MAX_JSON} bytes: that is no config.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path} cannot be read as JSON ({type(error).__name__}). It is damaged; fetch it again."
        ) from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} holds a {type(value).__name__} where a JSON object is due.")
    return value


def read_tensors(folder: Path, names: tuple[str, str]) -> tuple[dict[str, Tensor], str]:
    """The tensors by name as float32 on the CPU, and the file they came from; safetensors are preferred to a pickle.

    Raises StoreError when there is no file, it is damaged, or it holds anything but named dense finite tensors.
    """
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise StoreError(f"{folder} has neither {names[0]} nor {names[1]}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # files of 2020 name storage classes that torch has since deprecated
            stored = _load(path)
    except Exception as error:  # a damaged pickle or archive fails in dozens of ways, none of them ours
        raise StoreError(
            f"{path} cannot be read as weights ({type(error).__name__}): it is damaged, or it holds more than tensors. "
            "Pickles are read with weights_only, so that none can execute anything; convert such a file to safetensors."
        ) from error
    if not isinstance(stored, dict) or not stored:
        raise StoreError(f"{path} holds no named tensors.")
    return {_name(key, path): _dense(key, value, path) for key, value in stored.items()}, path.name


def _load(path: Path):
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _name(key, path: Path) -> str:
    if not isinstance(key, str):
        raise StoreError(f"{path} has the key {str(key)[:80]!r}, which is no name.")
    return key


def _dense(key: str, value, path: Path) -> Tensor:
    usable = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    if not usable or not value.is_floating_point():
        raise StoreError(f"{path}: {key[:120]!r} is no dense tensor of real numbers.")
    if value.numel() > path.stat().st_size:  # a view that repeats few stored values, to fill the memory
        raise StoreError(f"{path}: {key[:120]!r} claims {value.numel()} values, more than the file has bytes.")
    try:
        value = value.detach().to(torch.float32).contiguous().clone()
        finite = bool(torch.isfinite(value).all())
    except (RuntimeError, MemoryError) as error:
        raise StoreError(f"{path}: the tensor {key[:120]!r} cannot be read ({type(error).__name__}).") from error
    if not finite:
        raise StoreError(f"{path}: {key[:120]!r} has values that are not finite numbers.")
    return value
