"""Tiny training runs, in this process, in one that a test kills, or in several (also as a script, by torchrun)."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

if __name__ == "__main__":  # as a script, without pytest's paths
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (0, 1)]

import numpy as np
import tiny
import torch
from safetensors.torch import save_file

from madx.data.labelled.conll import Sentence
from madx.data.labelled.labels import LabelSet
from madx.data.text.blocks import BlockArray, Blocks
from madx.data.text.packing import CorpusStats
from madx.engine import Engine
from madx.errors import TrainingError
from madx.module import new_module
from madx.tasks.masked_lm import MaskedLM
from madx.tasks.ner import NER
from madx.training import TrainSettings, fit

PEOPLE, PLACES = ("Anna", "Juma", "Maria", "Omar"), ("city", "river", "market")
PLAIN = ("the", "a", "of", "in", "works", "lives", "teacher", "and")


def blocks(count: int = 24, held_out: int = 6, size: int = 16, *, seed: int = 0) -> Blocks:
    """Blocks in which a few tokens are frequent, so that there is something to learn."""
    chance = np.random.default_rng(seed)
    frequent = np.r_[np.full(60, 11), np.full(25, 17), np.arange(5, 30)]
    ids = chance.choice(frequent, (count + held_out, size)).astype(np.uint16)
    ids[:, 0], ids[:, -1] = 0, 2
    stats = CorpusStats(tokens=ids.size, words=ids.size, lines=count, unknown=0)
    return Blocks(train=BlockArray(ids[:count]), held_out=BlockArray(ids[count:]), stats=stats, folder=Path("none"))


def sentences(count: int = 21, *, seed: int = 0) -> list[Sentence]:
    """Sentences of 2 to 7 words; the first word of a name is its tag's, by the word alone."""
    chance = np.random.default_rng(seed)
    found = []
    for line in range(count):
        words, tags = [], []
        for _ in range(chance.integers(2, 8)):
            kind = chance.integers(3)
            words.append(str(chance.choice((PEOPLE, PLACES, PLAIN)[kind])))
            tags.append(("B-PER", "B-LOC", "O")[kind])
        found.append(Sentence(tuple(words), tuple(tags), line + 1))
    return found


def masked_lm(batch_size: int = 8, **options) -> MaskedLM:
    return MaskedLM(blocks(), tiny.tokenizer(), batch_size=batch_size, **options)


def ner(batch_size: int = 8, **options) -> NER:
    data = sentences()
    return NER(
        tiny.tokenizer(),
        LabelSet.from_sentences(data),
        train=data,
        dev=sentences(9, seed=1),
        max_length=20,
        batch_size=batch_size,
        **options,
    )


def engine(kind: str, *, family: str = "xlm-roberta", dropout: float = 0.0, seed: int = 0, base=None) -> Engine:
    """An engine whose active composition ends with the module to train, `kind`."""
    made = Engine(base or tiny.base(family))
    torch.manual_seed(seed)
    parts = {"bottleneck": {"reduction_factor": 2.0, "dropout": dropout}}
    if kind == "mlm":
        made.attach(new_module("mlm", made.base, components=parts | {"invertible": {}}))
        made.activate("mlm")
    elif kind == "sft":
        labels = LabelSet.from_sentences(sentences()).tags
        made.attach(
            new_module("sft", made.base, role="task", components={"sparse_diff": {"entries": 200}}, labels=labels)
        )
        made.activate("sft")
    else:
        made.attach(tiny.wake(new_module("eng", made.base, components="madx"), std=0.05))
        labels = LabelSet.from_sentences(sentences()).tags
        made.attach(new_module("ner", made.base, role="task", components=parts, labels=labels))
        made.activate("eng + ner")
    return made


def train(
    kind: str,
    *,
    task: dict | None = None,
    steps: int = 10,
    folder=None,
    dropout=0.0,
    seed=0,
    made=None,
    stop_at=None,
    **settings,
):
    """(engine, result) of a run; `stop_at`: the step in which this process is sent SIGTERM."""
    made = made or engine(kind, dropout=dropout, seed=seed)
    chosen = {"mlm": masked_lm, "ner": ner, "sft": ner}[kind](seed=seed, **(task or {}))
    if stop_at is not None:
        batches = chosen.batches

        def and_stop(step, **options):
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return batches(step, **options)

        chosen.batches = and_stop
    defaults = {"learning_rate": 1e-2, "progress": False, "evaluate_every": max(1, steps // 3)}
    result = fit(made, kind, chosen, TrainSettings(**(defaults | settings)), steps=steps, seed=seed, folder=folder)
    return made, result


def alone(kind: str, out: str, options: dict, limit: int | None = None) -> None:
    """A run in a process of its own; its weights, or the words it stopped with, go to `out`."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup, which ignores it
    if limit is not None:  # bytes that a file may have: what a full disk does, without filling one
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        made = engine(kind, dropout=options.pop("dropout", 0.0))
        if kind == "mlm":  # the first step is under way, so the loop has its handlers of signals in place
            unit = made.module(kind).units["embeddings"]["invertible"]
            unit.register_forward_pre_hook(lambda *_: Path(out).with_suffix(".listens").touch())
        made, result = train(kind, made=made, **options)
    except (Exception, KeyboardInterrupt) as error:
        Path(out).with_suffix(".txt").write_text(f"{type(error).__name__}: {error}")
        sys.exit(3)
    save_file(made.module(kind).tensors(), out)
    Path(out).with_suffix(".json").write_text(json.dumps(vars(result)))


def together(rank: int, count: int, port: int, out: str, jobs: list) -> None:
    """Several runs as process `rank` of `count`, with the environment that torchrun and accelerate launch set."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    shared(out, jobs)


def shared(out: str, jobs: list) -> None:
    """The runs of one process; each process writes the weights that it ended with."""
    from accelerate import PartialState

    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    try:
        for number, (kind, options) in enumerate(jobs):
            if options.pop("own_seed", False):  # a caller that forgot to seed
                options["made"] = engine(kind, seed=100 + state.process_index)
            if (last := options.pop("stop_at", None)) is not None and state.process_index == 0:
                options["stop_at"] = last
            if options.pop("own_folder", False):  # machines without a common disk
                options["folder"] += f"-{state.process_index}"
            words = Path(f"{out}-{number}-{state.process_index}.txt")
            try:
                made, _ = train(kind, **options)
            except KeyboardInterrupt as error:
                words.write_text(str(error))
                return
            except TrainingError as error:
                words.write_text(str(error))
                sys.exit(1)
            save_file(made.module(kind).tensors(), f"{out}-{number}-{state.process_index}.safetensors")
        Path(f"{out}-{state.process_index}.json").write_text(
            json.dumps([state.num_processes, state.backend, state.device.type])
        )
    finally:
        with suppress(Exception):
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    shared(sys.argv[1], json.loads(sys.argv[2]))
