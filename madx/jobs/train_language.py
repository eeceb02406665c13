"""Job 1: train a language module on raw text of one language, by masked language modelling over the frozen base."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from madx.base import Base
from madx.composition import Composition, Fuse, Stack, check_name
from madx.contract.module_type import MapType
from madx.data.text.blocks import Blocks, pack_corpus
from madx.data.text.corpora import corpus_files, find_files
from madx.engine import Engine
from madx.errors import ConfigError
from madx.jobs.common import (
    check_folders,
    info_of,
    is_main,
    kept_in_checkpoints,
    open_training_base,
    run_folder,
    versions,
    weights_of,
)
from madx.jobs.fusions import check_fused, fingerprints, new_fusion, require_fusion
from madx.jobs.heads import MLM_HEAD, HeadChoice, choose_head, doubts, head_record
from madx.jobs.keywords import takes_keywords
from madx.jobs.settings import COMPONENTS, FUSE, Corpus, JobSettings, Seed, with_preset
from madx.module import Module, new_module
from madx.module.components import components_of
from madx.module_types import MODULE_TYPES
from madx.store import Store, check_language, check_target
from madx.tasks.masked_lm import MaskedLM
from madx.training import TrainResult, TrainSettings, fit

log = logging.getLogger("madx")

#: (tokens of the corpus up to, optimiser steps): the MAD-X recipe gave 50k steps to the smallest Wikipedias, 100k to
#: middling ones, 250k to the large ones, at batch 64; the bounds between them are ours
RECIPE = ((10_000_000, 50_000), (100_000_000, 100_000), (float("inf"), 250_000))


class TrainLanguage(JobSettings):
    """Settings of `madx train-language`. The defaults are the MAD-X recipe (Pfeiffer et al. 2020)."""

    RENAMED = {"parts": "components"}
    SHORT = {"components": "preset"}
    TEXTS = ("corpus",)

    language: str = Field(description="Language of the corpus: ISO 639-3 or BCP-47, e.g. swa.")
    corpus: Corpus = Field(
        description="Raw text: .txt or .jsonl files, also packed (.gz, .bz2, .xz), a folder of them, or "
        "datasets:NAME[:CONFIG][:SPLIT]. In Python also texts: a list, an iterator, a datasets.Dataset."
    )
    name: str | None = Field(default=None, description="Name of the module; null: the language.")
    fuse: list[str] = Field(default=[], description=FUSE.format("swa, hau"))
    components: str | dict[str, Any] = Field(
        default="madx", description=f"{COMPONENTS} With fuse: fusion, if it is not given."
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
    mlm_head: HeadChoice = Field(default="auto", description=MLM_HEAD)
    seed: Seed = Field(default=1, description="Seed of initial weights, data order and masks.")
    train: TrainSettings = Field(default=TrainSettings(), description="The training loop.")
    run: str | None = Field(default=None, description="Folder of the run; null: runs/train-language-NAME.")
    resume: bool = Field(default=True, description="Go on from the run's checkpoint if there is one.")
    overwrite: bool = Field(default=False, description="Replace a module of this name in the store.")
    licence: str | None = Field(default=None, description="SPDX licence of the module, for its card.")

    @model_validator(mode="before")
    @classmethod
    def _a_fusion_where_modules_are_fused(cls, values: Any) -> Any:
        return with_preset(values, "madx")


@dataclass
class LanguageResult:
    """A stored language module and its scores.

    before, after: scores on held-out text of the bare base and of the base with the module; training: the run of the
    loop;
    warnings: what a user should know about the corpus and about the base's masked-LM head.
    """

    module: Module
    folder: Path
    before: dict[str, float]
    after: dict[str, float]
    training: TrainResult
    warnings: list[str]


def recipe_steps(tokens: int) -> int:
    """Optimiser steps of the MAD-X recipe for a corpus of so many tokens."""
    return next(steps for bound, steps in RECIPE if tokens <= bound)


@takes_keywords(TrainLanguage)
def train_language(settings: TrainLanguage) -> LanguageResult:
    """Train a language module and store it.

    The settings come as `TrainLanguage` or as keywords of the same names; `corpus` may be texts in memory:

    >>> madx.train_language(base="xlm-roberta-base", language="swa", corpus="swa.txt", steps=500)     # doctest: +SKIP
    >>> madx.train_language(base="xlm-roberta-base", language="swa", corpus=texts)                    # doctest: +SKIP

    Raises MadxError for anything wrong with settings, corpus, base or store, before training starts where it can be
    known.
    """
    name = check_name(settings.name or settings.language)
    check_language(settings.language)
    components = components_of(settings.components)
    store = Store(settings.store)
    check_target(store.root / name, overwrite=settings.overwrite)
    check_folders(store.root, run_folder(settings.run, f"train-language-{name}"))
    find_files(settings.corpus)  # a missing corpus is reported before a large base is loaded
    _check_fused(settings, store, name)
    frozen = [info_of(store, each).components for each in settings.fuse]
    base, train = open_training_base(settings, settings.train, components, *frozen)
    choose_head(base, store, settings.mlm_head)
    blocks = packed(settings, base)
    engine = Engine(base)
    try:
        for each in settings.fuse:
            engine.attach(store.load(each, base))
        torch.manual_seed(settings.seed)
        module = engine.attach(_new_module(settings, engine, name))
        task = masked_lm(settings, base, blocks)
        before = task.evaluate(engine)
        warnings = [*blocks.warnings(), *doubts(base, task, before)]
        engine.activate(_composition(settings, name))
        result, steps = _fitted(settings, engine, module, task, train=train, blocks=blocks)
        after = task.evaluate(engine)
    finally:
        engine.close()
    module.info.training = _record(settings, blocks, result, steps=steps, before=before, after=after)
    module.info.training["precision"] = train.precision
    module.info.training |= head_record(base) | _joined(settings, store)
    with kept_in_checkpoints():
        saved = store.save(module, overwrite=settings.overwrite) if is_main() else store.root / name
    return LanguageResult(module, saved, before, after, result, warnings)


def _check_fused(settings: TrainLanguage, store: Store, name: str) -> None:
    """Check the language modules to fuse. Raises ConfigError for those that no masked word can be predicted with."""
    if not settings.fuse:
        return
    require_fusion(settings.components)
    check_fused(store, settings.fuse, name, roles=("language",))
    maps = [
        each
        for each in settings.fuse
        if any(issubclass(MODULE_TYPES.get(component), MapType) for component in info_of(store, each).components)
    ]
    if maps:
        raise ConfigError(
            f"{', '.join(maps)} cannot be fused on raw text: the invertible components of several modules would be "
            "averaged, and a mean has no inverse to predict masked words with. Fuse them on labelled data (madx "
            "train-task with fuse), or fuse modules without an invertible component (components: pfeiffer)."
        )


def _new_module(settings: TrainLanguage, engine: Engine, name: str) -> Module:
    given: dict[str, Any] = {
        "language": settings.language,
        "components": settings.components,
        "licence": settings.licence,
    }
    if settings.fuse:
        return new_fusion(engine, name, settings.fuse, **given)
    return new_module(name, engine.base, **given)


def _composition(settings: TrainLanguage, name: str) -> Composition:
    return Stack(Fuse(*settings.fuse, fusion=name) if settings.fuse else name)


def _joined(settings: TrainLanguage, store: Store) -> dict[str, Any]:
    """The part of the record on fused modules; empty where none are."""
    if not settings.fuse:
        return {}
    weights = {each: weights_of(store, each) for each in settings.fuse}
    return {"joins": list(settings.fuse), "language_modules": weights}


def describe(blocks: Blocks) -> str:
    """Describe a packed corpus in one line."""
    stats = blocks.stats
    return (
        f"{stats.lines:,} lines, {stats.tokens:,} tokens ({stats.pieces_per_word:.2f} a word, {stats.unknown_rate:.2%} "
        f"unknown) in {len(blocks):,} blocks of {blocks.block_size}, {len(blocks.held_out):,} held out"
    )


def packed(settings: TrainLanguage, base: Base) -> Blocks:
    """Tokenise and pack the corpus, or take it from the cache; its warnings are logged."""
    if settings.block_size > base.max_tokens:
        log.warning(
            "block_size %s is cut to %s, the most tokens that %s reads at once; set block_size=%s to say so.",
            *(settings.block_size, base.max_tokens, base.label, base.max_tokens),
        )
    blocks = pack_corpus(
        settings.corpus,
        base.tokenizer,
        block_size=min(settings.block_size, base.max_tokens),
        text_key=settings.text_key,
        limit=settings.limit,
        cache=settings.cache,
    )
    for text in blocks.warnings():
        log.warning("corpus of %s: %s", settings.language, text)
    return blocks


def masked_lm(settings: TrainLanguage, base: Base, blocks: Blocks) -> MaskedLM:
    """Make the task over the blocks of a corpus."""
    return MaskedLM(
        blocks,
        base.tokenizer,
        batch_size=settings.batch_size,
        micro_batch=settings.micro_batch,
        seed=settings.seed,
        probability=settings.mask_probability,
        held_out_limit=settings.held_out_blocks,
    )


def _fitted(
    settings: TrainLanguage, engine: Engine, module: Module, task: MaskedLM, *, train: TrainSettings, blocks: Blocks
) -> tuple[TrainResult, int]:
    """Train the module, which is active; gives the run and its number of steps."""
    steps = recipe_steps(blocks.stats.tokens) if settings.steps == "auto" else settings.steps
    parameters = f"{module.parameter_count():,}"
    log.info("%s: %s; training %s parameters for %s steps", module.name, describe(blocks), parameters, f"{steps:,}")
    result = fit(
        engine,
        module.name,
        task,
        train,
        steps=steps,
        seed=settings.seed,
        folder=run_folder(settings.run, f"train-language-{module.name}"),
        resume=settings.resume,
        run=_identity(settings, engine.base, blocks)
        | ({"fused": fingerprints(engine, settings.fuse)} if settings.fuse else {}),
        title=module.name,
    )
    return result, steps


def _record(
    settings: TrainLanguage,
    blocks: Blocks,
    result: TrainResult,
    *,
    steps: int,
    before: dict[str, float],
    after: dict[str, float],
) -> dict[str, Any]:
    """The record of the training in the stored module."""
    return {
        "job": "train-language",
        "settings": settings.model_dump(exclude={"store", "run", "cache", "device", "resume", "overwrite"}),
        "data": [f._asdict() for f in corpus_files(settings.corpus)],
        "corpus": asdict(blocks.stats),
        "steps": steps,
        "seed": settings.seed,
        "seconds": round(result.seconds, 1),
        "best_step": result.best_step,
        "versions": versions(),
        "scores": {"held_out_before": before, "held_out_after": after},
        "history": result.history,
    }


def _identity(settings: TrainLanguage, base: Base, blocks: Blocks) -> dict[str, Any]:
    """The settings by which a checkpoint is known to be of this run, beside the loop's own."""
    keep = ("language", "components", "block_size", "batch_size", "mask_probability", "held_out_blocks")
    chosen = {key: getattr(settings, key) for key in keep}
    return chosen | {"base": base.fingerprint, "blocks": blocks.folder.name} | head_record(base)
