"""Measurements of what a module costs: memory in training, floating-point operations, seconds a step, inference time.

All are taken on the user's base and data, on the first batches of a training run in its real order. Times are taken in
rounds in which every candidate has its turn, so that a busy machine slows all of them alike.
"""

import ctypes
import gc
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from madx.base import Base
from madx.composition import Stack
from madx.data.labelled.batches import batches, collate
from madx.engine import Engine
from madx.errors import MadxError
from madx.jobs.common import open_base, open_training_base, precision_over
from madx.jobs.train_task import TrainTask
from madx.jobs.train_task.data import read_data, task_over
from madx.jobs.train_task.job import components_that_act
from madx.module import new_module
from madx.store import Store
from madx.tasks.base import Batch, Task
from madx.tasks.token_classification import TokenClassification, word_logits
from madx.training import TrainResult, fit
from madx.training.precision import to_bf16

NAME = "candidate"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Unscored(Task):
    """A task whose evaluations cost nothing, so that only the training steps are measured."""

    def __init__(self, task: Task):
        self.task, self.repeats = task, task.repeats
        self.metric, self.higher_is_better = task.metric, task.higher_is_better

    def batches(self, step: int, *, process_index: int = 0, process_count: int = 1) -> list[Batch]:
        return self.task.batches(step, process_index=process_index, process_count=process_count)

    def count(self, batch: Batch) -> int:
        return self.task.count(batch)

    def scores(self, engine: Engine, batch: Batch) -> torch.Tensor:
        return self.task.scores(engine, batch)

    def loss(self, engine: Engine, batch: Batch) -> torch.Tensor:
        return self.task.loss(engine, batch)

    def evaluate(self, engine: Engine) -> dict[str, float]:
        return {self.metric: 0.0}


def task_of(job: TrainTask, base: Base) -> TokenClassification:
    """Read the data of a training job of one source language; gives its task."""
    data, labels = read_data(job)
    return task_over(job, base, labels, data[str(job.language)], seed=job.seeds[0])


def as_trained(job: TrainTask, bases: dict[str, Base]) -> tuple[TrainTask, Base]:
    """The job and the base in the number format that it trains in. bases: those at hand by format, `fp32` among them;
    a base in `bf16` is added when it is needed."""
    precision, halved = precision_over(job.train.precision, bases["fp32"], *components_that_act(job))
    if halved and "bf16" not in bases:
        bases["bf16"] = open_base(job)
        to_bf16(bases["bf16"])
    train = job.train.model_copy(update={"precision": precision})
    return job.model_copy(update={"train": train}), bases["bf16" if halved else "fp32"]


@contextmanager
def candidate(job: TrainTask, base: Base, task: TokenClassification) -> Iterator[Engine]:
    """An engine in which a fresh task module of the job is active, over its language module if it has one."""
    language = str(job.language)
    engine = Engine(base)
    try:
        under = [name for name in [job.module_of(language)] if name is not None]
        for name in under:
            engine.attach(Store(job.store).load(name, base))
        torch.manual_seed(job.seeds[0])
        engine.attach(
            new_module(
                NAME,
                base,
                role="task",
                language=language,
                components=job.components,
                task=job.task,
                labels=task.labels.tags,
                pooling=job.pooling,
            )
        )
        engine.activate(Stack(*under, NAME))
        yield engine
    finally:
        engine.close()


def some_steps(job: TrainTask, engine: Engine, task: TokenClassification, steps: int) -> TrainResult:
    """Train for a few optimiser steps (of every phase) without evaluation, checkpoint or progress bar."""
    train = job.train.model_copy(update={"progress": False, "evaluate_every": steps, "tensorboard": False})
    return fit(engine, NAME, Unscored(task), train, steps=steps, seed=job.seeds[0])


# ---- compute ---------------------------------------------------------------------------------------------------------


def training_flops(job: TrainTask, base: Base, task: TokenClassification, *, measured: int, steps: int) -> float:
    """Floating-point operations of a whole training of `steps` steps: matrix products, attention and convolutions,
    forward and backward, as torch counts them.

    They are counted over n and 2n steps: C(steps) = C(n) + (C(2n) - C(n)) (steps - n) / n, so that work done once (the
    samples of a selection) counts once.
    """
    found = []
    for n in (measured, 2 * measured):
        with candidate(job, base, task) as engine, FlopCounterMode(display=False) as counter:
            some_steps(job, engine, task, n)
        found.append(counter.get_total_flops())
    once, twice = found
    return once + (twice - once) * (steps - measured) / measured


def seconds_per_step(job: TrainTask, base: Base, task: TokenClassification, *, measured: int) -> float:
    """Seconds of a training for each of its `steps`, those of all phases together; selections are not timed."""
    with candidate(job, base, task) as engine:
        return some_steps(job, engine, task, measured).seconds / measured


# ---- inference -------------------------------------------------------------------------------------------------------


def inference_seconds(engine: Engine, given: list[Batch]) -> float:
    """Seconds in which the active composition labels the batches, or in which the bare base reads the same words."""
    has_head = bool(engine.composition.names())
    synchronise(engine.base.device)
    began = time.perf_counter()
    with torch.no_grad():
        for batch in given:
            if has_head:
                word_logits(engine, batch)
            else:
                rows, words = (batch["first"] >= 0).nonzero(as_tuple=True)
                engine(batch["input_ids"], batch["attention_mask"], at=(rows, batch["first"][rows, words]))
    synchronise(engine.base.device)
    return time.perf_counter() - began


def inference_batches(task: TokenClassification, base: Base, *, count: int, tokens: int) -> list[Batch]:
    """The first `count` batches of the development data, of `tokens` tokens each, padding included."""
    rows = task.dev_rows
    chosen = batches(rows, tokens_per_batch=tokens, shuffle=False)[:count]
    made = [collate([rows[i] for i in batch], base.tokenizer.pad_token_id) for batch in chosen]
    return [{key: value.to(base.device) for key, value in batch.items()} for batch in made]


def synchronise(device: torch.device) -> None:
    """Wait until the device has computed all that Python asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- memory ----------------------------------------------------------------------------------------------------------


def training_memory(job: TrainTask, *, steps: int) -> int:
    """Peak memory of a few training steps above the loaded base, in bytes, measured in a fresh process.

    On a GPU it is torch's own count; else resident memory: the module's weights, gradients, moments, activations, and
    for a weights type the copies of the trainable parameters. Raises MadxError when the process fails, with its last
    words.
    """
    paths = [p for p in sys.path if p]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *paths]), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", "from madx.jobs.compare.measure import main; main()"],
        env=environment,
        text=True,
        capture_output=True,
        input=json.dumps({"job": job.model_dump(mode="json"), "steps": steps, "threads": torch.get_num_threads()}),
    )
    if done.returncode:
        words = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise MadxError(f"The process that measures the memory of training failed: {words}")
    try:
        return int(json.loads(done.stdout.splitlines()[-1])["bytes"])
    except (IndexError, KeyError, TypeError, ValueError) as error:  # a library that prints after it, a closed pipe
        raise MadxError(
            f"The process that measures the memory of training gave no number; its output ends with "
            f"{done.stdout[-80:]!r}."
        ) from error


def main() -> None:
    """Run as the process that measures: settings on stdin, bytes on stdout."""
    given = json.loads(sys.stdin.read())
    torch.set_num_threads(given["threads"])
    job = TrainTask.model_validate_json(json.dumps(given["job"]))
    print(json.dumps({"bytes": memory_here(job, steps=given["steps"])}))


def memory_here(job: TrainTask, *, steps: int) -> int:
    """Peak memory of a few training steps above the loaded base, in bytes, of this process from now on."""
    base, train = open_training_base(job, job.train, *components_that_act(job))
    job = job.model_copy(update={"train": train})
    task = task_of(job, base)
    before = _begin(base.device)
    with candidate(job, base, task) as engine:
        some_steps(job, engine, task, steps)
    return max(0, _peak(base.device) - before)


def _begin(device: torch.device) -> int:
    """Reset the peak and return freed memory to the system; gives the bytes that are in use now."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with suppress(OSError):  # not Linux: the peak may then be that of loading the base
        CLEAR.write_text("5")
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(key: str) -> int:
    """A figure of /proc/self/status in bytes; where there is none, the largest resident size so far."""
    try:
        found = re.search(rf"{key}:\s+(\d+) kB", STATUS.read_text())
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
