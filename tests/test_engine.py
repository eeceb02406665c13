"""The engine on every base family: idle is bit-identical, modules act where they should, nothing else changes."""

import pytest
import tiny
import torch
import toys
from tiny import snapshot, unchanged

from madx.composition import Average, Stack, parse
from madx.contract.views import Sublayer, Tokens
from madx.engine import Engine
from madx.engine.call import Call
from madx.errors import BaseError, CompositionError, MadxError
from madx.module import Module, new_module


def module(base, name, components="madx", *, seed=0, role="language", labels=()):
    return tiny.wake(new_module(name, base, role=role, components=components, labels=labels), seed=seed)


@pytest.fixture(params=tiny.FAMILY_NAMES)
def base(request):
    return tiny.base(request.param)


@pytest.fixture
def ids():
    return tiny.inputs()


@torch.no_grad()
def test_idle_and_closed_are_bit_identical(base, ids):
    before = base.encoder(input_ids=ids[0], attention_mask=ids[1]).last_hidden_state
    logits = base.model(input_ids=ids[0], attention_mask=ids[1]).logits
    state, names = snapshot(base), [n for n, _ in base.model.named_parameters()]
    engine = Engine(base)
    assert torch.equal(engine(*ids), before)
    engine.attach(module(base, "swa"))
    engine.attach(module(base, "h", "houlsby"))
    assert torch.equal(engine(*ids), before)
    engine.activate("swa + h")
    assert not torch.allclose(engine(*ids), before, atol=1e-3)
    engine.activate(None)
    assert torch.equal(engine(*ids), before)
    engine.activate("swa")
    engine.close()
    assert torch.equal(base.encoder(input_ids=ids[0], attention_mask=ids[1]).last_hidden_state, before)
    assert torch.equal(base.model(input_ids=ids[0], attention_mask=ids[1]).logits, logits)
    assert [n for n, _ in base.model.named_parameters()] == names
    assert unchanged(base, state)
    assert not any("forward" in m.__dict__ or m._forward_hooks or m._forward_pre_hooks for m in base.model.modules())


@torch.no_grad()
def test_a_mask_given_by_position_is_seen_like_a_named_one(base, ids):
    """A call of the encoder itself, as in a user's own code, hands the mask to the modules either way."""
    seen = []

    class Reads(toys.ToyChange):
        def forward(self, view):
            seen.append(view.mask.clone())
            return super().forward(view)

    ids, mask = ids
    assert not mask.all()
    with toys.registered(reads=Reads):
        engine = Engine(base)
        engine.attach(module(base, "swa", {"reads": {}}))
        engine.activate("swa")
        named = base.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        by_place = base.encoder(ids, mask).last_hidden_state
    assert torch.equal(named, by_place)
    assert len(seen) == 2 * base.depth and all(torch.equal(each, mask.bool()) for each in seen)


@torch.no_grad()
@pytest.mark.parametrize(
    "preset",
    [
        "madx",
        "madx2",
        "pfeiffer",
        "houlsby",
        "houlsby_inv",
        "bapna",
        "parallel",
        "scaled_parallel",
        {"bottleneck": {"places": ["attention", "ffn"], "reads": "input", "residual": "sum"}},
    ],
)
def test_every_preset_acts_at_every_site_it_names(base, ids, preset):
    engine = Engine(base)
    engine.attach(module(base, "m", preset))
    bare = engine(*ids)
    engine.activate("m")
    assert not torch.allclose(engine(*ids), bare, atol=1e-3)
    explanation = engine.explain(*ids)
    assert explanation.inactive == []
    assert len(explanation.actions) == sum(len(u) for u in engine.modules["m"].units.values())
    assert all(a.calls == 1 and a.change > 0 for a in explanation.actions)


@torch.no_grad()
def test_swapping_equals_a_fresh_engine(base, ids):
    def out(*compositions):
        fresh = Engine(base)
        for k, name in enumerate(["swa", "hau", "ner"]):
            fresh.attach(module(base, name, "pfeiffer" if name == "ner" else "madx", seed=k))
        results = []
        for composition in compositions:
            fresh.activate(composition)
            results.append(fresh(*ids))
        fresh.close()
        return results

    a, b, c = out("swa + ner", "hau + ner", "ner + swa")
    assert torch.equal(out("hau + ner")[0], b) and torch.equal(out("ner + swa")[0], c)
    assert min((a - b).abs().max(), (a - c).abs().max()) > 1e-3
    again = out("swa + ner", "hau + ner", "swa + ner")
    assert torch.equal(again[0], again[2]) and torch.equal(again[0], a)


def test_gradients_reach_only_the_trained_module(base, ids):
    engine = Engine(base)
    engine.attach(module(base, "eng"))
    engine.attach(
        module(
            base, "ner", {"bottleneck": {"activation": "softplus"}}, seed=1, role="task", labels=("O", "B-PER", "I-PER")
        )
    )
    engine.activate("eng + ner")
    opened = engine.train_only("ner")
    engine.label_logits(engine(*ids)).logsumexp(-1).sum().backward()
    assert {id(p) for p in opened} == {id(p) for p in engine.modules["ner"].parameters()}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in opened)
    assert all(p.grad is None and not p.requires_grad for p in engine.modules["eng"].parameters())
    assert all(p.grad is None and not p.requires_grad for p in base.model.parameters())


def test_language_training_leaves_the_mlm_head_alone(base, ids):
    engine = Engine(base)
    engine.attach(module(base, "swa"))
    engine.activate("swa")
    engine.train_only("swa")
    engine.mlm_logits(engine(*ids)[ids[1] == 1]).logsumexp(-1).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in base.model.parameters())
    assert all(p.grad is not None for p in engine.modules["swa"].parameters())


@torch.no_grad()
def test_own_mlm_head_equals_the_models_forward(base, ids):
    """Logits at chosen positions by the engine = the model's own forward pass, with and without an invertible part."""
    engine = Engine(base)
    engine.attach(module(base, "swa"))
    chosen = ids[1] == 1
    for composition in (None, "swa"):
        engine.activate(composition)
        full = base.model(input_ids=ids[0], attention_mask=ids[1]).logits[chosen]
        assert torch.allclose(engine.mlm_logits(engine(*ids)[chosen]), full, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nice", "glow"])
def test_invertible_part_is_undone_before_the_decoder(base, kind):
    """If the layers did nothing but pass A(e) on to the head, the decoder would get e: A^-1(A(e)) = e."""
    engine = Engine(base)
    engine.attach(module(base, "swa", {"invertible": {"kind": kind}}))
    unit = engine.modules["swa"].units["embeddings"]["invertible"]
    x = torch.randn(2, 5, base.sites["embeddings"].width)
    assert torch.allclose(unit.inverse(unit(x)), x, atol=1e-5)
    engine.activate("swa")
    if not base.family.tied:
        assert "nothing is undone" in engine.explain().decoder
        return
    last = next(m for n, m in base.model.named_modules() if n in base.family.before_decoder)
    y = torch.randn(4, base.width)
    assert torch.allclose(last(y), unit.inverse(type(last).forward(last, y)), atol=1e-5)


@torch.no_grad()
def test_stack_is_the_formula_at_one_site(ids):
    """s <- s + f1(LN(s)); s <- s + f2(LN(s)); out = LN(s), recomputed from one layer's own modules."""
    base = tiny.base("xlm-roberta")
    engine = Engine(base)
    a, b = module(base, "a", "pfeiffer", seed=1), module(base, "b", "pfeiffer", seed=2)
    engine.attach(a), engine.attach(b)
    norm = base.encoder.encoder.layer[1].output.LayerNorm
    s = torch.randn(2, 4, 32)
    plain = type(norm).forward
    expected = s
    for m in (a, b):
        expected = expected + m.units["layer.1.ffn"]["bottleneck"].branch(plain(norm, expected), None)
    engine.activate("a + b")
    with pytest.raises(CompositionError, match="layer.1.ffn.*activate None"):
        norm(s)  # a piece of the base by itself: the modules could not act as they do in the whole
    with engine._current.running(Call(engine.plan)):
        assert torch.allclose(norm(s), plain(norm, expected), atol=1e-6)


@torch.no_grad()
def test_average_of_one_module_twice_is_that_module(base, ids):
    engine = Engine(base)
    engine.attach(module(base, "c"))
    engine.attach(module(base, "d", seed=4))
    engine.activate("c")
    alone = engine(*ids)
    engine.activate(Average("c", "c"))
    assert torch.equal(engine(*ids), alone)
    twin = module(base, "twin")  # the same weights under another name: no merging, so the mean itself is computed
    engine.attach(twin)
    engine.activate("average(c, twin)")
    assert torch.allclose(engine(*ids), alone, atol=2e-5)
    engine.activate("average(0.25*c, 0.75*d)")
    assert not torch.allclose(engine(*ids), alone, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("weights", [(0.6, 0.4), (0.9, 0.1), (1.25, -0.25)])  # the last: a relative is subtracted
def test_a_weighted_mean_is_of_changes_at_every_site(base, ids, weights):
    engine = Engine(base)
    for name, seed in (("c", 0), ("d", 4), ("twin", 0)):
        engine.attach(module(base, name, seed=seed))
    a, b = (engine.modules[name].units for name in "cd")
    plan = engine.compile(parse(f"average({weights[0]}*c, {weights[1]}*d)"))
    x = torch.randn(2, 5, base.sites["embeddings"].width)
    mapped = [units["embeddings"]["invertible"](x) for units in (a, b)]
    assert torch.allclose(plan["embeddings"][0](x), weights[0] * mapped[0] + weights[1] * mapped[1], atol=1e-5)
    at = Sublayer(torch.randn(1, 2, base.sites["layer.1.ffn"].width), lambda h: h, {}, Tokens())
    changes = [units["layer.1.ffn"]["bottleneck"](at) for units in (a, b)]
    assert torch.allclose(plan["layer.1.ffn"][0](at), weights[0] * changes[0] + weights[1] * changes[1], atol=1e-5)
    engine.activate("c")
    alone = engine(*ids)
    engine.activate(f"average({weights[0]}*c, {weights[1]}*twin)")  # Average(c, c) = c, whatever the weights
    assert torch.allclose(engine(*ids), alone, atol=1e-4)


@torch.no_grad()
def test_average_counts_a_branch_without_a_part_as_no_change(ids):
    base = tiny.base()
    engine = Engine(base)
    engine.attach(module(base, "c", {"bottleneck": {"leave_out": [0, 1]}}))
    engine.attach(module(base, "nothing_here", {"bottleneck": {"leave_out": [2]}}))
    at = Sublayer(torch.randn(1, 2, 32), lambda x: x, {}, Tokens())
    step = engine.compile(Stack(Average("c", "nothing_here")))["layer.2.ffn"][0]
    unit = engine.modules["c"].units["layer.2.ffn"]["bottleneck"]
    assert torch.allclose(step(at), 0.5 * unit(at))


def test_mean_of_invertible_parts_refuses_masked_lm(ids):
    base = tiny.base()
    engine = Engine(base)
    engine.attach(module(base, "a")), engine.attach(module(base, "b", seed=1))
    engine.activate("average(a, b)")
    with pytest.raises(CompositionError, match="no inverse in closed form"):
        engine.mlm_logits(engine(*ids))


@torch.no_grad()
def test_two_invertible_parts_compose(ids):
    base = tiny.base()
    engine = Engine(base)
    inv = {"invertible": {}}
    engine.attach(module(base, "a", inv, seed=1)), engine.attach(module(base, "b", inv, seed=2))
    one, two = (engine.modules[n].units["embeddings"]["invertible"] for n in "ab")
    engine.activate("a + b")
    x = type(base.encoder.embeddings).forward(base.encoder.embeddings, input_ids=ids[0])
    assert torch.allclose(base.encoder.embeddings(input_ids=ids[0]), two(one(x)), atol=1e-6)
    norm = base.model.lm_head.layer_norm
    y = torch.randn(3, 32)
    assert torch.allclose(norm(y), one.inverse(two.inverse(type(norm).forward(norm, y))), atol=1e-5)


def test_bad_requests_leave_the_active_composition(ids):
    base = tiny.base()
    engine = Engine(base)
    engine.attach(module(base, "swahili"))
    engine.activate("swahili")
    with pytest.raises(CompositionError, match="No module 'swahilli' is attached; did you mean 'swahili'"):
        engine.activate("swahilli")
    with pytest.raises(CompositionError, match="twice"):
        engine.activate("swahili + swahili")
    with pytest.raises(CompositionError, match="acts in 'swahili'"):
        engine.detach("swahili")
    with pytest.raises(CompositionError, match="has no head"):
        engine.label_logits(engine(*ids))
    assert str(engine.composition) == "swahili"
    engine.activate("base")
    with pytest.raises(CompositionError, match="would|does not act"):
        engine.train_only("swahili")
    with pytest.raises(CompositionError, match="bare base"):
        engine.task_module()
    engine.detach("swahili")
    assert engine.modules == {}


def test_a_module_of_another_base_is_refused():
    base, wide, other = tiny.base(), tiny.base(hidden_size=48), tiny.base(seed=1)
    swa = module(base, "swa")
    with pytest.raises(BaseError, match="width: module 32, base 48"):
        Engine(wide).attach(swa, allow_base_mismatch=True)
    with pytest.raises(BaseError, match="(?s)weights: module .*allow_base_mismatch"):
        Engine(other).attach(swa)
    other.engine.attach(swa, allow_base_mismatch=True)


def test_one_engine_per_base_and_an_undescribed_base():
    base = tiny.base()
    engine = Engine(base)
    with pytest.raises(MadxError, match="already carries an engine"):
        Engine(base)
    engine.close()
    Engine(base).close()
    from transformers import FNetConfig

    from madx.base.families import family_of

    with pytest.raises(BaseError, match="'fnet', whose sites are not described. Described: BERT.*one more `Family`"):
        family_of(FNetConfig())


def test_explain_reads_like_the_forward_pass(ids):
    base = tiny.base()
    engine = Engine(base)
    engine.attach(module(base, "swa"))
    engine.attach(module(base, "ner", "pfeiffer2", seed=1, role="task", labels=("O", "B-PER", "I-PER")))
    engine.activate("swa + ner")
    text = str(engine.explain())
    assert (
        "layer.0-1.ffn  swa: bottleneck 32->16->32 relu, reads sum_norm  then  ner: bottleneck 32->2->32 gelu" in text
    )
    assert "layer.2.ffn    swa: bottleneck" in text and "decoder        after undoing swa" in text
    assert "head           ner: 3 labels" in text and "every module named acts" in text
    torch.nn.init.zeros_(engine.modules["swa"].units["layer.0.ffn"]["bottleneck"].up.weight)
    with torch.no_grad():
        for p in engine.modules["swa"].parameters():
            p.zero_()
    measured = engine.explain(*ids)
    assert measured.inactive == ["swa"] and "INACTIVE: swa does not act" in str(measured)


@torch.no_grad()
def test_half_precision_base_takes_modules(ids):
    base = tiny.base()
    engine = Engine(base)
    engine.attach(module(base, "swa", seed=3))
    engine.activate("swa")
    full = engine(*ids)
    base.model.to(torch.bfloat16)
    half = engine(*ids)
    assert all(p.dtype == torch.float32 for p in engine.modules["swa"].parameters())
    keep = ids[1] == 1
    assert torch.nn.functional.cosine_similarity(full[keep], half[keep].float(), dim=-1).min() > 0.99


def test_using_restores_after_an_exception():
    engine = Engine(tiny.base())
    engine.attach(module(engine.base, "swa"))
    with pytest.raises(RuntimeError), engine.using("swa"):
        assert str(engine.composition) == "swa"
        raise RuntimeError
    assert str(engine.composition) == "base"


def test_module_needs_a_site_and_a_legal_name():
    base = tiny.base()
    for name in ("to", "type", "a.b", "double", "swa-v2"):
        Engine(base).attach(module(base, name)) and base.engine.close()
    with pytest.raises(CompositionError, match="cannot name a module"):
        module(base, "../swa")
    with pytest.raises(MadxError, match="acts at no site"):
        module(base, "x", {"bottleneck": {"leave_out": [0, 1, 2]}})
    with pytest.raises(MadxError, match="unknown activation|did you mean"):
        module(base, "x", {"bottleneck": {"activation": "rellu"}})
    assert isinstance(module(base, "x", {"bottleneck": {"reduction_factor": {"0": 2.0, "default": 8.0}}}), Module)


def test_explain_says_mean_where_a_mean_is_taken():
    engine = Engine(tiny.base())
    for k, name in enumerate(("swa", "hau", "ner")):
        engine.attach(module(engine.base, name, "pfeiffer", seed=k))
    engine.activate("average(swa, hau) + ner")
    assert "mean of (swa: bottleneck 32->2->32 relu, reads sum_norm,  hau: bottleneck" in str(engine.explain())
    assert "reads sum_norm)  then  ner: bottleneck" in str(engine.explain())


@torch.no_grad()
def test_final_norm_false_gives_the_blocks_output_or_is_refused(base, ids):
    engine = Engine(base)
    engine.attach(module(base, "m", {"bottleneck": {"final_norm": False}}))
    if base.family.ffn.norm is None:
        with pytest.raises(CompositionError, match="pre-norm"):
            engine.activate("m")
        return
    engine.activate("m")
    seen = {}
    last = base.encoder.get_submodule(base.family.layers)[-1]
    output = last.get_submodule(base.family.ffn.output)
    output.register_forward_hook(lambda m, a, h: seen.update(h=h[0] if isinstance(h, tuple) else h))
    last.get_submodule(base.family.ffn.norm).register_forward_pre_hook(lambda m, a: seen.update(s=a[0]))
    result = engine(*ids)
    unit = engine.modules["m"].units[f"layer.{base.depth - 1}.ffn"]["bottleneck"]
    norm = last.get_submodule(base.family.ffn.norm)
    expected = seen["h"] + unit.branch(type(norm).forward(norm, seen["s"]), None)
    assert torch.allclose(result, expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "parts, narrows",
    [
        ("madx2", True),
        ("houlsby", True),
        ("parallel", True),
        ({"bottleneck": {"gate": True}}, False),
        ({"bottleneck": {"stochastic_depth": 0.5}}, False),
    ],
)
def test_output_at_some_positions_is_that_of_all_positions(base, ids, parts, narrows):
    engine = Engine(base)
    engine.attach(module(base, "swa", parts))
    engine.attach(module(base, "ner", "pfeiffer", seed=1))
    engine.attach(module(base, "fin", "madx", seed=2))
    at = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 7, 0, 3, 2])
    seen = []
    unit = engine.module("ner").units[f"layer.{base.depth - 1}.ffn"]["bottleneck"]
    unit.register_forward_hook(lambda *call: seen.append(call[2].shape))
    for composition in ("swa + ner", "average(swa, fin) + ner", "0.5*swa + ner"):
        engine.activate(composition)
        whole = engine(*ids)
        seen.clear()
        assert (engine(*ids, at=at) - whole[at]).abs().max() < 1e-5
        assert (seen[0][:2] == (1, 5)) == (narrows and base.family.attention.norm is not None)
        assert torch.equal(engine(*ids), whole), "the narrowing outlived its forward pass"


@torch.no_grad()
def test_an_error_on_the_way_leaves_no_narrowing_behind(ids):
    base = tiny.base()
    engine = Engine(base)
    whole = engine(*ids)
    with pytest.raises(IndexError):
        engine(*ids, at=(torch.tensor([0]), torch.tensor([99])))
    assert torch.equal(engine(*ids), whole)
