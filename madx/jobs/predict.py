"""Tags of plain text, and the entities they spell, by a stack of stored modules."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from madx.base import load_base
from madx.composition import as_composition
from madx.data.conll import Sentence
from madx.data.labels import LabelSet, spans
from madx.engine import Engine
from madx.errors import CompositionError
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
    """One line of text: its words, a tag for each, and the entities that the tags spell (none if the tags are no spans)."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    spans: bool = True

    @property
    def entities(self) -> list[Entity]:
        return [Entity(kind, " ".join(self.tokens[a:b]), a, b) for kind, a, b in (spans(self.tags) if self.spans else ())]


def words(text: str) -> tuple[str, ...]:
    """Words and punctuation marks of a line, cut as in CoNLL files.

    >>> words("Juma's sister, in Dar es Salaam.")
    ("Juma's", 'sister', ',', 'in', 'Dar', 'es', 'Salaam', '.')
    """
    return tuple(WORD.findall(text))


class Predictor:
    """Loads a stack once and tags lines of text. `stack` is a composition as text that ends with a task module.

    >>> Predictor("swa + ner", store="modules")(["Juma anaishi Nairobi ."])   # doctest: +SKIP
    """

    def __init__(self, stack: str, *, store: str = "modules", base: str | None = None, device: str = "auto", max_length: int = 256):
        composition, folder = as_composition(stack), Store(store)
        infos = {name: folder.show(name).info for name in composition.names()}
        tasks = [info for info in infos.values() if info.role == "task"]
        if not tasks:
            raise CompositionError(f"The stack '{composition}' has no task module, so it predicts no labels. End it with one, e.g. '{composition} + ner'.")
        task = tasks[-1]
        loaded = load_base(base or task.base["name"])
        loaded.model.to(pick_device(device))
        self.engine = Engine(loaded)
        for name in infos:
            self.engine.attach(folder.load(name, loaded))
        self.engine.activate(composition)
        self.task = TASKS.get(task.task)(loaded.tokenizer, LabelSet(task.labels), max_length=min(max_length, loaded.max_tokens))

    def __call__(self, lines: Iterable[str], *, at_once: int = 256) -> Iterator[Prediction]:
        """A prediction for each line, in order; `at_once` lines are batched together."""
        batch: list[str] = []
        for line in lines:
            batch.append(line)
            if len(batch) == at_once:
                yield from self._predict(batch)
                batch = []
        if batch:
            yield from self._predict(batch)

    def _predict(self, lines: list[str]) -> Iterator[Prediction]:
        sentences = [Sentence(words(line), (), number) for number, line in enumerate(lines)]
        full = [s for s in sentences if s.tokens]
        tags = iter(self.task.predict(self.engine, full)) if full else iter(())
        for sentence in sentences:
            yield Prediction(sentence.tokens, tuple(next(tags)) if sentence.tokens else (), self.task.inventory is None)
