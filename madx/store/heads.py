"""Masked-LM heads of `madx train-head`: one for each base, stored beside the modules of a store.

A head is a folder `head-FINGERPRINT` (twelve letters of the base's) of two files: `head.json`, the record under a
checksum, and `head.safetensors`, the parameters by their names in transformers' masked-LM model. It is written whole or
not at all, as modules are; loading compares everything that is recorded.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madx.base import Base
from madx.checksums import CHECKSUM, checksum, parse_json
from madx.config import Settings, faults_of
from madx.errors import MadxError, StoreError
from madx.files.reading import read_bytes, why_no_file
from madx.files.reasons import explained
from madx.store import folders
from madx.store.manifest import BaseRecord, WeightsRecord
from madx.store.module_json import MOST_BYTES
from madx.store.tensors import read_tensors
from madx.store.training_record import Sha256, TrainingRecord

FORMAT = 1  # of the folder; a reader refuses a newer one
RECORD, WEIGHTS = "head.json", "head.safetensors"
NAME = re.compile("head-[0-9a-f]{12}")
ANEW = "Train it anew with --overwrite (madx train-head), or copy it again."


class HeadRecord(Settings):
    """All fields of `head.json` but its checksum.

    format: version of the folder; base: the one it was trained on; tokenizer: the fingerprint of that base's;
    languages: of its training text, in order; training: where it comes from; weights: sha256 and size of the file.
    """

    format: int
    base: BaseRecord
    tokenizer: Sha256
    languages: list[str]
    training: TrainingRecord
    weights: WeightsRecord

    @property
    def perplexity(self) -> str:
        """Held-out pseudo-perplexity at the end of the training, as text; 'unknown' where none is recorded."""
        scores: Any = self.training.get("scores", {}).get("held_out_after", {})
        found = scores.get("perplexity", "unknown")
        return found if isinstance(found, str) else f"{found:,.1f}"


@dataclass(frozen=True)
class StoredHead:
    """A row of `Store.heads()`: name and path of the folder, size on disk, the record (None when it cannot be read),
    and the fault of a head that is not whole."""

    name: str
    path: Path
    bytes: int
    record: HeadRecord | None = None
    fault: str | None = None


def head_name(base: Base) -> str:
    """The name of a base's head in a store."""
    return f"head-{base.fingerprint[:12]}"


def find_heads(root: Path) -> list[str]:
    """The names of all folders of heads in a store, whole or damaged."""
    if not root.is_dir():
        return []
    with explained(f"list the store {root}", StoreError):
        folders.put_back(root)
        return sorted(entry.name for entry in root.iterdir() if NAME.fullmatch(entry.name))


def check_head_target(folder: Path, *, overwrite: bool = False) -> None:
    """Raise StoreError when no head can be saved as this folder; a training asks this before it starts."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise StoreError(f"{folder} is a link or a file; a masked-LM head needs a folder there. Remove it.")
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in (RECORD, WEIGHTS))
    if others:
        raise StoreError(f"{folder} holds other files than a head's: {', '.join(others)}. Move or delete these first.")
    if not overwrite and any(folder.iterdir()):
        raise StoreError(
            f"{folder} already holds a masked-LM head of this base. Pass overwrite=True (command: --overwrite) to "
            "replace it: modules that were trained with it then say so, or use another store."
        )


def save_head(
    folder: Path, base: Base, *, languages: Sequence[str], training: dict[str, Any], overwrite: bool = False
) -> None:
    """Store the head that is on a base. After a failure the folder is as it was before.

    Raises StoreError for weights that are not finite, a taken folder, and when the disk refuses.
    """
    from safetensors.torch import save

    tensors = {
        name: p.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, p in base.mlm_head.parameters().items()
    }
    if wrong := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise StoreError(f"The masked-LM head cannot be stored: {', '.join(wrong)} holds numbers that are not finite.")
    data = save(tensors, metadata={"format": "pt"})
    content = {
        "format": FORMAT,
        "base": base.identity(),
        "tokenizer": base.tokenizer_fingerprint,
        "languages": list(languages),
        "training": training,
        "weights": {
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "dtype": "float32",
            "parameters": sum(tensor.numel() for tensor in tensors.values()),
        },
    }
    try:
        content = json.loads(json.dumps(content, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StoreError(f"The masked-LM head cannot be stored: its training cannot be recorded ({error}).") from None
    _validated(content, "The masked-LM head cannot be stored", [])
    content[CHECKSUM] = checksum(content)
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    with explained(f"store the masked-LM head in {folder} (what was there before is unchanged)", StoreError):
        folders.write_folder(
            folder,
            {WEIGHTS: data, RECORD: text.encode()},
            check=lambda: check_head_target(folder, overwrite=overwrite),
        )


def put_head(folder: Path, base: Base) -> HeadRecord:
    """Put a stored head on the base that it was trained for; gives its record.

    Raises StoreError for anything missing, damaged or altered, and for the head of another base.
    """
    record, tensors = read_head(folder)
    here = base.identity()
    faults = [
        f"{what}: head {there[:12]}, base {ours[:12]}"
        for what, there, ours in (
            ("weights", record.base.fingerprint, here["fingerprint"]),
            ("tokenizer", record.tokenizer, base.tokenizer_fingerprint or ""),
        )
        if there != ours
    ]
    if faults:
        raise StoreError(
            f"The masked-LM head {folder} was trained for another base, {record.base.name}, than {base.name}:\n  "
            + "\n  ".join(faults)
            + f"\nTrain one for this base: madx train-head --base {base.name} --corpus LANG=TEXT.txt"
        )
    base.mlm_head.put(tensors, sha256=record.weights.sha256)
    return record


def read_head(folder: Path) -> tuple[HeadRecord, dict[str, Tensor]]:
    """Read a stored head whole. Raises StoreError for anything missing, damaged or altered."""
    with explained(f"read the masked-LM head {folder}", StoreError), folders.reading(folder):
        record = _read_record(folder)
        size = _file(folder, WEIGHTS).stat().st_size
        if size != record.weights.bytes:
            raise StoreError(
                f"{folder / WEIGHTS} is damaged: it has {size} bytes, {RECORD} records {record.weights.bytes}. {ANEW}"
            )
        file = read_tensors(folder / WEIGHTS)
    if (found := file.sha256()) != record.weights.sha256 or file.fault:
        raise StoreError(
            f"{folder / WEIGHTS} is damaged or was altered: its sha256 is {found[:12]}..., {RECORD} records "
            f"{record.weights.sha256[:12]}.... {ANEW}"
        )
    wrong = [n for n, t in file.tensors.items() if t.dtype != torch.float32 or not t.isfinite().all()]
    if wrong:
        raise StoreError(f"{folder / WEIGHTS}: {', '.join(wrong)} is not made of finite float32 numbers. {ANEW}")
    return record, file.tensors


def head_row(root: Path, name: str) -> StoredHead:
    """One head's row; whatever is wrong with it becomes its fault, so that it never hides the others."""
    path, size, record, fault = root / name, 0, None, None
    try:
        with explained(f"read the masked-LM head {path}", StoreError), folders.reading(path):
            size = sum(_file(path, file).stat().st_size for file in (RECORD, WEIGHTS))
            record = _read_record(path)
        fault = next(iter(_faults(name, record)), None)
    except MadxError as error:
        fault = str(error)
    return StoredHead(name, path, size, record, fault)


def head_faults(folder: Path) -> list[str]:
    """Find the faults of a stored head by reading all of it."""
    try:
        return _faults(folder.name, read_head(folder)[0])
    except MadxError as error:
        return [str(error)]


def _faults(name: str, record: HeadRecord) -> list[str]:
    wanted = f"head-{record.base.fingerprint[:12]}"
    return [] if name == wanted else [f"is the head of another base; its folder must be named {wanted}"]


def _read_record(folder: Path) -> HeadRecord:
    source = str(folder / RECORD)
    try:
        content = parse_json(read_bytes(_file(folder, RECORD), most=MOST_BYTES))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        recorded, found = content.pop(CHECKSUM, None), checksum(content)
    except ValueError as error:  # NaN, too, and half of a surrogate pair
        raise StoreError(f"{source} is damaged: it cannot be read as JSON ({error}). {ANEW}") from None
    version = content.get("format")
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise StoreError(f"{source} has format {version!r}, this madx reads up to {FORMAT}. Update madx. {ANEW}")
    faults = [] if recorded == found else [f"{CHECKSUM}: {recorded!r:.14} is recorded, the fields give {found[:12]!r}"]
    return _validated(content, f"{source} is damaged or was altered", faults)


def _validated(content: Any, source: str, faults: list[str]) -> HeadRecord:
    record, wrong = faults_of(HeadRecord, content)
    if record is None or wrong or faults:
        raise StoreError(f"{source}:\n  " + "\n  ".join([*wrong, *faults]) + f"\n{ANEW}")
    return record


def _file(folder: Path, name: str) -> Path:
    """The path of one of a head's files. Raises StoreError unless it is there and no link."""
    for path in (folder, folder / name):
        if path.is_symlink():
            raise StoreError(f"{path} is a link; a store reads only its own files. Copy {path.resolve()} here.")
    if fault := why_no_file(folder / name):
        raise StoreError(f"{folder} is no whole masked-LM head: {name}: {fault}. {ANEW}")
    return folder / name
