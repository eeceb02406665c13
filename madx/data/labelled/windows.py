"""Words -> pieces; a sentence longer than the base can read -> several windows, so that no word is lost.

    words     w0 w1 w2 w3 w4 w5 w6 w7      (one piece each, room for 4, overlap 2)
    windows   w0 w1 w2 w3                  predicts w0 w1 w2
                    w2 w3 w4 w5            predicts w3 w4
                          w4 w5 w6 w7      predicts w5 w6 w7

Each word is predicted once: in the window whose nearer edge is farthest from it. The ends of the sentence are no edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from madx.data.labelled.labels import LabelSet
from madx.data.text.tokenizing import Frame, frame_of, text_ids, text_ids_with_offsets
from madx.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTENCES_AT_ONCE = 1000  # that the tokenizer is given in one call


@dataclass(frozen=True)
class Row:
    """One sequence for the base: a sentence, or a window of one.

    input_ids: token ids with the frame, `(tokens,)`.
    first: the position in `input_ids` of the first piece of each word that is predicted here, `(words,)`.
    words: the places of these words in the sentence, `(words,)`.
    labels: the label ids of these words, `(words,)`; empty for a sentence without tags.
    sentence: the index of the sentence.
    pieces: the number of pieces of each of these words, `(words,)`; they stand side by side, all of them in this row.
    """

    input_ids: tuple[int, ...]
    first: tuple[int, ...]
    words: tuple[int, ...]
    labels: tuple[int, ...]
    sentence: int
    pieces: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.input_ids)


def encode_words(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[Any],
    labels: LabelSet | None,
    *,
    max_length: int,
    overlap: int | None = None,
) -> list[Row]:
    """Return the rows of sentences, in the order of the sentences.

    sentences: objects with `.tokens`, and with `.tags` where labels are given.
    labels: the label set whose ids the rows hold, or None for rows without labels.
    max_length: tokens of a row at most, with the frame.
    overlap: pieces that neighbouring windows share at most; by default a quarter of the room for pieces.

    A window holds whole words, so every word is read in a window with all of its pieces. A single word longer than a
    window keeps its first pieces and is predicted from them; the last of these is then its last piece. A word without
    any piece, such as a control character, becomes the unknown token. Raises ConfigError for sizes that leave no room,
    and DataError for a tag that is not in the label set.
    """
    room = max_length - 2
    overlap = max(room, 0) // 4 if overlap is None else overlap
    if room < 1 or not 0 <= overlap < room:
        raise ConfigError(
            f"max_length {max_length}, overlap {overlap}: allowed are at least 3, and 0 to max_length - 3 ({room - 1})."
        )
    frame, pieces = frame_of(tokenizer), word_pieces(tokenizer, [sentence.tokens for sentence in sentences])
    rows = []
    for number, (sentence, words) in enumerate(zip(sentences, pieces, strict=True)):
        words = [word[:room] for word in words]
        ids = labels.encode(sentence.tags) if labels is not None else None
        for start, end, predicted in windows([len(word) for word in words], room=room, overlap=overlap):
            input_ids, first = _framed(frame, words[start:end])
            rows.append(
                Row(
                    input_ids=input_ids,
                    first=tuple(first[word - start] for word in predicted),
                    words=tuple(predicted),
                    labels=() if ids is None else tuple(ids[word] for word in predicted),
                    sentence=number,
                    pieces=tuple(len(words[word]) for word in predicted),
                )
            )
    return rows


def _framed(frame: Frame, words: list[list[int]]) -> tuple[tuple[int, ...], list[int]]:
    """Return the ids of a window with its frame, and the position of the first piece of each word."""
    row, first = [frame.start], []
    for pieces in words:
        first.append(len(row))
        row += pieces
    return (*row, frame.end), first


def word_pieces(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """Return the ids of the pieces of each word of each sentence, at least one for each word.

    A fast tokenizer reads the words joined by spaces, as in the raw text that language modules are trained on, and a
    piece belongs to the word in which it starts. A slow tokenizer gives no positions, so it reads each word by itself.
    Raises DataError for a word without a piece if the tokenizer has no unknown token.
    """
    composed = [[normalize("NFC", word) for word in words] for words in sentences]
    pieces = _fast_pieces(tokenizer, composed) if tokenizer.is_fast else _slow_pieces(tokenizer, composed)
    unknown = frame_of(tokenizer).unknown
    for words, pieces_of_words in zip(composed, pieces, strict=True):
        for word, ids in zip(words, pieces_of_words, strict=True):
            if not ids:
                if unknown is None:
                    raise DataError(
                        f"The word {word!r} has no piece, and the tokenizer has no unknown token. Remove the word."
                    )
                ids.append(unknown)
    return pieces


def _fast_pieces(tokenizer: PreTrainedTokenizerBase, sentences: list[list[str]]) -> list[list[list[int]]]:
    result = []
    for batch in _in_batches(sentences):
        rows, offsets = text_ids_with_offsets(tokenizer, [" ".join(words) for words in batch])
        for words, ids, places in zip(batch, rows, offsets, strict=True):
            # the word at each character; the space before a word counts as the word's, since pieces may start with it
            word_at = [w for w, word in enumerate(words) for _ in range(len(word) + (w > 0))]
            pieces: list[list[int]] = [[] for _ in words]
            for piece, (start, _) in zip(ids, places, strict=True):
                pieces[word_at[min(start, len(word_at) - 1)]].append(piece)
            result.append(pieces)
    return result


def _in_batches(sentences: list[list[str]]) -> Iterator[list[list[str]]]:
    for begin in range(0, len(sentences), SENTENCES_AT_ONCE):
        yield sentences[begin : begin + SENTENCES_AT_ONCE]


def _slow_pieces(tokenizer: PreTrainedTokenizerBase, sentences: list[list[str]]) -> list[list[list[int]]]:
    distinct = sorted({word for words in sentences for word in words})
    ids = dict(zip(distinct, text_ids(tokenizer, distinct), strict=True)) if distinct else {}
    return [[list(ids[word]) for word in words] for words in sentences]


def windows(sizes: Sequence[int], *, room: int, overlap: int) -> list[tuple[int, int, list[int]]]:
    """Return (start, end, words predicted there) for each window of a sentence, `end` exclusive.

    sizes: the number of pieces of each word, each at most `room`; room: pieces of a window at most;
    overlap: pieces that neighbouring windows share at most.

    >>> windows([1] * 8, room=4, overlap=2)
    [(0, 4, [0, 1, 2]), (2, 6, [3, 4]), (4, 8, [5, 6, 7])]
    """
    edges = _window_edges(sizes, room=room, overlap=overlap)
    before = [0]  # the pieces before each word, then those of all words
    for size in sizes:
        before.append(before[-1] + size)

    def context(word: int, start: int, end: int) -> tuple[float, float]:
        left = inf if start == 0 else before[word] - before[start]
        right = inf if end == len(sizes) else before[end] - before[word + 1]
        return min(left, right), max(left, right)

    predicted: list[list[int]] = [[] for _ in edges]
    lowest = 0
    for word in range(len(sizes)):
        while edges[lowest][1] <= word:
            lowest += 1
        holding = [i for i in range(lowest, len(edges)) if edges[i][0] <= word < edges[i][1]]
        predicted[max(holding, key=lambda i: (context(word, *edges[i]), -i))].append(word)
    # a window whose words are all predicted by other windows has nothing to do
    return [(start, end, words) for (start, end), words in zip(edges, predicted, strict=True) if words]


def _window_edges(sizes: Sequence[int], *, room: int, overlap: int) -> list[tuple[int, int]]:
    edges: list[tuple[int, int]] = []
    start, count = 0, len(sizes)
    while start < count:
        end, used = start, 0
        while end < count and used + sizes[end] <= room:
            used += sizes[end]
            end += 1
        if end == count and edges:  # the last window: the room that is left goes to the words before it
            while start > edges[-1][0] + 1 and used + sizes[start - 1] <= room:
                start -= 1
                used += sizes[start]
        edges.append((start, end))
        if end == count:
            break
        start, shared = end, 0  # steps back over at most `overlap` pieces, and only so far that the next word fits
        while start > edges[-1][0] + 1 and shared + sizes[start - 1] <= min(overlap, room - sizes[end]):
            start -= 1
            shared += sizes[start]
    return edges
