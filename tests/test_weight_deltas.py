"""Weight deltas on every base family: theta is theta_0 + delta exactly, and theta_0 comes back exactly after errors."""

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import dense, snapshot, sparse, unchanged

import madx.engine.weight_deltas
from madx.composition import Average, Scaled, Stack, Ties
from madx.engine import Engine
from madx.errors import BaseError, CompositionError, ConfigError
from madx.module import new_module


@pytest.fixture(params=tiny.FAMILY_NAMES)
def base(request):
    return tiny.base(request.param)


@pytest.fixture
def ids():
    return tiny.inputs()


def encoder(base):
    return {k: v.detach().clone() for k, v in base.encoder.named_parameters()}


def expect(base, theta, *weighted):
    """Every parameter of the encoder is theta + sum of weight * difference."""
    for name, parameter in base.encoder.named_parameters():
        wanted = theta[name]
        for weight, difference in weighted:
            wanted = wanted + weight * difference.get(name, torch.zeros(()))
        assert torch.allclose(parameter, wanted, atol=1e-6), name


# ---- putting on and taking off ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_sums_means_and_factors_are_the_formula(base):
    engine, theta, state = Engine(base), encoder(base), snapshot(base)
    modules = {n: engine.attach(sparse(base, n, k)) for k, n in enumerate("abc")}
    a, b, c = (dense(m) for m in modules.values())
    assert sum(int(((a[n] != 0) & (b[n] != 0)).sum()) for n in a) > 0, "they must overlap"
    for composition, weighted in {
        "a": [(1, a)],
        "a + b": [(1, a), (1, b)],
        "a + b + c": [(1, a), (1, b), (1, c)],
        "0.5*a + c": [(0.5, a), (1, c)],
        "average(a, b) + c": [(0.5, a), (0.5, b), (1, c)],
        "average(0.25*a, 0.75*(b + c))": [(0.25, a), (0.75, b), (0.75, c)],
        "-2*(a + 0.5*b)": [(-2, a), (-1, b)],
        "average(a, base)": [(0.5, a)],
    }.items():
        engine.activate(composition)
        expect(base, theta, *weighted)
        engine.activate(None)
        assert unchanged(base, state), composition


@torch.no_grad()
def test_ties_elects_signs_place_by_place(base):
    engine, theta = Engine(base), encoder(base)
    modules = [engine.attach(sparse(base, n, k, entries=0.5)) for k, n in enumerate("abc")]
    stacked = {n: torch.stack([dense(m)[n] for m in modules]) for n in dense(modules[0])}
    elected = {}
    for name, values in stacked.items():
        sign = values.sum(0).sign()
        agree = (values.sign() == sign) & (values != 0) & (sign != 0)
        elected[name] = (values * agree).sum(0) / agree.sum(0).clamp_min(1)
    engine.activate("ties(a, b, c)")
    expect(base, theta, (1, elected))
    assert engine.explain().inactive == []
    engine.activate("0.5*ties(a, b, c) + base")
    expect(base, theta, (0.5, elected))
    unit = modules[0].units["weights"]["sparse_diff"]  # a child that has changed since is counted again
    unit.set_entries(unit.indices, torch.zeros_like(unit.values))
    engine.refresh()
    values = {n: v[1:] for n, v in stacked.items()}
    again = {}
    for name, v in values.items():
        sign = v.sum(0).sign()
        agree = (v.sign() == sign) & (v != 0)
        again[name] = (v * agree).sum(0) / agree.sum(0).clamp_min(1)
    expect(base, theta, (0.5, again))
    ids = tiny.inputs()
    assert engine.explain(*ids).inactive == ["a"]


@torch.no_grad()
def test_the_same_modules_grouped_otherwise_are_another_election(ids):
    base = tiny.base()
    engine = Engine(base)
    for name, value in (("a", 0.4), ("b", -0.5), ("c", 0.3)):
        unit = engine.attach(sparse(base, name)).units["weights"]["sparse_diff"]
        unit.set_entries(torch.arange(300), torch.full((300,), value))
    engine.activate("ties(a, b + c)")
    fresh = engine(*ids)
    engine.activate("ties(a + c, b)")
    assert not torch.allclose(engine(*ids), fresh, atol=1e-3)
    engine.activate("ties(a, b + c)")
    assert torch.equal(engine(*ids), fresh)


def test_ties_refuses_what_computes():
    engine = Engine(tiny.base())
    engine.attach(sparse(engine.base, "a"))
    engine.attach(new_module("adapter", engine.base))
    with pytest.raises(CompositionError, match=r"ties\(a, adapter\)' elects signs.*adapter computes"):
        engine.activate("ties(a, adapter)")


@torch.no_grad()
def test_swapping_in_any_order_returns_theta_0_bit_for_bit(base, ids):
    engine, state = Engine(base), snapshot(base)
    for k, name in enumerate("abc"):
        engine.attach(sparse(base, name, k, entries=0.2))
    seen = {}
    for composition in [
        "a + c",
        "b + c",
        "c",
        "a + b + c",
        "base",
        "ties(a, b) + c",
        "a + c",
        "b + c",
        "average(a, b)",
        "c",
    ]:
        engine.activate(composition)
        out = engine(*ids)
        assert torch.equal(seen.setdefault(composition, out), out)
    assert len({tuple(v.flatten()[:9].tolist()) for v in seen.values()}) == len(seen)
    engine.close()
    assert unchanged(base, state)
    assert not any("forward" in m.__dict__ for m in base.model.modules())


@torch.no_grad()
def test_output_equals_a_base_with_those_weights(base, ids):
    engine = Engine(base)
    made = sparse(base, "a", entries=0.2, std=0.05)
    engine.attach(made)
    other = tiny.base(base.name.removeprefix("tiny-"))
    for name, difference in dense(made).items():
        other.encoder.get_parameter(name).add_(difference)
    engine.activate("a")
    assert torch.equal(engine(*ids), other.encoder(input_ids=ids[0], attention_mask=ids[1]).last_hidden_state)


def test_a_failure_at_any_moment_leaves_the_composition_before(monkeypatch, ids):
    base = tiny.base()
    engine, state = Engine(base), snapshot(base)
    for k, name in enumerate("abc"):
        engine.attach(sparse(base, name, k))
    engine.activate("a + b")
    before = snapshot(base)
    real, calls = torch.Tensor.scatter_, []
    monkeypatch.setattr(madx.engine.weight_deltas, "RUN", 7)
    for number in (0, 1, 5, 40, 200):
        calls.clear()

        def failing(self, *args, number=number):
            calls.append(1)
            if len(calls) == number + 1:
                raise KeyboardInterrupt
            return real(self, *args)

        monkeypatch.setattr(torch.Tensor, "scatter_", failing)
        with pytest.raises(KeyboardInterrupt):
            engine.activate("c + a")
        monkeypatch.setattr(torch.Tensor, "scatter_", real)
        assert str(engine.composition) == "a + b"
        assert unchanged(base, before), number
    engine.activate(None)
    assert unchanged(base, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_its_overflow(dtype):
    base = tiny.base()
    base.model.to(dtype)
    engine, state = Engine(base), snapshot(base)
    engine.attach(sparse(base, "a")), engine.attach(sparse(base, "huge", 1, entries=5, std=1e38))
    engine.activate("a")
    assert not unchanged(base, state)
    here = snapshot(base)
    with pytest.raises(CompositionError, match=rf"delta of huge.* leaves the range of {str(dtype)[6:]}.*as before"):
        engine.activate("a + 10*huge")
    assert str(engine.composition) == "a" and unchanged(base, here)
    assert engine.explain(*tiny.inputs()).inactive == []
    engine.activate(None)
    assert unchanged(base, state)


@torch.no_grad()
def test_large_numbers_at_different_places_do_not_overflow():
    base = tiny.base()
    base.model.to(torch.float16)
    engine = Engine(base)
    made = sparse(base, "a", entries=2, groups=["layers"], kinds=["weight"])
    unit = made.units["weights"]["sparse_diff"]
    first = unit.space.parameters[0]
    weights = base.encoder.get_parameter(first.name).view(-1)
    weights[:2] = torch.tensor([60_000.0, 0.0])
    state = snapshot(base)
    for values, fits in (([0.0, 50_000.0], True), ([10_000.0, 0.0], False), ([0.0, float("nan")], False)):
        unit.set_entries(torch.tensor([0, 1]), torch.tensor([0.0, 0.0]))
        unit.values.copy_(torch.tensor(values))
        if "a" not in engine.modules:
            engine.attach(made)
        if fits:
            engine.activate("a")
            assert weights[:2].tolist() == [60_000.0, 50_000.0 // 32 * 32]
            engine.activate(None)
        else:
            with pytest.raises(CompositionError, match="leaves the range of float16"):
                engine.activate("a")
        assert unchanged(base, state)


def test_a_delta_lost_in_rounding_is_inactive():
    base = tiny.base()
    base.model.to(torch.bfloat16)
    engine = Engine(base)
    engine.attach(sparse(base, "faint", entries=50, std=1e-30, groups=["layers"], kinds=["weight"]))
    engine.activate("faint")
    explanation = engine.explain(*tiny.inputs())
    assert explanation.inactive == ["faint"] and "INACTIVE: faint does not act" in str(explanation)


def test_the_base_may_change_its_precision_in_between():
    base, other = tiny.base(), tiny.base()
    engine = Engine(base)
    engine.attach(sparse(base, "a"))
    engine.activate("a")
    base.model.to(torch.bfloat16), other.model.to(torch.bfloat16)
    engine.activate(None)
    assert unchanged(base, snapshot(other))


def test_threads_write_the_same(monkeypatch):
    base = tiny.base()
    engine = Engine(base)
    engine.attach(sparse(base, "a", entries=0.3)), engine.attach(sparse(base, "b", 1, entries=0.3))
    engine.activate("a + b")
    once = snapshot(base)
    engine.activate(None)
    state = snapshot(base)
    monkeypatch.setattr(madx.engine.weight_deltas, "PIECE", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    engine.activate("a + b")
    assert unchanged(base, once)
    engine.activate(None)
    assert unchanged(base, state)


# ---- the decoder -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_decoder_keeps_theta_0(base, ids):
    """The input embeddings carry the difference; the decoder that shares them goes on with the old ones."""
    engine = Engine(base)
    rows = torch.randn(4, base.width)
    bare = engine.mlm_logits(rows)
    tied = [
        m
        for m in base.model.modules()
        if m not in set(base.encoder.modules())
        and getattr(m, "weight", None) is base.model.get_input_embeddings().weight
    ]
    assert bool(tied) == base.family.tied
    engine.attach(sparse(base, "a", entries=0.5, groups=["embeddings"], kinds=["weight"]))
    engine.attach(sparse(base, "b", 1, entries=0.5, groups=["embeddings"], kinds=["weight"]))
    full = base.model(input_ids=ids[0], attention_mask=ids[1]).logits
    for composition in ("a", "a + b", "b", "average(a, b)"):
        engine.activate(composition)
        assert torch.equal(engine.mlm_logits(rows), bare)
        logits = base.model(input_ids=ids[0], attention_mask=ids[1]).logits
        assert not torch.allclose(logits, full, atol=1e-3)
        assert torch.allclose(logits, engine.mlm_logits(engine(*ids).flatten(0, 1)).view_as(logits), atol=1e-5)
    engine.activate(None)
    assert torch.equal(engine.mlm_logits(rows), bare) and engine.deltas._copies == {}
    assert all(m.weight is base.model.get_input_embeddings().weight for m in tied)


@torch.no_grad()
def test_no_copy_of_the_embeddings_without_need(ids):
    base = tiny.base()
    engine = Engine(base)
    engine.attach(sparse(base, "layers", groups=["layers"])), engine.attach(sparse(base, "all"))
    engine.activate("layers")
    engine.mlm_logits(engine(*ids)[0])
    assert engine.deltas._copies == {}
    engine.activate("all")
    engine(*ids)
    assert engine.deltas._copies == {}
    engine.mlm_logits(engine(*ids)[0])
    assert list(engine.deltas._copies) == ["embeddings.word_embeddings.weight"]


# ---- mixed, scaled, merged -------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("language", ["sparse", "adapter"])
def test_weight_deltas_and_adapters_in_one_composition(base, ids, language):
    engine, state = Engine(base), snapshot(base)
    adapter = tiny.wake(new_module("adapter", base, components="pfeiffer"))
    engine.attach(adapter), engine.attach(sparse(base, "sparse"))
    other = {"sparse": "adapter", "adapter": "sparse"}[language]
    engine.activate(f"{language} + {other}")
    both, explanation = engine(*ids), engine.explain(*ids)
    assert explanation.inactive == [] and {a.site for a in explanation.actions if a.module == "sparse"} == {"weights"}
    for alone in ("sparse", "adapter"):
        engine.activate(alone)
        assert not torch.allclose(engine(*ids), both, atol=1e-3)
    other_base = tiny.base(base.name.removeprefix("tiny-"))
    for name, difference in dense(engine.modules["sparse"]).items():
        other_base.encoder.get_parameter(name).add_(difference)
    second = Engine(other_base)
    second.attach(tiny.wake(new_module("adapter", other_base, components="pfeiffer")))
    second.activate("adapter")
    assert torch.equal(second(*ids), both)
    engine.activate("average(sparse, adapter)")
    assert engine.explain(*ids).inactive == []
    engine.close()
    assert unchanged(base, state)


@torch.no_grad()
def test_a_factor_scales_the_change_of_an_adapter(base, ids):
    engine = Engine(base)
    engine.attach(tiny.wake(new_module("a", base, components={"bottleneck": {"leave_out": [0, 1]}})))
    bare, outs = engine(*ids), {}
    for factor in (0, 0.5, 1, -1):
        engine.activate(Scaled("a", factor))
        outs[factor] = engine(*ids)
    assert torch.equal(outs[0], bare)
    assert len({tuple(o.flatten()[:9].tolist()) for o in outs.values()}) == 4
    unit = engine.modules["a"].units["layer.2.ffn"]["bottleneck"]
    step = engine.compile(Stack(Scaled("a", 0.5)))["layer.2.ffn"][0]
    from madx.contract.views import Sublayer, Tokens

    at = Sublayer(torch.randn(1, 2, 32), lambda x: x, {}, Tokens())
    assert torch.allclose(step(at), 0.5 * unit(at))


def test_a_scaled_invertible_part_feeds_no_decoder(ids):
    base = tiny.base()
    engine = Engine(base)
    swa = engine.attach(tiny.wake(new_module("swa", base, components={"invertible": {}})))
    unit = swa.units["embeddings"]["invertible"]
    engine.activate("0.5*swa")
    with torch.no_grad():
        x = type(base.encoder.embeddings).forward(base.encoder.embeddings, input_ids=ids[0])
        assert torch.allclose(base.encoder.embeddings(input_ids=ids[0]), x + 0.5 * (unit(x) - x), atol=1e-6)
    with pytest.raises(CompositionError, match="averages or scales.*no inverse"):
        engine.mlm_logits(engine(*ids))


@torch.no_grad()
def test_merge_is_for_good(base, ids):
    engine = Engine(base)
    engine.attach(sparse(base, "a", std=0.1))
    engine.attach(sparse(base, "t", 1, role="task", labels=("O", "B-PER"), std=0.1))
    engine.attach(new_module("adapter", base))
    rows = torch.randn(3, base.width)
    with pytest.raises(CompositionError, match="nothing is active"):
        engine.merge()
    engine.activate("a + adapter")
    with pytest.raises(CompositionError, match=r"adapter \(invertible, bottleneck\) computes something"):
        engine.merge()
    engine.activate("a + t")
    out, logits, labels, old = (
        engine(*ids),
        engine.mlm_logits(rows),
        engine.label_logits(engine(*ids)),
        base.fingerprint,
    )
    head = engine.merge()
    assert torch.equal(head(engine(*ids)), labels) and set(engine.modules) == {"adapter"}
    assert (
        str(engine.composition) == "base"
        and torch.equal(engine(*ids), out)
        and torch.equal(engine.mlm_logits(rows), logits)
    )
    assert base.fingerprint != old and base.name.endswith(" + a + t")
    engine.close()
    assert torch.equal(base.encoder(input_ids=ids[0], attention_mask=ids[1]).last_hidden_state, out)
    assert torch.equal(base.mlm_logits(rows), logits)
    with pytest.raises(BaseError, match="made for the base"):
        Engine(base).attach(sparse(tiny.base(base.name.split()[0].removeprefix("tiny-")), "b"))


# ---- what it says of itself ------------------------------------------------------------------------------------------


def test_explain_lists_entries_parameters_and_change(base, ids):
    engine = Engine(base)
    made = engine.attach(sparse(base, "a"))
    engine.attach(new_module("zero", base, components={"sparse_diff": {"entries": 10}}))
    engine.activate("a + 0.5*zero")
    space = made.units["weights"]["sparse_diff"].space
    text = str(engine.explain())
    assert f"weights  a: sparse_diff 400 of {space.size:,} entries in " in text.replace("  a:", "  a:")
    assert "zero: sparse_diff 10 of" in text and "times 0.5" in text
    measured = engine.explain(*ids)
    assert measured.inactive == ["zero"]
    found = torch.cat(
        [
            v.flatten()
            for n, v in sorted(encoder(tiny.base(base.name.removeprefix("tiny-"))).items())
            if n in {p.name for p in space.parameters}
        ]
    )
    unit = made.units["weights"]["sparse_diff"]
    expected = unit.values.norm() / found[unit.indices.long()].norm()
    assert measured.actions[0].change == pytest.approx(expected.item(), rel=1e-4)


def test_the_site_lists_every_parameter_of_the_encoder_but_the_poolers(base):
    site = base.sites["weights"]
    assert {p.name: p.shape for p in site.parameters} == {
        n: tuple(p.shape) for n, p in base.encoder.named_parameters() if not n.startswith("pooler.")
    }
    assert {p.layer for p in site.parameters if p.group == "layers"} == {0, 1, 2}
    assert all((p.layer is None) == (p.group != "layers") for p in site.parameters)
    norms = [p for p in site.parameters if p.kind == "norm"]
    assert len(norms) >= 6 and all("norm" in p.name.lower() for p in norms)
    assert any(p.group == "embeddings" for p in site.parameters)


def test_what_is_selectable(base):
    site = base.sites["weights"]

    def names(**config):
        made = new_module("m", base, components={"sparse_diff": {"entries": 1, **config}})
        return {p.name for p in made.units["weights"]["sparse_diff"].space.parameters}

    every = {p.name for p in site.parameters}
    norms = {p.name for p in site.parameters if p.kind == "norm"}
    assert names() == every - norms and names(freeze_norms=False) == every
    assert names(top_layers=1) == {p.name for p in site.parameters if p.layer == 2} - norms
    assert names(groups=["layers"], leave_out=[-1]) == {p.name for p in site.parameters if p.layer in (0, 1)} - norms
    if any(p.kind == "bias" for p in site.parameters):
        assert all(n.endswith("bias") for n in names(kinds=["bias"])) and not names(kinds=["bias"]) & norms
    with pytest.raises(ConfigError, match="No parameter of the base is selectable"):
        names(groups=["embeddings"], top_layers=1)


def test_counts():
    base = tiny.base()
    site = base.sites["weights"]
    size = sum(p.numel for p in site.parameters if p.kind != "norm")

    def count(entries):
        unit = new_module("m", base, components={"sparse_diff": {"entries": entries}}).units["weights"]["sparse_diff"]
        assert len(set(unit.indices.tolist())) == len(unit.indices) == len(unit.values) and int(unit.indices[-1]) < size
        return len(unit.indices)

    assert count("language") == 3 * 32 * 32 + 32 * 32 and count("task") == 3 * 2 * 32 * 32
    assert count("all") == size == count(1.0) and count(17) == 17 and count(0.25) == round(0.25 * size)
    with pytest.raises(
        ConfigError, match=rf"asks for {size + 1:,} entries, but the selectable parameters of this base have {size:,}"
    ):
        count(size + 1)
    for wrong in (0, -3, 0.0, 1.5, "half"):
        with pytest.raises(ConfigError, match="sparse_diff.entries"):
            count(wrong)


def test_the_papers_counts_on_xlmr_base():
    from madx.contract.sites import BaseParameter, Site
    from madx.module_types.sparse_diff import SparseDiffConfig

    site = Site(
        "weights", "weights", 768, 12, parameters=(BaseParameter("w", (250_002, 768), "embeddings", None, "weight"),)
    )
    assert SparseDiffConfig().count(site) == 7_667_712 and SparseDiffConfig(entries="task").count(site) == 14_155_776


@pytest.mark.slow
@given(
    st.lists(
        st.sampled_from(
            ["a", "b", "c", "base", "a + b", "0.5*a + c", "ties(a, b)", "average(a, b, c)", "ties(a, b + c)"]
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(derandomize=True, max_examples=15, deadline=None)
def test_any_sequence_of_compositions_ends_at_theta_0(sequence):
    base = tiny.base()
    engine, state = Engine(base), snapshot(base)
    for k, name in enumerate("abc"):
        engine.attach(sparse(base, name, k, entries=0.1))
    for composition in sequence:
        engine.activate(composition)
    engine.activate(None)
    assert unchanged(base, state)


def test_python_objects_and_text_agree():
    base = tiny.base()
    engine = Engine(base)
    for k, name in enumerate("ab"):
        engine.attach(sparse(base, name, k))
    for made, text in ((Ties("a", "b"), "ties(a, b)"), (Scaled("a", 2), "2*a"), (Average("a", "b"), "average(a, b)")):
        assert engine.activate(made) == engine.activate(text)


def test_a_delta_of_another_shape_is_refused_even_on_a_sister_base():
    base, other, sister = tiny.base(), tiny.base(intermediate_size=48), tiny.base(seed=3)
    made = sparse(base, "a")
    with pytest.raises(BaseError, match="of other parameters.*intermediate.dense.bias"):
        Engine(other).attach(made, allow_base_mismatch=True)
    engine = Engine(sister)
    engine.attach(made, allow_base_mismatch=True)
    engine.activate("a")
    assert engine.explain(*tiny.inputs()).inactive == []


@torch.no_grad()
@pytest.mark.parametrize("where", ["engine", "rewrite"])
def test_autocast_keeps_no_cast_of_weights_that_have_changed(where):
    """In training the base's weights ask for gradients; an evaluation of several languages swaps inside one context."""
    base = tiny.base("xlm-roberta")
    engine = Engine(base)
    for number, name in enumerate("ab"):
        engine.attach(sparse(base, name, number, entries=0.5, std=0.2))
    inputs, found = tiny.inputs(), []
    base.model.requires_grad_(True)
    values = engine.module("b").units["weights"]["sparse_diff"].values
    kept = values.detach().clone()

    def bring(name):
        if where == "engine":
            engine.activate(name)
        else:  # as at every step of a sparse phase
            values.copy_(kept if name == "b" else -kept)
            engine.deltas.rewrite(engine.deltas.applied[0])

    engine.activate("b")
    for names in ("ab", "b"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for name in names:
                bring(name)
                hidden = engine(*inputs)
        found.append(hidden)
    assert torch.equal(*found)


@pytest.mark.parametrize("family", ["xlm-roberta", "deberta-v2"])
def test_no_gradient_reaches_the_embeddings_through_the_decoder(family):
    """Scores and full gradients are those of the inputs: the decoder is no component of what trains."""
    base = tiny.base(family)
    engine = Engine(base)
    engine.attach(sparse(base, "a", 1, groups=["layers"]))
    engine.activate("a")
    words = base.encoder.get_input_embeddings().weight.requires_grad_(True)
    ids, mask = tiny.inputs()
    engine.mlm_logits(engine(ids, mask)[:, 1]).logsumexp(-1).sum().backward()
    absent = torch.ones(len(words), dtype=torch.bool)
    absent[ids.unique()] = False
    assert words.grad[absent].abs().max() == 0 and words.grad[~absent].abs().max() > 0
