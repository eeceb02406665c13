"""The files of an AdapterHub folder: their names, and tensors from safetensors or from a pickle of tensors only."""

from pathlib import Path

from torch import Tensor

from madx.errors import StoreError
from madx.interop.files import dense, load

CONFIG, HEAD_CONFIG = "adapter_config.json", "head_config.json"
WEIGHTS = ("adapter.safetensors", "pytorch_adapter.bin")
HEAD_WEIGHTS = ("model_head.safetensors", "pytorch_model_head.bin")


def require_folder(path) -> Path:
    """The folder, if it holds a config; raises StoreError otherwise."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        what = "is a file (unpack an archive first)" if folder.exists() else "does not exist"
        raise StoreError(f"{folder} {what}; give the folder with {CONFIG} and {WEIGHTS[1]} or {WEIGHTS[0]}.")
    if not (folder / CONFIG).is_file():
        raise StoreError(f"{folder} has no {CONFIG}, so it is no adapter of AdapterHub.")
    return folder


def read_tensors(folder: Path, names: tuple[str, str]) -> tuple[dict[str, Tensor], str]:
    """The tensors by name as float32 on the CPU, and the file they came from; safetensors are preferred to a pickle.

    Raises StoreError when there is no file, it is damaged, or it holds anything but named dense finite tensors.
    """
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise StoreError(f"{folder} has neither {names[0]} nor {names[1]}.")
    stored = load(path)
    if not isinstance(stored, dict) or not stored:
        raise StoreError(f"{path} holds no named tensors.")
    return {_name(key, path): dense(key, value, path) for key, value in stored.items()}, path.name


def _name(key, path: Path) -> str:
    if not isinstance(key, str):
        raise StoreError(f"{path} has the key {str(key)[:80]!r}, which is no name.")
    return key
