"""The loop: what is trained and what is not, which weights are kept, and what it refuses."""

import math

import pytest
import tiny
import tiny_runs as runs
import torch
from safetensors.torch import load_file
from tiny import snapshot, unchanged

from madx.errors import ConfigError, TrainingError
from madx.tasks.masked_lm import MaskedLM
from madx.training import TrainSettings, fit
from madx.training.checkpoint import read_checkpoint


def weights(made, name):
    return {k: v.clone() for k, v in made.module(name).tensors().items()}


def close(a, b, atol=1e-5):
    assert a.keys() == b.keys()
    worst = max((a[k] - b[k]).abs().max().item() for k in a)
    assert worst <= atol, worst


@pytest.mark.parametrize("kind", ["mlm", "ner"])
def test_training_lowers_the_loss_and_changes_the_module_alone(kind):
    made = runs.engine(kind)
    before = weights(made, kind)
    base = snapshot(made.base)
    other = weights(made, "eng") if kind == "ner" else {}
    _, result = runs.train(kind, made=made, steps=30)
    assert result.history[-1]["loss"] < 0.9 * result.history[0]["loss"]
    assert [row["step"] for row in result.history] == [10, 20, 30]
    metric = {"mlm": "perplexity", "ner": "f1"}[kind]
    scores = [row[metric] for row in result.history]
    assert result.best[metric] == (min if kind == "mlm" else max)(scores)
    assert result.best_step == result.history[scores.index(result.best[metric])]["step"]
    assert result.steps == 30 and result.seconds > 0 and result.resumed_from is None
    assert all(not torch.equal(v, before[k]) for k, v in weights(made, kind).items()), (
        "a tensor of the module stood still"
    )
    assert unchanged(made.base, base)
    assert all(torch.equal(v, other[k]) for k, v in (weights(made, "eng") if other else {}).items())
    assert all(p.grad is None and not p.requires_grad for p in made.base.model.parameters())
    assert not any(m.training for m in (made.base.model, *made.modules.values()))


def test_tokens_and_evaluations_without_settings():
    _, result = runs.train("mlm", steps=20, evaluate_every=None)
    assert result.tokens == 20 * 8 * 16
    assert [row["step"] for row in result.history] == list(range(2, 21, 2))
    with pytest.raises(ConfigError, match="at least 1"):
        runs.train("mlm", steps=0)


class Scripted(MaskedLM):
    """Scores as written; remembers the weights at each evaluation."""

    def __init__(self, scores, made, **options):
        super().__init__(runs.blocks(), tiny.tokenizer(), batch_size=4, **options)
        self.scores, self.made, self.seen = iter(scores), made, []

    def evaluate(self, engine):
        self.seen.append(weights(self.made, "mlm"))
        assert not engine.module("mlm").training
        return {"perplexity": next(self.scores)}


@pytest.mark.parametrize(
    ("scores", "keep_best", "kept"),
    [
        ([3.0, 1.0, 2.0], True, 1),
        ([3.0, 1.0, 1.0], True, 1),
        ([3.0, 1.0, 2.0], False, 2),
        ([math.nan, 5.0, 9.0], True, 1),
        ([2.0, math.nan, 3.0], True, 0),
    ],
)
def test_the_best_weights_are_kept(scores, keep_best, kept, tmp_path):
    made = runs.engine("mlm")
    task = Scripted(scores, made)
    settings = TrainSettings(learning_rate=1e-2, progress=False, evaluate_every=2, keep_best=keep_best)
    result = fit(made, "mlm", task, settings, steps=6, seed=0, folder=tmp_path)
    assert len(task.seen) == 3
    close(weights(made, "mlm"), task.seen[kept], atol=0)
    assert result.best_step == 2 * (1 + scores.index(min(s for s in scores if not math.isnan(s))))
    again = runs.engine("mlm")  # a finished run that is started again gives the same weights at once
    fit(again, "mlm", Scripted([], again), settings, steps=6, seed=0, folder=tmp_path)
    close(weights(again, "mlm"), task.seen[kept], atol=0)


@pytest.mark.parametrize("kind", ["mlm", "ner"])
@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_equal_the_whole_batch(kind, micro):
    whole, _ = runs.train(kind, steps=5, learning_rate=1e-3)
    cut, _ = runs.train(kind, steps=5, learning_rate=1e-3, task={"micro_batch": micro})
    close(weights(whole, kind), weights(cut, kind))


def test_seeds_make_different_runs_and_one_seed_the_same():
    once, again, other = (weights(runs.train("mlm", steps=3, seed=s, dropout=0.2)[0], "mlm") for s in (1, 1, 2))
    assert all(torch.equal(once[k], again[k]) for k in once) and not all(torch.equal(once[k], other[k]) for k in once)


def test_dropout_of_the_module_and_of_the_base():
    plain, module, base = (
        weights(runs.train("mlm", steps=3, **options)[0], "mlm")
        for options in ({}, {"dropout": 0.3}, {"base_dropout": True})
    )
    for changed in (module, base):
        assert any(not torch.equal(plain[k], changed[k]) for k in plain)


def test_bf16_stays_near_fp32():
    _, a = runs.train("mlm", steps=20)
    half, b = runs.train("mlm", steps=20, precision="bf16")
    assert all(v.dtype == torch.float32 for v in weights(half, "mlm").values())
    losses = [(x["loss"], y["loss"]) for x, y in zip(a.history, b.history)]
    assert all(abs(x - y) < 0.03 * x for x, y in losses) and losses[0][0] != losses[0][1]


# ---- a loss that is no number ------------------------------------------------------------------------------------


class Poisoned(MaskedLM):
    def __init__(self, at, **options):
        super().__init__(runs.blocks(), tiny.tokenizer(), batch_size=4, **options)
        self.at, self.step = at, -1

    def batches(self, step, **options):
        self.step = step
        return super().batches(step, **options)

    def loss(self, engine, batch):
        return super().loss(engine, batch) * (math.nan if self.step == self.at else 1.0)


def test_nan_stops_before_the_step(tmp_path):
    made = runs.engine("mlm")
    settings = TrainSettings(learning_rate=1e-2, progress=False, checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"step 4 is nan.*checkpoint.safetensors.*train\.learning_rate"):
        fit(made, "mlm", Poisoned(4), settings, steps=9, seed=0, folder=tmp_path)
    tensors, state = read_checkpoint(tmp_path / "checkpoint.safetensors")
    assert state["step"] == 4
    here = weights(made, "mlm")
    assert all(v.isfinite().all() and torch.equal(v, tensors[f"weights.{k}"]) for k, v in here.items())
    assert not any(m.training for m in (made.base.model, *made.modules.values()))
    assert str(made.composition) == "mlm"


def test_an_infinite_gradient_stops_too():
    made = runs.engine("mlm")

    class Steep(Poisoned):
        def loss(self, engine, batch):
            return (
                MaskedLM.loss(self, engine, batch)
                * (1e38 if self.step == 1 else 1.0)
                * (1e3 if self.step == 1 else 1.0)
            )

    with pytest.raises(TrainingError, match="step 1 is inf.*No checkpoint"):
        fit(made, "mlm", Steep(0), TrainSettings(progress=False), steps=3, seed=0)
    assert all(v.isfinite().all() for v in weights(made, "mlm").values())


def test_an_absurd_learning_rate_ends_in_words_and_finite_weights():
    made = runs.engine("mlm")
    with pytest.raises(TrainingError, match="Lower train.learning_rate"):
        runs.train("mlm", made=made, steps=20, learning_rate=1e30, evaluate_every=100)
    assert all(v.isfinite().all() for v in weights(made, "mlm").values())


def test_a_step_counts_as_a_change_of_every_parameter():
    """The engine knows changed weight deltas by the versions of their tensors, which fused optimisers do not count."""
    made = runs.engine("mlm")
    before = {n: p._version for n, p in made.module("mlm").named_parameters()}
    runs.train("mlm", made=made, steps=3, keep_best=False)
    assert all(p._version >= before[n] + 3 for n, p in made.module("mlm").named_parameters())


# ---- settings ------------------------------------------------------------------------------------------------------


def test_learning_rates_of_the_schedule():
    linear = TrainSettings(warmup=0.2)
    assert [round(linear.rate(s, 10), 6) for s in range(10)] == [
        0.5,
        1.0,
        1.0,
        0.875,
        0.75,
        0.625,
        0.5,
        0.375,
        0.25,
        0.125,
    ]
    level = TrainSettings(warmup=0.2, schedule="constant")
    assert [level.rate(s, 10) for s in range(10)] == [0.5] + [1.0] * 9
    assert [TrainSettings(warmup=0.0).rate(s, 4) for s in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert TrainSettings(warmup=0.001).rate(0, 10) == 1.0  # one step of warm-up at least
    for warmup in (0.0, 0.05, 0.5, 0.99):
        for steps in (1, 2, 7, 1000):
            rates = [TrainSettings(warmup=warmup).rate(s, steps) for s in range(steps)]
            assert all(0 < r <= 1 for r in rates) and max(rates) == 1.0


def test_the_loop_uses_them_and_the_heads_own_rate(monkeypatch):
    seen = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self: (seen.append([g["lr"] for g in self.param_groups]), step(self))[1]
    )
    runs.train("ner", steps=4, learning_rate=0.5, head_learning_rate=0.25, warmup=0.5)
    assert seen == [[0.25, 0.125], [0.5, 0.25], [0.5, 0.25], [0.25, 0.125]]


def test_clipping_and_weight_decay_act():
    plain = weights(runs.train("mlm", steps=2, clip_norm=None)[0], "mlm")
    decayed = weights(runs.train("mlm", steps=2, clip_norm=None, weight_decay=0.5)[0], "mlm")
    assert any(not torch.equal(plain[k], decayed[k]) for k in plain)
    norms = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters, most):
        norm = clip(parameters, most)
        norms.append((norm.item(), torch.cat([p.grad.flatten() for p in parameters]).norm().item()))
        return norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
        runs.train("mlm", steps=2, clip_norm=1e-3)
        runs.train("mlm", steps=2, clip_norm=None)
    assert all(before > 1e-2 and after <= 1.001e-3 for before, after in norms[:2])
    assert all(before == pytest.approx(after, rel=1e-4) for before, after in norms[2:])


def test_progress_speaks_only_when_asked(capsys):
    runs.train("mlm", steps=3)
    assert capsys.readouterr().err == ""
    runs.train("mlm", steps=3, progress=True)
    assert "step 3/3" in capsys.readouterr().err


def test_tensorboard_writes_events(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, result = runs.train("mlm", steps=6, folder=tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, pytest.approx(e.value, rel=1e-5)) for e in events.Scalars("perplexity")] == [
        (row["step"], row["perplexity"]) for row in result.history
    ]


def test_tensorboard_without_a_folder_is_refused():
    with pytest.raises(ConfigError, match="tensorboard.*folder"):
        runs.train("mlm", steps=2, tensorboard=True)


def test_the_checkpoint_is_plain_safetensors(tmp_path):
    made, _ = runs.train("mlm", steps=3, folder=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    stored = load_file(tmp_path / "checkpoint.safetensors")
    assert {k.split(".")[0] for k in stored} == {"weights", "best", "optimizer"}
    assert {k.removeprefix("best.") for k in stored if k.startswith("best.")} == set(made.module("mlm").tensors())


def test_a_step_leaves_nothing_behind_in_the_process():
    before = len(torch.cuda._lazy_init.__globals__["_queued_calls"])
    runs.train("mlm", steps=3)
    assert len(torch.cuda._lazy_init.__globals__["_queued_calls"]) == before
