"""The files of an AdapterHub folder: their names, and their tensors."""

from pathlib import Path

from torch import Tensor

from madx.errors import StoreError
from madx.files.places import user_path
from madx.interop.files import dense, load

CONFIG, HEAD_CONFIG = "adapter_config.json", "head_config.json"
WEIGHTS = ("adapter.safetensors", "pytorch_adapter.bin")
FUSION_CONFIG = "adapter_fusion_config.json"
FUSION_WEIGHTS = ("model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin")
HEAD_WEIGHTS = ("model_head.safetensors", "pytorch_model_head.bin")


def require_folder(path: str | Path) -> Path:
    """The folder as a path. Raises StoreError unless it holds a config."""
    folder = user_path(path)
    if not folder.is_dir():
        what = "is a file (unpack an archive first)" if folder.exists() else "does not exist"
        raise StoreError(f"{folder} {what}; give the folder with {CONFIG} and {WEIGHTS[1]} or {WEIGHTS[0]}.")
    if (folder / FUSION_CONFIG).is_file() and not (folder / CONFIG).is_file():
        raise StoreError(f"{folder} holds a fusion of adapters, not an adapter: import it with the role fusion.")
    if not (folder / CONFIG).is_file():
        raise StoreError(f"{folder} has no {CONFIG}, so it is not an adapter of AdapterHub.")
    return folder


def read_tensors(folder: Path, names: tuple[str, str]) -> tuple[dict[str, Tensor], str]:
    """The tensors of a folder by name, as float32 on the CPU, and the name of their file.

    Args:
        names: of the file of safetensors, which is preferred, and of the pickle.
    Raises StoreError if there is no file, or it is damaged or holds anything but named dense finite tensors.
    """
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise StoreError(f"{folder} has neither {names[0]} nor {names[1]}.")
    stored = load(path)
    if not isinstance(stored, dict) or not stored:
        raise StoreError(f"{path} holds no named tensors.")
    return {_name(key, path): dense(key, value, path) for key, value in stored.items()}, path.name


def _name(key: object, path: Path) -> str:
    if not isinstance(key, str):
        raise StoreError(f"{path} has the key {str(key)[:80]!r}, which is no name.")
    return key
