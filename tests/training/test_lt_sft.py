"""LT-SFT against an independent transcription of the algorithm in plain torch."""

import copy

import pytest
import tiny
import tiny_runs as runs
import torch
import torch.nn.functional as F
from sparse_runs import FAMILY, language, ner, settings, untied_model
from tiny import dense, scatter

from madx.data.text.masking import IGNORED, row_seed
from madx.tasks.masked_lm import HELD_OUT_SEED
from madx.training import fit


def transcription(
    maskable,
    dense,
    loss_at,
    score,
    rate,
    *,
    entries,
    rounds,
    full_steps,
    steps,
    learning_rate,
    l1,
    number_of_all,
    every,
):
    """Lottery ticket sparse fine-tuning as composable-sft does it: dense masks and one optimiser over everything. Only
    data and learning rates are madx's. Returns the deltas of the maskable parameters and their masks."""
    everything = [*maskable.values(), *dense]
    original = [p.detach().clone() for p in everything]
    mask = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in maskable.items()}

    def train(count, lam, masking):
        optimizer = torch.optim.AdamW(everything, lr=learning_rate, weight_decay=0.0)
        best, best_weights = None, None
        for step in range(count):
            optimizer.zero_grad()
            loss = loss_at(step)
            if lam:
                loss = loss + lam * sum((p - o).abs().sum() for p, o in zip(everything, original)) / number_of_all
            loss.backward()
            if masking:
                for name, p in maskable.items():
                    p.grad = p.grad * mask[name]
            torch.nn.utils.clip_grad_norm_([p for p in everything if p.grad is not None], 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate(step, count)
            optimizer.step()
            if (step + 1) % every == 0 or step + 1 == count:
                now = score()
                if best is None or now > best:
                    best, best_weights = now, [p.detach().clone() for p in everything]
        with torch.no_grad():
            for p, w in zip(everything, best_weights):
                p.copy_(w)

    for number in range(rounds):
        previous = [p.detach().clone() for p in everything]
        train(full_steps, l1[0], masking=False)
        k = entries // rounds if number + 1 < rounds else entries - int(sum(m.sum() for m in mask.values()))
        deltas = {n: (p.detach() - o).abs() for (n, p), o in zip(maskable.items(), original)}
        threshold = torch.cat([deltas[n][~mask[n]] for n in maskable]).sort(descending=True).values[k - 1]
        for n in maskable:
            mask[n] |= (deltas[n] >= threshold) & ~mask[n]
        with torch.no_grad():
            for p, w in zip(everything, previous):
                p.copy_(w)
        train(steps, l1[1], masking=True)
    return {n: p.detach() - o for (n, p), o in zip(maskable.items(), original)}, mask


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_language_equals_the_transcription(rounds):
    """Masked LM, decoder untied and frozen, layer norms frozen, L1 in both phases, the best evaluation kept."""
    engine, task, unit = language(301)
    l1 = (30.0, 20.0)
    chosen = settings(iterations=rounds, full_share=0.75, full_l1=l1[0], sparse_l1=l1[1], evaluate_every=3)
    fit(engine, "swa", task, chosen, steps=8, seed=0)

    model = untied_model()
    number = sum(p.numel() for p in model.parameters())
    maskable = {n: p.requires_grad_(True) for n, p in sorted(model.roberta.named_parameters()) if "LayerNorm" not in n}

    def loss_of(batch):
        logits = model(input_ids=batch["input_ids"]).logits
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)

    held_out = runs.blocks().held_out
    ids, labels = task._mask(held_out[: len(held_out)], row_seed(HELD_OUT_SEED, 0, torch.arange(len(held_out)).numpy()))
    deltas_found, mask = transcription(
        maskable,
        [],
        lambda step: loss_of(task.batches(step)[0]),
        lambda: -loss_of({"input_ids": ids, "labels": labels}).item(),
        chosen.rate,
        entries=301,
        rounds=rounds,
        full_steps=6,
        steps=8,
        learning_rate=1e-2,
        l1=l1,
        number_of_all=number,
        every=3,
    )
    ours = scatter(unit)
    assert sum(int(m.sum()) for m in mask.values()) == 301 == len(unit.indices)
    selected = torch.zeros(unit.space.size, dtype=torch.bool)
    selected[unit.indices.long()] = True
    assert torch.equal(selected, torch.cat([mask[p.name].flatten() for p in unit.space.parameters]))
    for name, delta in deltas_found.items():
        assert torch.allclose(ours[name], delta, atol=1e-6), name
    assert max(d.abs().max() for d in deltas_found.values()) > 1e-2


def test_a_task_equals_the_transcription():
    """NER over base + source language; the head is trained in both phases and is reset between them."""
    engine, task, unit = ner(250)
    head_before = copy.deepcopy(engine.modules["ner"].head).requires_grad_(True)
    chosen = settings(evaluate_every=3, keep_best=False, head_learning_rate=None)
    fit(engine, "ner", task, chosen, steps=7, seed=0)
    model = tiny.model(FAMILY).eval().requires_grad_(False)
    with torch.no_grad():
        for name, delta in dense(engine.modules["eng"]).items():
            model.roberta.get_parameter(name).add_(delta)
    maskable = {n: p.requires_grad_(True) for n, p in sorted(model.roberta.named_parameters()) if "LayerNorm" not in n}

    def loss_at(step):
        (batch,) = task.batches(step)
        hidden = model.roberta(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        rows, words = (batch["first"] >= 0).nonzero(as_tuple=True)
        return F.cross_entropy(head_before(hidden[rows, batch["first"][rows, words]]), batch["labels"][rows, words])

    steps = iter(range(1000))  # the last evaluation wins, as with keep_best=False
    deltas_found, _ = transcription(
        maskable,
        list(head_before.parameters()),
        loss_at,
        lambda: next(steps),
        chosen.rate,
        entries=250,
        rounds=1,
        full_steps=7,
        steps=7,
        learning_rate=1e-2,
        l1=(0, 0),
        number_of_all=1,
        every=7,
    )
    ours = scatter(unit)
    for name, delta in deltas_found.items():
        assert torch.allclose(ours[name], delta, atol=1e-6), name
    head = engine.modules["ner"].head
    assert torch.allclose(head.weight, head_before.weight, atol=1e-6) and torch.allclose(
        head.bias, head_before.bias, atol=1e-6
    )
