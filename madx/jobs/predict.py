"""Tags of plain text, and the entities they spell, by a stack of stored modules."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from madx.base import load_base
from madx.composition import Route, Stack, as_composition
from madx.data.labelled.conll import Sentence
from madx.data.labelled.labels import LabelSet, spans
from madx.engine import Engine
from madx.errors import CompositionError, DataError, did_you_mean
from madx.jobs.common import pick_device
from madx.store import Store
from madx.tasks import TASKS

#: words and single punctuation marks; apostrophes and hyphens inside a word stay
WORD = re.compile(r"[^\W_]+(?:['’\-.][^\W_]+)*|[^\w\s]|_", re.UNICODE)


@dataclass(frozen=True)
class Entity:
    """A span of words: its type, its text, and the numbers of its first word and the one after its last."""

    type: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Prediction:
    """One line of text: its words, a tag for each, and the entities that the tags spell (none if the tags are no spans); its
    language, if lines say theirs."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    spans: bool = True
    language: str | None = None

    @property
    def entities(self) -> list[Entity]:
        return [
            Entity(kind, " ".join(self.tokens[a:b]), a, b) for kind, a, b in (spans(self.tags) if self.spans else ())
        ]


def words(text: str) -> tuple[str, ...]:
    """Words and punctuation marks of a line, cut as in CoNLL files.

    >>> words("Juma's sister, in Dar es Salaam.")
    ("Juma's", 'sister', ',', 'in', 'Dar', 'es', 'Salaam', '.')
    """
    return tuple(WORD.findall(text))


class Predictor:
    """Loads a stack once and tags lines of text. `stack` is a composition as text that ends with a task module.

    languages: what lies below the stack for lines of a language, e.g. `{"swa": "swa", "eng": "base"}`; or the stack is a
    route, each branch of which has the language of its language module. Lines then come with their language, those of
    all languages go through the base together.

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
        infos = {name: folder.show(name).info for name in composition.names()}
        #: language -> number of its branch; None: lines do not say their language
        self.languages = None
        if isinstance(composition, Route):
            own = (
                list(languages)
                if languages
                else [_language(composition, k, infos) for k in range(len(composition.branches))]
            )
            if twice := [language for language in own if own.count(language) > 1]:
                raise CompositionError(
                    f"'{composition}' has several branches for {twice[0]}: lines could not tell them apart."
                )
            self.languages = {language: number for number, language in enumerate(own)}
        task = _one_task(composition, infos)
        loaded = load_base(**task.base_to_load(base))
        loaded.model.to(pick_device(device))
        self.engine = Engine(loaded)
        for name in infos:
            self.engine.attach(folder.load(name, loaded))
        self.engine.activate(composition)
        self.task = TASKS.get(task.task)(
            loaded.tokenizer, LabelSet(task.labels), max_length=min(max_length, loaded.max_tokens)
        )

    def read(self, line: str, number: int) -> tuple[str | None, str]:
        """Language and text of a line: the whole line; under languages `LANGUAGE<tab>TEXT`, or a JSON object with the keys
        language and text. number: counted from 1, for errors. A blank line has no language."""
        if self.languages is None or not line.strip():
            return None, line
        language, tab, text = line.partition("\t")
        if line.lstrip().startswith("{"):
            try:
                record = json.loads(line)
                language, tab, text = record["language"], True, record["text"]
            except (ValueError, KeyError):
                tab = False
        if not tab or not isinstance(language, str) or not isinstance(text, str):
            raise DataError(
                f"Line {number} does not say its language: {line[:60]!r}. Write LANGUAGE<tab>TEXT, or "
                f'{{"language": "{next(iter(self.languages))}", "text": "..."}}.'
            )
        if language.strip() not in self.languages:
            raise DataError(
                f"Line {number} is in {language[:30]!r}, which has no branch; {did_you_mean(language, self.languages)}"
            )
        return language.strip(), text

    def __call__(self, lines: Iterable[str | tuple[str | None, str]], *, at_once: int = 256) -> Iterator[Prediction]:
        """A prediction for each line, in order; `at_once` lines are batched together. A line is text, or language and text."""
        batch: list[tuple[str | None, str]] = []
        for number, line in enumerate(lines, 1):
            batch.append(self.read(line, number) if isinstance(line, str) else self._known(line, number))
            if len(batch) == at_once:
                yield from self._predict(batch)
                batch = []
        if batch:
            yield from self._predict(batch)

    def _known(self, line: tuple[str | None, str], number: int) -> tuple[str | None, str]:
        language, text = line
        if self.languages is None or language not in self.languages and text.strip():
            allowed = "lines without a language" if self.languages is None else ", ".join(self.languages)
            raise DataError(f"Line {number} is in {language!r}; allowed: {allowed}.")
        return language, text

    def _predict(self, lines: list[tuple[str | None, str]]) -> Iterator[Prediction]:
        sentences = [Sentence(words(text), (), number) for number, (_, text) in enumerate(lines)]
        full = [s for s in sentences if s.tokens]
        branches = None if self.languages is None else [self.languages[lines[s.line][0]] for s in full]
        tags = iter(self.task.predict(self.engine, full, branches=branches)) if full else iter(())
        for (language, _), sentence in zip(lines, sentences):
            found = tuple(next(tags)) if sentence.tokens else ()
            yield Prediction(sentence.tokens, found, self.task.inventory is None, language)


def _below(composition: Stack | Route, languages: dict[str, str] | None) -> Stack | Route:
    """The stack above what each language has below it."""
    if not languages:
        return composition
    if isinstance(composition, Route):
        raise CompositionError(
            f"'{composition}' says itself what each language takes: leave the languages out, or give the part above them alone, "
            "e.g. the stack ner and the languages swa, yor."
        )
    return Route(*(Stack(as_composition(below), composition) for below in languages.values()))


def _language(route: Route, number: int, infos: dict) -> str:
    """The language of a branch: that of its language modules."""
    found = {infos[n].language for n in route.branches[number].names() if infos[n].role == "language"}
    if len(found) != 1 or None in found:
        raise CompositionError(
            f"Branch {number} of '{route}' has the languages {', '.join(sorted(map(str, found))) or '(none)'}, so no line can ask for "
            "it: one is needed. Give the stack above the languages and what each has below, e.g. the stack ner and eng=base."
        )
    return found.pop()


def _one_task(composition: Stack | Route, infos: dict):
    """What the task module of each branch records; raises CompositionError unless all have the same labels."""
    branches = composition.branches if isinstance(composition, Route) else (composition,)
    found = []
    for stack in branches:
        tasks = [infos[name] for name in stack.names() if infos[name].role == "task"]
        if not tasks:
            raise CompositionError(
                f"The stack '{stack}' has no task module, so it predicts no labels. End it with one, e.g. '{stack} + ner'."
            )
        found.append(tasks[-1])
    if len({(info.task, info.labels) for info in found}) > 1:
        names = ", ".join(dict.fromkeys(info.name for info in found))
        raise CompositionError(
            f"The branches of '{composition}' have different tasks or labels ({names}): predict one task at a time."
        )
    return found[-1]
