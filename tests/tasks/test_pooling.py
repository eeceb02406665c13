"""Pooling: the formulas against a plain loop, windows, routes, mixing, stored modules, exports, old records."""

import json

import pytest
import tiny
import torch
from store_tools import alter

from madx.data.labelled.batches import collate
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.windows import encode_words
from madx.engine import Engine
from madx.engine.entropy_mixing import EntropyMixing
from madx.errors import ConfigError, StoreError
from madx.interop import export_adapterhub, export_plain
from madx.interop.composable_sft.exporting import export_composable_sft
from madx.module import new_module
from madx.module.pooling import KINDS, pieces_read, pool
from madx.store import load_module, read_info, save_module
from madx.tasks.ner import NER
from madx.tasks.token_classification import word_logits
from madx.training import TrainSettings, fit

LABELS = ("O", "B-PER", "B-LOC")
#: words of one piece, of a few and of many, in sentences of unequal length
SENTENCES = [
    Sentence(("the", "cheAnna", "in", "xyzcity"), ("O", "B-PER", "O", "B-LOC"), 1),
    Sentence(("Juma",), ("B-PER",), 2),
    Sentence(("abcdefghijk", "of", "reOmar") * 3, ("O", "O", "B-PER") * 3, 3),
]


def by_loop(kind, states, weight):
    """The formula of one word: states `(pieces, width)` -> `(width,)`."""
    if kind in ("first", "last"):
        return states[0 if kind == "first" else -1]
    if kind == "first_last":
        return (states[0] + states[-1]) / 2
    if kind == "mean":
        return states.mean(0)
    if kind == "max":
        return states.max(0).values
    return (states @ weight).softmax(0) @ states


def module(base, name="ner", pooling="first", *, seed=0, **options):
    options = {"role": "task", "task": "ner", "labels": LABELS, "components": "pfeiffer"} | options
    return tiny.wake(new_module(name, base, pooling=pooling, **options), seed=seed)


def engine_with(*poolings):
    """An engine with a language module and one task module for each pooling, named by it; the last one is active."""
    made = Engine(tiny.base())
    made.attach(tiny.wake(new_module("swa", made.base, language="swa", components="madx"), std=0.1))
    for seed, pooling in enumerate(poolings):
        made.attach(module(made.base, pooling, pooling, seed=seed))
    made.activate(f"swa + {poolings[-1]}")
    return made


def batch_of(sentences=SENTENCES, max_length=40):
    rows = encode_words(tiny.tokenizer(), sentences, LabelSet(LABELS), max_length=max_length)
    return rows, collate(rows, 1)


def expected(engine, name, batch, rows):
    """The logits of all words by a plain loop over whole states."""
    hidden, own = engine(batch["input_ids"], batch["attention_mask"]), engine.module(name)
    vectors = [
        by_loop(own.info.pooling, hidden[r, a : a + n], own.pooling.weight)
        for r, row in enumerate(rows)
        for a, n in zip(row.first, row.pieces, strict=True)
    ]
    return own.head(torch.stack(vectors))


# ---- formulas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_formula_equals_a_plain_loop(kind):
    torch.manual_seed(0)
    sizes = torch.tensor([1, 5, 2, 1, 13])
    first = torch.tensor([1, 2, 9, 30, 40])  # words need not be neighbours: others may stand between them
    states, weight = torch.randn(60, 8) * 3, torch.randn(8, requires_grad=True)
    read = pieces_read(kind, first, sizes)
    found = pool(kind, states[read.positions], read.words, 5, weight)
    wanted = torch.stack(
        [by_loop(kind, states[a : a + n], weight) for a, n in zip(first.tolist(), sizes.tolist(), strict=True)]
    )
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.equal(found[[0, 3]], states[[1, 30]])  # a word of one piece is that piece, exactly
    assert len(read.positions) == {"first": 5, "last": 5, "first_last": 8}.get(kind, 22)
    assert pool(kind, states[:0], read.words[:0], 0, weight).shape == (0, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_the_loop_and_stay_finite(kind):
    torch.manual_seed(0)
    sizes, first = torch.tensor([3, 1, 4]), torch.tensor([0, 3, 4])
    leaf = (torch.randn(8, 4, dtype=torch.float32) * 100).requires_grad_()
    weight, seen = torch.randn(4, requires_grad=True), []
    for way in ("pool", "loop"):
        read = pieces_read(kind, first, sizes)
        if way == "pool":
            found = pool(kind, leaf[read.positions], read.words, 3, weight)
        else:
            found = torch.stack([by_loop(kind, leaf[a : a + n], weight) for a, n in ((0, 3), (3, 1), (4, 4))])
        wanted = [leaf, weight] if kind == "attention" else [leaf]
        seen.append(torch.autograd.grad((found * torch.arange(12.0).view(3, 4)).sum(), wanted))
    for ours, theirs in zip(*seen, strict=True):
        assert ours.isfinite().all() and torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_attention_begins_as_the_mean_and_half_precision_is_summed_in_float32():
    sizes, first = torch.tensor([400]), torch.tensor([0])
    states = torch.full((400, 2), 1.01).bfloat16()
    read = pieces_read("mean", first, sizes)
    found = pool("mean", states, read.words, 1)
    assert found.dtype == torch.bfloat16 and torch.equal(found[0], states[0])
    assert torch.equal(pool("attention", states, read.words, 1, torch.zeros(2)), found)
    with pytest.raises(ConfigError, match="weight"):
        pool("attention", states, read.words, 1)


# ---- the task --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_length", [14, 62])
@torch.no_grad()
def test_a_batch_with_padding_and_windows_reads_every_word_with_all_its_pieces(kind, max_length):
    engine = engine_with(kind)
    rows, batch = batch_of(max_length=max_length)
    assert (len(rows) > 3) == (max_length == 14)
    assert torch.allclose(word_logits(engine, batch), expected(engine, kind, batch, rows), atol=1e-5)
    whole = {n: [len(p) for p in pieces] for n, pieces in enumerate(words())}
    for row in rows:
        assert row.pieces == tuple(whole[row.sentence][word] for word in row.words)
    task = NER(tiny.tokenizer(), LabelSet(LABELS), max_length=max_length)
    assert [len(tags) for tags in task.predict(engine, SENTENCES)] == [len(s.tokens) for s in SENTENCES]


def words():
    """The pieces of the words of `SENTENCES`, one by one."""
    return [[tiny.tokenizer()(w, add_special_tokens=False)["input_ids"] for w in s.tokens] for s in SENTENCES]


def test_a_word_longer_than_a_window_is_read_at_the_pieces_that_are_kept():
    (row,) = encode_words(tiny.tokenizer(), [Sentence(("x" * 30,), ("O",), 1)], LabelSet(LABELS), max_length=10)
    assert (row.first, row.pieces, len(row)) == ((1,), (8,), 10)


def test_first_reads_exactly_the_positions_of_before(monkeypatch):
    engine, seen = engine_with("first"), []
    call = Engine.__call__
    monkeypatch.setattr(Engine, "__call__", lambda self, *a, **k: seen.append(k["at"]) or call(self, *a, **k))
    _, batch = batch_of()
    with torch.no_grad():
        found = word_logits(engine, batch)
    rows, places = (batch["first"] >= 0).nonzero(as_tuple=True)
    at = rows, batch["first"][rows, places]
    assert torch.equal(seen[0][0], at[0]) and torch.equal(seen[0][1], at[1])
    with torch.no_grad():
        hidden = call(engine, batch["input_ids"], batch["attention_mask"], at=at)
    assert torch.equal(found, engine.label_logits(hidden))


@torch.no_grad()
def test_rows_of_one_batch_may_have_different_poolings():
    engine = engine_with(*KINDS)
    rows, batch = batch_of(SENTENCES * 3)
    engine.activate("route(" + ", ".join(f"swa + {kind}" for kind in KINDS) + ")")
    branches = torch.tensor([(5 * r + 1) % len(KINDS) for r in range(len(rows))])
    assert len(set(branches.tolist())) == len(KINDS)
    found = word_logits(engine, batch | {"branches": branches}).split([len(row.first) for row in rows])
    for r, (row, branch) in enumerate(zip(rows, branches.tolist(), strict=True)):
        with engine.using(f"swa + {KINDS[branch]}"):
            alone = expected(engine, KINDS[branch], collate([row], 1), [row])
        assert torch.allclose(found[r], alone, atol=1e-5), KINDS[branch]


@torch.no_grad()
def test_two_attentions_in_one_batch_keep_their_own_vectors():
    engine = engine_with("attention")
    engine.attach(module(engine.base, "other", "attention", seed=7))
    rows, batch = batch_of(SENTENCES[:1] * 2)
    engine.activate("route(swa + attention, swa + other)")
    found = word_logits(engine, batch | {"branches": torch.tensor([1, 0])}).split([len(row.first) for row in rows])
    for name, logits in zip(("other", "attention"), found, strict=True):
        with engine.using(f"swa + {name}"):
            one = {key: value[:1] for key, value in batch.items()}
            assert torch.allclose(logits, expected(engine, name, one, rows[:1]), atol=1e-5)


@pytest.mark.parametrize("kind", ["last", "attention"])
def test_mixing_reads_words_as_the_task_module_does(kind):
    engine = engine_with(kind)
    engine.attach(tiny.wake(new_module("hau", engine.base, language="hau", components="madx"), seed=4, std=0.1))
    engine.activate(f"average(swa, hau) + {kind}")
    rows, batch = batch_of()
    with torch.no_grad():
        still = EntropyMixing(engine, word_logits, rate=0.0)(engine, batch)
        assert torch.allclose(still, expected(engine, kind, batch, rows), atol=1e-4)
    assert EntropyMixing(engine, word_logits)(engine, batch).shape == still.shape


def test_training_moves_the_attention_at_the_rate_of_the_head():
    engine = Engine(tiny.base())
    made = engine.attach(
        new_module("ner", engine.base, role="task", components="head_only", labels=LABELS, pooling="attention")
    )
    engine.activate("ner")
    assert made.head_parameters()[-1] is made.pooling.weight and made.pooling.weight.eq(0).all()
    task = NER(tiny.tokenizer(), LabelSet(LABELS), train=SENTENCES, dev=SENTENCES, max_length=40)
    options = {"progress": False, "evaluate_every": 4, "learning_rate": 1e-9, "head_learning_rate": 1e-2}
    fit(engine, "ner", task, TrainSettings(**options), steps=4, seed=0)
    assert made.pooling.weight.abs().max() > 1e-4


def test_explain_names_the_pooling():
    engine = engine_with("first", "last")
    assert engine.explain().head == "last: 3 labels, pooling last"
    engine.activate("swa + first")
    assert engine.explain().head == "first: 3 labels"


# ---- stored modules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_module_predicts_the_same_again(kind, tmp_path):
    engine = engine_with(kind)
    _, batch = batch_of()
    with torch.no_grad():
        before = word_logits(engine, batch)
    save_module(engine.module(kind), tmp_path / kind)
    again = load_module(tmp_path / kind, engine.base)
    assert again.info.pooling == again.pooling.kind == kind == read_info(tmp_path / kind).pooling
    assert ("pooling.weight" in again.tensors()) == (kind == "attention")
    assert (kind == "first") == ("The label of a word" not in (tmp_path / kind / "README.md").read_text())
    engine.activate(None)
    engine.detach(kind)
    engine.attach(again)
    engine.activate(f"swa + {kind}")
    with torch.no_grad():
        assert torch.equal(word_logits(engine, batch), before)


def test_records_without_the_key_are_read_at_the_first_piece(tmp_path):
    base = tiny.base()
    save_module(module(base), tmp_path / "ner")
    assert "pooling" not in json.loads((tmp_path / "ner" / "module.json").read_text())
    assert load_module(tmp_path / "ner", base).info.pooling == "first"
    alter(tmp_path / "ner", lambda content: content.update(pooling="last"), mend=False)
    with pytest.raises(StoreError, match="checksum"):
        load_module(tmp_path / "ner", base)


def test_records_that_make_no_sense_are_refused(tmp_path):
    base = tiny.base()
    save_module(module(base, pooling="attention"), tmp_path / "a")
    alter(tmp_path / "a", lambda content: content.update(pooling="mean"))
    with pytest.raises(StoreError, match=r"pooling\.weight"):
        load_module(tmp_path / "a", base)
    alter(tmp_path / "a", lambda content: content.update(pooling="lsat"))
    with pytest.raises(StoreError, match="pooling.*first_last"):
        load_module(tmp_path / "a", base)
    changed = module(base, pooling="last")
    changed.info.pooling = "first"
    with pytest.raises(StoreError, match="'first'.*'last'"):
        save_module(changed, tmp_path / "b")
    with pytest.raises(ConfigError, match="'lsat'.*'last'"):
        module(base, pooling="lsat")
    with pytest.raises(ConfigError, match="'mean'.*no labels"):
        module(base, pooling="mean", labels=(), role="language", language="swa", task=None)


# ---- other formats ---------------------------------------------------------------------------------------------------


def test_exports_of_another_pooling_are_refused_by_name(tmp_path):
    engine = Engine(tiny.base())
    made = module(engine.base, "ner", "last")
    with pytest.raises(ConfigError, match="'ner'.*'last'.*AdapterHub"):
        export_adapterhub(made, tmp_path / "hub", base=engine.base)
    sparse = engine.attach(tiny.sparse(engine.base, "sft", role="task", labels=LABELS, pooling="mean"))
    with pytest.raises(ConfigError, match="'sft'.*'mean'.*composable-sft"):
        export_composable_sft(sparse, tmp_path / "sft", base=engine.base)
    engine.activate("sft")
    with pytest.raises(ConfigError, match="'sft'.*'mean'.*transformers"):
        export_plain(engine, tmp_path / "plain")
    with pytest.raises(ConfigError, match="'sft'.*'mean'"):
        engine.merge()
    assert list(tmp_path.iterdir()) == [] and engine.composition.names() == ("sft",)
