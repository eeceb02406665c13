"""Compacter: the sum of Kronecker products against a plain transcription, and the shapes that do not divide."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from by_hand import DEPTH, WIDTH, given, run, sites, unit_at, units, wake

from madx.errors import ConfigError
from madx.module.components import components_of
from madx.module.presets import preset
from madx.module_types.compacter import CompacterConfig, PhmLinear


def kronecker(layer, rule):
    """H = sum of kron(A_i, W_i), as AdapterHub and the paper's code build it."""
    second = layer.left @ layer.right if layer.weight is None else layer.weight
    return sum(torch.kron(rule[i], second[i]) for i in range(len(rule)))


@pytest.mark.parametrize("rank", [1, 3, "full"])
@pytest.mark.parametrize(("inputs", "outputs", "n"), [(12, 4, 4), (4, 12, 2), (96, 24, 4), (24, 96, 8)])
def test_the_product_is_that_with_the_whole_matrix(inputs, outputs, n, rank):
    """In both ways of computing it, with equal values and gradients."""
    layer = wake(PhmLinear(CompacterConfig(dimension=n, rank=rank), inputs=inputs, outputs=outputs).double())
    rule = torch.randn(n, n, n, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 5, inputs, dtype=torch.float64, requires_grad=True)
    moved = [x, rule, *layer.parameters()]
    seen = torch.randn(2, 5, outputs, dtype=torch.float64)
    wanted = x @ kronecker(layer, rule) + layer.bias
    gradients = torch.autograd.grad((wanted * seen).sum(), moved)
    for layer.factored in (False, True) if rank != "full" else (False,):
        y = layer(x, rule)
        assert torch.allclose(y, wanted)
        for a, b in zip(torch.autograd.grad((y * seen).sum(), moved), gradients):
            assert torch.allclose(a, b)


def test_the_matrix_is_built_only_where_that_is_cheaper():
    def layer(inputs, outputs, **config):
        return PhmLinear(CompacterConfig(**config), inputs=inputs, outputs=outputs)

    assert layer(768, 24).factored and layer(24, 768).factored  # XLM-R base with the paper's settings
    assert not layer(768, 24, rank=6).factored and not layer(768, 24, rank="full").factored
    assert not layer(12, 4).factored


@pytest.mark.parametrize(("shared", "name"), list(product([True, False], ["compacter", "compacterpp"])))
@torch.no_grad()
def test_formula_of_a_unit(shared, name):
    settings = preset(name)["compacter"].model_dump() | {"reduction_factor": 3.0, "shared_rule": shared}
    unit = unit_at("compacter", "layer.0.ffn", settings)
    at = given(unit.site)
    h, x = at.tensors["output"], at.tensors["residual"]
    z = h if name == "compacter" else at.fixed(h + x)
    rules = [unit.common.rule] * 2 if shared else [unit.down.rule, unit.up.rule]
    inner = F.gelu(z @ kronecker(unit.down, rules[0]) + unit.down.bias)
    assert torch.allclose(run(unit, at), inner @ kronecker(unit.up, rules[1]) + unit.up.bias)


def test_all_units_share_the_rules():
    made = units("compacter", {"reduction_factor": 3.0})
    assert len(made) == 2 * DEPTH and all(unit.common is made[0].common for unit in made)
    assert not any("rule" in name for unit in made for name in unit.state_dict())
    assert [p.shape for p in made[0].common.parameters()] == [(4, 4, 4)]
    own = units("compacter", {"reduction_factor": 3.0, "shared_rule": False})
    assert all(unit.common is None and unit.down.rule is not unit.up.rule for unit in own)


def test_initial_weights():
    torch.manual_seed(0)
    unit = units("compacter", {"reduction_factor": 2.0}, awake=False, at=sites(width=512))[0]
    assert 2e-5 < unit.common.rule.std() < 2e-4 and not unit.down.bias.any() and not unit.up.bias.any()
    assert abs(unit.down.left.std() - (2 / (128 + 1)) ** 0.5) < 0.02, "Glorot: 2 / (fan in + fan out)"


def test_the_name_of_the_paper_is_understood():
    assert preset("compacter++") == preset("compacterpp") == components_of("compacter++")
    changed = components_of({"preset": "compacter++", "compacter": {"reduction_factor": 8.0}})
    assert changed["compacter"].places == ("ffn",) and changed["compacter"].reduction_factor == 8.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, r"dimension is 4.*layer\.0\.attention maps 12 numbers to 1 .*reduction_factor.*multiple of 4, e\.g\. 3\."),
        ({"dimension": 5, "reduction_factor": 3.0}, r"dimension is 5.*maps 12 numbers to 4 .*dimension of 2 or 4\."),
        ({"dimension": 3, "reduction_factor": 3.0}, r"dimension is 3.*of 2 or 4, or.*multiple of 3, e\.g\. 4\."),
        ({"rank": 2, "reduction_factor": 3.0}, r"rank is 2.*3 x 1 numbers.*above 1 adds nothing.*rank: full"),
    ],
)
def test_shapes_that_do_not_divide_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        units("compacter", settings)
    assert WIDTH == 12
