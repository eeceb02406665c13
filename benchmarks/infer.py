"""Inference: a stack over the bare base, swapping a loaded stack, loading a module from disk; ours and the peer's.

    python benchmarks/infer.py --out infer.json

16 x 64 tokens through the encoder. swap: the active composition changes among 8 loaded languages under one task module.
load: a language module, stored as a folder, read, checked and made ready.
"""

import itertools
import tempfile
from pathlib import Path

from common import (
    LABELS,
    arguments,
    flops_per_second,
    has_peer,
    layer_weights,
    make_base,
    make_module,
    ratio,
    seconds,
    turn_about,
    write,
)

ROWS, TOKENS, LANGUAGES, SWAPS, LOADS = 16, 64, 8, 200, 5


def measure(chosen) -> list[dict]:
    """Rows of the table."""
    import torch

    from madx.engine import Engine
    from madx.store import load_module, save_module

    base = make_base(chosen.shape)
    engine = Engine(base)
    names = [f"l{i}" for i in range(LANGUAGES)]
    modules = [make_module(base, name, components="madx") for name in names]
    modules.append(make_module(base, "ner", role="task", components="pfeiffer", labels=LABELS))
    for module in modules:
        engine.attach(module)
    peer = None
    if has_peer(chosen):
        from peer import Peer

        peer = Peer(base, heads=("ner",))
        for module in modules:
            peer.take(module, base)
    ids = torch.randint(10, base.config.vocab_size - 10, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)

    def stack():
        engine.activate("l0 + ner")
        return engine(ids, mask)

    def bare():
        engine.activate(None)
        return engine(ids, mask)

    def peer_stack():
        peer.activate(["l0", "ner"])
        return peer.hidden(ids, mask)

    def swaps():
        for i in range(SWAPS):
            engine.activate(f"{names[i % LANGUAGES]} + ner")

    def peer_swaps():
        for i in range(SWAPS):
            peer.activate([names[i % LANGUAGES], "ner"])

    with torch.inference_mode():
        if peer is not None and (worst := (stack() - peer_stack()).abs().max().item()) > 1e-3:
            raise SystemExit(f"the two sides compute different numbers: {worst}")
        ways = {"stack": stack, "bare": bare} | ({"peer": peer_stack} if peer is not None else {})
        times = turn_about(ways, chosen.rounds)
        swapping = turn_about({"ours": swaps} | ({"peer": peer_swaps} if peer is not None else {}), chosen.rounds)
    with tempfile.TemporaryDirectory() as folder:
        stored = save_module(modules[0], Path(folder) / "l0")
        ways = {"ours": lambda: [load_module(stored, base) for _ in range(LOADS)]}
        if peer is not None:
            peer.model.save_adapter(str(Path(folder) / "peer"), "l0", with_head=False)
            names_left = (f"again{i}" for i in itertools.count())  # a fresh module each time, as on our side

            def peer_loads():
                for _ in range(LOADS):
                    peer.model.load_adapter(str(Path(folder) / "peer"), load_as=next(names_left), with_head=False)

            ways["peer"] = peer_loads
        loading = turn_about(ways, chosen.rounds)
    of_base = layer_weights(base)
    of_modules = sum(p.numel() for m in (modules[0], modules[-1]) for p in m.parameters())
    limit = 2 * ROWS * TOKENS * (of_base + of_modules) / flops_per_second("fp32")
    rows = [
        {
            "measure": f"a stack over the bare base, {ROWS} x {TOKENS}",
            "way": "fp32",
            "unit": "times",
            "ours": over(times["stack"], times["bare"]),
            "peer": over(times["peer"], times["bare"]) if peer is not None else None,
            "limit": round(1 + of_modules / of_base, 3),
        },
        {
            "measure": f"a stack, {ROWS} x {TOKENS}",
            "way": "fp32",
            "unit": "sentences/s",
            "ours": round(ROWS / seconds(times["stack"]), 2),
            "limit": round(ROWS / limit, 2),
            "share": round(limit / seconds(times["stack"]), 2),
        },
        {"measure": "swap of a loaded stack", "way": "fp32", "unit": "ms", "ours": milli(swapping["ours"], SWAPS)},
        {"measure": "a language module from disk", "way": "fp32", "unit": "ms", "ours": milli(loading["ours"], LOADS)},
    ]
    if peer is not None:
        rows[1] |= {"peer": round(ROWS / seconds(times["peer"]), 2), "ratio": ratio(times["stack"], times["peer"])}
        rows[2] |= {"peer": milli(swapping["peer"], SWAPS), "ratio": ratio(swapping["ours"], swapping["peer"])}
        rows[3] |= {"peer": milli(loading["peer"], LOADS), "ratio": ratio(loading["ours"], loading["peer"])}
    return rows


def over(times: list, bare: list) -> float:
    """The median of the rounds' ratios to the bare base."""
    return ratio(bare, times)["median"]


def milli(times: list, count: int) -> float:
    """Milliseconds of one of `count`."""
    return round(1000 * seconds(times) / count, 4)


if __name__ == "__main__":
    options = arguments(__doc__)
    write(options, measure(options))
