"""reft against a plain transcription of the paper's interventions, token by token."""

import pytest
import torch
from by_hand import SITE, WIDTH, given, run, unit_at

from madx.contract.views import LayerOutput, Tokens
from madx.errors import ConfigError
from madx.module.presets import make_components

LAYER = SITE["layer.1"]


def reft(**config):
    return unit_at("reft", LAYER.name, {"rank": 3, **config})


def gram_schmidt(P):
    """R, row by row: what the rows before it span is taken out of each, and its length becomes one."""
    rows = []
    for p in P:
        for row in rows:
            p = p - (p @ row) * row
        rows.append(p / p.norm())
    return torch.stack(rows)


def intervention(t, unit, *, orthogonal, subtract, activation=lambda x: x):
    """The new state of one token, `(width,)`."""
    R = gram_schmidt(unit.projection) if orthogonal else unit.projection
    inner = activation(unit.source.weight @ t + unit.source.bias)
    return t + R.T @ (inner - R @ t if subtract else inner)


def by_tokens(unit, value, mask, *, first, last, tied=False, **how):
    """The whole output, row by row."""
    new = value.clone()
    for row, there in enumerate(mask):
        tokens = there.nonzero()[:, 0].tolist()
        for place in tokens[:first]:
            new[row, place] = intervention(value[row, place], unit.front, **how)
        for place in tokens[len(tokens) - min(last, len(tokens)) :]:
            new[row, place] = intervention(value[row, place], unit.front if tied else unit.back, **how)
    return new


@pytest.mark.parametrize("orthogonal, subtract", [(True, True), (False, True), (False, False), (True, False)])
@pytest.mark.parametrize(
    "first, last, tied", [(3, 0, False), (2, 2, False), (2, 1, True), (0, 2, False), (9, 9, False), (0, 2, True)]
)
@torch.no_grad()
def test_formula(orthogonal, subtract, first, last, tied):
    """Rows padded on the right, on the left and with a hole, one of a single token, and one that is full."""
    mask = torch.tensor([[1, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 0, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    how = {"orthogonal": orthogonal, "subtract": subtract}
    unit = reft(first=first, last=last, tied=tied, **how)
    at = given(LAYER, rows=5).changed(torch.clone, mask=mask)
    value = at.tensors["value"]
    expected = by_tokens(unit, value, mask, first=first, last=last, tied=tied, **how)
    assert torch.allclose(value + run(unit, at), expected, atol=1e-12)


@torch.no_grad()
def test_activation_acts_on_the_source_alone():
    unit, at = reft(activation="tanh", first=5), given(LAYER)
    value, mask = at.tensors["value"], torch.ones(2, 5)
    how = {"orthogonal": True, "subtract": True, "activation": torch.tanh}
    assert torch.allclose(value + run(unit, at), by_tokens(unit, value, mask, first=5, last=0, **how), atol=1e-12)


@torch.no_grad()
def test_slots_are_no_tokens():
    unit, value = reft(first=1, last=1), given(LAYER, tokens=6).tensors["value"]
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]])
    change = unit(LayerOutput(value, {}, Tokens(mask, slots=2)))
    assert change.any(-1).tolist() == [
        [False, False, True, False, True, False],
        [False, False, True, False, False, True],
    ]


@torch.no_grad()
def test_loreft_replaces_the_state_within_its_subspace_alone():
    unit, at = reft(first=5), given(LAYER)
    R, value = unit.front.rows(), at.tensors["value"]
    assert torch.allclose(R @ R.T, torch.eye(3, dtype=R.dtype), atol=1e-12)
    new = value + run(unit, at)
    assert torch.allclose(new @ R.T, value @ unit.front.source.weight.T + unit.front.source.bias)
    outside = torch.eye(WIDTH, dtype=R.dtype) - R.T @ R
    assert torch.allclose(new @ outside, value @ outside)


@torch.no_grad()
def test_settling_keeps_the_output_and_makes_the_rows_orthonormal():
    unit, at = reft(first=2, last=2), given(LAYER)
    before = run(unit, at)
    unit.settle()
    P = unit.back.projection
    assert torch.allclose(P @ P.T, torch.eye(3, dtype=P.dtype), atol=1e-12)
    assert torch.allclose(run(unit, at), before, atol=1e-12)


def test_dropout_is_of_the_new_state():
    unit, at = reft(dropout=0.5, first=5), given(LAYER, rows=40)
    new = at.tensors["value"] + run(unit, at)
    unit.train()
    dropped = at.tensors["value"] + run(unit, at)
    zero = dropped.abs() < 1e-12
    assert 0.4 < zero.double().mean() < 0.6 and torch.allclose(dropped[~zero], 2 * new[~zero])


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"first": 0}, "first and last are both 0"),
        ({"rank": 0}, "rank: .*1, got 0"),
        ({"first": -1}, "first"),
    ],
)
def test_settings_without_sense_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        make_components({"reft": settings})


def test_a_rank_above_the_width_is_refused():
    with pytest.raises(ConfigError, match=f"reft.rank is 13.*at most {WIDTH}"):
        reft(rank=13)
