"""Prediction: tags of text by a stack of stored modules, and the entities that the tags spell."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from madx.base import load_base
from madx.composition import Composition, Route, Stack, as_composition, require_stack
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.spans import Scoring, check_scoring
from madx.data.words import word_spans
from madx.engine import Engine
from madx.errors import CompositionError, DataError, did_you_mean
from madx.jobs.common import info_of, pick_device
from madx.jobs.fusions import fused_in, warn_of_fusions
from madx.jobs.labelled import task_type
from madx.jobs.prediction import Prediction, checked_text, predictions
from madx.module import ModuleInfo
from madx.module.order import require_task_last
from madx.store import Store

#: lines that are batched together
AT_ONCE = 256

#: a line's language, if lines have one, and its text
Line = tuple[str | None, str]


class Predictor:
    """A loaded stack of modules that tags lines of text.

    stack: a composition as text that ends with a task module.
    languages: language -> the composition below the stack for lines of that language, e.g. `{"swa": "swa", "eng":
    "base"}`. Without it the stack may be a route, each branch of which has the language of its language module. In
    both cases lines come with their language, and those of all languages go through the base together.
    store, base, device: as in the settings of the jobs; base None: the one that the task module records.
    max_length: tokens of a window at most.
    scoring: the reading of an I- that continues nothing, as in scores: strict, it is no entity; lenient, it begins one.

    Raises CompositionError for a stack without a task module or with it before a language module, StoreError for a
    module that is not stored.

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
        scoring: Scoring = "strict",
    ):
        check_scoring(scoring)
        self.scoring = scoring
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
        warn_of_fusions(composition, infos)
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
        found = predictions(self.task, self.engine, texts, branches=numbers, scoring=self.scoring)
        yield from (replace(one, language=language) for one, language in zip(found, languages, strict=True))


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
    """The language of a branch: that of its language modules; of those that are fused, that of the fusion module."""
    branch = route.branches[number]
    fused = [fuse for fuse in fused_in(branch) if not infos[fuse.fusion].labels]
    joined = {name for fuse in fused for child in fuse.children for name in child.names()}
    own = [infos[name] for name in branch.names() if name not in joined]
    found = {info.language for info in own if info.role == "language" or info.role == "fusion" and not info.labels}
    language = found.pop() if len(found) == 1 else None
    if language is None:
        raise CompositionError(
            f"Branch {number} of '{route}' has the languages {', '.join(sorted(map(str, found))) or '(none)'}, so no "
            "line can ask for it: one is needed. Give the stack above the languages and what each has below, e.g. the "
            "stack ner and eng=base."
        )
    return language


def _one_task(composition: Composition, infos: Mapping[str, ModuleInfo]) -> ModuleInfo:
    """The record of the task module. Raises CompositionError unless every branch has one, above its
    language modules, and their labels are equal."""
    require_task_last(composition, {name: info.role for name, info in infos.items()})
    branches: Sequence[Stack] = composition.branches if isinstance(composition, Route) else (composition,)
    found = []
    for stack in branches:
        tasks = [infos[name] for name in stack.names() if infos[name].labels]  # a task module, or a fusion with a head
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
