"""Shared by all measurements: bases of random weights, real sentence lengths, interleaved timing, machine limits."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
SHAPES = {
    "base": {"vocab_size": 250_002},  # XLM-R base: 12 layers, width 768
    "small": {
        "vocab_size": 16_000,
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
}
LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
CLOCK, PROCESSOR = 0, 1
#: One thread is timed by its processor time, which other work on the machine hardly changes; several threads are timed
#: by the clock, because waiting for one another takes processor time too. `arguments` sets it.
TIMED = PROCESSOR
LETTERS_OF_A_PIECE = 6  # no tokenizer is at hand offline: a word counts a piece for every 6 letters begun


def arguments(text: str, **more) -> Namespace:
    """Read the options that every measurement has, and those of `more` (name -> default)."""
    parser = ArgumentParser(description=text.split("\n")[0])
    parser.add_argument("--out", help="file for the figures, JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each way, turn about")
    parser.add_argument("--shape", choices=list(SHAPES), default="base")
    parser.add_argument("--no-peer", action="store_true", help="leave the peer out even where it is installed")
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default) if default is not None else str, default=default)
    chosen = parser.parse_args()
    global TIMED
    TIMED = PROCESSOR if chosen.threads == 1 else CLOCK
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    import torch

    torch.set_num_threads(chosen.threads)
    return chosen


def write(chosen: Namespace, rows: list[dict], **more) -> None:
    """Print the rows and write them with what they were measured on."""
    for row in rows:
        print(json.dumps(row), flush=True)
    if chosen.out:
        Path(chosen.out).write_text(
            json.dumps({"machine": machine(chosen.threads), "rows": rows, **more}, indent=1) + "\n"
        )


def machine(threads: int) -> dict:
    """Processor, versions and load of the machine."""
    names = [
        line.partition(":")[2].strip() for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "timed_by": ("clock", "processor")[TIMED],
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "transformers", "adapters")},
    }


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def has_peer(chosen: Namespace) -> bool:
    """Tell if AdapterHub's adapters is installed here and wanted."""
    return not chosen.no_peer and _version("adapters") is not None


def turn_about(ways: dict, rounds: int, *, warm: bool = False) -> dict[str, list[tuple[float, float]]]:
    """Time every way once in each round, and return (seconds on the clock, seconds of the processor) of each.

    One round before the first does not count, unless every way has run already (`warm`). Because the ways alternate,
    other work on the machine disturbs all of them alike; processor time leaves most of it out.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(1 if warm else 0, rounds + 1):
        for name, way in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            way()
            if number:
                times[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return times


def now() -> float:
    """Seconds, for a difference."""
    return time.process_time() if TIMED == PROCESSOR else time.perf_counter()


def seconds(times: list[tuple[float, float]]) -> float:
    """Median of the rounds' seconds."""
    return statistics.median(t[TIMED] for t in times)


def ratio(ours: list, peer: list) -> dict:
    """How many times faster: the median of the rounds' ratios, the least and the largest."""
    found = [b[TIMED] / a[TIMED] for a, b in zip(ours, peer)]
    return {"median": round(statistics.median(found), 2), "least": round(min(found), 2), "most": round(max(found), 2)}


def flops_per_second(dtype: str, *, repeat: int = 5) -> float:
    """Measure the rate of bare matrix products of an encoder's shape, the limit that figures are compared with."""
    import torch

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    a, w = torch.randn(1024, 768).to(kind), torch.randn(3072, 768).to(kind)
    best = float("inf")
    for _ in range(repeat + 1):
        began = now()
        for _ in range(4):
            torch.nn.functional.linear(a, w)
        best = min(best, (now() - began) / 4)
    return 2 * 1024 * 768 * 3072 / best


def layer_weights(base) -> int:
    """Weights of the matrices in the base's layers; a token costs two operations for each."""
    config = base.config
    return config.num_hidden_layers * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size)


def make_base(shape: str, **changes):
    """A base of that shape with random weights."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    from madx.base import Base

    torch.manual_seed(0)
    config = XLMRobertaConfig(
        **{"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, **SHAPES[shape], **changes}
    )
    return Base(XLMRobertaForMaskedLM(config), None, name=f"xlmr-{shape}-shape")


def make_module(base, name: str, **options):
    """A module of random weights, none of which is an accidental zero."""
    import torch

    from madx.module import new_module

    made = new_module(name, base, **({"language": "swa"} | options))
    generator = torch.Generator().manual_seed(sum(name.encode()))
    with torch.no_grad():
        for _, parameter in sorted(made.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return made


def sentence_rows(count: int, shape: str, *, file: str | None = None, seed: int = 0) -> list:
    """Rows for a task with the lengths of real sentences (of a CoNLL file's first sentences; without one, lengths like
    those of English newswire drawn at random), random ids and labels."""
    import numpy as np

    from madx.data.labelled.windows import Row

    chance = np.random.default_rng(seed)
    rows = []
    for number, words in enumerate(_pieces(count, file, chance)):
        first = np.cumsum([1, *words])[:-1]
        ids = (0, *chance.integers(10, SHAPES[shape]["vocab_size"] - 10, sum(words)).tolist(), 2)
        labels = tuple(chance.integers(0, len(LABELS), len(words)).tolist())
        rows.append(Row(ids, tuple(first.tolist()), tuple(range(len(words))), labels, number, tuple(words)))
    return rows


def _pieces(count: int, file: str | None, chance) -> list[list[int]]:
    """For each sentence the pieces of its words."""
    if file is None:
        lengths = chance.lognormal(2.9, 0.6, count).clip(2, 80).astype(int)
        return [(1 + chance.poisson(0.35, n)).tolist() for n in lengths]
    from madx.data.labelled.conll import read_conll

    sentences = read_conll(file, repair=True)[:count]
    return [[-(-len(word) // LETTERS_OF_A_PIECE) for word in s.tokens] for s in sentences]


class Memory:
    """What a block of code adds to the resident memory at its peak, in GB (Linux; exact, in a process of its own)."""

    def __enter__(self) -> "Memory":
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        self.before, self.added = _resident("VmRSS"), 0.0
        return self

    def __exit__(self, *_) -> None:
        self.added = round(_resident("VmHWM") - self.before, 3)


def _resident(what: str) -> float:
    line = next(x for x in _read("/proc/self/status").splitlines() if x.startswith(what))
    return int(line.split()[1]) * 1024 / 1e9


def in_own_process(script: str, *options: str) -> dict:
    """The last line of JSON that a script prints, run by this interpreter."""
    done = subprocess.run([sys.executable, str(HERE / script), *options], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(options)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_gb() -> float:
    """The peak of this process's resident memory in GB (Linux; getrusage counts the process it was forked from too)."""
    return round(_resident("VmHWM"), 3)
