"""Zero-shot evaluation: one task module over several languages under four controls, the same loop on both sides.

    python benchmarks/evaluate.py --out evaluate.json --languages 10 --file eng-train.conll

For each language and control the sentences are predicted once. Ours: rows sorted by length in batches by a token budget,
the last layer for the words' first pieces alone. The peer: batches of 16 sentences in the order of the file, padded to
their longest. `same_labels`: share of words that get the same label on both sides, in stacks and under a mean of language
modules (the peer uses the first one's invertible part there, madx the mean of them).
"""

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

    from madx.data.batches import collate
    from madx.engine import Engine
    from madx.jobs.evaluate import control_compositions

    base = make_base(chosen.shape)
    engine = Engine(base)
    names = [f"l{i}" for i in range(chosen.languages)]
    modules = [make_module(base, name, parts="madx") for name in names]
    modules.append(make_module(base, "ner", role="task", parts="pfeiffer", labels=LABELS))
    for module in modules:
        engine.attach(module)
    data = {name: sentence_rows(chosen.sentences, chosen.shape, file=chosen.file or None, seed=i) for i, name in enumerate(names)}
    compositions = {
        name: control_compositions("ner", language=name, source=names[0], modules={n: n for n in names}) for name in names
    }
    task = ner_task([])
    cells = [(name, c) for name in names for c in compositions[name].values() if not isinstance(c, str)]

    class Words:
        def __init__(self, row):
            self.tokens = row.words

    sentences = {name: [Words(row) for row in rows] for name, rows in data.items()}

    def ours() -> list:
        found = []
        for name, composition in cells:
            engine.activate(composition)
            found.append(task.predict(engine, sentences[name], rows=data[name]))
        return found

    ways = {"ours": ours}
    if has_peer(chosen):
        from peer import Peer

        peer = Peer(base, heads=("ner",))
        for module in modules:
            peer.take(module, base)

        def theirs() -> list:
            found = []
            for name, composition in cells:
                peer.activate([i if isinstance(i, str) else [name for child in i.children for name in child.names()] for i in composition.items], "ner")
                tags, rows = [], data[name]
                for start in range(0, len(rows), PEER_ROWS):
                    batch = collate(rows[start : start + PEER_ROWS], 1)
                    best = peer.logits(batch["input_ids"], batch["attention_mask"]).argmax(-1)
                    tags += [[LABELS[b] for b in line[list(row.first)].tolist()] for line, row in zip(best, rows[start:])]
                found.append(tags)
            return found

        ways["peer"] = theirs
    with torch.inference_mode():
        same = None
        if "peer" in ways:
            joined = ["average" in str(composition) for _, composition in cells]
            found = list(zip(joined, ours(), theirs()))
            same = {name: agreement([f[1:] for f in found if f[0] == which]) for name, which in (("stacks", False), ("means", True))}
        times = turn_about(ways, chosen.rounds, warm=same is not None)
    amount = chosen.sentences * len(cells)
    tokens = sum(len(row) for name, _ in cells for row in data[name])
    of_modules = sum(p.numel() for m in modules[-2:] for p in m.parameters())
    limit = amount / (2 * tokens * (layer_weights(base) + of_modules) / flops_per_second("fp32"))
    row = {
        "measure": f"evaluation, {chosen.languages} languages x 4 controls", "way": "fp32", "unit": "sentences/s",
        "ours": round(amount / seconds(times["ours"]), 2), "limit": round(limit, 2),
        "share": round(amount / seconds(times["ours"]) / limit, 2),
    }  # fmt: skip
    if "peer" in ways:
        row |= {"peer": round(amount / seconds(times["peer"]), 2), "ratio": ratio(times["ours"], times["peer"]), "same_labels": same}
    return [row]


def agreement(cells: list) -> float:
    """Share of words with the same label in two predictions of each cell."""
    pairs = [(a, b) for x, y in cells for s, t in zip(x, y) for a, b in zip(s, t)]
    return round(sum(a == b for a, b in pairs) / max(1, len(pairs)), 4)


if __name__ == "__main__":
    options = arguments(__doc__, languages=10, sentences=64, file="")
    write(options, measure(options))
