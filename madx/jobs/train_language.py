"""Job 1: raw text of one language -> a language module, by masked language modelling over the frozen base."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from madx.composition import check_name
from madx.data.text.blocks import Blocks, pack_corpus
from madx.data.text.corpora import corpus_files, find_files
from madx.engine import Engine
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
from madx.tasks.masked_lm import MaskedLM
from madx.training import TrainResult, TrainSettings, fit

log = logging.getLogger("madx")

#: (tokens of the corpus up to, optimiser steps): the MAD-X recipe gave 50k steps to the smallest Wikipedias, 100k to
#: middling ones, 250k to the large ones, at batch 64; the bounds between them are ours
RECIPE = ((10_000_000, 50_000), (100_000_000, 100_000), (float("inf"), 250_000))


class TrainLanguage(JobSettings):
    """Settings of `madx train-language`. The defaults are the MAD-X recipe (Pfeiffer et al. 2020)."""

    language: str = Field(description="Language of the corpus: ISO 639-3 or BCP-47, e.g. swa.")
    corpus: str | list[str] = Field(
        description="Raw text: .txt or .jsonl files, either with .gz after it, a folder of them, or datasets:NAME[:CONFIG][:SPLIT]."
    )
    name: str | None = Field(default=None, description="Name of the module; null: the language.")
    RENAMED = {"parts": "components"}

    components: str | dict[str, dict[str, Any]] = Field(
        default="madx", description="A preset, or settings by module type."
    )
    text_key: str = Field(default="text", description="Key of the text in JSON lines and data sets.")
    limit: int | None = Field(default=None, ge=1, description="Lines or documents read at most.")
    cache: str | None = Field(
        default=None, description="Folder of tokenised corpora; null: $MADX_CACHE, else ~/.cache/madx."
    )
    block_size: int = Field(default=256, ge=8, description="Tokens in a block of packed text.")
    batch_size: int = Field(default=64, ge=1, description="Blocks in a step, over all processes.")
    micro_batch: int | None = Field(default=None, ge=1, description="Blocks computed at once; null: all of them.")
    steps: int | Literal["auto"] = Field(default="auto", description="Optimiser steps; auto: by corpus size.")
    mask_probability: float = Field(default=0.15, gt=0, lt=1, description="Share of tokens to predict.")
    held_out_blocks: int = Field(
        default=200, ge=1, description="Held-out blocks that perplexity is measured on, at most."
    )
    seed: int = Field(default=1, ge=0, description="Seed of initial weights, data order and masks.")
    train: TrainSettings = Field(default=TrainSettings(), description="The training loop.")
    run: str | None = Field(default=None, description="Folder of the run; null: runs/train-language-NAME.")
    resume: bool = Field(default=True, description="Go on from the run's checkpoint if there is one.")
    overwrite: bool = Field(default=False, description="Replace a module of this name in the store.")
    licence: str | None = Field(default=None, description="SPDX licence of the module, for its card.")


@dataclass
class LanguageResult:
    """The stored module and what training did: scores on held-out text of the bare base and of the module."""

    module: Module
    folder: Path
    before: dict[str, float]
    after: dict[str, float]
    training: TrainResult
    warnings: list[str]


def recipe_steps(tokens: int) -> int:
    """Optimiser steps of the recipe for a corpus of so many tokens."""
    return next(steps for bound, steps in RECIPE if tokens <= bound)


def train_language(settings: TrainLanguage) -> LanguageResult:
    """Train and store a language module. Raises MadxError for anything wrong with settings, corpus, base or store."""
    name = check_name(settings.name or settings.language)
    check_language(settings.language)
    components = check_components(settings.components)
    store, folder = Store(settings.store), run_folder(settings.run, f"train-language-{name}")
    check_target(store.root / name, overwrite=settings.overwrite)
    find_files(settings.corpus)  # a missing corpus is told before a large base is loaded
    base, train = open_training_base(settings, settings.train, components)
    base.require_mlm_head()
    blocks = pack_corpus(
        settings.corpus,
        base.tokenizer,
        block_size=min(settings.block_size, base.max_tokens),
        text_key=settings.text_key,
        limit=settings.limit,
        cache=settings.cache,
    )
    warnings = blocks.warnings()
    for text in warnings:
        log.warning("corpus of %s: %s", settings.language, text)
    torch.manual_seed(settings.seed)
    module = new_module(
        name, base, language=settings.language, components=settings.components, licence=settings.licence
    )
    engine = Engine(base)
    try:
        engine.attach(module)
        task = MaskedLM(
            blocks,
            base.tokenizer,
            batch_size=settings.batch_size,
            micro_batch=settings.micro_batch,
            seed=settings.seed,
            probability=settings.mask_probability,
            held_out_limit=settings.held_out_blocks,
        )
        before = task.evaluate(engine)
        engine.activate(name)
        steps = recipe_steps(blocks.stats.tokens) if settings.steps == "auto" else settings.steps
        log.info(
            "%s: %s; training %s parameters for %s steps",
            name,
            describe(blocks),
            f"{module.parameter_count():,}",
            f"{steps:,}",
        )
        result = fit(
            engine,
            name,
            task,
            train,
            steps=steps,
            seed=settings.seed,
            folder=folder,
            resume=settings.resume,
            run=_identity(settings, base, blocks),
            title=name,
        )
        after = task.evaluate(engine)
    finally:
        engine.close()
    module.info.training = {
        "job": "train-language",
        "settings": settings.model_dump(exclude={"store", "run", "cache", "device", "resume", "overwrite"}),
        "data": [f._asdict() for f in corpus_files(settings.corpus)],
        "corpus": asdict(blocks.stats),
        "steps": steps,
        "seed": settings.seed,
        "seconds": round(result.seconds, 1),
        "best_step": result.best_step,
        "precision": train.precision,
        "versions": versions(),
        "scores": {"held_out_before": before, "held_out_after": after},
        "history": result.history,
    }
    saved = store.save(module, overwrite=settings.overwrite) if is_main() else Path(settings.store) / name
    return LanguageResult(module, saved, before, after, result, warnings)


def describe(blocks: Blocks) -> str:
    """One line on a packed corpus."""
    stats = blocks.stats
    return (
        f"{stats.lines:,} lines, {stats.tokens:,} tokens ({stats.pieces_per_word:.2f} a word, {stats.unknown_rate:.2%} "
        f"unknown) in {len(blocks):,} blocks of {blocks.block_size}, {len(blocks.held_out):,} held out"
    )


def _identity(settings: TrainLanguage, base, blocks: Blocks) -> dict:
    """What makes two runs the same run, beside the loop's own settings."""
    keep = ("language", "components", "block_size", "batch_size", "mask_probability", "held_out_blocks")
    chosen = {key: getattr(settings, key) for key in keep}
    return chosen | {"base": base.fingerprint, "blocks": blocks.folder.name}
