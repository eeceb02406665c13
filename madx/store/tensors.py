"""Read a safetensors file straight into the memory of its tensors: nothing is copied, no byte belongs to two of them.

All tensors of one type lie in one block. Where the system has huge pages, it gives a large block out in them; to touch
a fresh page of 4 kB can cost more than to read the bytes that go there.

The file holds the length of its header (8 bytes, little-endian); the header, which is JSON of name -> dtype, shape and
first and last byte of each tensor; and the bytes of the tensors, without gaps.
Format: https://github.com/huggingface/safetensors. The reader of that library takes the bytes of the whole file, which
must be read first, and copies each tensor out of them, unaligned.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from madx.files.reading import opened

HEAD = 8
ALIGNED = 64  # bytes, as torch aligns its own tensors
LARGEST = 1 << 62
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass
class TensorFile:
    """The content of a file.

    head: the bytes up to the first tensor; tensors: by name, in the order of the file; rest: bytes that the header does
    not describe; fault: why that is so.
    """

    head: bytes
    tensors: dict[str, Tensor] = field(default_factory=dict)
    rest: bytes = b""
    fault: str = ""

    def pieces(self) -> Iterator[memoryview]:
        """The bytes of the file, piece by piece."""
        yield memoryview(self.head)
        for tensor in self.tensors.values():
            yield _bytes_of(tensor)
        yield memoryview(self.rest)

    def sha256(self) -> str:
        """The sha256 of the bytes; other threads of the interpreter run meanwhile."""
        total = hashlib.sha256()
        for piece in self.pieces():
            total.update(piece)
        return total.hexdigest()


def read_tensors(path: Path) -> TensorFile:
    """Read a file that may be damaged in any way; bytes that are no tensor come as `rest`.

    Raises OSError, and MemoryError for a file larger than the memory.
    """
    with opened(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(HEAD)
        length = int.from_bytes(start, "little")
        found = TensorFile(start + file.read(length) if length <= size else start)
        try:
            described = _described(found.head, size)
        except ValueError as error:
            found.fault, found.rest = str(error), file.read()
            return found
        found.tensors = _memory(described)
        for tensor in found.tensors.values():
            file.readinto(_bytes_of(tensor))
    return found


def _memory(described: dict[str, tuple[torch.dtype, tuple[int, ...], int]]) -> dict[str, Tensor]:
    """Tensors that are still to be filled; those of one type lie in one block, which is freed as a whole."""
    sizes = dict.fromkeys((dtype for dtype, _, _ in described.values()), 0)
    for dtype, _, count in described.values():
        sizes[dtype] += _padded(count)
    left, found = {dtype: _block(size) for dtype, size in sizes.items()}, {}
    for name, (dtype, shape, count) in described.items():
        # from_numpy makes a storage of its own, so that the tensor can be saved alone
        found[name] = torch.from_numpy(left[dtype][:count]).view(dtype).view(shape)
        left[dtype] = left[dtype][_padded(count) :]
    return found


def _padded(count: int) -> int:
    """A number of bytes, rounded up so that the next tensor is aligned."""
    return -(-count // ALIGNED) * ALIGNED


def _block(size: int) -> npt.NDArray[np.uint8]:
    """Aligned bytes. numpy asks the system for huge pages, torch does not."""
    block = np.empty(size + ALIGNED, np.uint8)
    start = -block.ctypes.data % ALIGNED
    return block[start : start + size]


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # numpy is a buffer


def _described(head: bytes, size: int) -> dict[str, tuple[torch.dtype, tuple[int, ...], int]]:
    """Name -> (type, shape, number of bytes), in the order of a file of `size` bytes.

    Raises ValueError for a header that does not describe exactly the bytes that follow it.
    """
    if len(head) < HEAD or len(head) != HEAD + int.from_bytes(head[:HEAD], "little"):
        raise ValueError("its header is longer than the file")
    if sys.byteorder == "big":
        raise ValueError("its numbers are little-endian, which this machine does not read")
    try:
        header = json.loads(head[HEAD:].decode("utf-8"))
        header.pop("__metadata__", None)
        entries = sorted(
            (*entry["data_offsets"], name, entry["dtype"], entry["shape"]) for name, entry in header.items()
        )
        found, place = {}, 0
        for begin, end, name, dtype, shape in entries:
            numbers = 1
            for extent in shape:
                # torch has no larger extents; and a product of many of them would take hours
                if type(extent) is not int or not 0 <= extent < LARGEST or (numbers := numbers * extent) >= LARGEST:
                    raise ValueError(f"{name} has a side of length {extent!r:.40}")
            name.encode()  # a text that can be printed
            count = numbers * DTYPES[dtype].itemsize
            if type(begin) is not int or begin != place or end != begin + count:
                raise ValueError(f"{name} is not where it should be")
            found[name], place = (DTYPES[dtype], tuple(shape), count), end
    except (AttributeError, KeyError, TypeError, RecursionError, ValueError) as error:
        raise ValueError(
            f"its header does not describe its bytes ({type(error).__name__}: {str(error)[:80]!a})"
        ) from None
    if len(head) + place != size:
        raise ValueError(f"its header describes {len(head) + place} bytes, it has {size}")
    return found
