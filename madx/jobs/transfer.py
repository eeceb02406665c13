"""A base and a store with the jobs as methods, for those who want language modules, a task module and tags, and no
more."""

from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

from madx.base import load_base
from madx.composition import Composition, Stack, as_composition, require_stack
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.memory import sentences_of
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.spans import Scoring, check_scoring
from madx.data.words import Span, word_spans
from madx.engine import Engine
from madx.errors import CompositionError, ConfigError, StoreError, did_you_mean
from madx.interop.hub import Hub
from madx.interop.hub.hub import Pushed
from madx.jobs.common import info_of, module_names, pick_device
from madx.jobs.evaluate import Evaluate, EvaluateResult, evaluate
from madx.jobs.labelled import task_type
from madx.jobs.prediction import Prediction, checked_text, predictions
from madx.jobs.settings import Corpus, JobSettings, LabelledData
from madx.jobs.train_head import Corpora, HeadResult, TrainHead, train_head
from madx.jobs.train_language import LanguageResult, TrainLanguage, train_language
from madx.jobs.train_task import TaskResult, TrainTask, train_task
from madx.module import Module
from madx.store import Store
from madx.training import TrainSettings

#: tokens of a window at most, in prediction
MAX_LENGTH = 256


class Transfer:
    """Cross-lingual transfer over one base, with its modules in one store.

    >>> t = madx.Transfer("xlm-roberta-base", store="modules")                                  # doctest: +SKIP
    >>> t.train_language("eng", "eng.txt"); t.train_language("swa", "swa.txt")                  # doctest: +SKIP
    >>> t.train_task("ner", language="eng", train="train.conll", dev="dev.conll")               # doctest: +SKIP
    >>> t.predict("Juma anaishi Nairobi.", language="swa").entities                             # doctest: +SKIP
    >>> t.evaluate({"swa": "swa-test.conll"}).matrix                                            # doctest: +SKIP

    base: folder or id of the frozen base; revision: commit, tag or branch of a downloaded one; store: folder of
    modules;
    device: auto, cpu or cuda.

    Every method takes further settings of its job as keywords; those of the training loop stand beside the others, as
    in `t.train_language("swa", texts, steps=500, learning_rate=5e-4)`. All data may be files or in memory.
    """

    def __init__(
        self, base: str | Path, *, store: str | Path = "modules", revision: str | None = None, device: str = "auto"
    ):
        self._shared = {"base": str(base), "revision": revision, "store": str(store), "device": device}
        self.store = Store(store)
        self._engine: Engine | None = None

    def __repr__(self) -> str:
        return f"Transfer({self._shared['base']!r}, store={self._shared['store']!r}): {', '.join(self.store.names())}"

    # ---- jobs --------------------------------------------------------------------------------------------------------

    def train_head(self, corpus: Corpora, **settings: Any) -> HeadResult:
        """Train a masked-LM head for a base that has none, and store it for all language modules on this base; see
        `madx.train_head`.

        corpus: raw text by language, of languages that the base knows, as {"eng": "eng.txt", "swa": texts}.
        """
        self.close()
        return train_head(**self._settings(TrainHead, settings, {"corpus": corpus}, of="train_head"))

    def train_language(self, language: str, corpus: Corpus, **settings: Any) -> LanguageResult:
        """Train the module of a language on raw text and store it under the language's name; see
        `madx.train_language`."""
        given = {"language": language, "corpus": corpus}
        self.close()  # one base in memory is enough
        return train_language(**self._settings(TrainLanguage, settings, given, of="train_language"))

    def train_task(
        self, task: str, *, language: str | list[str], train: LabelledData, dev: LabelledData, **settings: Any
    ) -> TaskResult:
        """Train the module of a task over the module of the source language, once for each of `seeds`; see
        `madx.train_task`.

        train, dev: labelled sentences for training and development (settings `data` and `dev` of the job), of several
        languages as a mapping by language.
        """
        if (
            isinstance(train, TrainSettings)
            or isinstance(train, Mapping)
            and set(train) & set(TrainSettings.model_fields)
        ):
            raise ConfigError(
                "train is the labelled training data here. Give the settings of the training loop beside the others, "
                "e.g. t.train_task(..., learning_rate=1e-3)."
            )
        given = {"task": task, "language": language, "data": train, "dev": dev}
        self.close()
        return train_task(**self._settings(TrainTask, settings, given, of="train_task"))

    def evaluate(
        self, targets: Mapping[str, LabelledData], *, task: str | None = None, **settings: Any
    ) -> EvaluateResult:
        """Score a task module zero-shot in the target languages, under all controls; see `madx.evaluate`.

        targets: language -> labelled test sentences. task: a task module, or the name before @SEED of several, all of
        which are evaluated; None: the only one in the store.
        """
        given = {"targets": targets, "task_module": self._task_name(task)}
        self.close()
        return evaluate(**self._settings(Evaluate, settings, given, of="evaluate"))

    @overload
    def predict(
        self, text: str, *, language: str, task: str | None = None, seed: int | None = None, scoring: Scoring = "strict"
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        text: Iterable[Any],
        *,
        language: str,
        task: str | None = None,
        seed: int | None = None,
        scoring: Scoring = "strict",
    ) -> list[Prediction]: ...

    def predict(
        self, text: Any, *, language: str, task: str | None = None, seed: int | None = None, scoring: Scoring = "strict"
    ) -> Prediction | list[Prediction]:
        """Tag text in a language by that language's module and a task module.

        text: one text, which gives one prediction; or several, which give a list: texts, lists of words, labelled
        sentences (their tags are not read), or a `datasets.Dataset` with a column `tokens`.
        language: the language, whose module is the stored one of that name; or a composition of language modules, as
        "average(swa, kin)"; or "base" for the task module alone over the bare base.
        task: a task module, or the name before @SEED of several; None: the only one in the store. seed: which of
        several;
        None: the smallest.
        scoring: the reading of an I- that continues nothing, `strict` or `lenient`.

        Raises StoreError for a language without a module.
        """
        name = self._seed_of(self._task_name(task), seed)
        composition = self._over(language, name)
        rows = [text] if isinstance(text, str) else text
        texts = [_placed(row, f"text at index {index}") for index, row in enumerate(rows)]
        check_scoring(scoring)
        engine = self.engine
        for each in composition.names():
            if each not in engine.modules:
                self.load(each)
        info = engine.module(name).info
        length = min(MAX_LENGTH, engine.base.max_tokens)
        job = task_type(str(info.task))(engine.base.tokenizer, LabelSet(info.labels), max_length=length)
        with engine.using(composition):
            found = predictions(job, engine, texts, scoring=scoring)
        return found[0] if isinstance(text, str) else found

    # ---- modules -----------------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The engine over the base, loaded on first use; for compositions of your own."""
        if self._engine is None:
            base = load_base(str(self._shared["base"]), revision=self._shared["revision"])
            base.to(pick_device(str(self._shared["device"])))
            self._engine = Engine(base, store=self.store)
        return self._engine

    def load(self, name: str) -> Module:
        """Load a stored module onto the engine, in place of one of that name; see `madx.Engine.load`."""
        return self.engine.load(name)

    def save(self, module: Module, *, overwrite: bool = False) -> Path:
        """Store a module under its name; gives its folder. Raises StoreError for a name that is taken."""
        return self.store.save(module, overwrite=overwrite)

    def push(self, name: str, repository: str, **options: Any) -> Pushed:
        """Publish a stored module on the Hugging Face hub as `owner/name`; options: those of `madx.Hub.push`."""
        return Hub().push(name, repository, store=self.store, **options)

    def pull(self, repository: str, **options: Any) -> str:
        """Fetch a module from the Hugging Face hub into the store; gives its name.

        options: those of `madx.Hub.pull`.
        """
        return Hub().pull(repository, self.store, **options).name

    def close(self) -> None:
        """Release the base and the modules in memory; the next prediction loads them anew."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    # ---- choosing ----------------------------------------------------------------------------------------------------

    def _settings(
        self, schema: type[JobSettings], settings: dict[str, Any], given: dict[str, Any], *, of: str
    ) -> dict[str, Any]:
        """The keywords of a job: those shared by all, those given, and the training loop's under `train`."""
        loop = set(TrainSettings.model_fields) if "train" in schema.model_fields else set()
        loop -= set(schema.model_fields)
        allowed = sorted((set(schema.model_fields) | loop) - set(given) - set(self._shared) - {"train"})
        for key in settings:
            if key not in allowed and not (key == "train" and "data" not in given):
                raise ConfigError(f"t.{of} has no setting {key!r}; {did_you_mean(key, allowed)}")
        inner = {key: value for key, value in settings.items() if key in loop}
        outer = {key: value for key, value in settings.items() if key not in loop}
        if inner and "train" in outer:
            raise ConfigError(f"t.{of}: {', '.join(inner)} and train are both given; put all into one of them.")
        return self._shared | given | outer | ({"train": inner} if inner else {})

    def _task_name(self, task: str | None) -> str:
        """The name of a task module without its seed."""
        if task is not None:
            return task
        rows = [row for row in self.store.list() if row.info is not None and row.info.role == "task"]
        names = sorted({row.name.rpartition("@")[0] or row.name for row in rows})
        if len(names) != 1:
            there = (
                f"several task modules, {', '.join(names)}: say which, task={names[0]!r}" if names else "no task module"
            )
            raise StoreError(f"The store {self.store.root} holds {there}. `t.train_task(...)` trains one.")
        return names[0]

    def _seed_of(self, name: str, seed: int | None) -> str:
        """The module of a seed, by default the smallest that is stored."""
        names = module_names(self.store, name)
        if seed is not None and seed not in names:
            raise StoreError(
                f"No module of the seed {seed} of the task module {name!r} in the store {self.store.root}; stored "
                f"seeds: {', '.join(map(str, names))}."
            )
        chosen = names[min(names) if seed is None else seed]
        if info_of(self.store, chosen).role != "task":
            raise CompositionError(f"The module {chosen!r} predicts no labels; name a task module, e.g. task='ner'.")
        return chosen

    def _over(self, language: str, task: str) -> Composition:
        """The task module over what a language takes. Raises StoreError for a language module that is not stored."""
        below, stored = require_stack(as_composition(language), "asked for as a language"), self.store.names()
        for name in below.names():
            info = info_of(self.store, name) if name in stored else None
            if info is None or info.role != "language":
                rows = [row for row in self.store.list() if row.info is not None and row.info.role == "language"]
                own = [row.name for row in rows if row.info is not None and row.info.language == name]
                known = own or [row.name for row in rows]
                raise StoreError(
                    f"No language module {name!r} in the store {self.store.root}; {did_you_mean(name, known)}. Train "
                    f"one, t.train_language({name!r}, CORPUS); or ask for the task module over the bare base by "
                    "language='base'."
                )
        return Stack(below, task)


def _placed(row: Any, where: str) -> tuple[str, list[Span]]:
    """The text of a text, a list of words, a labelled sentence or a row with a column `tokens`, and the places of its
    words; words are joined by spaces."""
    if isinstance(row, str):
        return checked_text(row, where), word_spans(row)
    if isinstance(row, Sentence):
        tokens = row.tokens
    elif isinstance(row, Mapping) and "tokens" in row:
        tokens = tuple(row["tokens"])
    elif isinstance(row, (list, tuple)) and all(isinstance(each, str) for each in row):
        tokens = tuple(row)
    else:
        tokens = sentences_of([row])[0].tokens
    ends = list(accumulate(len(token) + 1 for token in tokens))
    places = [(end - 1 - len(token), end - 1) for end, token in zip(ends, tokens, strict=True)]
    return checked_text(" ".join(tokens), where), places
