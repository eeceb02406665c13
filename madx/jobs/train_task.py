"""Job 2: labelled sentences of the source language -> a task module, under the frozen source language module."""

import logging
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import torch
from pydantic import Field

from madx.composition import Stack, check_name
from madx.config import Settings
from madx.data.conll import Sentence, read_conll, read_dataset, style_of
from madx.data.corpora import is_dataset
from madx.data.labels import LabelSet, require
from madx.engine import Engine
from madx.errors import ConfigError
from madx.jobs.common import JobSettings, check_language, check_parts, is_main, open_base, run_folder, versions
from madx.module import Module, new_module
from madx.store import Store, check_target
from madx.tasks import TASKS
from madx.tasks.token_classification import TokenClassification
from madx.training import TrainResult, TrainSettings, fit

log = logging.getLogger("madx")


class Columns(Settings):
    """How labelled files are read."""

    token: int | None = Field(default=None, description="Column of the word, from 0; negative: from the end; null: the first.")
    tag: int | None = Field(default=None, description="Column of the tag; null: the last.")
    separator: str | None = Field(default=None, description="tab or whitespace; null: found out.")
    scheme: Literal["auto", "iob1", "iob2", "bioes"] | None = Field(
        default="auto", description="How spans are tagged in the file; read into IOB2. null, or a task without spans: as they are."
    )
    style: Literal["auto", "conll", "conllu"] = Field(
        default="auto", description="Plain columns, or CoNLL-U (form and UPOS); auto: CoNLL-U if the name ends in .conllu."
    )
    repair: bool = Field(default=False, description="Mend invalid IOB2 (an I- that follows nothing) instead of refusing it.")
    ignore: tuple[str, ...] = Field(
        default=(), strict=False, description="Entity types to read as O, e.g. [DATE] for MasakhaNER."
    )


class TrainTask(JobSettings):
    """Settings of `madx train-task`. The defaults are the MAD-X recipe for NER (Pfeiffer et al. 2020)."""

    language: str = Field(description="The source language: that of the labelled data, e.g. eng.")
    data: str = Field(description="Training data: a CoNLL file, or datasets:NAME[:CONFIG]:SPLIT.")
    dev: str = Field(description="Development data, which chooses the best weights.")
    task: str = Field(default="ner", description="The task: one of `madx tasks`.")
    name: str | None = Field(default=None, description="Name of the module; null: the task. With several seeds: NAME@SEED.")
    language_module: str | None = Field(
        default="auto", description="Language module under the task module; auto: named as the language; null: none."
    )
    parts: str | dict[str, dict[str, Any]] = Field(default="pfeiffer", description="A preset, or settings by module type.")
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


def read_labelled(source: str, columns: Columns, task: type[TokenClassification], *, checked: bool = True) -> list[Sentence]:
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
            source, token_column=columns.token, tag_column=columns.tag, separator=columns.separator, style=columns.style, **common
        )
    if not columns.ignore:
        return sentences
    return [
        Sentence(s.tokens, tuple("O" if tag[2:] in columns.ignore else tag for tag in s.tags), s.line) for s in sentences
    ]


def train_task(settings: TrainTask) -> TaskResult:
    """Train and store a task module for each seed. Raises MadxError for anything wrong with settings, data or store."""
    kind = TASKS.get(settings.task)
    check_language(settings.language)
    check_parts(settings.parts)
    base_name = check_name(settings.name or settings.task)
    names = {s: base_name if len(settings.seeds) == 1 else f"{base_name}@{s}" for s in settings.seeds}
    if len(names) != len(settings.seeds):
        raise ConfigError(f"seeds {settings.seeds}: each seed once.")
    store = Store(settings.store)
    for name in names.values():
        check_target(store.root / name, overwrite=settings.overwrite)
    train, dev = (read_labelled(path, settings.columns, kind) for path in (settings.data, settings.dev))
    labels = kind.label_set(train, source=settings.data)
    require(labels, LabelSet.from_sentences(dev, source=settings.dev))
    base = open_base(settings)
    engine, result = Engine(base), TaskResult()
    try:
        under = settings.language if settings.language_module == "auto" else settings.language_module
        if under is not None:
            engine.attach(store.load(under, base))
        for seed, name in names.items():
            torch.manual_seed(seed)
            module = new_module(
                name, base, role="task", language=settings.language, parts=settings.parts, task=settings.task,
                labels=labels.tags, licence=settings.licence,
            )  # fmt: skip
            engine.attach(module)
            engine.activate(Stack(*([under] if under else []), name))
            task = kind(
                base.tokenizer, labels, train=train, dev=dev, max_length=min(settings.max_length, base.max_tokens),
                batch_size=None if settings.tokens_per_batch else settings.batch_size,
                tokens_per_batch=settings.tokens_per_batch, micro_batch=settings.micro_batch, seed=seed,
            )  # fmt: skip
            steps = task.steps(settings.epochs)
            log.info("%s: %s sentences, %s labels, %s steps over %s", name, f"{len(train):,}", len(labels), f"{steps:,}", engine.composition)
            trained = fit(
                engine, name, task, settings.train, steps=steps, seed=seed, resume=settings.resume, title=name,
                folder=run_folder(settings.run, f"train-task-{base_name}") / f"seed-{seed}",
                run=_identity(settings, base, under, engine),
            )  # fmt: skip
            module.info.training = _record(settings, seed, steps, trained, engine) | {
                "language_module": store.show(under).weights.sha256 if under else None
            }
            result.modules.append(module)
            result.training.append(trained)
            result.folders.append(store.save(module, overwrite=settings.overwrite) if is_main() else store.root / name)
    finally:
        engine.close()
    return result


def _record(settings: TrainTask, seed: int, steps: int, trained: TrainResult, engine: Engine) -> dict:
    return {
        "job": "train-task", "settings": settings.model_dump(exclude={"store", "run", "device", "resume", "overwrite"}),
        "data": [{"path": p, "sha256": file_sha256(p)} for p in (settings.data, settings.dev)], "seed": seed, "steps": steps,
        "composition": str(engine.composition), "explanation": engine.explain().as_dict(), "seconds": round(trained.seconds, 1),
        "best_step": trained.best_step, "scores": {"dev": trained.best}, "history": trained.history, "versions": versions(),
    }  # fmt: skip


def file_sha256(path: str) -> str | None:
    """sha256 of a file's bytes; None for a data set's name."""
    return None if is_dataset(path) else sha256(Path(path).read_bytes()).hexdigest()


def _identity(settings: TrainTask, base, under: str | None, engine: Engine) -> dict:
    """What makes two runs the same run, beside the loop's own settings."""
    keep = ("language", "task", "parts", "epochs", "batch_size", "tokens_per_batch", "max_length")
    chosen = {key: getattr(settings, key) for key in keep}
    chosen["columns"] = settings.columns.model_dump() | {"style": style_of(settings.data, settings.columns.style)}
    weights = engine.module(under).state_dict() if under else {}
    language_module = sha256(b"".join(v.cpu().numpy().tobytes() for v in weights.values())).hexdigest() if under else None
    data = {"data": file_sha256(settings.data) or settings.data, "dev": file_sha256(settings.dev) or settings.dev}
    return chosen | data | {"base": base.fingerprint, "language_module": language_module}
