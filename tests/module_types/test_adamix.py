"""adamix against a plain transcription, its draws, its mean, and the consistency of two passes in training."""

import pytest
import tiny
import tiny_runs as runs
import torch
import torch.nn.functional as F
from by_hand import SITE, WIDTH, given, layer_norm, run, unit_at

from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.errors import ConfigError, StoreError, TrainingError
from madx.module import new_module
from madx.module.presets import make_components
from madx.store import Store
from madx.training import TrainSettings, fit
from madx.training.consistency import consistent_loss
from madx.training.gradients import compute_gradients
from madx.training.trainable import ModuleTrainable, Trainee

FFN = SITE["layer.1.ffn"]
LABELS = LabelSet.from_sentences(runs.sentences()).tags


def adamix(**config):
    return unit_at("adamix", FFN.name, {"reduction_factor": 3.0, **config})


def expert(z, unit, i, j):
    """f(z) of experts i and j."""
    down, up = unit.down, unit.up
    return torch.relu(z @ down.weight[i].T + down.bias[i]) @ up.weight[j].T + up.bias[j]


@torch.no_grad()
def test_a_step_draws_two_experts_and_evaluation_takes_the_mean():
    unit, at = adamix(), given(FFN)
    z = layer_norm(at.tensors["output"] + at.tensors["residual"], at.fixed)
    D, U = unit.down, unit.up
    mean = torch.relu(z @ D.weight.mean(0).T + D.bias.mean(0)) @ U.weight.mean(0).T + U.bias.mean(0)
    assert torch.allclose(run(unit, at), mean)
    unit.train()
    for step in range(4):
        unit.begin(step, 7)
        for number, (i, j) in enumerate(unit.draws):
            unit.use_draw(number)
            assert torch.allclose(run(unit, at), expert(z, unit, i, j))


def test_draws_are_functions_of_seed_step_and_site_and_take_every_pair():
    one, again, other = adamix(), adamix(), unit_at("adamix", "layer.2.ffn")
    seen, differ = set(), 0
    for step in range(200):
        for unit in (one, again, other):
            unit.begin(step, 3)
        assert one.draws == again.draws
        differ += one.draws != other.draws
        seen |= {*one.draws}
    assert len(seen) == 16 and differ > 150
    one.begin(5, 3), again.begin(5, 4)
    assert one.draws != again.draws


@torch.no_grad()
def test_settling_leaves_one_bottleneck_with_the_same_output():
    unit, at = adamix(experts=3, reads="output"), given(FFN)
    before = run(unit, at)
    unit.settle()
    assert torch.equal(run(unit, at), before)
    assert (
        unit.down.weight.shape == (1, 4, WIDTH) and unit.consistency() == 0.0 and unit.describe().startswith("merged")
    )
    unit.train()
    unit.begin(0, 0)
    assert torch.equal(run(unit, at), before), "trained on, it is a plain bottleneck"


def test_consistency_is_the_symmetric_divergence():
    z, other = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 3, -100, 1, 2, 2])
    p, q = (x[t != -100].log_softmax(-1) for x in (z, other))
    both = [F.kl_div(a, b, reduction="sum", log_target=True) for a, b in ((q, p), (p, q))]
    wanted = F.cross_entropy(z, t, reduction="sum") + 0.7 * sum(both) / 2
    assert torch.allclose(consistent_loss(z, other, t, weight=0.7), wanted)


def engine(**config):
    made = Engine(tiny.base())
    torch.manual_seed(0)
    settings = {"reduction_factor": 2.0, "experts": 2, **config}
    made.attach(new_module("ner", made.base, role="task", components={"adamix": settings}, labels=LABELS))
    made.activate("ner")
    return made


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_gradients_of_a_step_are_those_of_both_passes(micro_batch):
    made, task = engine(), runs.ner(micro_batch=micro_batch)
    tiny.wake(made.module("ner"), std=0.3)
    trainable = ModuleTrainable(Trainee(made, "ner", None))
    trainable.set_mode(training=True)
    step = compute_gradients(trainable, task, step=2, seed=5, precision="fp32")
    found = [p.grad.clone() for p in trainable.parameters]
    for p in trainable.parameters:
        p.grad = None
    (batch,) = runs.ner().batches(2)
    scores = []
    for number in (0, 1):
        trainable.use_draw(number)
        scores.append(task.scores(made, batch))
    loss = consistent_loss(*scores, task.targets(batch), weight=1.0) / task.count(batch)
    loss.backward()
    assert step.mean == pytest.approx(loss.item(), rel=1e-5)
    assert all(torch.allclose(a, p.grad, atol=1e-5) for a, p in zip(found, trainable.parameters))
    trainable.use_draw(0)
    assert loss > (task.loss(made, batch) / task.count(batch)) + 1e-3


def trained(made, folder=None, steps=6, **options):
    settings = TrainSettings(learning_rate=1e-2, progress=False, evaluate_every=3, checkpoint_every=2)
    fit(made, "ner", runs.ner(), settings, steps=steps, seed=1, folder=folder, **options)
    return made.module("ner").tensors()


def test_a_resumed_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    whole = trained(engine())
    batches = runs.NER.batches

    def stopping(self, step, **how):
        if step == 4:
            raise TrainingError("stopped")
        return batches(self, step, **how)

    with monkeypatch.context() as patch, pytest.raises(TrainingError):
        patch.setattr(runs.NER, "batches", stopping)
        trained(engine(), tmp_path)
    resumed = trained(engine(), tmp_path)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_one_bottleneck_is_stored_and_trained_on(tmp_path):
    made, store = engine(), Store(tmp_path)
    trained(made)
    store.save(made.module("ner"))
    assert store.verify() == []
    again = Engine(tiny.base(), store=store)
    again.load("ner")
    shapes = {n: tuple(t.shape) for n, t in again.module("ner").tensors().items() if "layer.0" in n}
    assert {shape[0] for shape in shapes.values()} == {1} and len(shapes) == 4
    again.activate("ner")
    with torch.no_grad():
        assert torch.equal(again(*tiny.inputs()), made(*tiny.inputs()))
    before = {n: t.clone() for n, t in again.module("ner").tensors().items()}
    assert not torch.equal(trained(again)["layer.0.ffn.adamix.up.bias"], before["layer.0.ffn.adamix.up.bias"])


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.pop("up.bias"), "not as down.bias, down.weight, up.weight"),
        (lambda s: s.update({"up.bias": s["up.bias"][:1]}), "different numbers of experts"),
        (lambda s: s.update({n: t[:2] for n, t in s.items()}), "holds 2 experts; .* one, or all 3"),
        (
            lambda s: s.update({"up.bias": s["up.bias"][:, :5]}),
            r"up.bias has experts of shape \(5,\), expected \(12,\)",
        ),
        (lambda s: s.update({"up.bias": s["up.bias"].long()}), "dimensions"),
    ],
)
def test_stored_forms_that_do_not_fit_are_refused(change, words):
    unit = adamix(experts=3)
    stored = unit.pack(torch.float32)
    change(stored)
    with pytest.raises(StoreError, match=words):
        unit.unpack(stored)


def test_one_expert_is_refused():
    with pytest.raises(ConfigError, match="adamix.experts: .*1 experts.*at least 2, or take the type bottleneck"):
        make_components({"adamix": {"experts": 1}})
