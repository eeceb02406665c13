"""Job 2: labelled sentences of one or several source languages -> a task module, under their frozen language modules."""

import logging
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from madx.base import Base
from madx.composition import Composition, Stack, check_name
from madx.config import Settings
from madx.contract.module_type import ComponentConfig
from madx.data.labelled.conll import Sentence, read_conll
from madx.data.labelled.labels import LabelSet, require
from madx.data.labelled.memory import read_dataset
from madx.data.text.corpora import is_dataset, sha256_of
from madx.engine import Engine
from madx.errors import ConfigError
from madx.jobs.common import (
    JobSettings,
    check_components,
    check_language,
    is_main,
    open_training_base,
    run_folder,
    versions,
)
from madx.module import Module, new_module
from madx.store import Store, check_target
from madx.tasks import TASKS
from madx.tasks.base import Task
from madx.tasks.sources import Source, Sources
from madx.tasks.token_classification import TokenClassification
from madx.training import TrainResult, TrainSettings, fit, forget

log = logging.getLogger("madx")


class Columns(Settings):
    """How labelled files are read."""

    token: int | None = Field(
        default=None, description="Column of the word, from 0; negative: from the end; null: the first."
    )
    tag: int | None = Field(default=None, description="Column of the tag; null: the last.")
    separator: str | None = Field(default=None, description="tab or whitespace; null: found out.")
    scheme: Literal["auto", "iob1", "iob2", "bioes"] | None = Field(
        default="auto",
        description="How spans are tagged in the file; read into IOB2. null, or a task without spans: as they are.",
    )
    style: Literal["auto", "conll", "conllu"] = Field(
        default="auto",
        description="Plain columns, or CoNLL-U (form and UPOS); auto: CoNLL-U if the name ends in .conllu.",
    )
    repair: bool = Field(
        default=False, description="Mend invalid IOB2 (an I- that follows nothing) instead of refusing it."
    )
    ignore: tuple[str, ...] = Field(
        default=(), strict=False, description="Entity types to read as O, e.g. [DATE] for MasakhaNER."
    )


class TrainTask(JobSettings):
    """Settings of `madx train-task`. The defaults are the MAD-X recipe for NER (Pfeiffer et al. 2020)."""

    language: str | list[str] = Field(
        description="The source language: that of the labelled data, e.g. eng. Several: [eng, deu]."
    )
    data: str | dict[str, str] = Field(
        description="Training data: a CoNLL file, or datasets:NAME[:CONFIG]:SPLIT. Of several languages: {eng: FILE, deu: FILE}."
    )
    dev: str | dict[str, str] = Field(
        description="Development data, which chooses the best weights; of several languages as data."
    )
    task: str = Field(default="ner", description="The task: one of `madx tasks`.")
    name: str | None = Field(
        default=None, description="Name of the module; null: the task. With several seeds: NAME@SEED."
    )
    language_module: str | None | dict[str, str | None] = Field(
        default="auto",
        description="Language module under the task module; auto: named as the language; null: none; or by language.",
    )
    cycle: list[str] = Field(
        default=[],
        description="Further frozen language modules that take turns with the source's own, batch by batch (TLR).",
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="Several languages: batches in proportion to size^(1/temperature); large: all alike.",
    )
    RENAMED = {"parts": "components"}

    components: str | dict[str, dict[str, Any]] = Field(
        default="pfeiffer", description="A preset, or settings by module type."
    )
    columns: Columns = Field(default=Columns(), description="How the files are read.")
    epochs: int = Field(default=100, ge=1, description="Passes over the training data.")
    batch_size: int | None = Field(default=16, ge=1, description="Sentences in a step; null: by tokens_per_batch.")
    tokens_per_batch: int | None = Field(default=None, ge=16, description="Tokens in a step, padding included.")
    micro_batch: int | None = Field(default=None, ge=1, description="Sentences computed at once; null: all of them.")
    max_length: int = Field(default=256, ge=8, description="Tokens of a window at most; longer sentences get several.")
    seeds: list[int] = Field(default=[1, 2, 3], min_length=1, description="One module is trained for each seed.")
    train: TrainSettings = Field(default=TrainSettings(), description="The training loop.")
    run: str | None = Field(default=None, description="Folder of the runs; null: runs/train-task-NAME.")
    resume: bool = Field(default=True, description="Go on from the runs' checkpoints if there are any.")
    overwrite: bool = Field(default=False, description="Replace modules of these names in the store.")
    licence: str | None = Field(default=None, description="SPDX licence of the module, for its card.")

    @model_validator(mode="after")
    def _one_file_for_each_language(self):
        for key in ("data", "dev") if isinstance(self.language, list) else ():
            given = getattr(self, key)
            given = list(given) if isinstance(given, dict) else []
            if sorted(given) != sorted(self.language) or not given:
                files = ", ".join(f"{code}: FILE" for code in self.language)
                raise ValueError(
                    f"{key} names files for {', '.join(given) or 'no language'}; each source language needs one: {{{files}}}"
                )
        if isinstance(self.language, str) and not (isinstance(self.data, str) and isinstance(self.dev, str)):
            raise ValueError(
                f"language {self.language} is one source: give data and dev as one file each, or language as a list"
            )
        if isinstance(self.language_module, dict) and (
            stray := sorted(set(self.language_module) - set(self.sources()))
        ):
            raise ValueError(
                f"language_module names {', '.join(stray)}; the source languages are {', '.join(self.sources())}"
            )
        return self

    def sources(self) -> dict[str, tuple[str, str]]:
        """Source language -> training data, development data."""
        if isinstance(self.language, str):
            return {self.language: (self.data, self.dev)}
        return {code: (self.data[code], self.dev[code]) for code in self.language}

    def single(self) -> str | None:
        """The source language, if it is one."""
        return next(iter(self.sources())) if len(self.sources()) == 1 else None

    def module_of(self, language: str) -> str | None:
        """The language module of a source language."""
        given = (
            self.language_module.get(language, "auto")
            if isinstance(self.language_module, dict)
            else self.language_module
        )
        return language if given == "auto" else given

    def language_modules(self) -> list[str]:
        """All language modules that training needs, each once."""
        own = [name for code in self.sources() if (name := self.module_of(code)) is not None]
        return list(dict.fromkeys([*own, *self.cycle]))


@dataclass
class TaskResult:
    """The stored task modules, one for each seed, with their scores on the development data."""

    modules: list[Module] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    training: list[TrainResult] = field(default_factory=list)

    def summary(self, metric: str) -> str:
        """Mean and standard deviation of a development score over the seeds."""
        values = [r.best[metric] for r in self.training]
        spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        return f"{metric} {fmean(values):.1f}{spread} over {len(values)} seed{'s' if len(values) > 1 else ''}"


def read_labelled(
    source: str, columns: Columns, task: type[TokenClassification], *, checked: bool = True
) -> list[Sentence]:
    """Sentences of a CoNLL file or a `datasets` name, tagged as the task wants. Raises DataError with file and line.

    checked: tags that the task does not know are refused and spans brought to IOB2; otherwise tags are as in the file.
    """
    scheme, inventory = columns.scheme if checked and columns.scheme else "none", task.inventory if checked else None
    if inventory is not None:
        if scheme not in ("auto", "none") or columns.ignore or columns.repair:
            raise ConfigError(
                f"columns of the task {task.name!r}: its tags are {inventory.name}, one for each word, and no spans; "
                "leave scheme, repair and ignore out."
            )
        scheme = "none"
    common = {"scheme": scheme, "repair": columns.repair, "inventory": inventory}
    if is_dataset(source):
        sentences = read_dataset(source, tag_column=task.dataset_column, **common)
    else:
        sentences = read_conll(
            source,
            token_column=columns.token,
            tag_column=columns.tag,
            separator=columns.separator,
            style=columns.style,
            **common,
        )
    if not columns.ignore:
        return sentences
    return [
        Sentence(s.tokens, tuple("O" if tag[2:] in columns.ignore else tag for tag in s.tags), s.line)
        for s in sentences
    ]


def train_task(settings: TrainTask) -> TaskResult:
    """Train and store a task module for each seed. Raises MadxError for anything wrong with settings, data or store."""
    TASKS.get(settings.task)
    for code in settings.sources():
        check_language(code)
    check_components(settings.components)
    base_name = check_name(settings.name or settings.task)
    names = {s: base_name if len(settings.seeds) == 1 else f"{base_name}@{s}" for s in settings.seeds}
    if len(names) != len(settings.seeds):
        raise ConfigError(f"seeds {settings.seeds}: each seed once.")
    store = Store(settings.store)
    for name in names.values():
        check_target(store.root / name, overwrite=settings.overwrite)
    data, labels = read_data(settings)
    base, options = open_training_base(settings, settings.train, *components_of(settings))
    engine, result = Engine(base), TaskResult()
    try:
        for under in settings.language_modules():
            engine.attach(store.load(under, base))
        folders = {seed: run_folder(settings.run, f"train-task-{base_name}") / f"seed-{seed}" for seed in names}
        if not settings.resume and is_main():
            for folder in folders.values():  # those of later seeds, too: a killed run would take them up
                forget(folder)
        for seed, name in names.items():
            torch.manual_seed(seed)
            module = new_module(
                name,
                base,
                role="task",
                language=settings.single(),
                components=settings.components,
                task=settings.task,
                labels=labels.tags,
                licence=settings.licence,
            )
            engine.attach(module)
            compositions = _compositions(settings, name)
            engine.activate(next(iter(compositions.values()))[0])
            task, steps = _task(settings, base, labels, data, compositions, seed=seed)
            log.info(
                "%s: %s sentences, %s labels, %s steps over %s",
                name,
                f"{sum(len(train) for train, _ in data.values()):,}",
                len(labels),
                f"{steps:,}",
                "; ".join(str(c) for cs in compositions.values() for c in cs),
            )
            trained = fit(
                engine,
                name,
                task,
                options,
                steps=steps,
                seed=seed,
                resume=settings.resume,
                title=name,
                folder=folders[seed],
                run=_identity(settings, engine),
            )
            engine.activate(next(iter(compositions.values()))[0])
            module.info.training = _record(settings, seed, steps, trained, engine, compositions) | _modules_used(
                settings, store
            )
            module.info.training["precision"] = options.precision
            result.modules.append(module)
            result.training.append(trained)
            engine.activate(None)
        # not before the last seed is trained: a run that was killed finds the store as it was, and goes on from its checkpoints
        result.folders = _store(store, result.modules, overwrite=settings.overwrite)
    finally:
        engine.close()
    return result


def components_of(settings: TrainTask) -> list[dict[str, ComponentConfig]]:
    """The components of all modules that act in a training."""
    store = Store(settings.store)
    return [
        check_components(settings.components),
        *(store.show(name).info.components for name in settings.language_modules()),
    ]


def _store(store: Store, modules: list[Module], *, overwrite: bool) -> list[Path]:
    """All of them, or none that was not there before: one alone would stand in the way of the same command."""
    names, there = [module.name for module in modules], store.names()
    if not is_main():
        return [store.root / name for name in names]
    try:
        return [store.save(module, overwrite=overwrite) for module in modules]
    except BaseException:
        for name in set(names) & set(store.names()) - set(there):
            store.remove(name)
        raise


Labelled = dict[str, tuple[list[Sentence], list[Sentence]]]  # language -> training sentences, development sentences


def read_data(settings: TrainTask) -> tuple[Labelled, LabelSet]:
    """The sentences of every source, and the labels of all training data together."""
    data, seen, kind = {}, {}, TASKS.get(settings.task)
    for code, paths in settings.sources().items():
        data[code] = tuple(read_labelled(path, settings.columns, kind) for path in paths)
        seen = LabelSet.from_sentences(data[code][0], source=paths[0]).seen | seen
    labels = kind.label_set([s for train, _ in data.values() for s in train], source="the training data")
    labels = LabelSet(labels.tags, seen)
    for code, (_, path) in settings.sources().items():
        require(labels, LabelSet.from_sentences(data[code][1], source=path))
    return data, labels


def _compositions(settings: TrainTask, name: str) -> dict[str, tuple[Composition, ...]]:
    """Language -> the compositions that take turns for its batches: its own module's, then those of `cycle`."""
    found = {}
    for code in settings.sources():
        own = settings.module_of(code)
        under = dict.fromkeys([own, *settings.cycle] if own is not None or not settings.cycle else settings.cycle)
        found[code] = tuple(Stack(*([module] if module else []), name) for module in under)
    return found


def _task(
    settings: TrainTask,
    base,
    labels: LabelSet,
    data: Labelled,
    compositions: dict[str, tuple[Composition, ...]],
    *,
    seed: int,
) -> tuple[Task, int]:
    """The task, and the optimiser steps in all epochs."""
    tasks = {code: task_over(settings, base, labels, labelled, seed=seed) for code, labelled in data.items()}
    if len(tasks) == 1 and not settings.cycle:
        (task,) = tasks.values()
        return task, task.steps(settings.epochs)
    sources = [Source(code, task, compositions[code], task.steps(settings.epochs)) for code, task in tasks.items()]
    mixed = Sources(sources, temperature=settings.temperature, seed=seed)
    return mixed, mixed.steps


def task_over(
    settings: TrainTask, base: Base, labels: LabelSet, labelled: tuple[list[Sentence], list[Sentence]], *, seed: int
) -> TokenClassification:
    """The task of a job over the sentences of one language, those for training and those for development."""
    train, dev = labelled
    return TASKS.get(settings.task)(
        base.tokenizer,
        labels,
        train=train,
        dev=dev,
        max_length=min(settings.max_length, base.max_tokens),
        batch_size=None if settings.tokens_per_batch else settings.batch_size,
        tokens_per_batch=settings.tokens_per_batch,
        micro_batch=settings.micro_batch,
        seed=seed,
    )


def _modules_used(settings: TrainTask, store: Store) -> dict:
    """Fingerprints of the language modules; `language_module` is that of a single source."""
    used = {name: store.show(name).weights.sha256 for name in settings.language_modules()}
    code = settings.single()
    return {"language_modules": used} | ({"language_module": used.get(settings.module_of(code))} if code else {})


def _record(
    settings: TrainTask,
    seed: int,
    steps: int,
    trained: TrainResult,
    engine: Engine,
    compositions: dict[str, tuple[Composition, ...]],
) -> dict:
    return {
        "job": "train-task",
        "settings": settings.model_dump(exclude={"store", "run", "device", "resume", "overwrite"}),
        "data": [{"path": p, "sha256": file_sha256(p)} for paths in settings.sources().values() for p in paths],
        "seed": seed,
        "steps": steps,
        "composition": str(engine.composition),
        "sources": {code: [str(c) for c in under] for code, under in compositions.items()},
        "explanation": engine.explain().as_dict(),
        "seconds": round(trained.seconds, 1),
        "best_step": trained.best_step,
        "scores": {"dev": trained.best},
        "history": trained.history,
        "versions": versions(),
    }


def file_sha256(path: str) -> str | None:
    """sha256 of a file's bytes; None for a data set's name."""
    return None if is_dataset(path) else sha256_of(Path(path))


def _identity(settings: TrainTask, engine: Engine) -> dict:
    """What makes two runs the same run, beside the loop's own settings."""
    keep = (
        "language",
        "task",
        "components",
        "epochs",
        "batch_size",
        "tokens_per_batch",
        "max_length",
        "cycle",
        "temperature",
    )
    chosen = {key: getattr(settings, key) for key in keep} | {"columns": settings.columns.model_dump()}

    def fingerprint(name: str) -> str:
        weights = engine.module(name).state_dict()
        return sha256(b"".join(v.cpu().numpy().tobytes() for v in weights.values())).hexdigest()

    sources = {
        code: {
            "data": file_sha256(data) or data,
            "dev": file_sha256(dev) or dev,
            "language_module": settings.module_of(code),
        }
        for code, (data, dev) in settings.sources().items()
    }
    modules = {name: fingerprint(name) for name in settings.language_modules()}
    return chosen | {"base": engine.base.fingerprint, "sources": sources, "language_modules": modules}
