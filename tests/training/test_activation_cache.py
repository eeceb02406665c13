"""The activation cache: frozen layers run once for each sentence, with equal results; no gradient goes below them."""

import pytest
import tiny
import tiny_runs as runs
import torch

from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.engine.activation_cache import States
from madx.errors import ConfigError
from madx.module import new_module
from madx.training import TrainSettings, fit

UPPER = {"bottleneck": {"reduction_factor": 2.0, "leave_out": [0, 1]}}


def engine(family="xlm-roberta", *, under="madx", components=UPPER):
    """The task module `ner` acts in the last of three layers, over a language module."""
    made = Engine(tiny.base(family))
    torch.manual_seed(0)
    made.attach(tiny.wake(new_module("eng", made.base, components=under), std=0.05))
    labels = LabelSet.from_sentences(runs.sentences()).tags
    made.attach(new_module("ner", made.base, role="task", components=components, labels=labels))
    made.activate("eng + ner")
    return made


def counted(made):
    """A list that grows by the layer's number whenever its feed-forward block computes."""
    ran, layers = [], made.base.encoder.get_submodule(made.base.family.layers)
    for number, layer in enumerate(layers):
        layer.get_submodule(made.base.family.ffn.output).register_forward_hook(
            lambda *_, number=number: ran.append(number)
        )
    return ran


def train(made, *, steps=12, folder=None, **settings):
    task = runs.ner(batch_size=8)  # 21 sentences, 9 to evaluate: 3 batches in an epoch
    chosen = TrainSettings(**({"learning_rate": 1e-3, "progress": False, "evaluate_every": 6} | settings))
    return fit(made, "ner", task, chosen, steps=steps, seed=0, folder=folder)


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_lower_layers_run_once_for_a_sentence_and_the_weights_are_equal(family):
    found = {}
    for mode in ("off", "auto"):
        made = engine(family)
        ran = counted(made)
        result = train(made, cache_frozen=mode)
        found[mode] = [{k: v.clone() for k, v in made.module("ner").tensors().items()}, ran, result]
        assert made.cache is None and not any("forward" in x.__dict__ for x in _layers(made))
    (a, all_ran, first), (b, ran, second) = found["off"], found["auto"]
    assert all_ran.count(0) == all_ran.count(2) == ran.count(2) == 12 + 2  # 12 steps, 2 evaluations of one batch
    assert ran.count(0) == ran.count(1) == 3 + 1
    assert max((a[k] - b[k]).abs().max().item() for k in a) < 2e-5
    assert first.history[-1]["loss"] == pytest.approx(second.history[-1]["loss"], abs=1e-5)
    assert first.best["f1"] == pytest.approx(second.best["f1"])


def _layers(made):
    return list(made.base.encoder.get_submodule(made.base.family.layers))


@pytest.mark.parametrize(
    "memory, disk, runs_of_layer_0", [(1.0, 0.0, 4), (0.0, 1.0, 4), (4e-6, 1.0, 4), (0.0, 0.0, 14)]
)
def test_in_memory_then_in_a_file_then_not_at_all(tmp_path, memory, disk, runs_of_layer_0):
    made, plain = engine(), engine()
    train(plain, cache_frozen="off")
    ran = counted(made)
    train(made, folder=tmp_path, cache_memory_gb=memory, cache_disk_gb=disk)
    assert ran.count(0) == runs_of_layer_0
    worst = max(
        (v - plain.module("ner").tensors()[k]).abs().max().item() for k, v in made.module("ner").tensors().items()
    )
    assert worst < 2e-5
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"], "the file of states was left behind"


def test_states_keep_their_numbers_and_their_bounds():
    states = States(memory=100, disk=50)
    values = {bytes([i]): torch.full((2, 3), i + 0.5) for i in range(8)}  # 24 bytes each
    for key, value in values.items():
        states.put(key, value)
        states.put(key, value)
    assert len(states) == 4 + 2 and all(torch.equal(states.get(k, 3), v) for k, v in values.items() if k in states)
    half = States(memory=0, disk=50)
    half.put(b"a", torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16))
    assert torch.equal(half.get(b"a", 2), torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16))
    states.close()
    half.close()
    assert len(states) == 0


def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path):
    whole, cut = engine(), engine()
    train(whole, folder=tmp_path / "a")
    task, batches = runs.ner(batch_size=8), []
    original = task.batches

    def stop(step, **options):
        batches.append(step)
        if len(batches) == 8:
            raise KeyboardInterrupt
        return original(step, **options)

    task.batches = stop
    settings = TrainSettings(learning_rate=1e-3, progress=False, evaluate_every=6, checkpoint_every=3)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, "ner", task, settings, steps=12, seed=0, folder=tmp_path / "b")
    assert cut.cache is None
    again = engine()
    assert train(again, folder=tmp_path / "b", checkpoint_every=3, cache_frozen="off").resumed_from == 6
    worst = max(
        (v - again.module("ner").tensors()[k]).abs().max().item() for k, v in whole.module("ner").tensors().items()
    )
    assert worst < 2e-5


def test_another_composition_is_not_fed():
    made = engine()
    ids, mask = tiny.inputs()
    task, looked = runs.ner(batch_size=8), []
    evaluate = task.evaluate

    @torch.no_grad()
    def and_look(engine):
        engine(ids, mask), engine(ids, mask)  # the second time fed
        frozen = engine.cache
        with engine.using("ner"):
            found, engine.cache = engine(ids, mask), None
            assert torch.equal(found, engine(ids, mask))
        engine.cache = frozen
        assert not engine.explain(ids, mask).inactive
        looked.append(found)
        return evaluate(engine)

    task.evaluate = and_look
    fit(made, "ner", task, TrainSettings(learning_rate=1e-3, progress=False, evaluate_every=3), steps=6, seed=0)
    assert len(looked) == 2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"components": "pfeiffer"}, "acts in layer 0"),
        ({"under": {"bottleneck": {"gate": True}}}, "layer.0.ffn"),
        ({"base_dropout": True}, "base_dropout"),
    ],
)
def test_on_says_why_nothing_can_be_kept(change, words):
    made = engine(**{k: v for k, v in change.items() if k != "base_dropout"})
    options = {k: v for k, v in change.items() if k == "base_dropout"}
    with pytest.raises(ConfigError, match=words):
        train(made, cache_frozen="on", **options)
    train(made, steps=1, **options)  # auto goes without


def test_masked_words_are_read_anew():
    made = Engine(tiny.base())
    made.attach(new_module("mlm", made.base, components=UPPER))
    made.activate("mlm")
    with pytest.raises(ConfigError, match="does not read the same ids"):
        fit(made, "mlm", runs.masked_lm(), TrainSettings(progress=False, cache_frozen="on"), steps=1, seed=0)


@pytest.mark.parametrize("mode", ["off", "auto"])
@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_no_gradient_goes_below_the_lowest_module(family, mode):
    made = engine(family)
    backward = []

    def watch(number):
        def hook(_, args, result):
            output = result[0] if isinstance(result, tuple) else result
            if output.requires_grad:
                output.register_hook(lambda gradient: backward.append(number))

        return hook

    for number, layer in enumerate(_layers(made)):
        layer.register_forward_hook(watch(number))
    train(made, steps=4, cache_frozen=mode)
    assert set(backward) == {2} and len(backward) == 4


def test_of_a_head_alone_the_last_layer_is_kept_whole():
    """Not at the needed positions of a batch alone, which would be taken for the first tokens of its first row."""
    found = {}
    for mode in ("off", "on"):
        made = engine(components="head_only", under=UPPER)
        settings = TrainSettings(learning_rate=1e-2, progress=False, evaluate_every=21, cache_frozen=mode)
        result = fit(made, "ner", runs.ner(batch_size=1), settings, steps=42, seed=0)
        found[mode] = [made.module("ner").tensors()[name].clone() for name in ("head.weight", "head.bias")], result
    (off, first), (on, second) = found["off"], found["on"]
    assert max((a - b).abs().max().item() for a, b in zip(off, on, strict=True)) < 2e-5
    assert first.history[-1]["loss"] == pytest.approx(second.history[-1]["loss"], abs=1e-5)
