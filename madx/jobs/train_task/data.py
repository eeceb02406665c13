"""Sentences, labels and task of a training job."""

import logging
from typing import Any

from madx.base import Base
from madx.composition import Composition
from madx.data.labelled.labels import LabelSet, require
from madx.data.labelled.sentences import Sentence
from madx.jobs.gold import check_scoring_of, remarks_on_types, require_entities, warn_of_equal_files
from madx.jobs.labelled import file_sha256, read_labelled, task_type
from madx.jobs.train_task.settings import TrainTask
from madx.tasks.base import Task
from madx.tasks.sources import Source, Sources
from madx.tasks.token_classification import TokenClassification

log = logging.getLogger("madx")

#: training sentences, development sentences
Split = tuple[list[Sentence], list[Sentence]]


def read_data(settings: TrainTask) -> tuple[dict[str, Split], LabelSet]:
    """Read the sentences of every source language; gives them by language, with the labels of all training data
    together.

    Raises DataError for a file that cannot be read, for data without any entity, and for development data with labels
    that the training data lacks.
    """
    data: dict[str, Split] = {}
    seen: dict[str, str] = {}
    kind = task_type(settings.task)
    check_scoring_of(kind, settings.scoring)
    for code, (train, dev) in settings.sources().items():
        data[code] = read_labelled(train, settings.columns, kind), read_labelled(dev, settings.columns, kind)
        for sentences, file in zip(data[code], (train, dev), strict=True):
            if kind.inventory is None:
                require_entities(sentences, file, settings.columns)
        seen = LabelSet.from_sentences(data[code][0], source=train).seen | seen
    labels = kind.label_set([s for train, _ in data.values() for s in train], source="the training data")
    labels = LabelSet(labels.tags, seen)
    for code, (_, dev) in settings.sources().items():
        require(labels, LabelSet.from_sentences(data[code][1], source=dev))
        if kind.inventory is None:
            for remark in remarks_on_types(f"the development data of {code}", data[code][1], labels):
                log.warning("%s", remark)
    warn_of_equal_files(settings.sources())
    return data, labels


def task_over(settings: TrainTask, base: Base, labels: LabelSet, split: Split, *, seed: int) -> TokenClassification:
    """The task of a job over the training and development sentences of one language."""
    train, dev = split
    return task_type(settings.task)(
        base.tokenizer,
        labels,
        train=train,
        dev=dev,
        max_length=min(settings.max_length, base.max_tokens),
        batch_size=None if settings.tokens_per_batch else settings.batch_size,
        tokens_per_batch=settings.tokens_per_batch,
        micro_batch=settings.micro_batch,
        seed=seed,
        scoring=settings.scoring,
    )


def task_and_steps(
    settings: TrainTask,
    tasks: dict[str, TokenClassification],
    compositions: dict[str, tuple[Composition, ...]],
    *,
    seed: int,
) -> tuple[Task, int]:
    """The task over all source languages, and the optimiser steps in all epochs.

    tasks: language -> its task; compositions: language -> the compositions that take turns for its batches.
    """
    if len(tasks) == 1 and not settings.cycle:
        (task,) = tasks.values()
        return task, task.steps(settings.epochs)
    sources = [Source(code, task, compositions[code], task.steps(settings.epochs)) for code, task in tasks.items()]
    mixed = Sources(sources, temperature=settings.temperature, seed=seed)
    return mixed, mixed.steps


def data_record(settings: TrainTask) -> list[dict[str, Any]]:
    """Path and sha256 of every file of a job, training before development data of each language."""
    return [{"path": path, "sha256": file_sha256(path)} for paths in settings.sources().values() for path in paths]
