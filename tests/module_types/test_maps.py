"""lora and ia3, which act at linear maps, against plain transcriptions of the papers' and two libraries' formulas."""

import pytest
import torch
from by_hand import DEPTH, INNER, SITE, SITES, WIDTH, given, run, unit_at, wake
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from madx.contract.sites import MAP_NAMES, Site
from madx.contract.views import Tokens
from madx.errors import BaseError, ConfigError
from madx.module.presets import make_components
from madx.module_types.lora import Lora, LoraConfig

UP = SITE["layer.0.ffn.up"]


def lora(**config):
    return unit_at("lora", UP.name, {"rank": 3, "alpha": 5.0, "maps": ["up"], **config})


def loralib(x, W, b, A, B, *, alpha):
    """y of Hu et al.'s layer."""
    return x @ W.T + b + (x @ A.T @ B.T) * (alpha / A.shape[0])


def peft_dora(x, W, b, A, B, m, *, scaling):
    """y of peft's DoRA layer: the norm is of W + scaling B A, the bias stays outside."""
    norm_scale = m / torch.linalg.norm(W + scaling * (B @ A), dim=1)
    base = x @ W.T + b
    return base + (norm_scale - 1) * (base - b) + norm_scale * (x @ A.T @ B.T) * scaling


def adapterhub_dora(x, W, b, A, B, m, *, scaling):
    """y of AdapterHub's DoRA layer: the norm is of W + B A, the bias lies inside."""
    return (m / torch.linalg.norm(W + B @ A, dim=1)) * (x @ W.T + b + (x @ A.T @ B.T) * scaling)


# ---- lora ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_formula_of_lora():
    unit, at = lora(), given(UP)
    x, W, b = at.tensors["input"], at.fixed.weight, at.fixed.bias
    assert torch.allclose(x @ W.T + b + run(unit, at), loralib(x, W, b, unit.A, unit.B, alpha=5.0))
    assert torch.allclose(run(lora(rslora=True), at), run(unit, at) * 3**0.5)
    assert unit.A.shape == (3, WIDTH) and unit.B.shape == (INNER, 3)


def peft_pissa(W, *, rank, scaling):
    """A, B and the frozen rest of W, as peft and the paper's code compute them."""
    U, S, V = torch.linalg.svd(W)
    A = torch.diag((S[:rank] / scaling).sqrt()) @ V[:rank]
    B = U[:, :rank] @ torch.diag((S[:rank] / scaling).sqrt())
    return A, B, W - scaling * B @ A


def peft_olora(W, *, rank, scaling):
    """A, B and the frozen rest of W of OLoRA."""
    Q, R = torch.linalg.qr(W)
    return R[:rank], Q[:, :rank], W - scaling * Q[:, :rank] @ R[:rank]


@pytest.mark.parametrize(("init", "theirs"), [("pissa", peft_pissa), ("olora", peft_olora)])
@torch.no_grad()
def test_a_start_from_the_base_is_the_function_with_a_frozen_rest(init, theirs):
    at = given(UP)
    x, W, b = at.tensors["input"], at.fixed.weight, at.fixed.bias
    unit = Lora(LoraConfig(rank=3, alpha=5.0, maps=("up",), init=init), UP).double()
    unit.start(lambda: W)
    assert not run(unit, at).any() and [n for n, _ in unit.named_parameters()] == ["A", "B"]
    A, B, rest = theirs(W.float(), rank=3, scaling=5 / 3)
    assert torch.allclose(unit.start_B @ unit.start_A, (B @ A).double(), atol=1e-5)
    step_A, step_B = torch.randn_like(unit.A), torch.randn_like(unit.B)
    unit.A += step_A
    unit.B += step_B
    trained = (unit.start_B + step_B) @ (unit.start_A + step_A)
    rest = W - 5 / 3 * unit.start_B @ unit.start_A
    assert torch.allclose(x @ W.T + b + run(unit, at), x @ (rest + 5 / 3 * trained).T + b)
    A, B = unit.factors()
    assert torch.allclose(5 / 3 * B @ A, rest + 5 / 3 * trained - W)
    whole = run(unit, at)
    unit.load_state_dict({name: t.double() for name, t in unit.unpack(unit.pack(torch.bfloat16)).items()})
    assert (run(unit, at) - whole).abs().max() < 0.02 * whole.abs().max(), "half precision keeps the difference"


def test_a_quantised_matrix_has_no_decomposition():
    for init in ("pissa", "olora"):
        unit = Lora(LoraConfig(rank=3, maps=("up",), init=init), UP)
        with pytest.raises(BaseError, match=f"{init}.*layer.0.ffn.up is stored as int8.*init: kaiming"):
            unit.start(lambda: torch.ones(INNER, WIDTH, dtype=torch.int8))


@torch.no_grad()
def test_a_gate_takes_the_place_of_the_scale():
    """One number per row, over padding too, but not over slots without a state."""
    unit, at = lora(gate=True, alpha=8.0), given(UP)
    x = at.tensors["input"]
    gates = torch.sigmoid((x * unit.gate.weight[0]).sum(-1) + unit.gate.bias)  # (rows, tokens)
    low = x @ unit.A.T @ unit.B.T
    assert torch.allclose(run(unit, at), low * gates.mean(1)[:, None, None])
    view = at.view()
    view.tokens = Tokens(torch.ones(2, 5), slots=2, held=torch.tensor([[True, False], [False, False]]))
    wanted = torch.stack([gates[row, places].mean() for row, places in enumerate([[0, 2, 3, 4], [2, 3, 4]])])
    assert torch.allclose(unit(view), low * wanted[:, None, None])
    view.tokens = Tokens(torch.ones(3, 9), slots=2)  # DeBERTa's relative positions are none of the batch's
    assert torch.allclose(unit(view), low * gates.mean(1)[:, None, None])


@torch.no_grad()
def test_a_stack_of_loras_adds_them():
    at = given(UP)
    one, two = lora(), wake(lora(), seed=5)
    view = at.view()
    view.add(one(view))
    assert torch.allclose(two(view), run(two, at)), "the second does not read what the first changed"


@pytest.mark.parametrize("form", ["paper", "adapterhub"])
@torch.no_grad()
def test_formula_of_dora(form):
    unit, at = lora(dora=True, dora_form=form), given(UP)
    x, W, b = at.tensors["input"], at.fixed.weight, at.fixed.bias
    m = unit.ratio * W.norm(dim=1)
    theirs = peft_dora if form == "paper" else adapterhub_dora
    assert torch.allclose(x @ W.T + b + run(unit, at), theirs(x, W, b, unit.A, unit.B, m, scaling=5 / 3))


@torch.no_grad()
def test_dora_in_a_stack_scales_what_the_modules_before_it_changed():
    unit, at = lora(dora=True), given(UP)
    b = at.fixed.bias
    view = at.view()
    view.add(torch.ones_like(view.value))
    factor = unit.ratio * at.fixed.weight.norm(dim=1) / (at.fixed.weight + 5 / 3 * unit.B @ unit.A).norm(dim=1)
    low = (at.tensors["input"] @ unit.A.T @ unit.B.T) * 5 / 3
    y = at.view().value + 1
    assert torch.allclose(y + unit(view), factor * (y - b + low) + b)


@torch.no_grad()
def test_dora_without_a_bias_is_the_same_in_both_forms_when_alpha_is_the_rank():
    at = given(UP)
    at.fixed.bias = None
    paper, other = (lora(dora=True, dora_form=form, alpha=3.0) for form in ("paper", "adapterhub"))
    assert torch.allclose(run(paper, at), run(other, at))


@torch.no_grad()
def test_the_magnitude_of_other_libraries_comes_and_goes_exactly():
    """In float32, as files have it."""
    site = Site("layer.0.attention.query", "linear", 64, 1, 0, "attention", map="query", input_width=64)
    unit = wake(Lora(LoraConfig(dora=True), site))
    W, x = torch.randn(64, 64) * 0.04, torch.randn(2, 5, 64)
    m = torch.rand(64, 1) + 0.2
    unit.set_magnitude(m, W)
    assert torch.allclose(unit.magnitude(W), m[:, 0], rtol=1e-6, atol=0)
    at = given(site, dtype=torch.float32).changed(lambda _: x)
    at.fixed.weight.copy_(W)
    y = x @ W.T + at.fixed.bias
    wanted = peft_dora(x, W, at.fixed.bias, unit.A, unit.B, m[:, 0], scaling=1.0)
    assert torch.allclose(y + run(unit, at), wanted, rtol=1e-5, atol=1e-5)


def test_a_magnitude_that_cannot_be_kept_is_refused():
    W = torch.randn(INNER, WIDTH)
    W[4] = 0
    with pytest.raises(BaseError, match=r"Row 4 .*layer\.0\.ffn\.up is zero"):
        lora(dora=True).set_magnitude(torch.ones(INNER), W)
    with pytest.raises(ConfigError, match="no magnitude.*dora: true"):
        lora().set_magnitude(torch.ones(INNER), W)


def test_a_row_that_vanishes_gives_finite_numbers():
    unit, at = lora(dora=True, alpha=3.0), given(UP)
    with torch.no_grad():
        unit.B[0] = torch.linalg.lstsq(unit.A.T, -at.fixed.weight[0]).solution
        at.fixed.weight[0] = -(unit.B[0] @ unit.A)  # W + B A is zero in row 0
        at.fixed.weight[1] = unit.B[1] = 0
    result = run(unit, at)
    result.sum().backward()
    assert result.isfinite().all() and all(p.grad.isfinite().all() for p in unit.parameters())


@torch.no_grad()
def test_dropout_acts_on_the_input_of_a_in_training_only():
    at = given(UP, rows=50)
    unit, plain = lora(dropout=0.5), run(lora(), at)
    assert torch.equal(run(unit, at), plain)
    torch.manual_seed(0)
    dropped = run(unit.train(), at)
    torch.manual_seed(0)
    x = torch.nn.functional.dropout(at.tensors["input"], 0.5)
    assert torch.allclose(dropped, (x @ unit.A.T @ unit.B.T) * 5 / 3) and not torch.allclose(dropped, plain)


def test_initial_weights_of_lora():
    torch.manual_seed(0)
    wide = Site("layer.0.ffn.up", "linear", 512, 1, 0, "ffn", map="up", input_width=256)
    kaiming, normal = (Lora(LoraConfig(init=i, rank=64, maps=("up",)), wide) for i in ("kaiming", "normal"))
    assert kaiming.B.count_nonzero() == 0 and kaiming.A.abs().max() <= 1 / 16  # sqrt(1 / fan in)
    assert abs(kaiming.A.std() - 1 / 16 / 3**0.5) < 2e-3
    assert abs(normal.A.std() - 0.02) < 1e-3 and abs(normal.B.std() - 0.02) < 1e-3


@pytest.mark.parametrize("form", ["paper", "adapterhub"])
@drawn(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.1, 64), st.booleans())
@settings(derandomize=True, max_examples=25, deadline=None)
def test_rows_of_the_matrix_that_dora_applies_have_the_length_m(form, seed, rank, alpha, rslora):
    """y is read off for unit vectors x, which spells out the matrix that the change amounts to."""
    if form == "adapterhub":  # its norm is that of W + B A, so rows have the length m when the scale is 1
        alpha = rank**0.5 if rslora else float(rank)
    config = LoraConfig(rank=rank, alpha=alpha, maps=("up",), dora=True, rslora=rslora, dora_form=form)
    unit = wake(Lora(config, UP).double(), seed=seed)
    at = given(UP, seed=seed)
    at.fixed.bias = None
    at = at.changed(lambda _: torch.eye(WIDTH, dtype=torch.float64)[None])
    with torch.no_grad():
        matrix = (at.view().value + run(unit, at))[0].T
        assert torch.allclose(matrix.norm(dim=1), unit.magnitude(at.fixed.weight).abs(), rtol=1e-6)


@drawn(
    st.fixed_dictionaries(
        {},
        optional={
            "rank": st.integers(1, 12),
            "alpha": st.floats(0.01, 100),
            "maps": st.lists(st.sampled_from(MAP_NAMES), min_size=1, max_size=6, unique=True),
            "rslora": st.booleans(),
            "dora": st.booleans(),
            "dropout": st.floats(0, 0.9),
            "init": st.sampled_from(["kaiming", "normal", "pissa", "olora"]),
            "leave_out": st.lists(st.integers(-3, 2), max_size=2),
        },
    )
)
@settings(derandomize=True, max_examples=40, deadline=None)
def test_any_settings_of_lora_go_round_and_run(values):
    config = make_components({"lora": values})["lora"]
    assert make_components({"lora": config.model_dump(mode="json")})["lora"] == config
    sites = [s for s in SITES if Lora.acts_at(config, s)]
    assert {s.layer for s in sites} == set(range(DEPTH)) - {i % DEPTH for i in values.get("leave_out", [])}
    assert {s.map for s in sites} in (set(config.maps), set())
    for site in sites[:2]:
        assert run(Lora(config, site).double(), given(site)).isfinite().all()


# ---- ia3 -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_formula_of_ia3():
    unit, at = unit_at("ia3", UP.name), given(UP)
    y = at.view().value
    assert unit.factors.shape == (INNER,)
    assert torch.allclose(y + run(unit, at), y * unit.factors), "the bias is scaled too"


@torch.no_grad()
def test_a_stack_of_ia3_multiplies_the_factors():
    one, two, at = unit_at("ia3", UP.name), wake(unit_at("ia3", UP.name), seed=5), given(UP)
    view = at.view()
    view.add(one(view))
    view.add(two(view))
    assert torch.allclose(view.value, at.view().value * one.factors * two.factors)


@torch.no_grad()
def test_fewer_bits_under_autocast_stay_as_few():
    """Attention takes query, key and value in one number format."""
    for unit in (unit_at("ia3", UP.name), lora(), lora(dora=True)):
        unit.float()
        at = given(UP, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            view = at.view()
            assert view.value.dtype == unit(view).dtype == torch.bfloat16
            view.add(unit(view))
        wanted = at.view().value + run(unit, at)
        assert torch.allclose(view.value.float(), wanted, rtol=0.05, atol=0.3)
