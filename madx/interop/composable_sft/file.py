"""`pytorch_diff.bin`, the file of composable-sft, without regard to a base. It is a pickle of

    {"diffs": {parameter: {"size": (rows, columns), "index_steps": [...], "values": tensor}},
     "abs":   {parameter: tensor}}

`diffs` is added to the encoder's parameters; `abs` holds whole tensors of the head. Entry k lies at the column-major
index i_k = step_1 + ... + step_k = row + rows * column. In the first files the tables were called `body` and `head`.

The first step is stored as a numpy scalar, under the name of numpy's old or new module. It is read by functions of madx
that stand in for these names and make plain whole numbers of a few bytes, so no code of numpy runs on what a file says.
"""

from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from madx.errors import StoreError
from madx.files.places import user_path
from madx.interop.files import dense, load

FILE, CONFIG = "pytorch_diff.bin", "config.json"
#: the two tables -> their first names
TABLES = {"diffs": "body", "abs": "head"}
ENTRY = ("size", "index_steps", "values")
#: the largest index: their reader counts in int32
LARGEST = 2**31 - 1


# ---- numpy's names in the pickle -------------------------------------------------------------------------------------


class _WholeNumber:
    """Stands in for `numpy.dtype`: the type of a whole number of 4 or 8 bytes, and nothing else."""

    def __init__(self, code: object, *_: object):
        if not isinstance(code, str) or code not in ("i4", "i8", "u4", "u8"):
            raise ValueError(f"a numpy scalar of the type {str(code)[:20]!r}; whole numbers are expected")
        self.size, self.signed = int(code[1]), code[0] == "i"
        self.order: Literal["little", "big"] = "little"

    def __setstate__(self, state: Any) -> None:
        self.order = "big" if state[1] == ">" else "little"


def _scalar(kind: object, data: object) -> int:
    """Stands in for `numpy.core.multiarray.scalar`: a whole number from its bytes."""
    if not isinstance(kind, _WholeNumber) or not isinstance(data, bytes) or len(data) != kind.size:
        raise ValueError("a numpy scalar that is not a whole number")
    return int.from_bytes(data, kind.order, signed=kind.signed)


NUMPY = (
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (_WholeNumber, "numpy.dtype"),
)


# ---- reading ---------------------------------------------------------------------------------------------------------


def require_folder(path: str | Path) -> Path:
    """The folder as a path. Raises StoreError unless it holds a file of composable-sft."""
    folder = user_path(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise StoreError(f"{folder} {what}; give the folder with {FILE} (unpack an archive first).")
    if not (folder / FILE).is_file():
        raise StoreError(f"{folder} has no {FILE}, so it holds no sparse fine-tuning of composable-sft.")
    return folder


def read_tables(file: Path) -> tuple[dict[str, dict], dict[str, Any]]:
    """The tables `diffs` and `abs`, each by name. Raises StoreError for a file that holds anything else."""
    stored = load(file, stand_ins=NUMPY)
    names = TABLES if not isinstance(stored, dict) or "diffs" in stored else {old: old for old in TABLES.values()}
    wanted = list(names)
    if not isinstance(stored, dict) or wanted[0] not in stored:
        what = f"a {type(stored).__name__}"
        if isinstance(stored, dict):
            what = f"the keys {', '.join(str(k)[:40] for k in list(stored)[:8])}"
        raise StoreError(
            f"{file} holds {what}; a sparse fine-tuning has 'diffs' and 'abs' (first called 'body' and 'head'). Files "
            "of September 2021 list every index; fetch a later revision."
        )
    if extra := [str(key)[:80] for key in stored if key not in wanted]:
        raise StoreError(
            f"{file} has keys that the format does not explain: {', '.join(extra[:8])}; known: {', '.join(wanted)}."
        )
    tables = [stored[key] if stored.get(key) is not None else {} for key in wanted]
    for key, table in zip(wanted, tables):
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table):
            raise StoreError(f"{file}: {key!r} is not a table of parameters by name.")
    for theirs, entry in tables[0].items():
        _check_entry(theirs, entry, file)
    return tables[0], tables[1]


def _check_entry(theirs: str, entry: Any, file: Path) -> None:
    keys = tuple(sorted(map(str, entry))) if isinstance(entry, dict) else ()
    if keys != tuple(sorted(ENTRY)):
        came = ", ".join(key[:40] for key in keys[:8]) if keys else f"a {type(entry).__name__}"
        raise StoreError(f"{file}: {theirs[:120]!r} holds {came}; {', '.join(ENTRY)} are expected.")
    size = entry["size"]
    if not isinstance(size, (tuple, list)) or not size or not all(type(n) is int and 0 < n <= LARGEST for n in size):
        raise StoreError(
            f"{file}: {theirs[:120]!r} has the size {str(size)[:80]}, which is not the shape of a parameter."
        )


def decoded(theirs: str, entry: dict, file: Path) -> tuple[Tensor, Tensor]:
    """Entries of one parameter.

    Returns indices `(entries,)` into the flattened (row-major) parameter, ascending, in int64, and values `(entries,)`
    in float32. Raises StoreError for steps and values that do not describe entries.
    """

    def refuse(why: str) -> StoreError:
        return StoreError(f"{file}: {theirs[:120]!r} {why}. The file is damaged; fetch it again.")

    size, steps = tuple(entry["size"]), entry["index_steps"]
    values = dense(theirs, entry["values"], file)
    if not isinstance(steps, list) or values.dim() != 1 or len(steps) != len(values):
        came = f"{len(steps)} steps" if isinstance(steps, list) else f"steps in a {type(steps).__name__}"
        raise refuse(f"has {came} and values of shape {tuple(values.shape)}, not a list with one step for each value")
    if not steps:
        return torch.empty(0, dtype=torch.int64), values
    try:
        counted = np.array(steps)
    except (ValueError, OverflowError, TypeError):
        counted = np.array("none")
    if counted.ndim != 1 or counted.dtype.kind != "i":
        raise refuse("has steps that are not whole numbers")
    if counted[0] < 0 or counted[1:].min(initial=1) < 1:
        raise refuse("has a step back, or an entry twice")
    if counted.max() >= prod(size) or (reached := counted.cumsum(dtype=np.int64))[-1] >= prod(size):
        raise refuse(f"has an entry outside its size {size}")
    indices, order = _row_major(torch.from_numpy(reached), size).sort()
    return indices, values[order]


def _row_major(indices: Tensor, size: tuple[int, ...]) -> Tensor:
    """Column-major indices as row-major ones.

    >>> _row_major(torch.tensor([0, 1, 2, 5]), (2, 3)).tolist()
    [0, 3, 1, 5]
    """
    found = torch.zeros_like(indices)
    for extent in size:
        found, indices = found * extent + indices % extent, indices // extent
    return found


# ---- writing ---------------------------------------------------------------------------------------------------------


def encoded(size: tuple[int, ...], places: Tensor, values: Tensor) -> dict:
    """Entries of a parameter with at most two axes in the form of the file.

    Args:
        size: shape of the parameter.
        places: row-major indices `(entries,)`, ascending.
        values: `(entries,)`.
    """
    columns = size[1] if len(size) == 2 else 1
    indices, order = (places // columns + size[0] * (places % columns)).sort()
    steps = indices.diff(prepend=indices.new_zeros(1)).tolist()
    return {"size": torch.Size(size), "index_steps": steps, "values": values[order].float().clone()}
