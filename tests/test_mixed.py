"""Weight deltas and adapters in any composition, order and accident: theta_0 returns, and bad deltas are refused."""

import json
from functools import lru_cache

import pytest
import tiny
import torch
from cli_tools import failed, run
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import snapshot, sparse, unchanged
from tiny_files import fill

import madx.engine.weight_deltas
from madx.engine import Engine
from madx.errors import BaseError, CompositionError, ConfigError
from madx.module import new_module
from madx.store import Store

ITEMS = ["a", "b", "x", "0.5*a", "-1*b", "average(a, b)", "average(a, x)", "ties(a, b)", "0.25*(a + x)"]


@lru_cache
def mixed():
    """An engine with the differences a, b (and c, huge) and the adapter x."""
    base = tiny.base()
    engine = Engine(base)
    for k, name in enumerate("abc"):
        engine.attach(sparse(base, name, k, entries=800))
    engine.attach(tiny.wake(new_module("x", base, components="pfeiffer")))
    return engine


@given(
    st.lists(
        st.tuples(st.sampled_from(ITEMS), st.sampled_from(["", " + c"]), st.integers(0, 12)), min_size=1, max_size=5
    )
)
@settings(derandomize=True, max_examples=8, deadline=None)
def test_any_order_and_any_accident_returns_theta_0(sequence):
    """Each step activates a composition; an exception interrupts some while they write, and the one before stays."""
    engine = mixed()
    state, ids = snapshot(engine.base), tiny.inputs()
    write, left = torch.Tensor.scatter_, [0]

    def cut(self, *args):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return write(self, *args)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(madx.engine.weight_deltas, "RUN", 300)
        seen = {}
        for item, more, cut_at in sequence:
            before = str(engine.composition)
            left[0] = cut_at
            patch.setattr(torch.Tensor, "scatter_", cut)
            try:
                engine.activate(item + more)
            except KeyboardInterrupt:
                assert str(engine.composition) == before
            finally:
                patch.setattr(torch.Tensor, "scatter_", write)
            text = str(engine.composition)
            out = engine(*ids)
            assert torch.equal(seen.setdefault(text, out), out), f"{text} is not what it was before"
        with pytest.raises(ZeroDivisionError), engine.using("b + x + c"):
            raise ZeroDivisionError
        assert torch.equal(engine(*ids), seen[str(engine.composition)])
        engine.activate(None)
        assert unchanged(engine.base, state)


@pytest.mark.parametrize("language", ["sparse", "adapter"])
def test_a_language_and_a_task_of_different_kinds_train_evaluate_and_swap(language):
    """An adapter language module under a sparse task module and the reverse, both swapped for the other kind."""
    import tiny_runs as runs

    from madx.data.labelled.labels import LabelSet
    from madx.training import SparseSettings, TrainSettings, fit

    engine = Engine(tiny.base())
    state = snapshot(engine.base)
    kinds = {"sparse": {"sparse_diff": {"entries": 200}}, "adapter": {"bottleneck": {}}}
    engine.attach(sparse(engine.base, "sparse", 5, entries=0.1, std=0.05))
    engine.attach(tiny.wake(new_module("adapter", engine.base, components="pfeiffer"), std=0.05))
    torch.manual_seed(0)
    labels = LabelSet.from_sentences(runs.sentences()).tags
    other = {"sparse": "adapter", "adapter": "sparse"}[language]
    engine.attach(new_module("ner", engine.base, role="task", components=kinds[other], labels=labels))
    engine.activate(f"{language} + ner")
    task = runs.ner(seed=1)
    before = task.evaluate(engine)["f1"]
    chosen = TrainSettings(learning_rate=1e-2, progress=False, sparse=SparseSettings(full_share=0.5))
    result = fit(engine, "ner", task, chosen, steps=30, seed=0)
    assert result.best["f1"] > before + 20
    for composition in (
        f"{other} + ner",
        f"average({language}, {other}) + ner",
        f"0.5*{language} + ner",
        "ner",
        f"{language} + ner",
    ):
        engine.activate(composition)
        assert engine.explain(*tiny.inputs()).inactive == []
    assert task.evaluate(engine)["f1"] == pytest.approx(result.best["f1"], abs=5)
    engine.activate(None)
    assert unchanged(engine.base, state)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float16, 6e4), (torch.bfloat16, 3e38)])
def test_each_fits_half_precision_but_not_their_sum(dtype, largest):
    base = tiny.base()
    base.model.to(dtype)
    engine = Engine(base)
    state = snapshot(base)
    for name in "ab":
        unit = engine.attach(sparse(base, name, entries=5)).units["weights"]["sparse_diff"]
        unit.set_entries(torch.arange(5), torch.full((5,), largest))
        engine.activate(name)
    with pytest.raises(CompositionError, match=r"delta of \w, .* leaves the range of .*smaller factor"):
        engine.activate("a + b")
    assert str(engine.composition) == "b"
    engine.activate("average(a, b)")
    engine.activate(None)
    assert unchanged(base, state)


# ---- bad input, as a user meets it -----------------------------------------------------------------------------------


def test_every_bad_delta_has_its_own_message(tmp_path):
    """The list of what can be wrong with a difference; after each the base is as before."""
    base, other, store = tiny.base(), tiny.base(seed=4), Store(tmp_path)
    engine, state = Engine(base), snapshot(base)
    made = engine.attach(sparse(base, "a", language="swa"))
    unit = made.units["weights"]["sparse_diff"]
    store.save(made)
    indices, values = unit.indices.clone(), unit.values.detach().clone()

    def entries(i, v):
        return lambda: unit.set_entries(i, v)

    def of_another_tokenizer():
        made.info.tokenizer, kept = "0" * 64, made.info.tokenizer
        try:
            engine.attach(made)
        finally:
            made.info.tokenizer = kept

    far = torch.cat([indices[:-1], torch.tensor([unit.space.size], dtype=indices.dtype)])
    for what, error, text in (
        (
            lambda: new_module("b", base, components={"sparse_diff": {"entries": 10**9}}),
            ConfigError,
            "asks for 1,000,000,000 entries.*have [\\d,]+: give a smaller count",
        ),
        (lambda: Engine(other).attach(made), BaseError, "was made for the base .*weights: module .*Load that base"),
        (lambda: Engine(tiny.base(num_hidden_layers=2)).attach(made), BaseError, "same shape"),
        (of_another_tokenizer, BaseError, "tokenizer: module 000000000000, base .*Load that base"),
        (
            lambda: engine.activate("a + 0.5*a"),
            CompositionError,
            "applies the module 'a' twice in one stack. Name each module once",
        ),
        (entries(far, values), ValueError, f"index {unit.space.size} is out of range"),
        (entries(indices.flip(0), values), ValueError, "unsorted"),
        (entries(torch.cat([indices[:1], indices[:-1]]), values), ValueError, "repeated"),
        (
            entries(indices, values.index_fill(0, torch.tensor([7]), float("nan"))),
            ValueError,
            "infinite or not a number",
        ),
        (lambda: store.load("a", other), BaseError, "was made for the base"),
    ):
        engine.activate("a")
        here = snapshot(base)
        with pytest.raises(error, match=f"(?s){text}"):
            what()
        assert unchanged(base, here) and torch.equal(unit.indices, indices) and torch.equal(unit.values, values)
        engine.activate(None)
        assert unchanged(base, state)


def test_bad_deltas_by_command(tmp_path, monkeypatch):
    """Too many entries are refused before training; a file of another base, or a cut one, before prediction."""
    folder = fill(tmp_path)
    monkeypatch.chdir(folder)
    small = [
        f"--set={key}"
        for key in ("block_size=16", "batch_size=4", "held_out_blocks=4", "cache=cache", "train.progress=false")
    ]
    language = ["train-language", "--base", "base", "--language", "swa", "--corpus", "swa.txt", "--steps", "2", *small]
    said = failed(run(*language, "--set", "components={sparse_diff: {entries: 999999999}}"))
    assert "sparse_diff.entries asks for 999,999,999 entries" in said and "a share such as 0.03" in said
    assert run(*language, "--components", "lt_sft").exit_code == 0
    assert "was made for the base" in failed(run("explain", "--stack", "swa", "--base", "other"))
    weights = folder / "modules" / "swa" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    said = failed(run("explain", "--stack", "swa"))
    assert "swa" in said and "damaged" in said
    assert json.loads((folder / "modules" / "swa" / "module.json").read_text())["name"] == "swa"
