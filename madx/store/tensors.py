"""A safetensors file, read once into memory that its tensors then are: nothing is copied.

The file: 8 bytes of the header's length, little-endian; the header, JSON of name -> dtype, shape and the first and last byte
of each tensor; their bytes, without gaps. Format: https://github.com/huggingface/safetensors. That library's own reader copies
each tensor, which for a language module takes as long as all the rest.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

ALIGNED = 64  # bytes: as torch places its own tensors, on which the last bits of a matrix product may depend
HEAD = 8
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def read_bytes(path: Path) -> Tensor:
    """All bytes of a file `(size,)`, placed so that the first tensor of a safetensors file is aligned. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        length = int.from_bytes(file.read(HEAD), "little")
        size = file.seek(0, 2)
        memory = torch.empty(size + ALIGNED, dtype=torch.uint8)
        start = -(memory.data_ptr() + HEAD + length) % ALIGNED
        data = memory[start : start + size]
        file.seek(0)
        place, view = 0, memoryview(data.numpy())
        while place < size and (count := file.readinto(view[place:])):
            place += count
    return data[:place]


def tensors_in(data: Tensor) -> dict[str, Tensor]:
    """Name -> tensor, in the memory of `data`, or in its own where it would not be aligned.

    Raises ValueError when the bytes are not exactly what the header says.
    """
    first = HEAD + int.from_bytes(data[:HEAD].numpy().tobytes(), "little")
    if not HEAD <= first <= len(data) or len(data) < HEAD:
        raise ValueError("its header is longer than the file")
    try:
        header = json.loads(data[HEAD:first].numpy().tobytes())
        header.pop("__metadata__", None)
        entries = sorted((*entry["data_offsets"], name, DTYPES[entry["dtype"]], entry["shape"]) for name, entry in header.items())
        found, place = {}, 0
        for begin, end, name, dtype, shape in entries:
            raw = data[first + place : first + end]
            if begin != place or len(raw) != end - begin or any(size < 0 for size in shape):
                raise ValueError(f"{name} is not where it should be")
            place = end
            found[name] = (raw if raw.data_ptr() % ALIGNED == 0 else raw.clone()).view(dtype).view(shape)
    except (AttributeError, KeyError, TypeError, ArithmeticError, RuntimeError, ValueError) as error:
        raise ValueError(f"its header does not describe its bytes ({type(error).__name__}: {str(error)[:80]})") from None
    if first + place != len(data):
        raise ValueError(f"{len(data) - first - place} bytes belong to no tensor")
    return found
