"""krona, against torch.kron and a plain transcription of the paper's formulas."""

import pytest
import torch
from by_hand import INNER, SITE, WIDTH, given, run, unit_at, units
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from madx.contract.sites import Site
from madx.errors import ConfigError
from madx.module.presets import make_components
from madx.module_types.krona import Krona, KronaConfig


@pytest.mark.parametrize("name", ["attention.query", "ffn.up", "ffn.down"])
@pytest.mark.parametrize("factor", ["balanced", [1, 1], [4, 2], [2, 4]])
@torch.no_grad()
def test_the_change_is_that_of_the_product(name, factor):
    """Both orders of the two multiplications occur among these shapes."""
    site = SITE[f"layer.0.{name}"]
    unit = unit_at("krona", site.name, {"maps": [site.map], "factor": factor, "scaling": 0.5})
    at = given(site)
    x, W, b = at.tensors["input"], at.fixed.weight, at.fixed.bias
    wanted = x @ (W + 0.5 * torch.kron(unit.A, unit.B)).T + b
    assert torch.allclose(at.view().value + run(unit, at), wanted)


@drawn(st.integers(1, 64), st.integers(1, 64), st.data())
@settings(derandomize=True, max_examples=40, deadline=None)
def test_any_factor_that_divides_gives_the_product(width, inputs, data):
    def divisors(n):
        return [d for d in range(1, n + 1) if n % d == 0]

    factor = data.draw(st.tuples(st.sampled_from(divisors(width)), st.sampled_from(divisors(inputs))))
    site = Site("layer.0.ffn.up", "linear", width, 1, 0, "ffn", map="up", input_width=inputs)
    unit = Krona(KronaConfig(factor=factor, maps=("up",)), site).double()
    with torch.no_grad():
        unit.A.normal_()
        x = torch.randn(3, inputs, dtype=torch.float64)
        assert torch.allclose(unit._product(x), x @ torch.kron(unit.A, unit.B).T)


@torch.no_grad()
def test_formula_of_the_branches():
    at = given(SITE["layer.1.ffn"])
    x = at.tensors["input"]
    unit = unit_at("krona", "layer.1.ffn", {"place": "ffn", "activation": "gelu", "scaling": 2.0})
    X = x.reshape(*x.shape[:-1], unit.A.shape[1], unit.B.shape[1])
    branch = 2.0 * (unit.A @ torch.nn.functional.gelu(X @ unit.B.T)).flatten(-2)
    assert torch.allclose(run(unit, at), branch)
    plain = unit_at("krona", "layer.1.ffn", {"place": "ffn"})
    assert torch.allclose(run(plain, at), x @ torch.kron(plain.A, plain.B).T)
    scaled = unit_at("krona", "layer.1.ffn", {"place": "ffn", "residual_scale": True})
    assert torch.allclose(run(scaled, at), x @ torch.kron(scaled.A, scaled.B).T + scaled.residual_scale * x)


@torch.no_grad()
def test_dropout_acts_on_the_input_in_training_only():
    site = SITE["layer.0.attention.query"]
    at, unit = given(site, rows=50), unit_at("krona", site.name, {"dropout": 0.5})
    plain = run(unit_at("krona", site.name), at)
    assert torch.equal(run(unit, at), plain)
    torch.manual_seed(0)
    dropped = run(unit.train(), at)
    torch.manual_seed(0)
    x = torch.nn.functional.dropout(at.tensors["input"], 0.5)
    assert torch.allclose(dropped, x @ torch.kron(unit.A, unit.B).T) and not torch.allclose(dropped, plain)


def test_balanced_factors_are_nearly_equal_in_size():
    def shapes(width, inputs):
        return KronaConfig().shapes(Site("m", "linear", width, 1, 0, "ffn", map="up", input_width=inputs))

    assert shapes(768, 768) == ((24, 32), (32, 24)) and shapes(3072, 768) == ((48, 32), (64, 24))
    assert shapes(13, 7) == ((1, 7), (13, 1)), "prime widths have one factor of one row"
    assert {u.describe() for u in units("krona", {"maps": ["up"]})} == {"4x4 kron 5x3"}


def test_a_shape_that_does_not_divide_is_refused():
    with pytest.raises(
        ConfigError, match=rf"\[5, 4\].*query maps {WIDTH} numbers to {WIDTH}.*divide {WIDTH}.*balanced"
    ):
        units("krona", {"factor": [5, 4]})
    with pytest.raises(ConfigError, match=rf"\[5, 8\].*up maps {WIDTH} numbers to {INNER}.*columns {WIDTH}"):
        units("krona", {"factor": [5, 8], "maps": ["up"]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"factor": [3]}, r"krona\.factor.*\[3\] is not the shape of A: .*\[rows, columns\]"),
        ({"factor": [0, 3]}, r"krona\.factor.*\[0, 3\].*from 1"),
        ({"factor": [2.0, 3]}, r"krona\.factor.*\[2\.0, 3\]"),
        ({"factor": "square"}, r"krona\.factor.*'square'.*'balanced'"),
        ({"activation": "gelu"}, r"activation needs place: ffn"),
        ({"residual_scale": True}, r"residual_scale needs place: ffn"),
        ({"scaling": 0.0}, r"krona\.scaling: .*0, got 0\.0"),
        ({"maps": ["q"]}, r"krona\.maps\.0: .*\"q\""),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        make_components({"krona": values})
