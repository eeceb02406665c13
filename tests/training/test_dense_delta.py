"""The dense delta: gradients of gated weights, gates that shut at a price, and weights that are swapped beneath it."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from sparse_runs import FAMILY, language, settings, trainee
from tiny import snapshot, unchanged

from madx.data.text.masking import IGNORED
from madx.errors import CompositionError
from madx.training import SparseSettings
from madx.training.loop import train
from madx.training.run import Run
from madx.training.sparse.dense_delta import DenseDeltaPhase
from madx.training.sparse.phases import FullPhase


@pytest.mark.parametrize("groups", [False, True])
def test_gradients_of_gates_are_those_of_the_formula(groups):
    """theta = start + z w with drawn gates; loss + price * E||delta||_0, by autograd over the formula."""
    engine, task, unit = language(100)
    gates = SparseSettings(gate_penalty=1e-3, gate_start=0.3, gate_groups=groups)
    phase = DenseDeltaPhase(trainee(engine, "swa", unit), gates=gates)
    phase.parameter_groups(settings())
    generator = torch.Generator().manual_seed(1)
    with phase.running(), torch.no_grad():
        for w in phase.w.values():
            w.copy_(torch.randn(w.shape, generator=generator) * 0.1)
        phase.begin_step(3, 0)
        written = {n: p.detach().clone() for n, p in phase.weights.items()}
        with torch.enable_grad():
            (batch,) = task.batches(0)
            task.loss(engine, batch).backward()
        phase.add_penalty()
        found = {
            k: {n: p.grad.clone() for n, p in ps.items()}
            for k, ps in (("w", phase.w), ("a", phase.gates), ("g", phase.group_gates))
        }
        noise = {n: phase._noise(n, w) for n, w in phase.w.items()}
        whole_noise = {n: phase._noise(f"{n} as a whole", a) for n, a in phase.group_gates.items()}
        begun = {n: s.clone() for n, s in phase.start.items()}

    model = tiny.model(FAMILY).eval().requires_grad_(False)
    decoder = model.lm_head.decoder.weight.detach().clone()
    w, a, g = (
        {n: p.detach().clone().requires_grad_(True) for n, p in ps.items()}
        for ps in (phase.w, phase.gates, phase.group_gates)
    )

    def gate(odds, u):
        return (torch.sigmoid(odds + torch.log(u) - torch.log(1 - u)) * 3 - 1.5).clamp(0, 1)

    theta, price = {}, 0.0
    for name in w:
        z = gate(a[name], noise[name].clamp(1e-6, 1 - 1e-6))
        theta[name] = begun[name] + z * w[name] * (gate(g[name], whole_noise[name]) if groups else 1.0)
        price = price + (torch.sigmoid(a[name]) * (torch.sigmoid(g[name]) if groups else 1.0)).sum()
        assert torch.allclose(theta[name], written[name], atol=1e-6)
    hidden = torch.func.functional_call(
        model.roberta, theta, kwargs={"input_ids": batch["input_ids"]}
    ).last_hidden_state
    chosen = batch["labels"] != IGNORED
    head = model.lm_head
    x = head.layer_norm(F.gelu(head.dense(hidden[chosen])))
    loss = F.cross_entropy(F.linear(x, decoder, head.bias), batch["labels"][chosen], reduction="sum")
    (loss + 1e-3 * price).backward()
    for kind, expected in (("w", w), ("a", a), ("g", g)):
        for name, parameter in expected.items():
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            assert torch.allclose(found[kind][name], gradient, rtol=1e-3, atol=2e-4), (kind, name)
    assert any(0 < float((gate(a[n], noise[n]) == 0).float().mean()) < 1 for n in a), "some gates are shut"


@pytest.mark.slow
@pytest.mark.parametrize("groups", [False, True])
def test_a_high_price_shuts_gates_and_fewer_entries_differ(groups):
    shares = {}
    for price in (0.0, 3e-2):
        engine, task, unit = language(200)
        state = snapshot(engine.base)
        chosen = settings(
            gate_penalty=price, gate_groups=groups, gate_start=1.0, gate_learning_rate=0.5, keep_best=False
        )
        phase = DenseDeltaPhase(trainee(engine, "swa", unit), gates=chosen.sparse)
        with engine.on_top(unit), phase.running():
            train(phase, task, chosen, Run(steps=14, seed=0))
            moved = phase.weight_deltas()
        shares[price] = float((moved != 0).float().mean())
        engine.activate(None)
        assert unchanged(engine.base, state)
        assert engine.deltas.trained is None and engine.deltas.dense == {}
    assert shares[3e-2] < 0.5 * shares[0.0]


def test_no_composition_is_swapped_while_all_weights_move_in_place():
    engine, _, unit = language(50)
    phase = FullPhase(trainee(engine, "swa", unit), l1=0.0)
    with phase.running(), pytest.raises(CompositionError, match="in place"):
        engine.activate(None)
    engine.activate(None)
