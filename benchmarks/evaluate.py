"""Zero-shot evaluation: one task module over several languages under four controls, the same loop on both sides.

    python benchmarks/evaluate.py --out evaluate.json --languages 10 --file eng-train.conll

For each language and control the sentences are predicted once. madx sorts rows by length into batches by a token budget
and runs the last layer for the first pieces of words alone; in bf16 only the base is (`precision` of an evaluation).
The peer takes batches of 16 sentences in the order of the file, padded to their longest. `same_labels` is the share of
words that get the same label on both sides, in stacks and under a mean of language modules (the peer divides a mean by
their number twice and takes the invertible component of the first one), and in both number formats of madx.
"""

from functools import partial

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
    sentence_rows,
    turn_about,
    write,
)

PEER_ROWS = 16


def measure(chosen) -> list[dict]:
    """Rows of the table."""
    import torch
    from train import ner_task

    from madx.data.labelled.batches import collate
    from madx.engine import Engine
    from madx.jobs.evaluate import control_compositions
    from madx.training.precision import to_bf16

    base = make_base(chosen.shape)
    names = [f"l{i}" for i in range(chosen.languages)]
    modules = [make_module(base, name, components="madx") for name in names]
    modules.append(make_module(base, "ner", role="task", components="pfeiffer", labels=LABELS))
    engines = {"fp32": Engine(base), "bf16": Engine(make_base(chosen.shape))}
    to_bf16(engines["bf16"].base)
    for engine in engines.values():
        for module in modules:
            engine.attach(module)
    data = {
        name: sentence_rows(chosen.sentences, chosen.shape, file=chosen.file or None, seed=i)
        for i, name in enumerate(names)
    }
    compositions = {
        name: control_compositions("ner", language=name, source=names[0], modules={n: n for n in names})
        for name in names
    }
    task = ner_task([])
    cells = [(name, c) for name in names for c in compositions[name].values() if not isinstance(c, str)]

    class Words:
        def __init__(self, row):
            self.tokens = row.words

    sentences = {name: [Words(row) for row in rows] for name, rows in data.items()}

    def ours(precision: str) -> list:
        found, engine = [], engines[precision]
        for name, composition in cells:
            engine.activate(composition)
            found.append(task.predict(engine, sentences[name], rows=data[name]))
        return found

    ways = {precision: partial(ours, precision) for precision in engines}
    if has_peer(chosen):
        from peer import Peer

        peer = Peer(base, heads=("ner",))
        for module in modules:
            peer.take(module, base)

        def theirs() -> list:
            found = []
            for name, composition in cells:
                peer.activate(
                    [
                        i if isinstance(i, str) else [name for child in i.children for name in child.names()]
                        for i in composition.items
                    ],
                    "ner",
                )
                tags, rows = [], data[name]
                for start in range(0, len(rows), PEER_ROWS):
                    batch = collate(rows[start : start + PEER_ROWS], 1)
                    best = peer.logits(batch["input_ids"], batch["attention_mask"]).argmax(-1)
                    tags += [
                        [LABELS[b] for b in line[list(row.first)].tolist()] for line, row in zip(best, rows[start:])
                    ]
                found.append(tags)
            return found

        ways["peer"] = theirs
    with torch.inference_mode():
        found = {name: way() for name, way in ways.items()}
        joined = ["average" in str(composition) for _, composition in cells]
        pairs = {
            "stacks": ("fp32", "peer", False),
            "means": ("fp32", "peer", True),
            "bf16 and fp32": ("bf16", "fp32", None),
        }
        same = {
            name: agreement([(x, y) for x, y, mean in zip(found[a], found[b], joined) if which in (None, mean)])
            for name, (a, b, which) in pairs.items()
            if b in found
        }
        times = turn_about(ways, chosen.rounds, warm=True)
    amount = chosen.sentences * len(cells)
    weights = {module.name: sum(p.numel() for p in module.parameters()) for module in modules}
    operations = 0
    for name, composition in cells:
        acting = layer_weights(base) + sum(weights[module] for module in composition.names())
        operations += 2 * acting * sum(len(row) for row in data[name])
    rows = []
    for way in engines:
        limit = amount / (operations / flops_per_second(way))
        speed = amount / seconds(times[way])
        rows.append(
            {
                "measure": f"evaluation, {chosen.languages} languages x 4 controls",
                "way": way,
                "unit": "sentences/s",
                "ours": round(speed, 2),
                "limit": round(limit, 2),
                "share": round(speed / limit, 2),
                "same_labels": same,
            }
        )
        if "peer" in ways:
            rows[-1] |= {"peer": round(amount / seconds(times["peer"]), 2), "ratio": ratio(times[way], times["peer"])}
    return rows


def agreement(cells: list) -> float | None:
    """Share of words with the same label in two predictions of each cell; None without cells."""
    pairs = [(a, b) for x, y in cells for s, t in zip(x, y) for a, b in zip(s, t)]
    return round(sum(a == b for a, b in pairs) / len(pairs), 4) if pairs else None


if __name__ == "__main__":
    options = arguments(__doc__, languages=10, sentences=64, file="")
    write(options, measure(options))
