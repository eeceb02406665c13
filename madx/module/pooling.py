"""Pooling: the vector of a word that a task module's head reads, from the states of the word's pieces.

With h_1 ... h_n the last layer's states of the n pieces of a word:

    first        h_1, as in the usual examples and in AdapterHub
    last         h_n; in a language with prefixes the stem is there
    first_last   (h_1 + h_n) / 2
    mean         (h_1 + ... + h_n) / n
    max          the maximum of h_1 ... h_n, in each dimension by itself
    attention    sum_i a_i h_i with a = softmax(w . h_1, ..., w . h_n); the trained vector w begins at 0, as the mean

All of them are the same for a word of one piece. `first_last` is the mean and not the concatenation of both states, so
that a head has the base's width under every pooling and differs from others in nothing but its numbers.

Ács, Kádár and Kornai 2021, "Subword pooling makes a difference" (arXiv:2102.10864).
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from madx.errors import ConfigError, did_you_mean

Kind = Literal["first", "last", "first_last", "mean", "max", "attention"]
KINDS: tuple[str, ...] = get_args(Kind)
#: the pooling of modules that record none, and of other libraries
FIRST = "first"


def check_pooling(kind: str) -> str:
    """Return the name of a pooling. Raises ConfigError for an unknown one.

    >>> check_pooling("last")
    'last'
    """
    if kind not in KINDS:
        raise ConfigError(f"Unknown pooling {kind!r}; {did_you_mean(kind, KINDS)}")
    return kind


class Reads(NamedTuple):
    """The pieces that some words are read at, word after word.

    positions: the position of each piece in its row, `(pieces,)`; words: the word that it belongs to, `(pieces,)`, with
    ascending numbers from 0.
    """

    positions: Tensor
    words: Tensor


def pieces_read(kind: str, first: Tensor, sizes: Tensor) -> Reads:
    """Return the pieces that words are read at; only these states are needed of the last layer.

    first: the position of the first piece of each word, `(words,)`; sizes: the number of its pieces, `(words,)`, at
    least 1. The pieces of a word stand side by side.

    >>> [each.tolist() for each in pieces_read("mean", torch.tensor([1, 4]), torch.tensor([3, 1]))]
    [[1, 2, 3, 4], [0, 0, 0, 1]]
    """
    count = torch.arange(len(first), device=first.device)
    if kind == "first":
        return Reads(first, count)
    if kind == "last":
        return Reads(first + sizes - 1, count)
    # first_last: a word of one piece is read once, so that its mean is that piece's state exactly
    read = sizes.clamp_max(2) if kind == "first_last" else sizes
    words = count.repeat_interleave(read)
    place = torch.arange(len(words), device=first.device) - (read.cumsum(0) - read)[words]
    return Reads(first[words] + (place * (sizes - 1)[words] if kind == "first_last" else place), words)


def pool(kind: str, states: Tensor, words: Tensor, count: int, weight: Tensor | None = None) -> Tensor:
    """Return the vectors of words `(count, width)` from the states that `pieces_read` names, in their number format.

    states: `(pieces, width)`; words: the word of each, `(pieces,)`; weight: w of the attention, `(width,)`. Sums are
    taken in float32. Every word has at least one piece.
    """
    if kind in ("first", "last"):
        return states
    values = states.float()
    if kind == "max":
        return _maxima(values, words, count).to(states.dtype)
    shares = _attention(values, words, count, weight) if kind == "attention" else torch.ones_like(values[:, 0])
    sums = values.new_zeros(count, values.shape[1]).index_add(0, words, shares[:, None] * values)
    return (sums / values.new_zeros(count).index_add(0, words, shares)[:, None]).to(states.dtype)


def _attention(values: Tensor, words: Tensor, count: int, weight: Tensor | None) -> Tensor:
    """Return exp(w . h_i - m) `(pieces,)`, with m the largest w . h_i of the word, so that no number overflows; `pool`
    divides by their sum over the word, which makes them softmax."""
    if weight is None:
        raise ConfigError("The pooling attention needs its trained vector: give weight, of the width of the states.")
    scores = (values * weight.float()).sum(-1)  # a matrix product would run in half precision under autocast
    return (scores - _maxima(scores.detach()[:, None], words, count)[words, 0]).exp()


def _maxima(values: Tensor, words: Tensor, count: int) -> Tensor:
    """The maximum over the pieces of each word, `(count, width)`."""
    index = words[:, None].expand_as(values)
    return values.new_zeros(count, values.shape[1]).scatter_reduce(0, index, values, "amax", include_self=False)


class Pooling(nn.Module):
    """The pooling of a task module. The tensor `pooling.weight` `(width,)`, w of the attention, is there under
    `attention` alone.

    kind: one of `KINDS`. width: that of the base. Raises ConfigError for an unknown kind.
    """

    def __init__(self, kind: str, width: int):
        super().__init__()
        self.kind = check_pooling(kind)
        self.weight = nn.Parameter(torch.zeros(width)) if kind == "attention" else None

    def alike(self, other: "Pooling") -> bool:
        """Return whether both make the same vectors of the same states by their nature: weights are not compared."""
        return self is other or (self.kind == other.kind and self.weight is None)

    def reads(self, first: Tensor, sizes: Tensor) -> Reads:
        """Return the pieces that words are read at, see `pieces_read`."""
        return pieces_read(self.kind, first, sizes)

    def forward(self, states: Tensor, words: Tensor, count: int) -> Tensor:
        """Return the vectors of words, see `pool`."""
        return pool(self.kind, states, words, count, self.weight)

    def extra_repr(self) -> str:
        """The kind, for `print(module)`."""
        return self.kind
