"""Errors of predictions: confusion between types, and sentences with gold beside predicted tags."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from madx.data.labelled.sentences import Sentence
from madx.data.labelled.spans import Scoring, Span, spans

MISSED, INVENTED = "(missed)", "(nothing)"
#: stands between the gold and the predicted tag of a wrong word
ARROW = " → "


class Piece(NamedTuple):
    """Neighbouring words: plain text (label None), or a labelled span. right: the other side has the same span."""

    text: str
    label: str | None = None
    right: bool = True


class Example(NamedTuple):
    """One sentence as pieces, gold and predicted. Plain tags need one row alone, `predicted`, whose wrong words are
    labelled `GOLD → PREDICTED`."""

    line: int
    gold: list[Piece]
    predicted: list[Piece]


def confusion(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], kind: str, *, scoring: Scoring = "strict"
) -> Counter[tuple[str, str]]:
    """Counts of (gold, predicted) types, over words or entities.

    gold, predicted: the tags of each sentence. kind: `words` or `entities`. scoring: the reading of spans. A gold
    entity counts for the predicted entity with which it shares most words, whatever its bounds; without one it counts
    as MISSED. A predicted entity that shares no word with a gold entity counts against INVENTED.

    >>> sorted(confusion([["B-PER", "I-PER", "O"]], [["B-ORG", "O", "B-LOC"]], "entities").items())
    [(('(nothing)', 'LOC'), 1), (('PER', 'ORG'), 1)]
    """
    counts: Counter[tuple[str, str]] = Counter()
    for g, p in zip(gold, predicted):
        if kind == "words":
            counts.update(zip(g, p))
            continue
        found, wanted = spans(p, scoring), spans(g, scoring)
        for label, start, end in wanted:
            shared = [(min(end, e) - max(start, s), other) for other, s, e in found]
            most = max(shared, default=(0, ""), key=lambda pair: (pair[0], pair[1] == label))
            counts[label, most[1] if most[0] > 0 else MISSED] += 1
        for label, start, end in found:
            if all(min(end, e) <= max(start, s) for _, s, e in wanted):
                counts[INVENTED, label] += 1
    return counts


def examples(
    sentences: Sequence[Sentence],
    predicted: Sequence[Sequence[str]],
    kind: str,
    *,
    most: int,
    scoring: Scoring = "strict",
) -> tuple[list[Example], int]:
    """At most `most` sentences with an error, evenly spaced over the file, and the number of all sentences with an
    error. kind, scoring: as in `confusion`."""
    wrong = [i for i, s in enumerate(sentences) if _differs(s.tags, predicted[i], kind, scoring)]
    chosen = [wrong[i * len(wrong) // most] for i in range(most)] if len(wrong) > most else wrong
    return [_example(sentences[i], predicted[i], kind, scoring) for i in chosen], len(wrong)


def _differs(gold: Sequence[str], predicted: Sequence[str], kind: str, scoring: Scoring) -> bool:
    if kind == "words":
        return list(gold) != list(predicted)
    return spans(gold, scoring) != spans(predicted, scoring)


def _example(sentence: Sentence, predicted: Sequence[str], kind: str, scoring: Scoring) -> Example:
    if kind == "words":
        pieces = [
            Piece(word) if gold == found else Piece(word, f"{gold}{ARROW}{found}", False)
            for word, gold, found in zip(sentence.tokens, sentence.tags, predicted)
        ]
        return Example(sentence.line, [], _joined(pieces))
    gold, found = spans(sentence.tags, scoring), spans(predicted, scoring)
    return Example(sentence.line, _pieces(sentence.tokens, gold, found), _pieces(sentence.tokens, found, gold))


def _pieces(tokens: Sequence[str], own: Sequence[Span], other: Sequence[Span]) -> list[Piece]:
    """One side of a sentence, its spans compared with those of the other side."""
    pieces, place = [], 0
    for label, start, end in own:
        if start > place:
            pieces.append(Piece(" ".join(tokens[place:start])))
        pieces.append(Piece(" ".join(tokens[start:end]), label, (label, start, end) in other))
        place = end
    return pieces + ([Piece(" ".join(tokens[place:]))] if place < len(tokens) else [])


def _joined(pieces: list[Piece]) -> list[Piece]:
    """The pieces with neighbouring plain ones made one."""
    result: list[Piece] = []
    for piece in pieces:
        if result and piece.label is None and result[-1].label is None:
            result[-1] = Piece(f"{result[-1].text} {piece.text}")
        else:
            result.append(piece)
    return result
