"""Commands of madx inside a forked child, as `python -m madx` would run them, and the folder that they run in."""

import importlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tiny_files import fill, write_conll

from campaign.forks import Ended, fork

SMALL = ("train.learning_rate=0.01", "train.progress=false", "train.evaluate_every=3", "train.checkpoint_every=2")
LANGUAGE = ("block_size=16", "batch_size=4", "held_out_blocks=4", "cache=cache", *SMALL)
SPARSE = "components={sparse_diff: {entries: 200}}"
TASK = ("--language", "eng", "--data", "train.conll", "--dev", "dev.conll", "--base", "base")


def sets(*settings: str) -> list[str]:
    """Settings as flags.

    >>> sets("seed=1", "steps=2")
    ['--set', 'seed=1', '--set', 'steps=2']
    """
    return [word for setting in settings for word in ("--set", setting)]


def language(name: str, *settings: str, steps: int = 6, corpus: str = "swa.txt") -> list[str]:
    """The command that trains a language module."""
    words = ["train-language", "--base", "base", "--language", name, "--corpus", corpus, "--steps", str(steps)]
    return [*words, *sets(*LANGUAGE, *settings)]


def task(name: str, *settings: str, seeds: str = "1") -> list[str]:
    """The command that trains a task module over eng."""
    return ["train-task", *TASK, "--name", name, "--seeds", seeds, *sets("epochs=2", "batch_size=8", *SMALL, *settings)]


def run(words: Sequence[str], *, before: Callable[[], object] = lambda: None) -> int:
    """Run a command in this process, which is a child; give its exit code. Other exceptions pass through."""
    import madx.cli
    from madx.jobs.compare import measure

    measure.training_memory = measure.memory_here  # a process of its own would import torch again
    sys.argv = ["madx", *words]
    os.environ.pop("COLUMNS", None)
    before()
    try:
        madx.cli.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return 0


def done(words: Sequence[str], folder: Path) -> Ended:
    """Run a command in a child. Raises RuntimeError unless it completes: the campaign itself could not go on."""
    end = fork(partial(run, words), folder=folder, timeout=300)
    if end.value != 0:
        raise RuntimeError(f"madx {' '.join(words)} ended with {end.value} {end.error} {end.signal}:\n{end.output}")
    return end


def warm_up(folder: Path) -> None:
    """Import all that the jobs import, by letting a child do them once, so that no child imports it anew.

    The folder then holds `ready`: a base, data, a store with the modules eng, swa, ner and sparse ones, an evaluation,
    and files of other libraries.
    """
    ready = folder / "ready"
    ready.mkdir(parents=True)

    def make() -> list[str]:
        fill(ready)
        shutil.rmtree(ready / "other")
        write_conll(ready / "swa-train.conll", sentences=10, seed=8)
        commands = (
            language("eng", corpus="eng.txt"),
            language("swa"),
            language("hau", SPARSE, corpus="eng.txt"),
            task("ner"),
            task("tag", SPARSE, "language_module=null"),
            ["evaluate", "--task-module", "ner", "--target", "swa=swa-test.conll", "--out", "results"],
            ["modules", "export", "swa", "--to", "adapterhub", "--out", "adapterhub"],
            ["modules", "export", "hau", "--to", "composable-sft", "--out", "sft"],
        )
        for words in commands:
            if run(words) != 0:
                raise RuntimeError(f"madx {' '.join(words)} failed")
        return list(sys.modules)

    end = fork(make, folder=ready, timeout=300)
    if end.value is None:
        raise RuntimeError(f"The folder of the campaign cannot be made: {end.error}\n{end.output}")
    for name in end.value:
        if name not in sys.modules and name.split(".")[0] not in ("__main__", "campaign"):
            try:
                importlib.import_module(name)
            except Exception:  # a module that a library keeps under a name of its own
                logging.getLogger("campaign").debug("%s is not imported", name)
    shutil.rmtree(ready / "runs", ignore_errors=True)
