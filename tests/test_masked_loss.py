"""The masked loss: cross entropy's value and gradients, in less memory."""

import pytest
import tiny
import torch
import torch.nn.functional as F

from madx.engine import Engine
from madx.engine import mlm_loss as file
from madx.engine.mlm_loss import masked_loss
from madx.module import new_module


@pytest.fixture(params=[1, 7, 10**9], ids=["row by row", "a few rows", "at once"])
def cut(request, monkeypatch):
    monkeypatch.setattr(file, "NUMBERS", {"cpu": 50 * request.param})
    monkeypatch.setattr(file, "BLOCK", {"cpu": 50 * max(1, request.param // 2)})


def both(y, weight, targets, dtype=torch.float64):
    """(loss, gradient) by cross entropy in double precision and by the masked loss."""
    found = []
    for exact in (True, False):
        x = y.detach().to(dtype if exact else y.dtype).requires_grad_()
        table = weight.to(x.dtype).T
        loss = (
            F.cross_entropy(x @ table, targets, reduction="sum")
            if exact
            else masked_loss(x, table.__rmatmul__, targets, vocabulary=len(weight))
        )
        (loss / 3).backward()
        found.append((loss.detach(), x.grad))
    return found


@pytest.mark.parametrize("spread", [1.0, 60.0])
def test_equals_cross_entropy(cut, spread):
    generator = torch.Generator().manual_seed(0)
    y, weight = torch.randn(20, 8, generator=generator), spread * torch.randn(50, 8, generator=generator)
    targets = torch.randint(50, (20,), generator=generator)
    (loss, gradient), (ours, our_gradient) = both(y, weight, targets)
    assert torch.isfinite(ours) and ours.dtype == torch.float32
    assert abs(ours - loss) < 1e-6 * loss
    assert (our_gradient - gradient).abs().max() < 2e-6 * gradient.abs().max()


def test_half_precision_scores_are_summed_in_single(cut):
    generator = torch.Generator().manual_seed(0)
    y, weight = torch.randn(20, 8, generator=generator), torch.randn(50, 8, generator=generator)
    targets = torch.randint(50, (20,), generator=generator)
    x = y.bfloat16().requires_grad_()
    loss = masked_loss(x, lambda part: part @ weight.bfloat16().T, targets, vocabulary=50)
    same = F.cross_entropy((x.detach() @ weight.bfloat16().T).float(), targets, reduction="sum")
    loss.backward()
    assert loss.dtype == torch.float32 and abs(loss - same) < 1e-5 * same
    assert x.grad.dtype == torch.bfloat16
    (_, gradient), _ = both(y, weight, targets)
    assert (3 * gradient - x.grad).abs().max() < 0.03 * 3 * gradient.abs().max()


def test_no_positions_and_no_gradients():
    weight = torch.ones(5, 3)
    none = torch.zeros(0, 3, requires_grad=True)
    loss = masked_loss(none, lambda y: y @ weight.T, torch.zeros(0, dtype=torch.long), vocabulary=5)
    loss.backward()
    assert loss == 0 and none.grad.shape == (0, 3)
    with torch.no_grad():
        one = masked_loss(torch.zeros(1, 3), lambda y: y @ weight.T, torch.tensor([2]), vocabulary=5)
    assert abs(one - torch.tensor(5.0).log()) < 1e-6


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_every_base_gives_the_loss_and_gradients_of_its_scores(family):
    base = tiny.base(family)
    engine = Engine(base)
    tied = base.family.tied
    engine.attach(tiny.wake(new_module("swa", base, components="madx" if tied else "pfeiffer"), std=0.05))
    engine.activate("swa")
    ids, mask = tiny.inputs()
    at, targets = (torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3])), torch.tensor([9, 30, 77])
    parameters = engine.train_only("swa")
    own = engine.mlm_loss(engine(ids, mask, at=at), targets)
    ours = torch.autograd.grad(own, parameters)
    plain = F.cross_entropy(engine.mlm_logits(engine(ids, mask)[at]), targets, reduction="sum")
    theirs = torch.autograd.grad(plain, parameters)
    assert abs(own - plain) < 1e-5 * plain
    worst = max((a - b).abs().max().item() for a, b in zip(ours, theirs))
    assert worst < 1e-5 * max(1.0, max(g.abs().max().item() for g in theirs))
    assert engine.mlm_logits(engine(ids, mask)[at]).shape == (3, base.config.vocab_size), "scores are scores again"
