"""pal against a plain transcription: the attention of one row, head by head, over its real tokens."""

import pytest
import torch
from by_hand import SITE, WIDTH, given, run, unit_at, units

from madx.contract.views import Sublayer, Tokens
from madx.errors import ConfigError
from madx.module.presets import make_components

SMALL = {"size": 6, "heads": 2}
FFN = SITE["layer.1.ffn"]


def plain(unit, h):
    """TS(h) of one row without padding, `(tokens, width)`."""
    u, size, heads = h @ unit.common.encode.weight.T, unit.config.size, unit.config.heads
    Q, K, V = unit.attention.weight.split(size)
    found = []
    for i in range(heads):
        own = slice(i * size // heads, (i + 1) * size // heads)
        q, k, v = u @ Q[own].T, u @ K[own].T, u @ V[own].T
        found.append(torch.softmax(q @ k.T / (size / heads) ** 0.5, dim=-1) @ v)
    return torch.cat(found, dim=-1) @ unit.common.decode.weight.T


@torch.no_grad()
def test_formula_and_padding():
    unit, at = unit_at("pal", FFN.name, SMALL), given(FFN, rows=3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]).bool()
    change, h = run(unit, at.changed(torch.clone, mask=mask)), at.tensors["layer_input"]
    for row, there in enumerate(mask):
        assert torch.allclose(change[row][there], plain(unit, h[row][there]))


@torch.no_grad()
def test_activation_is_of_the_whole_change():
    unit, at = unit_at("pal", FFN.name, SMALL | {"activation": "gelu"}), given(FFN)
    expected = torch.stack([torch.nn.functional.gelu(plain(unit, h)) for h in at.tensors["layer_input"]])
    assert torch.allclose(run(unit, at), expected)


@torch.no_grad()
def test_a_prompt_is_attended_to_and_a_prefix_is_not():
    """Two slots before three tokens: held by a prompt in row 0, by a prefix in row 1."""
    unit, at = unit_at("pal", FFN.name, SMALL), given(FFN)
    tokens = Tokens(torch.ones(2, 5), slots=2, held=torch.tensor([[True, True], [False, False]]))
    view = at.view()
    change = unit(Sublayer(view.sum, view.norm, view.captured, tokens))
    h = at.tensors["layer_input"]
    assert torch.allclose(change[0], plain(unit, h[0]))
    assert torch.allclose(change[1, 2:], plain(unit, h[1, 2:]))


@torch.no_grad()
def test_a_row_of_padding_alone_stays_finite():
    unit, at = unit_at("pal", FFN.name, SMALL), given(FFN)
    mask = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    assert run(unit, at.changed(torch.clone, mask=mask)).isfinite().all()


def test_all_layers_share_two_maps():
    made = units("pal", SMALL | {"leave_out": [0]})
    assert len(made) == 2 and made[0].common is made[1].common
    assert {n: tuple(p.shape) for n, p in made[0].common.named_parameters()} == {
        "encode.weight": (6, WIDTH),
        "decode.weight": (WIDTH, 6),
    }
    assert [n for n, _ in made[0].named_parameters()] == ["attention.weight"]


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="12 heads do not divide a size of 200; give a size of 192 or 204"):
        make_components({"pal": {"size": 200}})
    with pytest.raises(ConfigError, match="12 heads do not divide a size of 4; give a size of 12"):
        make_components({"pal": {"size": 4}})
