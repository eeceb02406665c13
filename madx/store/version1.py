"""Modules stored in format 1, by madx 0.1.0: how they differ from the current format, and how they become current.

In format 1 the components stand under the key `parts`, the tensors of weight deltas are named
`parameters.<type>.<tensor>` (now `weights.<type>.<tensor>`), and the record has no checksum. All else is the same.
"""

import hashlib
from typing import Any

from torch import Tensor

from madx.store.manifest import FORMAT, Manifest
from madx.store.tensors import TensorFile

#: key of `module.json` in format 1 -> the current one
KEYS = {"parts": "components"}
#: beginning of a tensor's name in format 1 -> the current one
SITES = {"parameters.": "weights."}


def current_keys(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a `module.json` of format 1 under the current keys; an old key beside the current one stays.

    >>> current_keys({"format": 1, "parts": []})
    {'format': 1, 'components': []}
    """
    names = {old: new for old, new in KEYS.items() if new not in content}
    return {names.get(key, key): value for key, value in content.items()}


def current_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of format 1 under their current names."""
    return {_current_name(name): tensor for name, tensor in tensors.items()}


def to_current(manifest: Manifest, file: TensorFile) -> tuple[Manifest, bytes]:
    """A record and the bytes of its weights file, in the current format; what is current already stays as it is."""
    current = manifest.model_copy(update={"format": FORMAT})
    if manifest.format == FORMAT or all(_current_name(name) == name for name in file.tensors):
        return current, b"".join(file.pieces())
    from safetensors.torch import save

    data = save(current_names(file.tensors), metadata={"format": "pt"})
    weights = manifest.weights.model_copy(update={"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
    return current.model_copy(update={"weights": weights}), data


def _current_name(name: str) -> str:
    for old, new in SITES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
