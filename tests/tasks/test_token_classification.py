"""Token classification: every word is predicted once, at its first piece, in any windows and batches."""

from itertools import pairwise

import pytest
import tiny
import tiny_runs as runs
import torch

from madx.data.labelled.batches import collate
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.windows import encode_words
from madx.engine import Engine
from madx.errors import CompositionError, ConfigError, DataError
from madx.module import new_module
from madx.tasks import TASKS
from madx.tasks.ner import NER
from madx.tasks.token_classification import word_logits
from madx.training import TrainSettings, fit

LABELS = LabelSet(("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))
LONG = [
    Sentence(("city", "xyz", "Anna", "of", "Juma") * n, ("B-LOC", "O", "B-PER", "O", "B-PER") * n, n) for n in (1, 9, 4)
]


def active():
    engine = Engine(tiny.base())
    engine.attach(tiny.wake(new_module("ner", engine.base, role="task", components="pfeiffer", labels=LABELS.tags)))
    engine.activate("ner")
    return engine


def task(max_length=20, **options):
    return NER(tiny.tokenizer(), LABELS, train=LONG, dev=LONG, max_length=max_length, **options)


def test_ner_is_registered():
    assert TASKS.get("ner") is NER


def test_word_logits_are_read_at_the_first_piece_of_each_word():
    engine = active()
    rows = encode_words(tiny.tokenizer(), LONG, LABELS, max_length=20)
    batch = collate(rows, 1)
    with torch.no_grad():
        logits = word_logits(engine, batch)
        hidden = engine(batch["input_ids"], batch["attention_mask"])
        head = engine.module("ner").head
        expected = [hidden[r, place] @ head.weight.T + head.bias for r, row in enumerate(rows) for place in row.first]
    assert logits.shape == (sum(len(r.first) for r in rows), 5)
    assert torch.allclose(logits, torch.stack(expected), atol=1e-5)
    pieces = tiny.tokenizer().convert_ids_to_tokens([rows[0].input_ids[p] for p in rows[0].first])
    assert pieces[0] == "▁city" and pieces[2] == "▁Anna" and pieces[1].startswith("▁")


def test_the_loss_is_the_sum_over_words_of_the_cross_entropy_of_the_scores():
    engine, t = active(), task(batch_size=16)
    (batch,) = t.batches(0)
    assert t.count(batch) == sum(len(s.tokens) for s in LONG)
    with torch.no_grad():
        assert torch.equal(t.scores(engine, batch), word_logits(engine, batch))
        log = t.scores(engine, batch).log_softmax(-1)
        gold = batch["labels"][batch["labels"] >= 0]
        assert torch.allclose(t.loss(engine, batch), -log[torch.arange(len(gold)), gold].sum(), rtol=1e-5)


@pytest.mark.parametrize("max_length", [8, 20, 62])
def test_windows_cover_every_word_once(max_length):
    engine, t = active(), task(max_length)
    predicted = t.predict(engine, LONG)
    assert [len(p) for p in predicted] == [len(s.tokens) for s in LONG]
    assert {tag for p in predicted for tag in p} <= set(LABELS.tags)
    assert t.predict(engine, LONG[::-1]) == predicted[::-1]  # other sentences in the batch change nothing
    assert t.predict(engine, LONG[1:2]) == predicted[1:2]
    if max_length == 62:  # with one window each, it is the plain prediction
        for sentence, tags in zip(LONG[:1], predicted):
            batch = collate(encode_words(tiny.tokenizer(), [sentence], None, max_length=62), 1)
            with torch.no_grad():
                assert LABELS.decode(word_logits(engine, batch).argmax(-1).tolist()) == tags


def test_predicting_keeps_no_graph_and_needs_no_tags():
    engine, t = active(), task()
    engine.train_only("ner")
    seen = []
    hook = engine.module("ner").head.register_forward_hook(lambda _m, _i, out: seen.append(out.requires_grad))

    class Words:
        tokens = ("Anna", "lives", "in", "city")

    assert len(t.predict(engine, [Words()])[0]) == 4
    t.evaluate(engine)
    hook.remove()
    assert len(seen) >= 2 and not any(seen)


def test_a_trivially_learnable_set_is_learnt():
    made, result = runs.train("ner", steps=60, learning_rate=3e-2)
    assert result.best["f1"] > 97 and result.best["token_accuracy"] > 97
    t = runs.ner()
    assert t.evaluate(made) == result.best
    sentence = Sentence(("Maria", "lives", "in", "city"), ("B-PER", "O", "O", "B-LOC"))
    assert t.predict(made, [sentence]) == [["B-PER", "O", "O", "B-LOC"]]


def test_seeds_order_the_data_differently():
    def order(seed):
        t = runs.ner(seed=seed)
        return [b["input_ids"].tolist() for step in range(t.steps(1)) for b in t.batches(step)]

    assert order(1) == order(1) != order(2)
    weights = [runs.train("ner", steps=3, seed=seed)[0].module("ner").tensors() for seed in (1, 2)]
    assert any(not torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


@pytest.mark.parametrize("sizes", [{"batch_size": 4}, {"batch_size": None, "tokens_per_batch": 60}])
def test_an_epoch_meets_every_row_once_on_any_number_of_processes(sizes):
    t = runs.ner(**sizes)
    steps = t.steps(3)
    for count in (1, 2, 3):
        seen = {}
        for step in range(steps):
            whole = [row for b in t.batches(step) for row in b["input_ids"].tolist()]
            shares = [[b for b in t.batches(step, process_index=p, process_count=count)] for p in range(count)]
            assert sum(len(b["labels"]) for share in shares for b in share) == len(whole)
            seen[step] = sum(t.count(b) for share in shares for b in share)
        words = sum(len(s.tokens) for s in runs.sentences())
        bounds = [t.steps(e) for e in range(4)]
        assert [sum(seen[s] for s in range(a, b)) for a, b in pairwise(bounds)] == [words] * 3


def test_any_step_is_found_without_those_before_it():
    through, direct = runs.ner(), runs.ner()
    for step in range(8):
        last = through.batches(step)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(last, direct.batches(7)) for k in a)


def test_micro_batches_hold_the_rows_of_the_batch():
    (whole,), cut = task(batch_size=16).batches(0), task(batch_size=16, micro_batch=2).batches(0)
    assert sum(len(b["labels"]) for b in cut) == len(whole["labels"]) and max(len(b["labels"]) for b in cut) == 2


def test_empty_training_data_and_senseless_sizes_are_refused():
    t = NER(tiny.tokenizer(), LABELS, dev=LONG, max_length=20)
    assert t.steps(2) == 0
    with pytest.raises(DataError, match="no sentences to train on.*`train`"):
        t.batches(0)
    with pytest.raises(ConfigError, match="tokens_per_batch 40: give one of them"):
        task(tokens_per_batch=40).steps(1)
    with pytest.raises(DataError, match="B-MISC"):
        NER(tiny.tokenizer(), LABELS, train=[Sentence(("a",), ("B-MISC",))], max_length=20)


def test_explain_measures_on_the_sentences():
    engine, t = active(), task()
    explanation = t.explain(engine, LONG)
    assert explanation.measured and explanation.inactive == [] and explanation.head == "ner: 5 labels"


# --- sentences of several languages in one batch


def routed(*languages):
    engine = Engine(tiny.base())
    for seed, name in enumerate(languages):
        engine.attach(tiny.wake(new_module(name, engine.base, components="madx"), seed=seed))
    engine.attach(
        tiny.wake(new_module("ner", engine.base, role="task", components="pfeiffer", labels=LABELS.tags), seed=9)
    )
    engine.activate(f"route({', '.join(f'{name} + ner' for name in languages)})")
    return engine


def test_each_sentence_is_predicted_by_its_own_branch():
    engine, branches = routed("swa", "yor"), [1, 0, 1]
    t = NER(tiny.tokenizer(), LABELS, dev=LONG, dev_branches=branches, max_length=20)
    predicted = t.predict(engine, LONG, branches=branches)
    alone = []
    for sentence, number in zip(LONG, branches):
        with engine.using(engine.composition.branches[number]):
            alone += t.predict(engine, [sentence])
    assert predicted == alone and predicted != t.predict(engine, LONG, branches=[0, 0, 0])
    assert t.evaluate(engine) == t.score(LONG, predicted).summary()
    assert t.explain(engine, LONG, branches=branches).inactive == []
    with pytest.raises(DataError, match="2 branches for 3 sentences: give one for each"):
        t.predict(engine, LONG, branches=[0, 1])
    with pytest.raises(CompositionError, match="has 2 branches: which one"):
        t.predict(engine, LONG)


def test_training_on_several_languages_at_once(tmp_path):
    """The task module learns over each sentence's frozen language module, with the gradients of separate passes."""
    engine, branches = routed("swa", "yor"), [1, 0, 1]
    t = task(train_branches=branches, dev_branches=branches)
    (batch,) = t.batches(0)
    opened = engine.train_only("ner")
    together = torch.autograd.grad(t.loss(engine, batch), opened)
    separate = [torch.zeros_like(p) for p in opened]
    for number in (0, 1):
        rows = batch["branches"] == number
        with engine.using(engine.composition.branches[number]):
            part = {k: v[rows] for k, v in batch.items() if k != "branches"}
            separate = [s + g for s, g in zip(separate, torch.autograd.grad(t.loss(engine, part), opened))]
    assert all(torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(together, separate))
    before = {name: {k: v.clone() for k, v in engine.module(name).tensors().items()} for name in ("swa", "yor", "ner")}
    settings = TrainSettings(learning_rate=1e-2, progress=False, keep_best=False)
    result = fit(engine, "ner", t, settings, steps=4, seed=0, folder=tmp_path)
    assert result.history[-1]["loss"] > 0
    for name, old in before.items():
        changed = any(not torch.equal(v, old[k]) for k, v in engine.module(name).tensors().items())
        assert changed == (name == "ner"), name
