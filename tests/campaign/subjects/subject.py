"""The contract of a subject, and digests of what is read."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

#: file name ending -> the kind of its content, for `campaign.damage`
KINDS = {
    ".json": "json",
    ".jsonl": "json",
    ".safetensors": "safetensors",
    ".yaml": "yaml",
    ".conll": "text",
    ".conllu": "text",
    ".txt": "text",
    ".md": "text",
}


@dataclass(frozen=True)
class Subject:
    """A kind of file.

    make: fills a folder. read: the value of what lies there, to be compared by `==`; it may write there.
    files: patterns of the files that are damaged. checked: the format has checksums, so other values are a fault.
    owner: the room of madx that reads it. mend: makes the checksums agree again, as one would who knows the format.
    """

    name: str
    owner: str
    make: Callable[[Path], object]
    read: Callable[[Path], Any]
    files: tuple[str, ...]
    checked: bool = False
    mend: Callable[[Path], object] | None = None

    def damageable(self, folder: Path) -> list[Path]:
        """The files of a folder that are damaged."""
        return sorted({path for pattern in self.files for path in folder.glob(pattern) if path.is_file()})


def kind_of(path: Path) -> str:
    """The kind of a file's content by its name."""
    return KINDS.get(path.suffix, "bytes")


def digest(*values: Any) -> str:
    """A digest of tensors, bytes, texts, and what JSON can hold."""
    found = hashlib.sha256()
    for value in values:
        for piece in _pieces(value):
            found.update(piece)
    return found.hexdigest()


def _pieces(value: Any) -> Iterable[bytes]:
    if isinstance(value, Tensor):
        yield str(tuple(value.shape)).encode()
        yield value.detach().cpu().contiguous().numpy().tobytes()
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values()):
        for key in sorted(value):
            yield key.encode("utf-8", "surrogatepass")
            yield from _pieces(value[key])
    else:
        yield json.dumps(value, sort_keys=True, default=repr).encode()
