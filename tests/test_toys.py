"""A module type is one file: a toy of each class goes through store, compositions, training and commands."""

import json
from pathlib import Path

import pytest
import tiny
import tiny_runs as runs
import torch
import toys
from cli_tools import failed, run
from tiny_files import fill

from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.errors import CompositionError, ConfigError
from madx.jobs.compare import measure
from madx.module import new_module
from madx.store import Store
from madx.training import TrainSettings, fit

ALONE = [name for name in toys.TOYS if name != "toy_fusion"]
LABELS = LabelSet.from_sentences(runs.sentences()).tags


@pytest.fixture(autouse=True, scope="module")
def _toys():
    with toys.registered():
        yield


def engine(*kinds: str, family: str = "xlm-roberta") -> Engine:
    """An engine with a module of each of some kinds, named by number: m0, m1, ...; and a task module `ner`."""
    made = Engine(tiny.base(family))
    for number, kind in enumerate(kinds):
        role = "fusion" if kind == "toy_fusion" else "language"
        module = new_module(f"m{number}", made.base, role=role, language="swa", components={kind: {}})
        made.attach(tiny.wake(module, seed=number, std=0.2))
    made.attach(tiny.wake(new_module("ner", made.base, role="task", components="pfeiffer", labels=LABELS), std=0.1))
    return made


@torch.no_grad()
@pytest.mark.parametrize("family", ["xlm-roberta", "modernbert", "deberta-v2"])
@pytest.mark.parametrize("kind", ALONE)
def test_store_stack_average_route_and_explanation(kind, family, tmp_path):
    made = engine(kind, kind, "toy_change", family=family)
    ids, mask = tiny.inputs()
    bare = made(ids, mask)
    store = Store(tmp_path)
    store.save(made.module("m0"))
    made.activate("m0 + ner")
    alone = made(ids, mask)
    assert not torch.allclose(alone, bare, atol=1e-3)
    again = Engine(tiny.base(family), store=store)
    again.load("m0")
    again.activate("m0")
    with made.using("m0"):
        assert torch.equal(again(ids, mask), made(ids, mask))
    found = made.explain(ids, mask)
    assert found.inactive == [] and {a.component for a in found.actions} == {kind, "bottleneck"}
    if kind != "toy_slots":  # two modules' slots stand beside each other in a stack, in an average they are one
        made.activate("average(m0, m1) + ner")
        assert made.explain(ids, mask).inactive == []
    made.activate("m0 + m1 + ner")
    assert made.explain(ids, mask).inactive == []
    route = "route(m0 + ner, m2 + ner, m1 + m0 + ner, base)"
    made.activate(route)
    rows = [0, 1, 2, 3]
    ids, mask = ids[[0, 1, 2, 0]], mask[[0, 1, 2, 0]]
    together = made(ids, mask, branches=rows)
    assert made.explain(ids, mask, branches=rows).inactive == []
    for row, stack in enumerate(("m0 + ner", "m2 + ner", "m1 + m0 + ner", None)):
        with made.using(stack):
            here = made(ids[row : row + 1], mask[row : row + 1])[0][mask[row] == 1]
        assert torch.allclose(together[row][mask[row] == 1], here, atol=1e-4)
    made.activate(None)
    assert torch.equal(made(*tiny.inputs()), bare)


@torch.no_grad()
def test_a_factor_is_that_share_or_is_refused():
    made = engine("toy_change", "toy_map", "toy_slots", "toy_weights")
    ids, mask = tiny.inputs()
    for name in ("m0", "m1", "m3"):
        with made.using(f"0.5*{name}"):
            half = made(ids, mask)
        with made.using(f"average({name}, base)"):  # half of the change, half of nothing
            assert torch.allclose(half, made(ids, mask), atol=1e-4)
    with pytest.raises(CompositionError, match="0.5.m2.*Leave the factor out"):
        made.activate("0.5*m2")
    with pytest.raises(CompositionError, match="m2.*do not reserve the same slots|do not reserve the same slots.*m2"):
        made.activate("average(m2, m0)")


@torch.no_grad()
def test_fusion_joins_what_its_children_would_change():
    made = engine("bottleneck", "bottleneck", "toy_fusion")
    ids, mask = tiny.inputs()
    made.activate("fuse(m0, m1; m2) + ner")
    fused, found = made(ids, mask), made.explain(ids, mask)
    assert found.inactive == [] and {a.module for a in found.actions} == {"m0", "m1", "m2", "ner"}
    for units in made.module("m2").units.values():
        units["toy_fusion"].weights.copy_(torch.tensor([0.5, 0.5]))
    with made.using("average(m0, m1) + ner"):
        mean = made(ids, mask)
    assert torch.allclose(made(ids, mask), mean, atol=1e-5) and not torch.allclose(fused, mean, atol=1e-3)
    made.activate("route(fuse(m0, m1; m2) + ner, m1 + ner)")
    assert torch.allclose(made(ids, mask, branches=[0, 0, 0]), mean, atol=1e-5)
    for wrong, words in (
        ("m2 + ner", r"fuse\(swa, hau; m2\)"),
        ("fuse(m0, m1; ner)", "needs a fusion module.*'ner'"),
        ("fuse(m0, m0; m2)", "two different"),
        ("fuse(m0; m2)", "two different"),
        ("fuse(m0, m1)", "';'"),
    ):
        with pytest.raises(CompositionError, match=words):
            made.activate(wrong)


@pytest.mark.parametrize("kind", ALONE)
def test_training_lowers_the_loss_and_leaves_the_base_alone(kind):
    made = Engine(tiny.base())
    before = tiny.snapshot(made.base)
    made.attach(new_module("ner", made.base, role="task", components={kind: {}}, labels=LABELS))
    made.activate("ner")
    settings = TrainSettings(learning_rate=1e-2, progress=False, evaluate_every=4)
    result = fit(made, "ner", runs.ner(), settings, steps=12, seed=0)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    moved = made.module("ner")
    fresh = new_module("ner", made.base, role="task", components={kind: {}}, labels=LABELS)
    own = [k for k in moved.tensors() if not k.startswith("head.")]
    assert own and all(not torch.equal(moved.tensors()[k], fresh.tensors()[k]) for k in own)
    made.activate(None)
    assert tiny.unchanged(made.base, before)


def test_training_a_fusion_over_frozen_modules(tmp_path):
    made = engine("bottleneck", "bottleneck", "toy_fusion")
    made.activate("fuse(m0, m1; m2) + ner")
    names = ("m0", "m1", "m2", "ner")
    before = {n: {k: v.clone() for k, v in made.module(n).tensors().items()} for n in names}
    settings = TrainSettings(learning_rate=1e-1, progress=False, evaluate_every=4)
    result = fit(made, "m2", runs.ner(), settings, steps=12, seed=0)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    for name in names:
        after = made.module(name).tensors()
        assert all(torch.equal(v, before[name][k]) != (name == "m2") for k, v in after.items()), name
    store = Store(tmp_path)
    store.save(made.module("m2"))
    assert store.load("m2", made.base).info.role == "fusion" and store.verify() == []


@pytest.mark.slow
def test_commands(tmp_path, monkeypatch):
    """train-language, train-task, evaluate, explain and compare with types that only this test knows."""
    monkeypatch.chdir(fill(tmp_path))
    monkeypatch.setattr(measure, "training_memory", measure.memory_here)  # another process does not know the toys
    small = ["--set", "block_size=16", "--set", "batch_size=4", "--set", "held_out_blocks=4"]
    for language, kind in (("eng", "toy_change"), ("swa", "toy_map")):
        done = run(
            *("train-language", "--base", "base", "--language", language, "--corpus", f"{language}.txt"),
            *("--steps", "4", "--set", f"components={{{kind}: {{}}}}", *small),
        )
        assert done.exit_code == 0, (done.output, done.exception)
    data = ["--base", "base", "--language", "eng", "--data", "train.conll", "--dev", "dev.conll"]
    done = run("train-task", *data, "--seeds", "1", "--epochs", "2", "--set", "components={toy_weights: {}}")
    assert done.exit_code == 0, (done.output, done.exception)
    done = run("evaluate", "--task-module", "ner", "--target", "swa=swa-test.conll")
    assert done.exit_code == 0, (done.output, done.exception)
    cells = json.loads(next(Path("runs").rglob("matrix.json")).read_text())["cells"]
    assert {a["component"] for c in cells for a in c["explanation"]["actions"]} == {
        "toy_change",
        "toy_map",
        "toy_weights",
    }
    assert all(c["explanation"]["inactive"] == [] for c in cells)
    done = run("explain", "--stack", "swa + ner", "--base", "base")
    assert done.exit_code == 0 and "toy_map diagonal" in done.stdout, (done.output, done.exception)
    candidates = "{change: {components: {toy_change: {}}}, slots: {components: {toy_slots: {}}}}"
    done = run(
        *("compare", *data, "--set", f"candidates={candidates}", "--set", "seeds=[1]", "--set", "measured_steps=1"),
        *("--set", "rounds=3", "--set", "training={epochs: 1, batch_size: 8}"),
    )
    assert done.exit_code == 0 and "slots" in done.stdout, (done.output, done.exception)
    assert "toy_chang" in failed(run("train-task", *data, "--set", "components={toy_chang: {}}"))


def test_fusion_is_a_role_of_its_own():
    for role, components in (
        ("language", {"toy_fusion": {}}),
        ("fusion", {"toy_fusion": {}, "toy_map": {}}),
        ("fusion", "pfeiffer"),
    ):
        with pytest.raises(ConfigError, match="role fusion|role='fusion'"):
            new_module("f", tiny.base(), role=role, components=components)


def test_a_class_at_a_site_of_another_class_is_refused():
    class Misplaced(toys.ToyChange):
        @classmethod
        def acts_at(cls, config, site):
            return site.kind == "embeddings"

    with toys.registered(misplaced=Misplaced):
        with pytest.raises(ConfigError, match="ChangeType.*embeddings.*would not act"):
            new_module("m", tiny.base(), components={"misplaced": {}})


@pytest.mark.parametrize("kind", ["toy_change", "toy_map", "toy_slots"])
def test_a_tensor_that_a_site_does_not_have_is_refused(kind, monkeypatch):
    monkeypatch.setattr(toys.TOYS[kind], "reads", frozenset({"residual"}))
    with pytest.raises(ConfigError, match=f"{kind}.*residual.*has:"):
        new_module("m", tiny.base(), components={kind: {}})


def test_a_site_that_nothing_reaches_is_refused(monkeypatch):
    made = engine("toy_change")
    monkeypatch.delitem(made._needs, "layer.1")
    with pytest.raises(CompositionError, match="reaches layer.1.*families.py"):
        made.activate("m0")


def test_a_map_without_an_inverse_refuses_masked_words_alone(monkeypatch):
    made = engine("toy_map")
    monkeypatch.setattr(toys.ToyMap, "inverse", lambda self, y: None)
    made.activate("m0 + ner")
    hidden = made(*tiny.inputs())
    assert made.label_logits(hidden).shape[-1] == len(LABELS)
    with pytest.raises(CompositionError, match="ToyMap has no inverse"):
        made.mlm_logits(hidden[0])
