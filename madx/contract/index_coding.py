"""Ascending indices as gaps in single bytes: 1 byte an entry where the gaps are short, as they are in a sparse difference.

For the indices i_1 < i_2 < ... the gap is g_k = i_k - i_(k-1) - 1, with i_0 = -1. A byte 0..254 ends an entry; the byte
255 is an escape: "go on by 255, no entry yet". No text of bytes can spell indices that are unsorted or there twice.

>>> encode(torch.tensor([0, 1, 4, 300])).tolist()
[0, 0, 2, 255, 40]
>>> decode(torch.tensor([0, 0, 2, 255, 40], dtype=torch.uint8)).tolist()
[0, 1, 4, 300]
"""

import numpy as np
import torch
from torch import Tensor

ESCAPE = 255


def encode(indices: Tensor) -> Tensor:
    """Bytes `(entries + escapes,)` for ascending indices `(entries,)` of any integer type. Raises ValueError for others."""
    if indices.numel() == 0:
        return torch.empty(0, dtype=torch.uint8)
    gaps = indices.diff(prepend=indices.new_full((1,), -1)) - 1
    if (least := int(gaps.min())) < 0:
        at = int((gaps < 0).nonzero()[0])
        raise ValueError(f"entry {at} is not above the one before it ({'the same' if least == -1 else 'unsorted'})")
    if int(gaps.max()) < ESCAPE:
        return gaps.to(torch.uint8)
    escapes = gaps // ESCAPE
    ends = torch.arange(len(gaps), device=gaps.device) + escapes.cumsum(0)
    coded = torch.full((int(ends[-1]) + 1,), ESCAPE, dtype=torch.uint8, device=gaps.device)
    coded[ends] = (gaps % ESCAPE).to(torch.uint8)
    return coded


def decode(coded: Tensor) -> Tensor:
    """Indices `(entries,)`, in int32 where they fit and else in int64. Raises ValueError for bytes that end within an entry."""
    if coded.dtype != torch.uint8 or coded.dim() != 1:
        raise ValueError(f"gaps are one row of bytes, not {tuple(coded.shape)} of {coded.dtype}")
    if ends_within_an_entry(coded):
        raise ValueError("the gaps end within an entry: the file was cut")
    found = coded.cpu().numpy()  # numpy counts and cuts bytes several times as fast
    fits = int(found.sum(dtype=np.int64)) + len(found) < 2**31
    reached = found.cumsum(dtype=np.int32 if fits else np.int64)
    escapes = np.flatnonzero(found == ESCAPE)
    if len(escapes):
        reached = np.delete(reached, escapes)
    reached += np.arange(len(reached), dtype=reached.dtype)
    return torch.from_numpy(reached)


def entries(coded: Tensor) -> int:
    """How many indices the bytes spell."""
    return len(coded) - int(np.count_nonzero(coded.cpu().numpy() == ESCAPE))


def ends_within_an_entry(coded: Tensor) -> bool:
    """Whether an escape stands last."""
    return bool(coded.numel()) and int(coded[-1]) == ESCAPE
