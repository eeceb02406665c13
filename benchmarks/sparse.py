"""Speed and memory of sparse differences on a base of XLM-R base's shape with random weights.

    python benchmarks/sparse.py --out benchmarks/sparse.json              all of it, about 10 minutes on 2 cores, 12 GB
    python benchmarks/sparse.py --only apply store

apply: K = 7,667,712 entries at random places of all weights (the worst case for a processor's cache): on, off, and the
swap of the language under a task. store: the file, its loading, the loss by half precision. select: the K largest
entries of |theta - theta_0|. train: peak resident memory, each way in a process of its own, 3 steps of 4 x 64 tokens,
beside a reference that follows composable-sft (dense masks, one AdamW over everything in both phases, originals beside
the weights). `cpu_ms` are milliseconds of computing with one thread, which other work on the machine disturbs less than
the clock.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import Memory, in_own_process, peak_gb

K = 7_667_712
STEPS, ROWS, TOKENS = 3, 4, 64
WAYS = ("reference-full", "reference-sparse", "madx-full", "madx-sparse", "madx-fisher", "madx-spiel", "nothing")
PARTS = ("apply", "store", "select", "train")


def xlmr_base():
    """A base of XLM-R base's shape, weights drawn at random."""
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    from madx.base import Base

    torch.manual_seed(0)
    config = XLMRobertaConfig(vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    return Base(XLMRobertaForMaskedLM(config), None, name="xlmr-base-shape")


def difference(base, name: str, seed: int, entries: int | str = K):
    """A module of `entries` entries at places drawn at random, values of the size that training leaves."""
    from madx.module import new_module

    made = new_module(name, base, language="swa", components={"sparse_diff": {"entries": entries}})
    unit = made.units["weights"]["sparse_diff"]
    generator, count = torch.Generator().manual_seed(seed), len(unit.indices)
    places = torch.randint(0, unit.space.size, (int(count * 1.1),), generator=generator).unique()
    keep = torch.randperm(len(places), generator=generator)[:count].sort().values
    unit.set_entries(places[keep], torch.randn(count, generator=generator) * 1e-3)
    return made, unit


def timed(action, repeat: int = 9) -> dict:
    """Milliseconds of an action: the least and the median, after one run that is not counted."""
    action()
    found = []
    for _ in range(repeat):
        began = time.perf_counter()
        action()
        found.append(1000 * (time.perf_counter() - began))
    return {"least_ms": round(min(found), 1), "median_ms": round(statistics.median(found), 1)}


def measure_apply() -> dict:
    """On, off and swap, in milliseconds."""
    from madx.engine import Engine

    base = xlmr_base()
    engine, result = Engine(base), {}
    before = {n: p.clone() for n, p in base.encoder.named_parameters()}
    for name, seed, entries in (("swa", 1, K), ("hau", 2, K), ("ner", 3, "task")):
        engine.attach(difference(base, name, seed, entries)[0])
    on, off = [], []
    for _ in range(10):
        for times, composition in ((on, "swa"), (off, None)):
            began = time.perf_counter()
            engine.activate(composition)
            times.append(1000 * (time.perf_counter() - began))
    for name, times in (("on", on), ("off", off)):
        result[name] = {"least_ms": round(min(times[1:]), 1), "median_ms": round(statistics.median(times[1:]), 1)}

    def swap():
        engine.activate("hau + ner" if str(engine.composition) == "swa + ner" else "swa + ner")

    result["swap_under_a_task"] = timed(swap)
    engine.activate(None)
    result["cpu_ms"] = cpu_of_one_thread(engine, base)
    engine.activate(None)
    result["theta_0_back_bit_for_bit"] = all(torch.equal(p, before[n]) for n, p in base.encoder.named_parameters())
    return result


def cpu_of_one_thread(engine, base) -> dict:
    """Computing time of on and off, beside the least that each must do: read, or read and write, K random places."""
    flat, threads = (
        base.encoder.get_parameter("embeddings.word_embeddings.weight").detach().view(-1),
        torch.get_num_threads(),
    )
    places = torch.randint(0, flat.numel(), (K,), generator=torch.Generator().manual_seed(0)).sort().values
    result: dict[str, list[float]] = {}
    torch.set_num_threads(1)
    actions = {
        "read": lambda: flat.index_select(0, places),
        "read_and_write": lambda: flat.scatter_(0, places, flat.index_select(0, places)),
        "on": lambda: engine.activate("swa"),
        "off": lambda: engine.activate(None),
    }
    for _ in range(6):
        for name, action in actions.items():
            began = time.process_time()
            action()
            result.setdefault(name, []).append(1000 * (time.process_time() - began))
    torch.set_num_threads(threads)
    return {name: round(min(times), 1) for name, times in result.items()}


def measure_store() -> dict:
    """Size of the file, times to save and load, relative error of the half-precision form."""
    from madx.store import load_module, save_module

    base, result = xlmr_base(), {}
    made, unit = difference(base, "swa", 1)
    exact = unit.values.detach().clone()
    for form in ("exact", "half"):
        if form == "half":
            unit.round_values()
            error = (unit.values.detach() - exact).norm() / exact.norm()
            result["half_relative_error"] = float(f"{error:.2e}")
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            saved = save_module(made, Path(folder) / "swa")
            save_ms = 1000 * (time.perf_counter() - began)
            load = timed(lambda saved=saved: load_module(saved, base), repeat=7)
            size = (saved / "weights.safetensors").stat().st_size
        result[form] = {
            "file_mb": round(size / 1e6, 2),
            "save_ms": round(save_ms),
            **{f"load_{k}": v for k, v in load.items()},
        }
    return result


def measure_select() -> dict:
    """Seconds and transient memory of the exact choice of K entries among all weights."""
    from madx.training.settings import SparseSettings
    from madx.training.sparse.selections import SELECTIONS, Importance
    from madx.training.sparse.selections.base import top

    base = xlmr_base()
    made, unit = difference(base, "swa", 1)
    start = {p.name: base.encoder.get_parameter(p.name).detach() for p in unit.space.parameters}
    moved = {n: p + torch.randn_like(p) * 1e-3 for n, p in start.items()}
    rule = SELECTIONS.get("magnitude")(SparseSettings())

    def scores(number, a, b):
        parameter = unit.space.parameters[number]
        return rule.scores(Importance(parameter, start[parameter.name], moved[parameter.name]), a, b)

    with Memory() as used:
        began = time.perf_counter()
        found = top(unit.space, K, scores, taken=torch.empty(0, dtype=torch.int32))
        seconds = time.perf_counter() - began
    return {
        "seconds": round(seconds, 2),
        "entries": len(found),
        "of": unit.space.size,
        "transient_gb": round(used.added, 2),
    }


# ---- training --------------------------------------------------------------------------------------------------------


def batch(step: int) -> dict:
    """Random ids `(rows, tokens)` and labels, 15 % of them to be predicted."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(5, 250_000, (ROWS, TOKENS), generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < 0.15, ids, -100)
    return {"input_ids": ids, "labels": labels}


def train_madx(way: str) -> None:
    """A few steps of one phase through the library."""
    from madx.engine import Engine
    from madx.module import new_module
    from madx.tasks.masked_lm import MaskedLM
    from madx.training import SparseSettings, TrainSettings, fit

    class Random(MaskedLM):
        """Batches of random ids; no evaluation."""

        metric = "loss"

        def __init__(self):
            self.micro_batch = ROWS

        def batches(self, step, *, process_index=0, process_count=1):
            return [batch(step)]

        def evaluate(self, engine):
            return {"loss": 0.0}

    engine = Engine(xlmr_base())
    engine.attach(new_module("swa", engine.base, language="swa", components="lt_sft"))
    engine.activate("swa")
    chosen = {
        "madx-full": "magnitude",
        "madx-sparse": "random",
        "madx-fisher": "fisher",
        "madx-spiel": "drop_and_grow",
    }[way]
    sparse = SparseSettings(selection=chosen, samples=4, accumulate=1, reselect_every=2)
    settings = TrainSettings(learning_rate=5e-5, progress=False, keep_best=False, evaluate_every=1000, sparse=sparse)
    fit(engine, "swa", Random(), settings, steps=STEPS, seed=0)


def train_reference(way: str) -> None:
    """As composable-sft does it: everything dense, in both phases; the loss at masked positions alone, as in madx."""
    model = xlmr_base().model
    model.lm_head.decoder.weight = torch.nn.Parameter(
        model.lm_head.decoder.weight.detach().clone(), requires_grad=False
    )
    maskable = {n: p for n, p in model.roberta.named_parameters() if "LayerNorm" not in n}
    for p in maskable.values():
        p.requires_grad_(True)
    original = {n: p.detach().clone() for n, p in maskable.items()}
    mask = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in maskable.items()}
    if way == "reference-sparse":
        for m in mask.values():
            m.view(-1)[:: round(1 / 0.0277)] = True
    optimizer = torch.optim.AdamW(maskable.values(), lr=5e-5, weight_decay=0.0)
    for step in range(STEPS):
        data = batch(step)
        hidden = model.roberta(input_ids=data["input_ids"]).last_hidden_state[data["labels"] != -100]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), data["labels"][data["labels"] != -100])
        regular = sum((p - original[n]).abs().sum() for n, p in maskable.items())
        (loss + 0.1 * regular / 470e6).backward()
        if way == "reference-sparse":
            for n, p in maskable.items():
                p.grad *= mask[n]
        torch.nn.utils.clip_grad_norm_(maskable.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def measure_train() -> dict:
    """Peak resident memory of every way, in GB, and seconds; shares of the reference's sparse and full phase."""
    result = {}
    for way in WAYS:
        began = time.perf_counter()
        found = in_own_process("sparse.py", "--way", way, "--threads", str(torch.get_num_threads()))
        result[way] = found | {"seconds": round(time.perf_counter() - began, 1)}
        print(way, result[way], flush=True)
    for way, reference in (("sparse", "sparse"), ("spiel", "sparse"), ("full", "full")):
        result[f"{way}_share"] = round(
            result[f"madx-{way}"]["peak_gb"] / result[f"reference-{reference}"]["peak_gb"], 3
        )
    return result


def rows_of(result: dict) -> list[dict]:
    """What of it belongs in the table of all measurements."""
    found = []
    if "apply" in result:
        found += [
            (what, "median", "ms", result["apply"][key]["median_ms"])
            for what, key in (("put on", "on"), ("taken off", "off"))
        ]
    if "store" in result:
        half = result["store"]["half"]
        found += [
            ("its file", "half precision", "MB", half["file_mb"]),
            ("loaded", "half precision", "ms", half["load_median_ms"]),
        ]
    if "train" in result:
        found += [
            ("its training's peak memory", way, "of the reference's", result["train"][f"{way}_share"])
            for way in ("sparse", "spiel", "full")
        ]
    return [
        {"measure": f"a sparse difference, {K:,} entries: {what}", "way": way, "unit": unit, "ours": value}
        for what, way, unit, value in found
    ]


def main() -> None:
    """Measure what was asked for and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="file for the figures, JSON")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.way:
        if chosen.way == "nothing":
            xlmr_base()
        else:
            (train_madx if chosen.way.startswith("madx") else train_reference)(chosen.way)
        print(json.dumps({"peak_gb": round(peak_gb(), 2)}))
        return
    result = {"entries": K, "threads": chosen.threads, "python": platform.python_version(), "torch": torch.__version__}
    for part in chosen.only:
        result[part] = {
            "apply": measure_apply,
            "store": measure_store,
            "select": measure_select,
            "train": measure_train,
        }[part]()
        print(part, json.dumps(result[part]), flush=True)
    result["rows"] = rows_of(result)
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
