"""Masked language modelling: the loss at the masked positions is the whole loss, and evaluation always the same."""

import math

import numpy as np
import pytest
import tiny
import tiny_runs as runs
import torch
import torch.nn.functional as F

from madx.data.text.masking import IGNORED, mask_tokens, row_seed
from madx.engine import Engine
from madx.errors import BaseError
from madx.module import new_module
from madx.tasks.masked_lm import HELD_OUT_SEED, MaskedLM


def active(family, composition="swa"):
    engine = Engine(tiny.base(family))
    engine.attach(tiny.wake(new_module("swa", engine.base)))
    engine.activate(composition)
    return engine


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
@pytest.mark.parametrize("composition", ["base", "swa"])
def test_the_loss_at_masked_positions_is_the_models_own_loss(family, composition):
    engine, task = active(family, composition), runs.masked_lm()
    (batch,) = task.batches(3)
    chosen = batch["labels"] != IGNORED
    assert task.count(batch) == chosen.sum() and 0 < task.count(batch) < batch["labels"].numel() // 2
    with torch.no_grad():
        whole = engine.base.model(input_ids=batch["input_ids"], labels=batch["labels"])
        assert torch.allclose(task.loss(engine, batch) / task.count(batch), whole.loss, atol=1e-5, rtol=1e-5)
        scores = task.scores(engine, batch)
    assert scores.shape == (task.count(batch), tiny.VOCABULARY) and scores.dtype == torch.float32
    assert torch.allclose(scores, whole.logits[chosen], atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_the_whole_loss():
    engine, task = active("xlm-roberta"), runs.masked_lm()
    parameters = engine.train_only("swa")
    (batch,) = task.batches(0)
    part = torch.autograd.grad(task.loss(engine, batch) / task.count(batch), parameters)
    whole = torch.autograd.grad(engine.base.model(**batch).loss, parameters)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(part, whole))


def test_evaluation_is_deterministic_and_equals_a_computation_by_hand():
    engine, task = active("xlm-roberta"), runs.masked_lm(seed=5, micro_batch=4)
    scores = task.evaluate(engine)
    other = runs.masked_lm(seed=9, batch_size=3)
    other.batches(7)
    assert other.evaluate(engine) == pytest.approx(scores, rel=1e-5)  # another run, the same masks
    assert task.evaluate(engine) == scores
    held_out, tokenizer = runs.blocks().held_out[:], tiny.tokenizer()
    ids, labels = mask_tokens(
        torch.from_numpy(held_out),
        seeds=row_seed(HELD_OUT_SEED, 0, np.arange(len(held_out))),
        mask_id=4,
        vocab_size=len(tokenizer),
        special_ids=tokenizer.all_special_ids,
    )
    with torch.no_grad():
        logits = engine.base.model(input_ids=ids).logits
    losses, right = [], []
    for row, column in zip(*np.nonzero(labels.numpy() != IGNORED)):
        gold = labels[row, column].item()
        losses.append(-F.log_softmax(logits[row, column], -1)[gold].item())
        right.append(logits[row, column].argmax().item() == gold)
    mean = sum(losses) / len(losses)
    assert scores["loss"] == pytest.approx(mean, rel=1e-5) and scores["perplexity"] == pytest.approx(
        math.exp(mean), rel=1e-4
    )
    assert scores["accuracy"] == sum(right) / len(right)


def test_a_limit_on_the_held_out_blocks():
    engine = active("xlm-roberta")
    full, two = runs.masked_lm().evaluate(engine), runs.masked_lm(held_out_limit=2).evaluate(engine)
    assert full != two and runs.masked_lm(held_out_limit=1000).evaluate(engine) == full


def test_a_hopeless_loss_has_a_finite_perplexity():
    engine, task = active("xlm-roberta"), runs.masked_lm()
    with torch.no_grad():
        engine.base.model.lm_head.bias[11] = -1e6
    scores = task.evaluate(engine)
    assert scores["loss"] > 1e3 and math.isfinite(scores["perplexity"])


def test_batches_are_a_function_of_step_and_seed():
    task, again, other = runs.masked_lm(seed=1), runs.masked_lm(seed=1), runs.masked_lm(seed=2)
    again.batches(0)
    (a,), (b,), (c,), (d,) = task.batches(9), again.batches(9), other.batches(9), task.batches(10)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["input_ids"], c["input_ids"]) and not torch.equal(a["labels"], d["labels"])


@pytest.mark.parametrize("count", [2, 3])
def test_processes_and_micro_batches_share_the_rows_and_their_masks(count):
    task = runs.masked_lm(batch_size=7, micro_batch=2)
    (whole,) = runs.masked_lm(batch_size=7).batches(5)
    for key in ("input_ids", "labels"):
        assert torch.equal(torch.cat([b[key] for b in task.batches(5)]), whole[key])
        for p in range(count):
            share = torch.cat([b[key] for b in task.batches(5, process_index=p, process_count=count)])
            assert torch.equal(share, whole[key][p::count])
    assert max(len(b["labels"]) for b in task.batches(5)) == 2


def test_a_tokenizer_without_a_mask_is_refused():
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer().backend_tokenizer, pad_token="<pad>")
    with pytest.raises(BaseError, match="no mask token.*Take a base"):
        MaskedLM(runs.blocks(), bare, batch_size=2)


@pytest.mark.parametrize(
    ("metric_up", "new", "old", "better"),
    [
        (False, 1.0, None, True),
        (False, 1.0, 2.0, True),
        (False, 2.0, 2.0, False),
        (False, math.nan, None, False),
        (False, 1.0, math.inf, True),
        (True, 3.0, 2.0, True),
        (True, 1.0, 2.0, False),
        (True, math.nan, 2.0, False),
    ],
)
def test_better(metric_up, new, old, better):
    assert (runs.ner() if metric_up else runs.masked_lm()).better(new, old) is better


def test_masked_words_of_several_languages_in_one_batch():
    """Under a route the loss is the sum over the branches, and one batch trains several language modules."""
    engine, task = active("xlm-roberta"), runs.masked_lm()
    engine.attach(tiny.wake(new_module("yor", engine.base), seed=1))
    engine.activate("route(swa, yor)")
    batch = task.batches(0)[0]
    batch["branches"] = torch.arange(len(batch["labels"])) % 2
    opened = engine.train_only("swa", "yor")
    loss = task.loss(engine, batch)
    together = torch.autograd.grad(loss, opened)
    losses, separate = [], []
    for number, name in enumerate(("swa", "yor")):
        with engine.using(name):
            rows = batch["branches"] == number
            losses.append(task.loss(engine, {k: batch[k][rows] for k in ("input_ids", "labels")}))
            separate += torch.autograd.grad(losses[-1], list(engine.module(name).parameters()))
    assert torch.allclose(loss, sum(losses), rtol=1e-5)
    for a, b in zip(together, separate, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4) and b.abs().sum() > 0
