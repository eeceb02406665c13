"""Growth: what 1, 10, 100, 1000 language modules cost, and how speed goes with sentence length and batch size.

    python benchmarks/growth.py --out growth.json --plot docs/growth.png

modules: stored in one folder and attached to one engine, on the small shape (1000 modules of XLM-R base's shape would
take 28 GB), each number in a process of its own: listing, loading one, swapping, memory.

length and batch: tokens per second of a stack on the chosen shape.
"""

import json
import tempfile

from common import LABELS, Memory, arguments, in_own_process, make_base, make_module, seconds, turn_about, write

LENGTHS, BATCHES, SWAPS = (32, 64, 128, 256, 512), (1, 4, 16, 64), 200


def modules(chosen, count: int) -> dict:
    """Figures with so many modules."""
    import torch

    from madx.engine import Engine
    from madx.store import Store

    base = make_base("small")
    engine = Engine(base)
    engine.attach(make_module(base, "ner", role="task", components="pfeiffer", labels=LABELS))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        store = Store(folder)
        template = make_module(base, "l0", components="madx")
        for number in range(count):
            template.info.name = f"l{number}"
            store.save(template)
        listing = turn_about({"list": store.names}, chosen.rounds)["list"]
        with Memory() as used:
            for number in range(count):
                engine.attach(store.load(f"l{number}", base))
        loading = turn_about({"load": lambda: store.load(f"l{count - 1}", base)}, chosen.rounds)["load"]

        def swaps():
            for i in range(SWAPS):
                engine.activate(f"l{i % count} + ner")

        swapping = turn_about({"swap": swaps}, chosen.rounds)["swap"]
    return {
        "measure": "modules in a store, attached",
        "modules": count,
        "list_ms": round(1000 * seconds(listing), 3),
        "load_ms": round(1000 * seconds(loading), 3),
        "swap_ms": round(1000 * seconds(swapping) / SWAPS, 5),
        "attached_gb": used.added,
        "weights_gb": round(4e-9 * count * sum(p.numel() for p in template.parameters()), 3),
    }


def sizes(chosen) -> list[dict]:
    """Tokens per second of a stack by sentence length at 4 rows, and by rows at 64 tokens."""
    import torch

    from madx.engine import Engine

    base = make_base(chosen.shape, vocab_size=8_000)
    engine = Engine(base)
    engine.attach(make_module(base, "l0", components="madx"))
    engine.attach(make_module(base, "ner", role="task", components="pfeiffer", labels=LABELS))
    engine.activate("l0 + ner")
    found = []
    for what, pairs in (("length", [(4, n) for n in LENGTHS]), ("batch", [(n, 64) for n in BATCHES])):
        for rows, tokens in pairs:
            ids = torch.randint(10, 7_990, (rows, tokens))
            with torch.inference_mode():
                times = turn_about({"": lambda ids=ids: engine(ids)}, chosen.rounds)[""]
            found.append(
                {
                    "measure": f"a stack by {what}",
                    "rows": rows,
                    "tokens": tokens,
                    "tokens_per_s": round(rows * tokens / seconds(times), 1),
                }
            )
    return found


def plot(rows: list[dict], path: str) -> None:
    """Four small pictures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (load, memory, length, batch) = pyplot.subplots(1, 4, figsize=(13, 2.8), layout="constrained")
    many = [r for r in rows if "modules" in r]
    x = [r["modules"] for r in many]
    for key, label in (("load_ms", "load one"), ("list_ms", "list all"), ("swap_ms", "swap")):
        load.plot(x, [r[key] for r in many], marker="o", label=label)
    memory.plot(x, [r["attached_gb"] for r in many], marker="o", label="attached")
    memory.plot(x, [r["weights_gb"] for r in many], linestyle=":", label="their weights")
    for axis, name in ((load, "ms"), (memory, "GB")):
        axis.set(xscale="log", yscale="log", xlabel="modules", ylabel=name)
        axis.legend(frameon=False, fontsize=7)
    for axis, what, key, label in (
        (length, "length", "tokens", "tokens of a sentence"),
        (batch, "batch", "rows", "sentences of a batch"),
    ):
        own = [r for r in rows if r["measure"] == f"a stack by {what}"]
        axis.plot([r[key] for r in own], [r["tokens_per_s"] for r in own], marker="o")
        axis.set(xscale="log", xlabel=label, ylabel="tokens/s", ylim=(0, None))
        axis.set_xticks([r[key] for r in own], [str(r[key]) for r in own], minor=False)
        axis.minorticks_off()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    options = arguments(__doc__, plot="", modules="1,10,100,1000", child=0)
    if options.child:
        print(json.dumps(modules(options, options.child)))
    else:
        common = ("--threads", str(options.threads), "--rounds", str(options.rounds))
        measured = [in_own_process("growth.py", "--child", n, *common) for n in options.modules.split(",")] + sizes(
            options
        )
        if options.plot:
            plot(measured, options.plot)
        write(options, measured)
