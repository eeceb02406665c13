"""The invertible component's formulas, recomputed in plain torch, and its inverse."""

import pytest
import torch
import torch.nn.functional as F
from by_hand import SITE, WIDTH, wake
from hypothesis import given, settings
from hypothesis import strategies as st

from madx.contract.sites import Site
from madx.module_types.invertible import Invertible, InvertibleConfig

EMBEDDINGS = SITE["embeddings"]


@given(
    st.sampled_from(["nice", "glow"]),
    st.integers(2, 17),
    st.integers(0, 10_000),
    st.floats(0.01, 0.3),
    st.sampled_from([(torch.float32, 1e-4), (torch.float64, 1e-10)]),
    st.sampled_from(["relu", "gelu", "tanh"]),
)
@settings(derandomize=True, max_examples=80, deadline=None)
def test_the_inverse_undoes_the_map(kind, width, seed, std, precision, activation):
    """Weights are up to 15 times their initial size; beyond, exp(a) up to 6.6 in each half costs digits of float32."""
    dtype, tolerance = precision
    torch.manual_seed(seed)
    site = Site("embeddings", "embeddings", width, 1)
    unit = Invertible(InvertibleConfig(kind=kind, activation=activation), site).to(dtype)
    with torch.no_grad():
        for p in unit.parameters():
            p.normal_(std=std)
        x = torch.randn(3, width, dtype=dtype)
        y = unit(x)
        assert torch.allclose(unit.inverse(y), x, atol=tolerance, rtol=tolerance)
        assert torch.allclose(unit(unit.inverse(x)), x, atol=tolerance, rtol=tolerance)
        assert not torch.allclose(y, x, atol=1e-7)


@pytest.mark.parametrize("kind", ["nice", "glow"])
@torch.no_grad()
def test_formula(kind):
    unit = wake(Invertible(InvertibleConfig(kind=kind, reduction_factor=3.0), EMBEDDINGS))
    assert unit.F.down.out_features == 2  # half the width, 6, by 3
    x1, x2 = torch.randn(2, 4, 6)

    def net(coupling, z):
        return F.relu(z @ coupling.down.weight.T + coupling.down.bias) @ coupling.up.weight.T + coupling.up.bias

    def scale(coupling, z):
        return torch.exp(1.2 * torch.atan(net(coupling, z))) if kind == "glow" else 1.0

    glow = kind == "glow"
    y1 = x1 * scale(glow and unit.scale_F, x2) + net(unit.F, x2)
    y2 = x2 * scale(glow and unit.scale_G, y1) + net(unit.G, y1)
    assert torch.allclose(unit(torch.cat([x1, x2], -1)), torch.cat([y1, y2], -1), atol=1e-5)


@torch.no_grad()
def test_a_fresh_map_is_nearly_the_identity_and_its_scale_cannot_overflow():
    x = torch.randn(4, WIDTH)
    for kind in ("nice", "glow"):
        fresh = Invertible(InvertibleConfig(kind=kind), EMBEDDINGS)
        assert (fresh(x) - x).abs().max() < 0.05
    wild = wake(Invertible(InvertibleConfig(kind="glow"), EMBEDDINGS))
    for p in wild.scale_F.parameters():
        p.fill_(1e6)
    assert wild(x).isfinite().all() and wild.inverse(x).isfinite().all()
