"""Words -> pieces. A sentence longer than the base can read becomes several windows; no word is cut off in silence.

    words     w0 w1 w2 w3 w4 w5 w6 w7      (one piece each, room for 4, overlap 2)
    windows   w0 w1 w2 w3                  predicts w0 w1 w2
                    w2 w3 w4 w5            predicts w3 w4
                          w4 w5 w6 w7      predicts w5 w6 w7

Each word is predicted once, in the window where its nearer edge is farthest away (an end of the sentence is no edge).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from unicodedata import normalize

from madx.data.labelled.labels import LabelSet
from madx.data.text.tokenizing import frame_of, text_ids
from madx.errors import ConfigError, DataError


@dataclass(frozen=True)
class Row:
    """One sequence for the base: a sentence or a window of one.

    `first`, `words`, `labels` (words to predict here,): the position of the word's first piece in `input_ids`, its
    place in the sentence, and its label id (`labels` is empty for unlabelled text).
    """

    input_ids: tuple[int, ...]
    first: tuple[int, ...]
    words: tuple[int, ...]
    labels: tuple[int, ...]
    sentence: int

    def __len__(self) -> int:
        return len(self.input_ids)


def encode_words(
    tokenizer, sentences: Sequence, labels: LabelSet | None, *, max_length: int, overlap: int | None = None
) -> list[Row]:
    """Rows of at most `max_length` tokens, frame included, in the order of the sentences (with `.tokens`, `.tags`).

    `overlap`: the pieces, at most, that neighbouring windows share; a quarter of the room when not given. A single word
    longer than a window keeps its first pieces and is predicted all the same; one without any piece (a control
    character) gets the unknown token. `labels` is None for text without tags.
    """
    frame = frame_of(tokenizer)
    room = max_length - 2
    overlap = max(room, 0) // 4 if overlap is None else overlap
    if room < 1 or not 0 <= overlap < room:
        raise ConfigError(
            f"max_length {max_length}, overlap {overlap}: allowed are at least 3, and 0 to max_length - 3 ({room - 1})."
        )
    rows = []
    for number, (sentence, pieces) in enumerate(
        zip(sentences, word_pieces(tokenizer, [s.tokens for s in sentences]), strict=True)
    ):
        pieces = [word[:room] for word in pieces]
        ids = labels.encode(sentence.tags) if labels else []
        for start, end, predicted in windows([len(word) for word in pieces], room=room, overlap=overlap):
            first, row = {}, [frame.start]
            for word in range(start, end):
                first[word] = len(row)
                row += pieces[word]
            rows.append(
                Row(
                    input_ids=(*row, frame.end),
                    first=tuple(first[w] for w in predicted),
                    words=tuple(predicted),
                    labels=tuple(ids[w] for w in predicted) if labels else (),
                    sentence=number,
                )
            )
    return rows


def word_pieces(tokenizer, sentences: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """The ids of each word of each sentence, at least one a word.

    A fast tokenizer reads the words joined by spaces, as in the raw text that language modules are trained on; a piece
    belongs to the word in which it starts. A slow one, which tells no positions, reads each word by itself.
    """
    sentences = [[normalize("NFC", word) for word in words] for words in sentences]
    pieces = _fast_pieces(tokenizer, sentences) if tokenizer.is_fast else _slow_pieces(tokenizer, sentences)
    unknown = frame_of(tokenizer).unknown
    for words, of_words in zip(sentences, pieces, strict=True):
        for word, ids in zip(words, of_words, strict=True):
            if not ids:
                if unknown is None:
                    raise DataError(
                        f"the word {word!r} has no piece, and the tokenizer no unknown token. Remove the word."
                    )
                ids.append(unknown)
    return pieces


def _fast_pieces(tokenizer, sentences: list[list[str]]) -> list[list[list[int]]]:
    result = []
    for begin in range(0, len(sentences), 1000):
        batch = sentences[begin : begin + 1000]
        for words, ids, offsets in zip(
            batch, *text_ids(tokenizer, [" ".join(words) for words in batch], offsets=True), strict=True
        ):
            # the word at each character; the space before a word counts as the word's, since pieces may start with it
            word_at = [w for w, word in enumerate(words) for _ in range(len(word) + (w > 0))]
            of_words: list[list[int]] = [[] for _ in words]
            for piece, (start, _) in zip(ids, offsets, strict=True):
                of_words[word_at[min(start, len(word_at) - 1)]].append(piece)
            result.append(of_words)
    return result


def _slow_pieces(tokenizer, sentences: list[list[str]]) -> list[list[list[int]]]:
    distinct = sorted({word for words in sentences for word in words})
    ids = dict(zip(distinct, text_ids(tokenizer, distinct), strict=True)) if distinct else {}
    return [[list(ids[word]) for word in words] for words in sentences]


def windows(sizes: Sequence[int], *, room: int, overlap: int) -> list[tuple[int, int, list[int]]]:
    """(start, end, words predicted there) for a sentence whose words have `sizes` pieces, each at most `room`."""
    edges = _window_edges(sizes, room=room, overlap=overlap)
    before = [0]  # pieces before each word, and in all
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
    # a window of which other windows predict every word has nothing to do
    return [(start, end, words) for (start, end), words in zip(edges, predicted, strict=True) if words]


def _window_edges(sizes: Sequence[int], *, room: int, overlap: int) -> list[tuple[int, int]]:
    edges, start, count = [], 0, len(sizes)
    while start < count:
        end, used = start, 0
        while end < count and used + sizes[end] <= room:
            used += sizes[end]
            end += 1
        if end == count and edges:  # the last window: fill what is left of it with words before
            while start > edges[-1][0] + 1 and used + sizes[start - 1] <= room:
                start -= 1
                used += sizes[start]
        edges.append((start, end))
        if end == count:
            break
        start, shared = end, 0  # step back over at most `overlap` pieces, so that the next word still fits
        while start > edges[-1][0] + 1 and shared + sizes[start - 1] <= min(overlap, room - sizes[end]):
            start -= 1
            shared += sizes[start]
    return edges
