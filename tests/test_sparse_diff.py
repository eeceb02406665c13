"""Delta-encoded indices and sparse weight deltas: exact when stored and loaded, strict where a file is damaged."""

import pytest
import tiny
import torch
from by_hand import unit_at
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from store_tools import forge
from tiny import sparse

from madx.contract import index_coding
from madx.contract.sites import BaseParameter, Site
from madx.errors import ConfigError, StoreError
from madx.module_types.sparse_diff import Space, SparseDiff, SparseDiffConfig
from madx.store import Store

quick = settings(derandomize=True, max_examples=100, deadline=None)


@given(st.lists(st.integers(0, 5000), unique=True, max_size=60), st.sampled_from([torch.int32, torch.int64]))
@quick
def test_indices_go_round(indices, dtype):
    indices = torch.tensor(sorted(indices), dtype=dtype)
    coded = index_coding.encode(indices)
    assert (
        coded.dtype == torch.uint8
        and torch.equal(index_coding.decode(coded).long(), indices.long())
        and index_coding.entries(coded) == len(indices)
    )
    assert len(coded) == len(indices) + int(
        (indices.diff(prepend=indices.new_tensor([-1])) - 1).div(255, rounding_mode="floor").sum()
    )


@pytest.mark.parametrize("gap", [0, 253, 254, 255, 256, 509, 510, 2**31 + 7])
def test_indices_at_the_borders_of_a_byte(gap):
    indices = torch.tensor([3, 4 + gap, 5 + gap])
    if gap < 10**6:
        assert torch.equal(index_coding.decode(index_coding.encode(indices)).long(), indices)
        assert len(index_coding.encode(indices)) == 3 + gap // 255
    else:  # indices beyond 32 bits: 8.4 million escapes
        assert torch.equal(index_coding.decode(index_coding.encode(indices)), indices)


@pytest.mark.parametrize(
    ("indices", "message"),
    [([3, 2], "entry 1 is not above.*unsorted"), ([2, 2], "entry 1 .*repeated"), ([-2, 1], "entry 0")],
)
def test_indices_that_cannot_be_encoded_are_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        index_coding.encode(torch.tensor(indices))


def test_damaged_bytes_are_refused():
    with pytest.raises(ValueError, match="cut"):
        index_coding.decode(torch.tensor([3, 255], dtype=torch.uint8))
    with pytest.raises(ValueError, match="one row of bytes"):
        index_coding.decode(torch.tensor([3, 255]))


@given(st.binary(max_size=40))
@quick
def test_any_bytes_spell_ascending_indices_or_are_refused(data):
    try:
        indices = index_coding.decode(torch.tensor(list(data), dtype=torch.uint8))
    except ValueError:
        assert data[-1] == 255
    else:
        assert (indices.diff() > 0).all() and index_coding.encode(indices).tolist() == list(data)


# ---- entries ---------------------------------------------------------------------------------------------------------


def test_global_indices_are_split_by_parameter():
    space = Space(
        (
            BaseParameter("a", (2, 3), "layers", 0, "weight"),
            BaseParameter("b", (4,), "layers", 0, "bias"),
            BaseParameter("c", (5,), "layers", 1, "bias"),
        )
    )
    assert space.split(torch.tensor([0, 5, 10, 14], dtype=torch.int32)) == [("a", 0, 2, 0), ("c", 2, 4, 10)]
    assert space.split(torch.empty(0, dtype=torch.int32)) == []


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([3, 2, 5], [1.0, 1.0, 1.0], "unsorted, or one is repeated"),
        ([2, 2, 5], [1.0, 1.0, 1.0], "repeated"),
        ([1, 2, 10**6], [1.0, 1.0, 1.0], "index 1000000 is out of range"),
        ([-1, 2, 5], [1.0, 1.0, 1.0], "-1 is out of range"),
        ([1, 2], [1.0], r"\(2,\) indices and \(1,\) values"),
        ([1], [float("nan")], "infinite or not a number"),
        ([1], [float("inf")], "infinite or not a number"),
    ],
)
def test_entries_that_make_no_weight_delta_are_refused(indices, values, message):
    unit = unit_at("sparse_diff", "weights", {"entries": 3})
    before = unit.indices.clone()
    with pytest.raises(ValueError, match=message):
        unit.set_entries(torch.tensor(indices), torch.tensor(values))
    assert torch.equal(unit.indices, before)


def test_the_deltas_count_through_the_selectable_parameters():
    """Layer norms are not selectable, so the biases and weights of the three layers follow one another."""
    unit = unit_at("sparse_diff", "weights", {"entries": 3})
    assert [p.name for p in unit.space.parameters][:3] == [
        "layer.0.dense.bias",
        "layer.0.dense.weight",
        "layer.0.down.weight",
    ]
    unit.set_entries(torch.tensor([39, 40, 520]), torch.tensor([1.0, 2.0, 3.0]))
    found = [(d.parameter, d.places().tolist(), d.values.tolist()) for d in unit.deltas()]
    assert found == [
        ("layer.0.dense.bias", [39], [1.0]),
        ("layer.0.dense.weight", [0], [2.0]),
        ("layer.0.down.weight", [0], [3.0]),
    ]
    assert unit.touches() == [name for name, *_ in found]


@pytest.mark.parametrize(
    ("settings_of", "message"),
    [
        ({"entries": 0}, "sparse_diff.entries: 0 entries: at least 1"),
        ({"entries": 1.5}, "1.5 is not a share"),
        ({"entries": 0.0}, "0.0 is not a share"),
        ({"entries": 10**6}, "1,000,000 entries.*have 2,280: give a smaller count"),
        ({"groups": ["embeddings"]}, "No parameter of the base is selectable.*widen"),
        ({"kinds": []}, "sparse_diff.kinds"),
    ],
)
def test_selections_of_nothing_are_refused(settings_of, message):
    with pytest.raises(ConfigError, match=message):
        unit_at("sparse_diff", "weights", settings_of)


def test_large_bases_have_indices_of_8_bytes():
    with torch.device("meta"):
        site = Site(
            "weights", "weights", 8, 1, parameters=(BaseParameter("w", (2**16, 2**16), "embeddings", None, "weight"),)
        )
        unit = SparseDiff(SparseDiffConfig(entries=10), site)
    assert unit.indices.dtype == torch.int64 and unit.space.size == 2**32


# ---- the stored form -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_any_values_are_stored_exactly(family, tmp_path):
    base, store = tiny.base(family), Store(tmp_path)
    made = sparse(base, "swa", entries=0.1, language="swa")
    store.save(made)
    back = store.load("swa", base).units["weights"]["sparse_diff"]
    unit = made.units["weights"]["sparse_diff"]
    assert (
        torch.equal(back.indices, unit.indices)
        and torch.equal(back.values, unit.values)
        and back.indices.dtype == torch.int32
    )
    assert store.verify() == [] and store.verify(base=base) == []
    assert store.show("swa").weights.parameters == len(unit.values)


def test_rounded_values_take_three_bytes_and_lose_nothing(tmp_path):
    base, store = tiny.base(), Store(tmp_path)
    made = sparse(base, "swa", entries=0.3, std=1e-6, language="swa")
    unit = made.units["weights"]["sparse_diff"]
    exact = unit.values.detach().clone()
    unit.round_values()
    assert ((unit.values - exact).abs() <= exact.abs() * 2**-11 + exact.abs().max() * 2**-38).all()
    assert not torch.equal(unit.values, exact)
    store.save(made)
    assert torch.equal(store.load("swa", base).units["weights"]["sparse_diff"].values, unit.values)
    stored = load_file(tmp_path / "swa" / "weights.safetensors")
    assert stored["weights.sparse_diff.values"].dtype == torch.float16
    assert sum(t.numel() * t.element_size() for t in stored.values()) == 3 * len(exact) + 33
    assert store.verify() == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_fewer_bits_when_asked(dtype, tmp_path):
    base, store = tiny.base(), Store(tmp_path)
    made = sparse(base, "swa", entries=0.1, std=1e5, language="swa")
    store.save(made, dtype=dtype)  # beyond the range of float16, but for the exponent
    back = store.load("swa", base).units["weights"]["sparse_diff"].values
    assert torch.allclose(back, made.units["weights"]["sparse_diff"].values, rtol=2**-8)
    assert store.verify() == []


def test_values_of_zero_are_stored(tmp_path):
    base, store = tiny.base(), Store(tmp_path)
    made = sparse(base, "swa", std=0.0, language="swa")
    store.save(made)
    assert store.load("swa", base).units["weights"]["sparse_diff"].values.count_nonzero() == 0


START = "weights.sparse_diff."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({START + "gaps": t[START + "gaps"][:-1]}), "399 indices, but 400 values"),
        (lambda t: t[START + "gaps"].__setitem__(-1, 255), "end within an entry: the file was cut"),
        (
            lambda t: t.update(
                {START + "gaps": torch.cat([torch.full((200,), 255, dtype=torch.uint8), t[START + "gaps"]])}
            ),
            "out of range",
        ),
        (lambda t: t[START + "values"].__setitem__(3, float("nan")), "not a number"),
        (lambda t: t[START + "values"].__setitem__(3, float("inf")), "not a number"),
        (lambda t: t.update({START + "gaps": t[START + "gaps"].int()}), "gaps is torch.int32, not torch.uint8"),
        (lambda t: t.update({START + "values": t[START + "values"].int()}), "floating-point"),
        (
            lambda t: t.update({START + "values": t[START + "values"][:-1], START + "gaps": t[START + "gaps"][:-1]}),
            "399 entries, but its settings ask for 400",
        ),
        (lambda t: t[START + "parameters"].add_(1), "parameters of other names or shapes"),
        (
            lambda t: t.pop(START + "gaps"),
            "is stored as gaps, values, exponent, parameters, not as exponent, parameters, values",
        ),
        (lambda t: t.update({START + "more": torch.zeros(1)}), "is stored as gaps"),
        (lambda t: t.update({START + "exponent": torch.zeros(2, dtype=torch.int8)}), "exponent one number"),
    ],
)
def test_a_damaged_weight_delta_is_refused(change, message, tmp_path):
    base, store = tiny.base(), Store(tmp_path)
    store.save(sparse(base, "swa", language="swa"))
    forge(tmp_path / "swa", change)
    with pytest.raises(StoreError, match=message):
        store.load("swa", base)
    assert any(v for v in store.verify(base=base))


def test_verify_without_a_base_sees_bytes_that_were_cut(tmp_path):
    base, store = tiny.base(), Store(tmp_path)
    store.save(sparse(base, "swa", language="swa"))
    forge(tmp_path / "swa", lambda t: t[START + "gaps"].__setitem__(-1, 255))
    assert any("cut" in fault for fault in store.verify())


def test_a_sister_base_of_another_inner_shape_is_refused(tmp_path):
    base, other, store = tiny.base(), tiny.base(intermediate_size=48), Store(tmp_path)
    store.save(sparse(base, "swa", language="swa"))
    with pytest.raises(StoreError, match="other names or shapes"):
        store.load("swa", other, allow_base_mismatch=True)
    sister = tiny.base(seed=5)
    assert store.load("swa", sister, allow_base_mismatch=True).name == "swa"
