"""Train a masked-LM head on a frozen base that has none, once for all its language modules.

Sentence encoders (multilingual-e5, LaBSE, MiniLM) and discriminators are published without a masked-LM head, and a
language module cannot be trained against random weights. The head has the form of the base's own family, its decoder
is the frozen embedding matrix, and it is trained on text of languages that the base knows.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field, field_validator

from madx.base import Base
from madx.composition import Stack
from madx.data.text.blocks import Blocks
from madx.data.text.corpora import corpus_files, find_files
from madx.engine import Engine
from madx.errors import ConfigError
from madx.jobs.common import check_folders, is_main, kept_in_checkpoints, open_training_base, run_folder, versions
from madx.jobs.keywords import takes_keywords
from madx.jobs.settings import JobSettings, Seed
from madx.jobs.train_language import TrainLanguage, describe, masked_lm, packed
from madx.store import Store, check_language
from madx.store.heads import check_head_target, head_name
from madx.tasks.base import Task
from madx.tasks.masked_lm import MaskedLM
from madx.tasks.sources import Source, Sources
from madx.training import TrainResult, TrainSettings, fit

log = logging.getLogger("madx")

if TYPE_CHECKING:
    #: raw text by language: paths, lists of paths, or texts in memory; once checked, paths alone
    Corpora = Any
else:
    Corpora = dict[str, str | list[str]]


class HeadTrainSettings(TrainSettings):
    """The training loop of a head, which is small and stands on a frozen encoder: a larger learning rate."""

    learning_rate: float = Field(default=3e-3, gt=0, description="Peak learning rate.")


class TrainHead(JobSettings):
    """Settings of `madx train-head`."""

    TEXTS = ("corpus",)

    corpus: Corpora = Field(
        description="Language -> raw text of a language that the base knows: .txt or .jsonl files, either with .gz "
        "after it, a folder of them, or datasets:NAME[:CONFIG][:SPLIT]. In Python also texts in memory."
    )
    text_key: str = Field(default="text", description="Key of the text in JSON lines and data sets.")
    limit: int | None = Field(default=None, ge=1, description="Lines or documents read of each language at most.")
    cache: str | None = Field(
        default=None, description="Folder of tokenised corpora; null: $MADX_CACHE, else ~/.cache/madx."
    )
    temperature: float = Field(
        default=3.0, ge=1, description="Several languages: batches in proportion to size^(1/temperature)."
    )
    block_size: int = Field(default=256, ge=8, description="Tokens in a block of packed text.")
    batch_size: int = Field(default=64, ge=1, description="Blocks in a step, of one language, over all processes.")
    micro_batch: int | None = Field(default=None, ge=1, description="Blocks computed at once; null: all of them.")
    steps: int = Field(default=5000, ge=1, description="Optimiser steps.")
    mask_probability: float = Field(default=0.15, gt=0, lt=1, description="Share of tokens to predict.")
    held_out_blocks: int = Field(
        default=200, ge=1, description="Held-out blocks of each language that perplexity is measured on, at most."
    )
    seed: Seed = Field(default=1, description="Seed of initial weights, data order and masks.")
    train: HeadTrainSettings = Field(default=HeadTrainSettings(), description="The training loop.")
    run: str | None = Field(default=None, description="Folder of the run; null: runs/train-head-FINGERPRINT.")
    resume: bool = Field(default=True, description="Go on from the run's checkpoint if there is one.")
    overwrite: bool = Field(default=False, description="Replace the head of this base in the store.")

    @field_validator("train", mode="before")
    @classmethod
    def _with_own_defaults(cls, value: Any) -> Any:
        """Read settings of the loop in general: what is not set in them has a head's default."""
        return HeadTrainSettings(**value.model_dump(exclude_unset=True)) if type(value) is TrainSettings else value


@dataclass
class HeadResult:
    """A stored masked-LM head and its scores.

    name: its name in the store; folder: where it lies; before, after: held-out scores of the head as it began and as it
    is stored, means over the languages, with `perplexity LANG` of each where there are several; training: the run of
    the loop; warnings: what a user should know about the corpora.
    """

    name: str
    folder: Path
    before: dict[str, float]
    after: dict[str, float]
    training: TrainResult
    warnings: list[str]


@takes_keywords(TrainHead)
def train_head(settings: TrainHead) -> HeadResult:
    """Train a masked-LM head on a frozen base and store it beside the modules, for all language modules on this base.

    The settings come as `TrainHead` or as keywords of the same names; the corpora may be texts in memory:

    >>> madx.train_head(base="intfloat/multilingual-e5-base", corpus={"eng": "eng.txt"})               # doctest: +SKIP

    `train_language` then uses the head by itself on a base without one of its own. Raises MadxError for anything wrong
    with settings, corpora, base or store, before training starts where it can be known.
    """
    if not settings.corpus:
        raise ConfigError("train-head needs text: corpus LANG=TEXT.txt of one language or more that the base knows.")
    store = Store(settings.store)
    for language, source in settings.corpus.items():
        check_language(language)
        find_files(source)  # a missing corpus is reported before a large base is loaded
    base, train = open_training_base(settings, settings.train)
    name = head_name(base)
    check_head_target(store.root / name, overwrite=settings.overwrite)
    check_folders(store.root, run_folder(settings.run, f"train-{name}"))
    if base.has_mlm_head:
        log.warning(
            "%s has a masked-LM head of its own: language modules use the new one with mlm_head: trained alone.",
            base.label,
        )
    texts = {language: _text(settings, language) for language in settings.corpus}
    blocks = {language: packed(text, base) for language, text in texts.items()}
    tasks = {language: masked_lm(text, base, blocks[language]) for language, text in texts.items()}
    task, frequencies = _mixed(settings, base, tasks)
    base.mlm_head.begin(seed=settings.seed, bias=torch.from_numpy(np.log(frequencies)))
    engine = Engine(base)
    try:
        before = task.evaluate(engine)
        result = _fitted(settings, engine, task, train=train, blocks=blocks, name=name)
        after = task.evaluate(engine)
    finally:
        engine.close()
    training = _record(settings, blocks, result, before=before, after=after) | {"precision": train.precision}
    with kept_in_checkpoints():
        if is_main():
            store.save_head(base, languages=list(blocks), training=training, overwrite=settings.overwrite)
    warnings = [f"{language}: {text}" for language, each in blocks.items() for text in each.warnings()]
    return HeadResult(name, store.root / name, before, after, result, warnings)


def _text(settings: TrainHead, language: str) -> TrainLanguage:
    """The settings of a language module on one of the texts, which say how it is packed and masked."""
    shared = {key: getattr(settings, key) for key in TrainLanguage.model_fields.keys() & TrainHead.model_fields.keys()}
    return TrainLanguage(**shared | {"language": language, "corpus": settings.corpus[language]})


def _mixed(settings: TrainHead, base: Base, tasks: dict[str, MaskedLM]) -> tuple[Task, np.ndarray]:
    """The task over all languages, and p(piece) in its batches, float64 `(vocabulary,)`."""
    vocabulary = int(base.config.vocab_size)
    if len(tasks) == 1:
        (task,) = tasks.values()
        return task, task.frequencies(vocabulary)
    sizes = {language: -(-len(task.blocks) // settings.batch_size) for language, task in tasks.items()}
    mixed = Sources(
        [Source(language, task, (Stack(),), sizes[language]) for language, task in tasks.items()],
        temperature=settings.temperature,
        seed=settings.seed,
    )
    return mixed, sum(share * task.frequencies(vocabulary) for share, task in zip(mixed.shares, tasks.values()))


def _fitted(
    settings: TrainHead, engine: Engine, task: Task, *, train: TrainSettings, blocks: dict[str, Blocks], name: str
) -> TrainResult:
    count = sum(p.numel() for p in engine.base.mlm_head.parameters().values())
    for language, each in blocks.items():
        log.info("%s: %s", language, describe(each))
    log.info("training a masked-LM head of %s parameters for %s steps", f"{count:,}", f"{settings.steps:,}")
    keep = ("block_size", "batch_size", "mask_probability", "held_out_blocks", "temperature")
    identity = {key: getattr(settings, key) for key in keep} | {
        "base": engine.base.fingerprint,
        "blocks": {language: each.folder.name for language, each in blocks.items()},
    }
    return fit(
        engine,
        None,
        task,
        train,
        steps=settings.steps,
        seed=settings.seed,
        folder=run_folder(settings.run, f"train-{name}"),
        resume=settings.resume,
        run=identity,
        title=name,
    )


def _record(
    settings: TrainHead,
    blocks: dict[str, Blocks],
    result: TrainResult,
    *,
    before: dict[str, float],
    after: dict[str, float],
) -> dict[str, Any]:
    """The record of the training in the stored head."""
    return {
        "job": "train-head",
        "settings": settings.model_dump(exclude={"store", "run", "cache", "device", "resume", "overwrite"}),
        "data": [file._asdict() for source in settings.corpus.values() for file in corpus_files(source)],
        "corpora": {language: asdict(each.stats) for language, each in blocks.items()},
        "steps": settings.steps,
        "seed": settings.seed,
        "seconds": round(result.seconds, 1),
        "best_step": result.best_step,
        "versions": versions(),
        "scores": {"held_out_before": before, "held_out_after": after},
        "history": result.history,
    }
