"""Delta-encodes ascending indices in single bytes: one byte for each entry where the steps are short.

The indices of a sparse weight delta are close together, so most of them need one byte instead of four. For the
indices i_1 < i_2 < ... the encoder stores the gaps g_k = i_k - i_(k-1) - 1, with i_0 = -1. A byte from 0 to 254 ends
an entry; the byte 255 is an escape that adds 255 to the gap and does not end the entry. No sequence of bytes can
represent indices that are unsorted or repeated.

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
    """Encode ascending indices `(entries,)` of any integer type as bytes `(entries + escapes,)`.

    Raises ValueError for indices that are unsorted or repeated.
    """
    if indices.numel() == 0:
        return torch.empty(0, dtype=torch.uint8)
    gaps = indices.diff(prepend=indices.new_full((1,), -1)) - 1
    if (least := int(gaps.min())) < 0:
        at = int((gaps < 0).nonzero()[0])
        fault = "repeated" if least == -1 else "unsorted"
        raise ValueError(f"entry {at} is not above the one before it ({fault}): sort the indices, each of them once")
    if int(gaps.max()) < ESCAPE:
        return gaps.to(torch.uint8)
    escapes = gaps // ESCAPE
    ends = torch.arange(len(gaps), device=gaps.device) + escapes.cumsum(0)
    coded = torch.full((int(ends[-1]) + 1,), ESCAPE, dtype=torch.uint8, device=gaps.device)
    coded[ends] = (gaps % ESCAPE).to(torch.uint8)
    return coded


def decode(coded: Tensor) -> Tensor:
    """Decode bytes into indices `(entries,)`, in int32 if they fit and otherwise in int64.

    Raises ValueError for anything but one row of bytes, and for bytes that end within an entry.
    """
    if coded.dtype != torch.uint8 or coded.dim() != 1:
        raise ValueError(f"encoded indices are one row of bytes, not {tuple(coded.shape)} of {coded.dtype}")
    if ends_within_an_entry(coded):
        raise ValueError("the encoded indices end within an entry: the file was cut off")
    found = coded.cpu().numpy()  # numpy counts and selects bytes several times faster than torch
    fits = int(found.sum(dtype=np.int64)) + len(found) < 2**31
    reached = found.cumsum(dtype=np.int32 if fits else np.int64)
    escapes = np.flatnonzero(found == ESCAPE)
    if len(escapes):
        reached = np.delete(reached, escapes)
    reached += np.arange(len(reached), dtype=reached.dtype)
    return torch.from_numpy(reached)


def entries(coded: Tensor) -> int:
    """Count the indices that the bytes represent."""
    return len(coded) - int(np.count_nonzero(coded.cpu().numpy() == ESCAPE))


def ends_within_an_entry(coded: Tensor) -> bool:
    """Return true if the last byte is an escape, so that the last entry is incomplete."""
    return bool(coded.numel()) and int(coded[-1]) == ESCAPE
