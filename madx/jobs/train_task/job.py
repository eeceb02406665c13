"""The training of a task module for each seed, above the frozen modules of its source languages."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from madx.base import Base
from madx.composition import Composition, Fuse, Stack, check_name
from madx.contract.module_type import ComponentConfig
from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.errors import ConfigError
from madx.jobs.common import (
    check_folders,
    info_of,
    is_main,
    kept_in_checkpoints,
    open_training_base,
    require_language_modules,
    run_folder,
    versions,
    weights_of,
)
from madx.jobs.fusions import (
    check_fused,
    fingerprints,
    joins_of,
    new_fusion,
    require_fusion,
    spelled_out,
    with_joined,
)
from madx.jobs.keywords import takes_keywords
from madx.jobs.labelled import file_sha256, task_type
from madx.jobs.languages import check_spellings
from madx.jobs.train_task.data import Split, data_record, read_data, task_and_steps, task_over
from madx.jobs.train_task.settings import TrainTask
from madx.module import Module, new_module
from madx.module.components import components_of
from madx.store import Store, check_language, check_target
from madx.training import TrainResult, TrainSettings, fit, forget

log = logging.getLogger("madx")
#: settings that do not decide what is trained
UNRECORDED = {"store", "run", "device", "resume", "overwrite"}


@dataclass
class TaskResult:
    """The stored task modules, one for each seed, with their folders and the runs of the loop.

    `training[i].best` holds the scores of `modules[i]` on the development data.
    """

    modules: list[Module] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    training: list[TrainResult] = field(default_factory=list)

    def summary(self, metric: str) -> str:
        """Mean and standard deviation of a development score over the seeds."""
        values = [r.best[metric] for r in self.training]
        spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        return f"{metric} {fmean(values):.1f}{spread} over {len(values)} seed{'s' if len(values) > 1 else ''}"


@takes_keywords(TrainTask)
def train_task(settings: TrainTask) -> TaskResult:
    """Train a task module for each seed and store them, all or none.

    The settings come as `TrainTask` or as keywords of the same names; `data` and `dev` may be sentences in memory:

    >>> madx.train_task(base="xlm-roberta-base", language="eng", data="train.conll", dev="dev.conll")   # doctest: +SKIP
    >>> madx.train_task(base="xlm-roberta-base", language="eng", data=sentences, dev=more)              # doctest: +SKIP

    Raises MadxError for anything wrong with settings, data or store, before training starts where it can be known.
    """
    store = Store(settings.store)
    settings = over_fused(settings, store)
    _check(settings, store)
    data, labels = read_data(settings)
    base, options = open_training_base(settings, settings.train, *components_that_act(settings))
    engine = Engine(base)
    try:
        for frozen in with_joined(store, settings.frozen_modules()):
            engine.attach(store.load(frozen, base))
        run = _Run(settings, engine, store, options, data, labels)
        if not settings.resume and is_main():
            for seed in settings.seeds:  # later seeds too: a run that is killed would take their checkpoints up
                forget(run.folder(seed))
        result = TaskResult()
        for seed, name in settings.names().items():
            module, trained = run.train(seed, name)
            result.modules.append(module)
            result.training.append(trained)
        # stored after the last seed: a killed run finds the store as it was, and goes on from its checkpoints
        with kept_in_checkpoints():
            result.folders = _store_all(store, result.modules, settings)
    finally:
        engine.close()
    return result


def components_that_act(settings: TrainTask) -> list[dict[str, ComponentConfig]]:
    """The components of all modules that act in a training: the new module's and those of the frozen ones."""
    store = Store(settings.store)
    under = [info_of(store, name).components for name in with_joined(store, settings.frozen_modules())]
    return [components_of(settings.components), *under]


def over_fused(settings: TrainTask, store: Store) -> TrainTask:
    """The settings of a job that fuses modules, checked: fused language modules take the place of the source's own."""
    if not settings.fuse:
        return settings
    require_fusion(settings.components)
    role = check_fused(store, settings.fuse, settings.name or settings.task, roles=("task", "language"))
    alone = role == "language" and settings.language_module == "auto"
    if alone and settings.cycle:
        raise ConfigError(
            "cycle changes the language module under the others, but fuse joins language modules: drop one."
        )
    return settings.model_copy(update={"language_module": None}) if alone else settings


def _check(settings: TrainTask, store: Store) -> None:
    """Check all that can be checked before data are read."""
    task_type(settings.task)
    for code in settings.sources():
        check_language(code)
    check_spellings(settings.sources(), "the source languages")
    components_of(settings.components)
    check_name(settings.name or settings.task)
    names = settings.names()
    if len(names) != len(settings.seeds):
        raise ConfigError(f"seeds {settings.seeds}: each seed once.")
    begun = _stored_by_a_killed_run(store, settings)
    for name in names.values():
        check_target(store.root / check_name(name), overwrite=settings.overwrite or name in begun)
    check_folders(store.root, run_folder(settings.run, f"train-task-{settings.name or settings.task}"))
    require_language_modules(store, settings.language_modules())


class _Run:
    """The trainings of one job over one base and one set of data."""

    def __init__(
        self,
        settings: TrainTask,
        engine: Engine,
        store: Store,
        options: TrainSettings,
        data: dict[str, Split],
        labels: LabelSet,
    ):
        self.settings, self.engine, self.store, self.options = settings, engine, store, options
        self.data, self.labels = data, labels
        self.frozen = with_joined(store, settings.frozen_modules())

    @property
    def base(self) -> Base:
        return self.engine.base

    def folder(self, seed: int) -> Path:
        """The folder of the run of one seed."""
        settings = self.settings
        return run_folder(settings.run, f"train-task-{settings.name or settings.task}") / f"seed-{seed}"

    def train(self, seed: int, name: str) -> tuple[Module, TrainResult]:
        """Train the module of one seed; it stays attached, and nothing is active afterwards."""
        settings, engine = self.settings, self.engine
        torch.manual_seed(seed)
        module = engine.attach(self._new_module(name))
        joins = joins_of(engine.module(frozen).info for frozen in self.frozen)
        compositions = _compositions(settings, name, joins)
        first = next(iter(compositions.values()))[0]
        engine.activate(first)
        tasks = {code: task_over(settings, self.base, self.labels, s, seed=seed) for code, s in self.data.items()}
        task, steps = task_and_steps(settings, tasks, compositions, seed=seed)
        sentences = f"{sum(len(train) for train, _ in self.data.values()):,}"
        over = "; ".join(str(c) for cs in compositions.values() for c in cs)
        log.info("%s: %s sentences, %s labels, %s steps over %s", name, sentences, len(self.labels), f"{steps:,}", over)
        trained = fit(
            engine,
            name,
            task,
            self.options,
            steps=steps,
            seed=seed,
            folder=self.folder(seed),
            resume=settings.resume,
            run=_identity(settings, engine, self.frozen),
            title=name,
        )
        engine.activate(first)
        module.info.training = self._record(seed, steps, trained, compositions)
        engine.activate(None)
        return module, trained

    def _new_module(self, name: str) -> Module:
        settings = self.settings
        given: dict[str, Any] = {
            "language": settings.single(),
            "components": settings.components,
            "task": settings.task,
            "labels": self.labels.tags,
            "licence": settings.licence,
            "pooling": settings.pooling,
        }
        if settings.fuse:
            return new_fusion(self.engine, name, settings.fuse, **given)
        return new_module(name, self.base, role="task", **given)

    def _record(
        self, seed: int, steps: int, trained: TrainResult, compositions: dict[str, tuple[Composition, ...]]
    ) -> dict[str, Any]:
        """The record of the training in the stored module; `language_module` is that of a single source."""
        settings, code = self.settings, self.settings.single()
        used = {name: weights_of(self.store, name) for name in self.frozen}
        record = {
            "job": "train-task",
            "settings": settings.model_dump(exclude=UNRECORDED),
            "data": data_record(settings),
            "seed": seed,
            "steps": steps,
            "composition": str(self.engine.composition),
            "sources": {code: [str(c) for c in under] for code, under in compositions.items()},
            "explanation": self.engine.explain().as_dict(),
            "seconds": round(trained.seconds, 1),
            "best_step": trained.best_step,
            "scores": {"dev": trained.best},
            "history": trained.history,
            "versions": versions(),
            "precision": self.options.precision,
            "language_modules": used,
        } | ({"joins": list(settings.fuse)} if settings.fuse else {})
        return record | ({"language_module": used.get(settings.module_of(code) or "")} if code else {})


def _compositions(
    settings: TrainTask, name: str, joins: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Composition, ...]]:
    """Language -> the compositions that take turns for its batches: over its own module, then over those of `cycle`.

    joins: see `joins_of`; a fusion of language modules is written in full.
    """
    found: dict[str, tuple[Composition, ...]] = {}
    trained = Fuse(*settings.fuse, fusion=name) if settings.fuse else name
    for code in settings.sources():
        own = settings.module_of(code)
        under = dict.fromkeys([own, *settings.cycle] if own is not None or not settings.cycle else settings.cycle)
        stacks = (Stack(*([module] if module else []), trained) for module in under)
        found[code] = tuple(spelled_out(stack, joins) for stack in stacks)
    return found


def _stored_by_a_killed_run(store: Store, settings: TrainTask) -> set[str]:
    """The names of some, not all, of the modules that are stored already with the settings, data and seed of this job:
    a run of it was killed while it stored them, and the same command has to go on."""
    names, there = settings.names(), set(store.names())
    found = {seed: name for seed, name in names.items() if name in there}
    if len(found) in (0, len(names)):
        return set()
    own = json.loads(json.dumps({"settings": settings.model_dump(exclude=UNRECORDED), "data": data_record(settings)}))
    same = set()
    for seed, name in found.items():
        info = None if store.faults(name, card=False) else store.show(name).info
        if info is not None and all(info.training.get(key) == value for key, value in {**own, "seed": seed}.items()):
            same.add(name)
    return same


def _store_all(store: Store, modules: list[Module], settings: TrainTask) -> list[Path]:
    """Store all modules, or none that was not there before: one alone would stand in the way of the same command."""
    names, there = [module.name for module in modules], store.names()
    if not is_main():
        return [store.root / name for name in names]
    begun = _stored_by_a_killed_run(store, settings)
    try:
        return [store.save(module, overwrite=settings.overwrite or module.name in begun) for module in modules]
    except BaseException:
        for name in set(names) & set(store.names()) - set(there):
            store.remove(name)
        raise


def _identity(settings: TrainTask, engine: Engine, frozen: list[str]) -> dict[str, Any]:
    """Settings, data and modules by which a checkpoint is known to be of this run, beside the loop's own settings."""
    keep = (
        "language",
        "task",
        "components",
        "pooling",
        "epochs",
        "batch_size",
        "tokens_per_batch",
        "max_length",
        "cycle",
        "fuse",
        "temperature",
        "scoring",
    )
    chosen = {key: getattr(settings, key) for key in keep} | {"columns": settings.columns.model_dump()}

    sources = {
        code: {
            "data": file_sha256(data) or data,
            "dev": file_sha256(dev) or dev,
            "language_module": settings.module_of(code),
        }
        for code, (data, dev) in settings.sources().items()
    }
    modules = fingerprints(engine, frozen)
    return chosen | {"base": engine.base.fingerprint, "sources": sources, "language_modules": modules}
