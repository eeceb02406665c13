"""prefix and prompt, which fill positions before the tokens, against plain transcriptions of AdapterHub's."""

import pytest
import torch
from by_hand import DEPTH, WIDTH, given, parameters, run, sites, unit_at, units
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from madx.contract.views import Slots
from madx.errors import MadxError
from madx.module_types import MODULE_TYPES

PREFIX = {"length": 4, "bottleneck": 6}


def adapterhub(network, *, layers):
    """Keys and values of all layers, `(layers * 2, P, width)`: row 2i holds keys, 2i + 1 values of the i-th layer."""
    inner = torch.tanh(network.vectors @ network.down.weight.T + network.down.bias)
    whole = inner @ network.up.weight.T + network.up.bias  # (P, layers * 2 * width)
    return whole.view(len(network.vectors), layers * 2, -1).transpose(0, 1)


@pytest.mark.parametrize("leave_out", [(), (1,), (0, -1)])
@torch.no_grad()
def test_formula_of_the_prefix(leave_out):
    made = units("prefix", {**PREFIX, "leave_out": list(leave_out)})
    whole = adapterhub(made[0].common, layers=len(made))
    assert len(made) == DEPTH - len(leave_out)
    for i, unit in enumerate(made):  # the i-th layer that is not left out
        keys, values = unit(given(unit.site).view())
        assert torch.allclose(keys, whole[2 * i]) and torch.allclose(values, whole[2 * i + 1])


def test_all_layers_share_one_network():
    made = units("prefix", PREFIX)
    assert all(unit.common is made[0].common and not list(unit.parameters()) for unit in made)
    assert not made[0].state_dict(), "the network is stored once, by the module"
    inner, width = PREFIX["bottleneck"], WIDTH
    count = 4 * width + (width + 1) * inner + (inner + 1) * DEPTH * 2 * width
    assert sum(p.numel() for p in made[0].common.parameters()) == count


def test_a_layer_trains_its_own_slice_of_the_network():
    made = units("prefix", PREFIX)
    run(made[1], given(made[1].site)).sum().backward()
    gradient = made[0].common.up.weight.grad.view(DEPTH, 2 * WIDTH, -1)
    assert gradient[1].abs().sum() > 0 and gradient[0].abs().sum() == gradient[2].abs().sum() == 0


def test_a_flat_prefix_holds_its_vectors():
    made = units("prefix", {"length": 4, "flat": True})
    assert all(unit.common is None for unit in made)
    for unit in made:
        keys, values = unit(given(unit.site).view())
        assert keys is unit.keys and values is unit.values and keys.shape == (4, WIDTH)
    assert sum(p.numel() for unit in made for p in unit.parameters()) == 4 * DEPTH * 2 * WIDTH


@pytest.mark.parametrize("gate", [True, "each"])
@torch.no_grad()
def test_the_gate_of_a_prefix_is_one_number_per_row_for_keys_and_for_values(gate):
    unit, plain = (units("prefix", {**PREFIX, "gate": g})[1] for g in (gate, False))
    at = given(unit.site, rows=3)
    x = at.tensors["like"]
    gates = torch.sigmoid(x @ unit.gate.weight.T + unit.gate.bias).mean(1)  # (rows, 1 or 2)
    assert gates.shape == (3, 2 if gate == "each" else 1)
    for found, vectors, g in zip(unit(at.view()), plain(at.view()), (gates[:, 0], gates[:, -1])):
        assert torch.allclose(found, vectors * g[:, None, None])
    with pytest.raises(MadxError, match="at the site `slots`"):
        _ = Slots(x).input


@pytest.mark.parametrize("flat", [True, False])
@torch.no_grad()
def test_dropout_of_a_prefix_acts_in_training_only(flat):
    unit = units("prefix", {"length": 30, "bottleneck": 6, "dropout": 0.5, "flat": flat})[0]
    at = given(unit.site)
    plain = run(unit, at)
    assert torch.equal(run(unit, at), plain)
    torch.manual_seed(0)
    dropped = run(unit.train(), at)
    zero = dropped == 0
    assert 0.4 < zero.float().mean() < 0.6 and torch.allclose(dropped[~zero], 2 * plain[~zero])


@torch.no_grad()
def test_a_prompt_is_its_vectors():
    unit = unit_at("prompt", "slots", {"length": 4})
    assert unit(given(unit.site).view()) is unit.vectors and unit.vectors.shape == (4, WIDTH)


def test_initial_vectors():
    torch.manual_seed(0)
    wide = sites(width=256, positions=500)
    uniform, normal = (
        units("prompt", {"length": 100, "init": init}, awake=False, at=wide)[0].vectors
        for init in ("uniform", "normal")
    )
    assert uniform.abs().max() <= 0.5 and abs(uniform.std() - 1 / 12**0.5) < 0.01
    assert abs(normal.std() - 0.02) < 1e-3
    flat = units("prefix", {"length": 100, "flat": True}, awake=False, at=wide)[0]
    assert abs(flat.keys.std() - 1) < 0.02 and abs(flat.values.std() - 1) < 0.02
    assert abs(units("prefix", {"length": 100}, awake=False, at=wide)[0].common.vectors.std() - 1) < 0.02


@drawn(
    st.integers(1, 39),
    st.integers(1, 20),
    st.lists(st.integers(-3, 2), max_size=2),
    st.booleans(),
    st.sampled_from(["tanh", "relu", "identity"]),
)
@settings(derandomize=True, max_examples=25, deadline=None)
def test_any_settings_of_a_prefix_run(length, bottleneck, leave_out, flat, activation):
    made = units(
        "prefix",
        {"length": length, "bottleneck": bottleneck, "leave_out": leave_out, "flat": flat, "activation": activation},
    )
    assert {unit.site.layer for unit in made} == set(range(DEPTH)) - {i % DEPTH for i in leave_out}
    for unit in made:
        assert unit.length == length and run(unit, given(unit.site)).shape == (length, 2 * WIDTH)
        assert parameters(unit)
    assert MODULE_TYPES.get("prefix").scope == "row", "a slot changes every token of its row"
