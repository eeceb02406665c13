"""Quick start: the three jobs on the embedded miniature world, offline, in a few minutes on two cores.

The world is synthetic and the base tiny. The run shows how the pieces work together and that the effect is there, not
how good a real system is. Everything stored is used again by the next run with the same settings.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from madx.base import load_base
from madx.config import Settings
from madx.data import world
from madx.errors import ConfigError, did_you_mean
from madx.files.places import user_path
from madx.files.reasons import as_madx_errors
from madx.jobs.common import check_folders, weights_of
from madx.jobs.evaluate import Evaluate, evaluate
from madx.jobs.reuse import identity, train_if_missing
from madx.jobs.settings import Seed
from madx.jobs.train_language import TrainLanguage
from madx.jobs.train_task import TrainTask
from madx.results.matrix import TransferMatrix
from madx.store import Store
from madx.training import TrainSettings

log = logging.getLogger("madx")

SOURCE = "eng"
NOTE = "synthetic: sentences of the miniature world, a tiny base; no measure of a real system"
#: new words are learnt at the embeddings, by a wide invertible component (64 -> 512 -> 64); the bottlenecks stay narrow
#: (128 -> 32 -> 128): wide ones learn to predict words past the base, in ways that the task module has never seen
LANGUAGE: dict[str, dict[str, Any]] = {"bottleneck": {"reduction_factor": 4}, "invertible": {"reduction_factor": 0.125}}
#: module type -> (components of a language module, its steps, its learning rate, that of the task module)
KINDS: dict[str, tuple[dict[str, Any], int, float, float]] = {
    "bottleneck": ({"components": LANGUAGE}, 600, 2.5e-3, 3e-3),
    "sparse_diff": ({"components": "lt_sft"}, 300, 2e-3, 2e-3),
}


class Quickstart(Settings):
    """Settings of `madx quickstart`; the defaults took 2 min 31 s on two quiet cores."""

    out: str = Field(default="runs/quickstart", description="Folder of data, modules and results.")
    module_type: Literal["bottleneck", "sparse_diff"] = Field(
        default="bottleneck",
        description="bottleneck: MAD-X modules; sparse_diff: LT-SFT's sparse weight deltas, in OUT/sparse_diff.",
    )
    targets: list[str] = Field(
        default=["swa", "fin", "ind"], min_length=1, description="Target languages, unseen by the base."
    )
    seeds: list[Seed] = Field(default=[1, 2, 3], min_length=1, description="Seeds of the task module.")
    corpus_sentences: int = Field(default=12000, ge=200, description="Sentences of raw text for a language.")
    train_sentences: int = Field(default=2000, ge=50, description="Labelled English sentences.")
    test_sentences: int = Field(default=400, ge=50, description="Labelled sentences of each test set.")
    language_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimiser steps of a language module; null: 600, of a sparse delta 300 in each phase.",
    )
    epochs: int = Field(default=4, ge=1, description="Passes over the labelled sentences.")
    progress: bool = Field(default=True, description="Show progress bars.")


@dataclass
class QuickstartResult:
    """The transfer matrix, the folder of everything, and the modules that were used again."""

    matrix: TransferMatrix
    folder: Path
    reused: list[str]


@as_madx_errors()
def quickstart(settings: Quickstart) -> QuickstartResult:
    """Train language modules and a task module on the miniature world, swap the former, evaluate. Raises MadxError."""
    for language in settings.targets:
        if language not in world.languages() or language == SOURCE:
            raise ConfigError(
                f"No target language {language!r} in the miniature world; "
                f"{did_you_mean(language, [c for c in world.languages() if c != SOURCE])}"
            )
    check_folders(out_folder(settings))
    out, base = out_folder(settings), load_base(world.BASE)
    store = Store(out / "modules")
    reused: list[str] = []
    for language in (SOURCE, *settings.targets):
        job = language_job(settings, language)
        world.write_corpus(language, job.corpus, sentences=settings.corpus_sentences, seed=1)
        if not train_if_missing(store, job, language, identity(job, base, seed=job.seed)):
            reused.append(language)
    task = task_job(settings)
    world.write_ner(SOURCE, str(task.data), split="train", sentences=settings.train_sentences, seed=2)
    world.write_ner(SOURCE, str(task.dev), split="dev", sentences=settings.test_sentences, seed=3)
    for seed in settings.seeds:
        name = f"ner@{seed}"
        one = task.model_copy(update={"seeds": [seed], "name": name})
        if not train_if_missing(store, one, name, identity(one, base, seed=seed, under=weights_of(store, SOURCE))):
            reused.append(name)
    if reused:
        log.info("used again from %s: %s (remove the folder to train anew)", store.root, ", ".join(reused))
    evaluation = evaluate_job(settings)
    for language, path in evaluation.targets.items():
        world.write_ner(language, path, split="test", sentences=settings.test_sentences, seed=4)
    return QuickstartResult(evaluate(evaluation).matrix, out, reused)


def out_folder(settings: Quickstart) -> Path:
    """The folder of the quick start; a module type other than the default has a folder of its own."""
    out = user_path(settings.out)
    return out if settings.module_type == "bottleneck" else out / settings.module_type


def language_job(settings: Quickstart, language: str) -> TrainLanguage:
    """Settings of one language module of the quick start."""
    components, steps, rate, _ = KINDS[settings.module_type]
    out = out_folder(settings)
    return TrainLanguage(
        base=str(world.BASE),
        store=str(out / "modules"),
        language=language,
        corpus=str(out / "data" / f"{language}.txt"),
        run=str(out / "runs" / language),
        cache=str(out / "runs" / "cache"),
        block_size=64,
        batch_size=16,
        steps=settings.language_steps or steps,
        overwrite=True,
        licence="Apache-2.0",
        **components,
        train=TrainSettings(learning_rate=rate, precision="fp32", progress=settings.progress, checkpoint_every=1000),
    )


def task_job(settings: Quickstart) -> TrainTask:
    """Settings of the English NER module of the quick start."""
    _, _, _, rate = KINDS[settings.module_type]
    components: dict[str, Any] = {"components": "lt_sft_task"} if settings.module_type == "sparse_diff" else {}
    out = out_folder(settings)
    return TrainTask(
        base=str(world.BASE),
        store=str(out / "modules"),
        language=SOURCE,
        data=str(out / "data" / "ner-train.conll"),
        dev=str(out / "data" / "ner-dev.conll"),
        run=str(out / "runs" / "ner"),
        seeds=settings.seeds,
        epochs=settings.epochs,
        batch_size=32,
        overwrite=True,
        licence="Apache-2.0",
        **components,
        train=TrainSettings(learning_rate=rate, precision="fp32", progress=settings.progress, checkpoint_every=1000),
    )


def evaluate_job(settings: Quickstart) -> Evaluate:
    """Settings of the zero-shot evaluation of the quick start."""
    out = out_folder(settings)
    return Evaluate(
        base=str(world.BASE),
        store=str(out / "modules"),
        task_module="ner",
        seeds=settings.seeds,
        source=SOURCE,
        progress=settings.progress,
        targets={c: str(out / "data" / f"ner-test-{c}.conll") for c in (SOURCE, *settings.targets)},
        run=str(out / "results"),
        note=NOTE,
    )
