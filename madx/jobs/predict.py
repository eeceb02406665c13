"""Prediction: tags of text by a stack of stored modules, and the entities that the tags spell."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any
from unicodedata import normalize

from madx.base import load_base
from madx.composition import Composition, Route, Stack, as_composition, require_stack
from madx.data.labelled.labels import LabelSet, spans
from madx.data.labelled.sentences import Sentence
from madx.data.words import Span, word_spans
from madx.engine import Engine
from madx.errors import CompositionError, DataError, did_you_mean
from madx.jobs.common import info_of, pick_device
from madx.jobs.labelled import task_type
from madx.module import ModuleInfo
from madx.store import Store
from madx.tasks.token_classification import TokenClassification

#: lines that are batched together
AT_ONCE = 256

#: a line's language, if lines have one, and its text
Line = tuple[str | None, str]


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
    spans: whether the tags spell entities; language: that of the line, under a predictor for several languages.
    """

    text: str
    offsets: tuple[Span, ...]
    tags: tuple[str, ...]
    scores: tuple[float, ...] = field(compare=False)
    spans: bool = True
    language: str | None = None

    @property
    def tokens(self) -> tuple[str, ...]:
        """The words, as they stand in the text."""
        return tuple(self.text[start:end] for start, end in self.offsets)

    @property
    def entities(self) -> list[Entity]:
        """The entities that the tags spell; none where they are no spans."""
        return [self._entity(*found) for found in (spans(self.tags) if self.spans else ())]

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


class Predictor:
    """A loaded stack of modules that tags lines of text.

    stack: a composition as text that ends with a task module.
    languages: language -> the composition below the stack for lines of that language, e.g. `{"swa": "swa", "eng":
    "base"}`. Without it the stack may be a route, each branch of which has the language of its language module. In
    both cases lines come with their language, and those of all languages go through the base together.
    store, base, device: as in the settings of the jobs; base None: the one that the task module records.
    max_length: tokens of a window at most.

    Raises CompositionError for a stack without a task module, StoreError for a module that is not stored.

    >>> Predictor("swa + ner", store="modules")(["Juma anaishi Nairobi ."])   # doctest: +SKIP
    >>> Predictor("ner", languages={"swa": "swa", "yor": "yor"})([("swa", "Juma anaishi Nairobi .")])   # doctest: +SKIP
    """

    def __init__(
        self,
        stack: str,
        *,
        languages: dict[str, str] | None = None,
        store: str = "modules",
        base: str | None = None,
        device: str = "auto",
        max_length: int = 256,
    ):
        composition, folder = _below(as_composition(stack), languages), Store(store)
        infos = {name: info_of(folder, name) for name in composition.names()}
        task = _one_task(composition, infos)
        #: language -> number of its branch; None: lines do not say their language
        self.languages = _numbered(composition, languages, infos)
        chosen = task.base_to_load(base)
        loaded = load_base(str(chosen["name"]), revision=chosen["revision"])
        loaded.to(pick_device(device))
        self.engine = Engine(loaded)
        for name in infos:
            self.engine.attach(folder.load(name, loaded))
        self.engine.activate(composition)
        length = min(max_length, loaded.max_tokens)
        self.task = task_type(str(task.task))(loaded.tokenizer, LabelSet(task.labels), max_length=length)

    def read(self, line: str, number: int) -> Line:
        """Language and text of a line: the whole line; under languages `LANGUAGE<tab>TEXT`, or a JSON object with the
        keys language and text. A blank line has no language.

        number: the line's, counted from 1, for errors. Raises DataError for a line without a language that is known.
        """
        if self.languages is None or not line.strip():
            return None, checked_text(line, f"Line {number}")
        language, tab, text = line.partition("\t")
        if line.lstrip().startswith("{"):
            try:
                record = json.loads(line)
                language, tab, text = record["language"], "\t", record["text"]
            except (ValueError, KeyError):
                tab = ""
        if not tab or not isinstance(language, str) or not isinstance(text, str):
            raise DataError(
                f"Line {number} does not say its language: {line[:60]!r}. Write LANGUAGE<tab>TEXT, or "
                f'{{"language": "{next(iter(self.languages))}", "text": "..."}}.'
            )
        if language.strip() not in self.languages:
            raise DataError(
                f"Line {number} is in {language[:30]!r}, which has no branch; {did_you_mean(language, self.languages)}"
            )
        return language.strip(), checked_text(text, f"Line {number}")

    def __call__(self, lines: Iterable[str | Line], *, at_once: int = AT_ONCE) -> Iterator[Prediction]:
        """Predict line after line, in order. A line is text, or a pair of language and text.

        at_once: lines that are batched together.
        """
        batch: list[Line] = []
        for number, line in enumerate(lines, 1):
            batch.append(self.read(line, number) if isinstance(line, str) else self._known(line, number))
            if len(batch) == at_once:
                yield from self._predict(batch)
                batch = []
        if batch:
            yield from self._predict(batch)

    def _known(self, line: Line, number: int) -> Line:
        if not (isinstance(line, (tuple, list)) and len(line) == 2 and isinstance(line[1], str)):
            raise DataError(f"Line {number} is {line!r:.60}: give text, or a pair of language and text.")
        language, text = line
        if self.languages is None or language not in self.languages and text.strip():
            allowed = "lines without a language" if self.languages is None else ", ".join(self.languages)
            raise DataError(f"Line {number} is in {language!r}; allowed: {allowed}.")
        return language, checked_text(text, f"Line {number}")

    def _predict(self, lines: list[Line]) -> Iterator[Prediction]:
        texts = [(text, word_spans(text)) for _, text in lines]
        languages = [language for language, _ in lines]
        numbers = None if self.languages is None else [self.languages.get(str(language), 0) for language in languages]
        found = predictions(self.task, self.engine, texts, branches=numbers)
        yield from (replace(one, language=language) for one, language in zip(found, languages, strict=True))


def predictions(
    task: TokenClassification,
    engine: Engine,
    texts: Sequence[tuple[str, Sequence[Span]]],
    *,
    branches: Sequence[int] | None = None,
) -> list[Prediction]:
    """Return the predictions of the active composition for texts, each with the places of its words.

    branches: under a route, the number of the branch of each text. A text without words gets no tags.
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


def _below(composition: Composition, languages: Mapping[str, str] | None) -> Composition:
    """The route whose branches are the stack above the composition of each language; the stack itself without
    languages."""
    if not languages:
        return composition
    if isinstance(composition, Route):
        raise CompositionError(
            f"'{composition}' says itself what each language takes: leave the languages out, or give the part above "
            "them alone, e.g. the stack ner and the languages swa, yor."
        )
    stacks = [require_stack(as_composition(below), "put below one language's lines") for below in languages.values()]
    return Route(*(Stack(below, composition) for below in stacks))


def _numbered(
    composition: Composition, languages: Mapping[str, str] | None, infos: Mapping[str, ModuleInfo]
) -> dict[str, int] | None:
    """Language -> number of its branch; None for a stack."""
    if not isinstance(composition, Route):
        return None
    own = list(languages or ()) or [_language(composition, k, infos) for k in range(len(composition.branches))]
    if twice := [language for language in own if own.count(language) > 1]:
        raise CompositionError(f"'{composition}' has several branches for {twice[0]}: lines could not tell them apart.")
    return {language: number for number, language in enumerate(own)}


def _language(route: Route, number: int, infos: Mapping[str, ModuleInfo]) -> str:
    """The language of a branch: that of its language modules."""
    found = {infos[n].language for n in route.branches[number].names() if infos[n].role == "language"}
    language = found.pop() if len(found) == 1 else None
    if language is None:
        raise CompositionError(
            f"Branch {number} of '{route}' has the languages {', '.join(sorted(map(str, found))) or '(none)'}, so no "
            "line can ask for it: one is needed. Give the stack above the languages and what each has below, e.g. the "
            "stack ner and eng=base."
        )
    return language


def _one_task(composition: Composition, infos: Mapping[str, ModuleInfo]) -> ModuleInfo:
    """The record of the task module. Raises CompositionError unless every branch has one and their labels are equal."""
    branches: Sequence[Stack] = composition.branches if isinstance(composition, Route) else (composition,)
    found = []
    for stack in branches:
        tasks = [infos[name] for name in stack.names() if infos[name].role == "task"]
        if not tasks:
            raise CompositionError(
                f"The stack '{stack}' has no task module, so it predicts no labels. End it with one, e.g. '{stack} + "
                "ner'."
            )
        found.append(tasks[-1])
    if len({(info.task, info.labels) for info in found}) > 1:
        names = ", ".join(dict.fromkeys(info.name for info in found))
        raise CompositionError(
            f"The branches of '{composition}' have different tasks or labels ({names}): predict one task at a time."
        )
    return found[-1]
