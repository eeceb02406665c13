"""Speed and memory of training, ours in fp32 and bf16 and the peer's, with the same modules and batches.

    python benchmarks/train.py --out train.json                     with the peer where adapters is installed
    python benchmarks/train.py --only task --sentences 64 --file eng-train.conll

language: a MAD-X language module on 8 x 128 tokens, 15 % masked; the steps of the loop itself, AdamW and clipping
included.

task: NER on sentences of real lengths; the peer in padded batches of 16 in the order of the file, madx by a token
budget. `upper half, kept`: a task module of eight times the bottleneck in the upper half of the layers, in the second
and later epochs of `cache_frozen`; on real English NER its dev F1 is that of one in all layers (docs/speed.md).

The first losses must agree to rounding or the measurement stops. memory: what one step adds at its peak, each way in a
process of its own. limit: the time of the bare matrix products at the rate measured here, and the share reached.
"""

from common import (
    LABELS,
    Memory,
    arguments,
    flops_per_second,
    has_peer,
    in_own_process,
    layer_weights,
    make_base,
    make_module,
    ratio,
    seconds,
    sentence_rows,
    turn_about,
    write,
)

ROWS, TOKENS, BUDGET, PEER_ROWS = 8, 128, 1024, 16


def masked_batch(vocabulary: int, step: int) -> dict:
    """Random ids `(8, 128)` with 15 % masked."""
    import torch

    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(10, vocabulary - 10, (ROWS, TOKENS), generator=generator)
    picked = torch.rand(ids.shape, generator=generator) < 0.15
    return {"input_ids": torch.where(picked, vocabulary - 1, ids), "labels": torch.where(picked, ids, -100)}


def language_task(vocabulary: int):
    """A masked-LM task that gives the same batch at a step, to both sides."""
    from madx.tasks.masked_lm import MaskedLM

    class Fixed(MaskedLM):
        def __init__(self):
            self.micro_batch = ROWS

        def batches(self, step, *, process_index=0, process_count=1):
            return [masked_batch(vocabulary, step)]

    return Fixed()


def ner_task(rows: list, *, tokens_per_batch: int | None = None):
    """NER on ready rows."""
    from madx.data.labelled.labels import LabelSet
    from madx.tasks.ner import NER

    class Marks:
        """In a tokenizer's place: its special tokens, and no text to cut."""

        is_fast = False
        cls_token_id, pad_token_id, sep_token_id, unk_token_id = 0, 1, 2, 3

    made = NER(Marks(), LabelSet(LABELS), max_length=256, batch_size=None, tokens_per_batch=tokens_per_batch)
    made.train_rows = rows
    return made


class Ours:
    """The steps of our own loop on one module."""

    def __init__(self, base, kind: str, precision: str, rows: list | None, components="pfeiffer"):
        from madx.engine import Engine
        from madx.training import TrainSettings, loop
        from madx.training.precision import to_bf16
        from madx.training.run import Run
        from madx.training.trainable import ModuleTrainable, Trainee

        self.base = base
        self.engine = Engine(base)
        self.engine.attach(make_module(base, "eng", components="madx"))
        if kind == "task":
            self.engine.attach(make_module(base, "ner", role="task", components=components, labels=LABELS))
        if precision == "bf16":
            to_bf16(base)
        name = "eng" if kind == "language" else "ner"
        self.engine.activate("eng" if kind == "language" else "eng + ner")
        task = language_task(base.config.vocab_size) if kind == "language" else ner_task(rows, tokens_per_batch=BUDGET)
        settings = TrainSettings(precision=precision, progress=False, schedule="constant", warmup=0)
        self.task, self.settings, self.name = task, settings, name
        self.trainee = Trainee(self.engine, name, None)
        self.loop = loop.Loop(ModuleTrainable(self.trainee), task, settings, Run(steps=10**6, seed=0))
        self.loop.set_mode(training=True)
        self.of_epoch = task.steps(1) if kind == "task" else 1

    def round(self) -> float:
        """One step, or one epoch of a task; the first loss of it."""
        return [self.loop.train_step().mean for _ in range(self.of_epoch)][0]


class Theirs:
    """The peer's steps on the same module: its own forward pass with labels, AdamW and clipping."""

    def __init__(self, base, kind: str, rows: list | None):
        import torch
        from peer import Peer

        self.kind, self.step, self.rows, self.base = kind, 0, rows, base
        self.peer = Peer(base, heads=("mlm",) if kind == "language" else ("ner",))
        self.peer.take(make_module(base, "eng", components="madx"), base)
        if kind == "task":
            self.peer.take(make_module(base, "ner", role="task", components="pfeiffer", labels=LABELS), base)
        name, under = ("eng", None) if kind == "language" else ("ner", "eng")
        self.parameters = self.peer.train(name, under, "mlm" if kind == "language" else "ner")
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.0)

    def round(self) -> float:
        """One step, or one epoch of a task; the first loss of it."""
        import torch

        from madx.data.labelled.batches import collate

        losses = []
        chunks = (
            [None]
            if self.kind == "language"
            else [self.rows[i : i + PEER_ROWS] for i in range(0, len(self.rows), PEER_ROWS)]
        )
        for chunk in chunks:
            self.optimizer.zero_grad()
            if chunk is None:
                batch = masked_batch(self.base.config.vocab_size, self.step)
                loss = self.peer.mlm_loss(batch["input_ids"], batch["labels"])
            else:
                batch = collate(chunk, 1)
                labels = torch.full_like(batch["input_ids"], -100)
                at = (batch["first"] >= 0).nonzero(as_tuple=True)
                labels[at[0], batch["first"][at]] = batch["labels"][at]
                loss = self.peer.model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels
                )[0]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            losses.append(loss.item())
            self.step += 1
        return losses[0]


def language(chosen) -> list[dict]:
    """Rows of the table for language modules."""
    base = make_base(chosen.shape)
    ways = {"fp32": Ours(base, "language", "fp32", None)}
    if has_peer(chosen):
        ways["peer"] = Theirs(base, "language", None)
        compare(ways["fp32"].round(), ways["peer"].round(), "language")
    if not chosen.only_fp32:
        ways["bf16"] = Ours(make_base(chosen.shape), "language", "bf16", None)
    times = turn_about({name: way.round for name, way in ways.items()}, chosen.rounds)
    forward, head = flops(base, ROWS * TOKENS, int(0.15 * ROWS * TOKENS))
    return [
        row(
            "language module, 8 x 128",
            name,
            times,
            ROWS * TOKENS,
            "tokens/s",
            2 * forward + trained(ways[name], ROWS * TOKENS) + 2 * head,
        )
        for name in ways
        if name != "peer"
    ]


def task(chosen) -> list[dict]:
    """Rows of the table for task modules: an epoch over the same sentences."""
    rows = sentence_rows(chosen.sentences, chosen.shape, file=chosen.file or None)
    base = make_base(chosen.shape)
    ways = {"fp32": Ours(base, "task", "fp32", rows)}
    if has_peer(chosen):
        ways["peer"] = Theirs(base, "task", rows)
        compare(_mean_loss(ways["fp32"], rows), ways["peer"].round(), "task")
    if not chosen.only_fp32:
        ways["bf16"] = Ours(make_base(chosen.shape), "task", "bf16", rows)
        for precision in ("fp32", "bf16"):
            ways[f"{precision}, upper half, kept"] = Kept(make_base(chosen.shape), precision, rows)
    times = turn_about({name: way.round for name, way in ways.items()}, chosen.rounds)
    tokens = sum(map(len, rows))
    forward, _ = flops(base, tokens, 0)
    return [
        row(
            f"task module, {len(rows)} sentences",
            name,
            times,
            len(rows),
            "sentences/s",
            2 * forward + trained(ways[name], tokens) if "kept" not in name else None,
        )
        for name in ways
        if name != "peer"
    ]


class Kept(Ours):
    """A task module in the upper half of the layers, the states below kept."""

    def __init__(self, base, precision: str, rows: list):
        from madx.training.cache_policy import activation_cache

        lower = list(range(base.depth // 2))
        super().__init__(
            base, "task", precision, rows, components={"bottleneck": {"leave_out": lower, "reduction_factor": 2}}
        )
        self.opened = activation_cache(self.trainee, self.task, self.settings, folder=None)
        self.opened.__enter__()


def _mean_loss(ours: Ours, rows: list) -> float:
    """The mean loss over the peer's first batch, by our engine."""
    import torch

    from madx.data.labelled.batches import collate

    batch = collate(rows[:PEER_ROWS], 1)
    with torch.no_grad():
        return (ours.task.loss(ours.engine, batch) / ours.task.count(batch)).item()


def compare(ours: float, peer: float, what: str) -> None:
    """Stops when the two sides do not compute the same."""
    if abs(ours - peer) > 2e-5 * abs(peer):
        raise SystemExit(
            f"{what}: the losses differ, ours {ours}, the peer's {peer}; the measurement would compare two things"
        )
    print(f"{what}: first loss {ours:.6f}, the peer's {peer:.6f}", flush=True)


def flops(base, tokens: int, masked: int) -> tuple[float, float]:
    """Operations of one forward pass through the base's matrices, and of the masked-LM head at the masked positions."""
    head = base.config.hidden_size * (base.config.hidden_size + base.config.vocab_size)
    return 2.0 * tokens * layer_weights(base), 2.0 * masked * head


def trained(way: Ours, tokens: int) -> float:
    """Operations of the modules: forward and backward to the input, and again for the weights that train."""
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in way.engine.modules.items()}
    return 2.0 * tokens * (2 * sum(count.values()) + count[way.name])


def row(what: str, name: str, times: dict, amount: int, unit: str, operations: float | None) -> dict:
    """A row of the table: amount per second, the ratio to the peer, the limit."""
    found = {"measure": what, "way": name, "unit": unit, "ours": round(amount / seconds(times[name]), 2)}
    if "peer" in times:
        found |= {"peer": round(amount / seconds(times["peer"]), 2), "ratio": ratio(times[name], times["peer"])}
    if operations:
        limit = amount / (operations / flops_per_second("bf16" if name.startswith("bf16") else "fp32"))
        found |= {"limit": round(limit, 2), "share": round(found["ours"] / limit, 2)}
    return found


def memory(chosen) -> list[dict]:
    """What a language step adds at its peak, in GB."""
    found = {}
    for way in ("fp32", "bf16", *(["peer"] if has_peer(chosen) else [])):
        found[way] = in_own_process(
            "train.py", "--child", way, "--shape", chosen.shape, "--threads", str(chosen.threads)
        )["added"]
    return [
        {
            "measure": "a language step adds, peak",
            "way": way,
            "unit": "GB",
            "ours": found[way],
            "peer": found.get("peer"),
            "share_of_peer": round(found[way] / found["peer"], 3) if "peer" in found else None,
        }
        for way in ("fp32", "bf16")
    ]


def child(chosen) -> None:
    """One step in this process, and what it adds to the resident memory."""
    import json

    base = make_base(chosen.shape)
    way = Theirs(base, "language", None) if chosen.child == "peer" else Ours(base, "language", chosen.child, None)
    with Memory() as used:
        way.round()
    print(json.dumps({"added": used.added}))


if __name__ == "__main__":
    options = arguments(__doc__, only="", sentences=256, file="", child="", only_fp32=0)
    if options.child:
        child(options)
    else:
        parts = {"language": language, "task": task, "memory": memory}
        write(
            options,
            [r for name, measurement in parts.items() if options.only in ("", name) for r in measurement(options)],
        )
