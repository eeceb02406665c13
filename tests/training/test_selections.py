"""Selections: exactly the K largest scores over all parameters, and each rule's own formula."""

from pathlib import Path

import pytest
import tiny
import tiny_runs as runs
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sparse_runs import language, ner, settings, trainee, untied_model
from tiny import scatter, snapshot, unchanged

import madx.training.sparse.selections
from madx.contract.sites import BaseParameter
from madx.engine import Engine
from madx.errors import ConfigError, TrainingError
from madx.module import new_module
from madx.module_types.sparse_diff import Space
from madx.training import fit
from madx.training.sparse import fisher_information
from madx.training.sparse.fisher_information import mean_squared_gradients
from madx.training.sparse.selections import SELECTIONS, Importance, base


def test_the_registry_is_the_folder():
    files = {p.stem for p in Path(madx.training.sparse.selections.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert {cls.__module__.rpartition(".")[2] for cls in map(SELECTIONS.get, SELECTIONS.names())} == files


def space(*sizes):
    return Space(tuple(BaseParameter(f"p{k}", (n,), "layers", 0, "weight") for k, n in enumerate(sizes)))


def top(sizes, scores, count, taken=()):
    where = space(*sizes)
    parts = torch.tensor(scores, dtype=torch.float32).split(list(sizes))
    return base.top(
        where, count, lambda k, a, b: parts[k][a:b], taken=torch.tensor(sorted(taken), dtype=torch.int32)
    ).tolist()


@pytest.mark.slow
@given(st.data())
@examples(derandomize=True, max_examples=150, deadline=None)
def test_top_is_the_sorted_order_with_the_first_of_equals(data):
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    number = st.one_of(st.sampled_from([0.0, -0.0, 1.0, 1.0, 1e-45, 3e38, 1.0000001]), st.floats(0, 10, width=32))
    scores = data.draw(st.lists(number, min_size=sum(sizes), max_size=sum(sizes)))
    taken = data.draw(st.sets(st.integers(0, sum(sizes) - 1), max_size=sum(sizes) - 1))
    count = data.draw(st.integers(1, sum(sizes) - len(taken)))
    free = [i for i in range(sum(sizes)) if i not in taken]
    expected = sorted(sorted(free, key=lambda i: (-float(torch.tensor(scores[i], dtype=torch.float32)), i))[:count])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "RUN", data.draw(st.sampled_from([1, 3, 100])))
        assert top(sizes, scores, count, taken) == expected


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_scores_that_are_no_scores_stop_in_words(bad):
    with pytest.raises(TrainingError, match="score for the selection"):
        top([3], [1.0, bad, 2.0], 1)
    with pytest.raises(TrainingError, match="4 entries are to be selected, but only 2 can be"):
        top([3], [1.0, 1.0, 2.0], 4, taken=[1])


def test_svd_scores_by_the_leading_components():
    chosen = SELECTIONS.get("svd")(settings(kept_rank=0.25).sparse)
    start, moved = torch.zeros(8, 12), torch.randn(8, 12)
    importance = Importance(BaseParameter("w", (8, 12), "layers", 0, "weight"), start, moved)
    u, s, v = torch.linalg.svd(moved)
    expected = sum(s[k] * torch.outer(u[:, k], v[k]) for k in range(2)).abs().flatten()
    assert torch.allclose(
        torch.cat([chosen.scores(importance, 0, 50), chosen.scores(importance, 50, 96)]), expected, atol=1e-5
    )
    words = Importance(BaseParameter("e", (8, 12), "embeddings", None, "weight"), start, moved)
    assert torch.equal(chosen.scores(words, 0, 96), moved.abs().flatten())
    other = Importance(BaseParameter("w2", (8, 12), "layers", 0, "weight"), start, 2 * moved)
    assert torch.allclose(chosen.scores(other, 0, 96), 2 * expected, atol=1e-5)


def test_fisher_is_the_mean_squared_gradient_of_single_samples():
    engine, task, unit = ner(100)
    state = snapshot(engine.base)
    squares = mean_squared_gradients(trainee(engine, "ner", unit), task, samples=11)
    assert unchanged(engine.base, state)
    assert all(p.grad is None and not p.requires_grad for p in engine.base.model.parameters())
    expected = {p.name: torch.zeros(p.shape) for p in unit.space.parameters}
    weights = [engine.base.encoder.get_parameter(n).requires_grad_(True) for n in expected]
    rows = [
        {k: v[i : i + 1] for k, v in b.items()}
        for step in range(2)
        for b in task.batches(step)
        for i in range(len(b["input_ids"]))
    ]
    for row in rows[:11]:
        loss = task.loss(engine, row) / task.count(row)
        for name, gradient in zip(expected, torch.autograd.grad(loss, weights, allow_unused=True)):
            if gradient is not None:
                expected[name] += gradient**2 / 11
    for p in weights:
        p.requires_grad_(False)
    assert all(torch.allclose(squares[n], e, rtol=1e-4, atol=1e-12) for n, e in expected.items())
    assert sum(e.sum() for e in expected.values()) > 0


def test_fisher_has_no_dropout_and_refuses_data_without_predictions(monkeypatch):
    def squares(seed):
        engine = Engine(tiny.base())
        torch.manual_seed(0)
        components = {"bottleneck": {"dropout": 0.5}, "sparse_diff": {"entries": 9}}
        made = tiny.wake(new_module("swa", engine.base, components=components))
        engine.attach(made)
        engine.activate("swa")
        torch.manual_seed(seed)
        unit = made.units["weights"]["sparse_diff"]
        return mean_squared_gradients(trainee(engine, "swa", unit), runs.masked_lm(), samples=2)

    one, two = squares(1), squares(2)
    assert all(torch.equal(one[name], two[name]) for name in one)
    monkeypatch.setattr(fisher_information, "EMPTY_STEPS", 3)
    monkeypatch.setattr(runs.MaskedLM, "count", lambda self, batch: 0)
    with pytest.raises(TrainingError, match="first 3 training batches.*selection"):
        squares(1)


def texts(folder):
    """Two languages of different words."""
    found = {"swa": "Juma lives in Maria city .\n", "eng": "the river of the market was said to with\n"}
    for name, line in found.items():
        (folder / f"{name}.txt").write_text(line * 20)
    return {name: str(folder / f"{name}.txt") for name in found}


@pytest.mark.parametrize("family", ["xlm-roberta", "modernbert"])
def test_lape_selects_the_weights_of_nodes_that_respond_to_the_language(family, tmp_path):
    """Against the shares of positive activations, read off the base's own layers, and the paper's entropy."""
    engine, task, unit = language(150, family=family)
    sources = texts(tmp_path)
    chosen = settings(selection="lape", lape_texts=sources, lape_tokens=50, lape_quantile=0.8).sparse
    importance = SELECTIONS.get("lape")(chosen).importance(trainee(engine, "swa", unit), task, seed=0)
    encoder, tokenizer = engine.base.encoder, engine.base.tokenizer
    p, rows = [], []

    def hook(module, inputs, output):
        rows.append((output[..., :64].flatten(0, 1) > 0).float().mean(0))

    for layer in encoder.encoder.layer if family == "xlm-roberta" else encoder.layers:
        (layer.intermediate.dense if family == "xlm-roberta" else layer.mlp.Wi).register_forward_hook(hook)
    for source in sources.values():
        batch = tokenizer(Path(source).read_text().splitlines()[:16], return_tensors="pt", padding=True)
        rows.clear()
        encoder(batch["input_ids"], batch["attention_mask"])
        p.append(torch.stack(rows))
    p = torch.stack(p)
    q = p / p.sum(0).clamp_min(1e-30)
    specific = 1 + torch.special.xlogy(q, q).sum(0) / torch.tensor(2.0).log()
    border = p.flatten().sort().values[int(0.8 * p.numel())]
    wanted = torch.where((p[0] >= border) & (specific > 1e-6), 1 + specific, p[0] * specific)
    for parameter in unit.space.parameters:
        found = importance(parameter).squares
        assert found.shape == parameter.shape
        if parameter.map == "ffn.up" and parameter.kind == "weight":
            half = found[:64] if family == "modernbert" else found
            assert torch.allclose(half, wanted[parameter.layer][:, None].expand(64, 32), atol=1e-4)
            assert family != "modernbert" or torch.equal(found[:64], found[64:])
        elif parameter.map == "ffn.down" and parameter.kind == "weight":
            assert torch.allclose(found, wanted[parameter.layer].expand(32, 64), atol=1e-4)
        elif parameter.map != "ffn.up":
            assert not found.any()


def test_lape_refuses_what_it_cannot_compare(tmp_path):
    engine, task, unit = language(150)
    sources = texts(tmp_path)
    for given_texts in ({}, {"swa": sources["swa"]}, {"eng": sources["eng"], "yor": sources["swa"]}):
        with pytest.raises(ConfigError, match="lape compares languages.*the module is swa.*at least one other"):
            SELECTIONS.get("lape")(settings(lape_texts=given_texts).sparse).importance(
                trainee(engine, "swa", unit), task, seed=0
            )
    same = {"swa": sources["swa"], "eng": sources["swa"]}
    with pytest.raises(TrainingError, match=r"finds 0 selectable weights.*150 entries"):
        SELECTIONS.get("lape")(settings(lape_texts=same).sparse).importance(trainee(engine, "swa", unit), task, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SELECTIONS.names())
def test_every_selection_trains(name, tmp_path):
    engine, task, unit = language(400)
    regrowth = {"accumulate": 2, "reselect_every": 4, "lape_texts": texts(tmp_path)}
    engine.activate(None)
    before = task.evaluate(engine)["perplexity"]
    engine.activate("swa")
    result = fit(engine, "swa", task, settings(selection=name, samples=8, sparse_l1=0.0, **regrowth), steps=12, seed=0)
    assert len(unit.indices) == 400 and result.best["perplexity"] < before
    full = name in ("magnitude", "svd", "diff_pruning")
    assert {row["phase"] for row in result.history} == ({"full 1", "sparse 1"} if full else {"sparse 1"})


@pytest.mark.slow
def test_selections_differ_and_chance_follows_its_seed():
    found = {}
    for name, seed in (("magnitude", 0), ("random", 0), ("random", 1), ("fisher", 0), ("svd", 0)):
        for again in (False, True):
            engine, task, unit = language(200)
            fit(engine, "swa", task, settings(selection=name, samples=8), steps=3, seed=seed)
            if again:
                assert torch.equal(found[name, seed], unit.indices)
            found[name, seed] = unit.indices
    assert len({tuple(v.tolist()) for v in found.values()}) == 5


def test_bitfit_trains_all_biases_and_nothing_else():
    engine, task, unit = language("all", kinds=["bias"])
    fit(engine, "swa", task, settings(), steps=5, seed=0)
    moved = {name for name, d in scatter(unit).items() if d.any()}
    assert (
        moved and all(name.endswith("bias") for name in moved) and unit.values.count_nonzero() > 0.9 * len(unit.values)
    )


def test_top_layers_and_full_fine_tuning_are_baselines_of_the_same_kind():
    """All entries = plain fine-tuning, whatever the selection: AdamW on the weights themselves, no penalty, one run."""
    for config in ({"top_layers": 1}, {"freeze_norms": False}):
        engine, task, unit = language("all", **config)
        chosen = settings(keep_best=False)
        result = fit(engine, "swa", task, chosen, steps=4, seed=0)
        assert {row["phase"] for row in result.history} == {"full"} and str(engine.composition) == "swa"
        model = untied_model()
        start = {n: p.detach().clone() for n, p in model.roberta.named_parameters()}
        opened = [model.roberta.get_parameter(p.name).requires_grad_(True) for p in unit.space.parameters]
        optimizer = torch.optim.AdamW(opened, weight_decay=0.0)
        for step in range(4):
            (batch,) = task.batches(step)
            optimizer.zero_grad()
            logits = model(input_ids=batch["input_ids"]).logits
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100
            ).backward()
            torch.nn.utils.clip_grad_norm_(opened, 1.0)
            optimizer.param_groups[0]["lr"] = 1e-2 * chosen.rate(step, 4)
            optimizer.step()
        for name, difference in scatter(unit).items():
            if name.endswith("key.bias"):  # softmax does not see it: its gradient is rounding, which Adam blows up
                continue
            assert torch.allclose(model.roberta.get_parameter(name) - start[name], difference, atol=2e-5), (
                config,
                name,
            )


def test_an_adapter_and_a_sparse_delta_in_one_module_train_together():
    engine = Engine(tiny.base())
    torch.manual_seed(0)
    components = {"bottleneck": {}, "sparse_diff": {"entries": 200}}
    made = engine.attach(new_module("swa", engine.base, language="swa", components=components))
    before = {k: v.clone() for k, v in made.state_dict().items() if "bottleneck" in k}
    engine.activate("swa")
    fit(engine, "swa", runs.masked_lm(seed=1), settings(), steps=6, seed=0)
    assert all(not torch.equal(made.state_dict()[k], v) for k, v in before.items())
    assert (
        engine.explain(*tiny.inputs()).inactive == []
        and made.units["weights"]["sparse_diff"].values.count_nonzero() > 150
    )
