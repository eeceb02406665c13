"""said: the Fastfood transform against dense matrices, its bits, and its memory."""

import hashlib

import numpy as np
import pytest
import torch
from by_hand import SITES, units

from madx.errors import ConfigError, StoreError
from madx.module.presets import make_components
from madx.module_types.said import Fastfood, Said, hadamard

GOLDEN = ["-0x1.2637f80000000p-4", "0x1.0ee3c40000000p+0", "0x1.b1f3340000000p-4", "0x1.0b8fd60000000p-2"]


def dense(projection):
    """P, `(size, dimension)`, from dense matrices and the words of numpy's generator."""
    n, d = projection.n, projection.dimension
    H = torch.ones(1, 1, dtype=torch.float64)
    while len(H) < n:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])

    def stream(key):
        return np.random.Philox(key=np.frombuffer(hashlib.sha256(key.encode()).digest()[:16], dtype="<u8"))

    order = sorted(range(n), key=lambda i: stream(str(projection.seed)).random_raw(n).tolist()[i])
    Pi = torch.zeros(n, n, dtype=torch.float64)
    Pi[range(n), order] = 1
    words, blocks = stream(f"{projection.seed} {projection.name}"), []
    for _ in range(-(-projection.size // n)):
        g = [w >> (32 * half) for w in words.random_raw(-(-n // 2)).tolist() for half in (0, 1)][:n]
        G = torch.tensor([2.0 * sum((x >> (8 * k)) & 255 for k in range(4)) - 1019 for x in g], dtype=torch.float64)
        bits = [w >> bit & 1 for w in words.random_raw(-(-n // 64)).tolist() for bit in range(64)][:n]
        B = torch.tensor([2.0 * bit - 1 for bit in bits], dtype=torch.float64)
        blocks.append(H @ torch.diag(G) @ Pi @ H @ torch.diag(B) / (G.norm() * projection.size**0.5))
    return torch.cat(blocks)[: projection.size, :d]


@pytest.mark.parametrize(("size", "dimension"), [(40, 5), (7, 7), (5, 1), (100, 32), (3, 20), (300, 70)])
def test_the_transform_is_the_product_of_its_matrices(size, dimension):
    projection = Fastfood(3, "layer.0.dense.weight", size=size, dimension=dimension)
    P = dense(projection)
    t, g = torch.randn(dimension, dtype=torch.float64), torch.randn(size, dtype=torch.float64)
    for kept in (False, True, True):
        projection.keep(kept)
        assert torch.allclose(projection.forward(t), P @ t) and torch.allclose(projection.adjoint(g), P.T @ g)


def test_its_columns_have_about_unit_length_and_are_nearly_orthogonal():
    projection = Fastfood(0, "w", size=1 << 14, dimension=32)
    P = torch.stack([projection.forward(e) for e in torch.eye(32)], 1)
    gram = P.T @ P
    assert (gram.diagonal() - 1).abs().max() < 0.06 and (gram - gram.diagonal().diag()).abs().max() < 0.06
    assert abs(P.std() * (1 << 7) - 1) < 0.02


def test_its_bits_are_fixed(monkeypatch):
    """These numbers must never change: stored modules hang on them. The runs of blocks do not matter either."""
    t = torch.arange(1.0, 7.0)
    found = Fastfood(5, "encoder.layer.0.output.dense.weight", size=20, dimension=6).forward(t)
    assert [v.hex() for v in found[[0, 7, 8, 19]].tolist()] == GOLDEN
    monkeypatch.setattr("madx.module_types.said.RUN", 8)
    again = Fastfood(5, "encoder.layer.0.output.dense.weight", size=20, dimension=6).forward(t)
    assert torch.equal(again, found)


def test_other_seeds_and_names_give_other_projections():
    t = torch.ones(6)

    def of(seed, name):
        return Fastfood(seed, name, size=20, dimension=6).forward(t)

    assert not torch.allclose(of(0, "a"), of(1, "a")) and not torch.allclose(of(0, "a"), of(0, "b"))


def test_hadamard_twice_is_n_times_the_same():
    x = torch.randn(16, 3)
    assert torch.allclose(hadamard(hadamard(x)), 16 * x, atol=1e-4)


def test_each_layer_has_a_scale_and_so_has_each_group():
    (unit,) = units("said", {"dimension": 20})
    assert unit.numbers.shape == (20,) and unit.scales.shape == (3,)
    before = {d.parameter: d.values.clone() for d in unit.deltas()}
    with torch.no_grad():
        unit.scales[1] *= 3
    for d in unit.deltas():
        assert torch.allclose(d.values, (3 if d.parameter.startswith("layer.1.") else 1) * before[d.parameter])
    (less,) = units("said", {"dimension": 20, "leave_out": [0], "kinds": ["weight"]})
    assert less.scales.shape == (2,) and less.touches() == [
        f"layer.{layer}.{name}.weight" for layer in (1, 2) for name in ("dense", "down")
    ]


def test_the_stored_form_is_small_and_checked():
    (unit,) = units("said", {"dimension": 20})
    stored = unit.float().pack(torch.float32)
    assert sum(t.numel() * t.element_size() for t in stored.values()) == 4 * (20 + 3) + 32
    (other,) = units("said", {"dimension": 20, "kinds": ["weight"]})
    with pytest.raises(StoreError, match="other names or shapes"):
        other.unpack(stored)
    (larger,) = units("said", {"dimension": 21})
    with pytest.raises(StoreError, match="20 numbers.*ask for 21"):
        larger.unpack(stored)
    assert Said.stored_faults({**stored, "numbers": stored["numbers"].long()}) == ["numbers is torch.int64"]
    assert "one row" in Said.stored_faults({**stored, "scales": stored["scales"][None]})[0]


def test_settings_that_make_no_sense_are_refused():
    size = sum(p.numel for p in SITES[-1].parameters)
    with pytest.raises(ConfigError, match=rf"said\.dimension is {size + 1:,}, but .* have {size:,} entries.*at most"):
        units("said", {"dimension": size + 1})
    assert units("said", {"dimension": size})
    with pytest.raises(ConfigError, match="No parameter of the base moves"):
        units("said", {"groups": ["embeddings"]})
    with pytest.raises(ConfigError, match=r"said\.dimension: .*1, got 0"):
        make_components({"said": {"dimension": 0}})
    with pytest.raises(ConfigError, match=r"said\.seed: .*0, got -1"):
        make_components({"said": {"seed": -1}})
