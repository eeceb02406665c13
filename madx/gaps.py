"""Ascending indices as gaps in single bytes: 1 byte an entry where the gaps are short, as they are in a sparse difference.

For the indices i_1 < i_2 < ... the gap is g_k = i_k - i_(k-1) - 1, with i_0 = -1. A byte 0..254 ends an entry; the byte
255 is an escape: "go on by 255, no entry yet". No text of bytes can spell indices that are unsorted or there twice.

>>> encode(torch.tensor([0, 1, 4, 300])).tolist()
[0, 0, 2, 255, 40]
>>> decode(torch.tensor([0, 0, 2, 255, 40], dtype=torch.uint8)).tolist()
[0, 1, 4, 300]
"""

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
    """Indices `(entries,)` in int64. Raises ValueError for bytes that end within an entry."""
    if coded.dtype != torch.uint8 or coded.dim() != 1:
        raise ValueError(f"gaps are one row of bytes, not {tuple(coded.shape)} of {coded.dtype}")
    if coded.numel() == 0:
        return torch.empty(0, dtype=torch.int64)
    if int(coded[-1]) == ESCAPE:
        raise ValueError("the gaps end within an entry: the file was cut")
    reached = coded.cumsum(0, dtype=torch.int64)
    ends = coded != ESCAPE
    if not bool(ends.all()):
        reached = reached[ends]
    return reached.add_(torch.arange(len(reached), device=coded.device))
