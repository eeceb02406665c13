"""A batch of mixed languages against one of a single language, on a base of XLM-R base's shape with random weights.

    python benchmarks/route.py --out benchmarks/route.json            about 3 minutes on 2 cores, 2 GB
    python benchmarks/route.py --device cuda --precision bf16

8 rows of 64 tokens under MAD-X language modules (bottleneck of reduction 2, invertible component) and a task module
with a head: all rows in one language as a plain stack, the same through a route, each row in a language of its own, and
one forward pass for each row. The ways alternate in every round, so that other work on the machine disturbs all of them
alike. Each figure is the median over the rounds and each ratio to the stack the median of the rounds' ratios, of the
time on the clock and of this process's processor time, which a busy machine disturbs less. `differs` is the largest
difference between the scores of the mixed batch and those of its rows on their own, `languages_differ` that between the
mixed batch and one language.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch

WAYS = ("stack", "route, one language", "route, mixed", "row by row", "bare base")


def prepared(languages: int, device: str, precision: str):
    """An engine with language modules l0, l1 ... and the task module ner, all of random weights that matter."""
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    from madx.base import Base
    from madx.engine import Engine
    from madx.module import new_module

    torch.manual_seed(0)
    config = XLMRobertaConfig(vocab_size=8_000, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    base = Base(XLMRobertaForMaskedLM(config), None, name="xlmr-base-shape")
    base.model.to(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    engine = Engine(base)
    for number in range(languages):
        engine.attach(new_module(f"l{number}", base, language="swa", components="madx"))
    engine.attach(new_module("ner", base, role="task", components="pfeiffer", labels=tuple("ABCDEFG")))
    return engine


def ways(engine, ids, languages: int) -> dict:
    """Way -> an action that gives the label scores of the batch."""
    rows = len(ids)
    route = f"route({', '.join(f'l{k} + ner' for k in range(languages))})"
    mixed = [k % languages for k in range(rows)][::-1]  # unsorted on purpose

    def stack():
        return engine.label_logits(engine(ids))

    def by_branch(branches):
        return engine.label_logits(engine(ids, branches=branches), branches=branches)

    def apart():
        found = []
        for row, number in enumerate(mixed):
            engine.activate(f"l{number} + ner")
            found.append(engine.label_logits(engine(ids[row : row + 1])))
        return torch.cat(found)

    def under(composition, action, *arguments):
        def run():
            engine.activate(composition)
            return action(*arguments)

        return run

    return {
        "stack": under("l0 + ner", stack),
        "route, one language": under(route, by_branch, [0] * rows),
        "route, mixed": under(route, by_branch, mixed),
        "row by row": apart,
        "bare base": under(None, engine, ids),
    }


def measure(chosen) -> dict:
    """Milliseconds and ratios of all ways, and whether the results agree."""
    engine = prepared(chosen.languages, chosen.device, chosen.precision)
    ids = torch.randint(5, 8_000, (chosen.rows, chosen.tokens), generator=torch.Generator().manual_seed(1)).to(
        chosen.device
    )
    actions, times = ways(engine, ids, chosen.languages), {way: [] for way in WAYS}
    with torch.no_grad():
        mixed = actions["route, mixed"]()
        differs = {"differs": mixed - actions["row by row"](), "languages_differ": mixed - actions["stack"]()}
        for number in range(chosen.rounds + 2):
            for way in WAYS[
                :: 1 if number % 2 else -1
            ]:  # there and back, so that nobody always follows the same neighbour
                began = time.perf_counter(), time.process_time()
                actions[way]()
                if chosen.device != "cpu":
                    torch.cuda.synchronize()
                if number > 1:
                    times[way].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    result = {}
    for way in WAYS:
        clock, processor = zip(*times[way])
        ratios = [[a / b for a, b in zip(mine, plain)] for mine, plain in zip((clock, processor), zip(*times["stack"]))]
        result[way] = {
            "median_ms": round(1000 * statistics.median(clock), 2),
            "least_ms": round(1000 * min(clock), 2),
            "of_stack": round(statistics.median(ratios[0]), 3),
            "of_stack_processor": round(statistics.median(ratios[1]), 3),
        }
    return result | {name: float(f"{difference.abs().max().item():.1e}") for name, difference in differs.items()}


def main() -> None:
    """Measure, print and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="file for the figures, JSON")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--languages", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    machine = torch.cuda.get_device_name() if chosen.device == "cuda" else platform.processor() or platform.machine()
    options = {k: v for k, v in vars(chosen).items() if k != "out"}
    result = {"options": options, "machine": machine, "python": platform.python_version(), "torch": torch.__version__}
    result |= {
        "load_before": round(os.getloadavg()[0], 2),
        **measure(chosen),
        "load_after": round(os.getloadavg()[0], 2),
    }
    result["rows"] = [
        {
            "measure": f"{chosen.rows} rows in {chosen.languages} languages over one language",
            "way": chosen.precision,
            "unit": "times",
            "ours": result["route, mixed"]["of_stack"],
        }
    ]
    print(json.dumps(result, indent=2))
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
