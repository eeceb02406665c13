"""Predictions as values: the tags of the words of a text, and the entities that the tags spell."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any
from unicodedata import normalize

from madx.data.labelled.sentences import Sentence
from madx.data.labelled.spans import Scoring, spans
from madx.data.words import Span
from madx.engine import Engine
from madx.errors import DataError
from madx.tasks.token_classification import TokenClassification


@dataclass(frozen=True)
class Entity:
    """A span of words.

    type: its type, e.g. LOC. text: the characters `start` to `end` (exclusive) of the text as it was given.
    score: the confidence, 0..1: the mean over its words of the probability of the word's tag.
    first_word, end_word: the numbers of its first word and of the one after its last.
    """

    type: str
    text: str
    start: int
    end: int
    score: float = field(compare=False)
    first_word: int
    end_word: int

    def to_dict(self) -> dict[str, Any]:
        """Return the entity with the keys that the pipelines of transformers use; the score has six digits."""
        score = round(self.score, 6)
        return {"entity_group": self.type, "score": score, "word": self.text, "start": self.start, "end": self.end}


@dataclass(frozen=True)
class Prediction:
    """The tags of one line of text.

    text: the line as it was given, in whatever normal form; of words given as a list, the words joined by spaces.
    offsets: the place (start, end) of each word in the text, in characters, `end` exclusive.
    tags, scores: for each word its tag and the probability of the tag, 0..1; predictions are equal if all but their
    scores is, which rounding moves.
    spans: whether the tags spell entities; language: that of the line, under a predictor for several languages;
    scoring: the reading of an I- that continues nothing.
    """

    text: str
    offsets: tuple[Span, ...]
    tags: tuple[str, ...]
    scores: tuple[float, ...] = field(compare=False)
    spans: bool = True
    language: str | None = None
    scoring: Scoring = "strict"

    @property
    def tokens(self) -> tuple[str, ...]:
        """The words, as they stand in the text."""
        return tuple(self.text[start:end] for start, end in self.offsets)

    @property
    def entities(self) -> list[Entity]:
        """The entities that the tags spell; none where they are no spans."""
        return [self._entity(*found) for found in (spans(self.tags, self.scoring) if self.spans else ())]

    def _entity(self, kind: str, first: int, end: int) -> Entity:
        start, stop = self.offsets[first][0], self.offsets[end - 1][1]
        return Entity(kind, self.text[start:stop], start, stop, fmean(self.scores[first:end]), first, end)

    def to_dict(self) -> dict[str, Any]:
        """Return all as an object for JSON: text, words with tags, and entities as in the pipelines of transformers.

        Scores have six digits after the point. Of plain tags there is a list `words` instead of `entities`.
        """
        record: dict[str, Any] = {} if self.language is None else {"language": self.language}
        record |= {"text": self.text, "tokens": self.tokens, "tags": self.tags, "offsets": self.offsets}
        record["scores"] = [round(score, 6) for score in self.scores]
        if self.spans:
            return record | {"entities": [entity.to_dict() for entity in self.entities]}
        words = zip(self.tags, record["scores"], self.tokens, self.offsets, strict=True)
        return record | {
            "words": [
                {"entity": tag, "score": score, "word": word, "start": start, "end": end}
                for tag, score, word, (start, end) in words
            ]
        }


def predictions(
    task: TokenClassification,
    engine: Engine,
    texts: Sequence[tuple[str, Sequence[Span]]],
    *,
    branches: Sequence[int] | None = None,
    scoring: Scoring = "strict",
) -> list[Prediction]:
    """Return the predictions of the active composition for texts, each with the places of its words.

    branches: under a route, the number of the branch of each text; scoring: the reading of an I- that continues
    nothing. A text without words gets no tags.
    """
    full = [number for number, (_, places) in enumerate(texts) if places]
    sentences = [Sentence(_words(*texts[number]), ()) for number in full]
    of_full = None if branches is None else [branches[number] for number in full]
    tagged = task.predict_scored(engine, sentences, branches=of_full) if full else []
    found = dict(zip(full, tagged, strict=True))
    are_spans = task.inventory is None
    return [
        Prediction(
            text,
            tuple(places),
            tuple(tag for tag, _ in found.get(number, ())),
            tuple(score for _, score in found.get(number, ())),
            are_spans,
            scoring=scoring,
        )
        for number, (text, places) in enumerate(texts)
    ]


def _words(text: str, places: Sequence[Span]) -> tuple[str, ...]:
    """Return the words at some places of a text, in NFC, as the base's tokenizer has seen them in training."""
    return tuple(normalize("NFC", text[start:end]) for start, end in places)


def checked_text(text: str, where: str) -> str:
    """Return a text. Raises DataError, at the place `where`, for half of a surrogate pair, which is no character."""
    if half := re.search("[\ud800-\udfff]", text):
        code = ord(half[0])
        cause = (
            f"the byte 0x{code - 0xDC00:02x} is not UTF-8. Write the text in UTF-8"
            if 0xDC80 <= code <= 0xDCFF  # what Python makes of such a byte in an argument of a command
            else f"\\u{code:04x} is half of a surrogate pair, no character. Correct the text's escapes"
        )
        raise DataError(f"{where}, character {half.start() + 1}: {cause}.")
    return text
