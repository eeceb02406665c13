"""Reading a safetensors file where it lies: equal to the library's reader, aligned, and strict about the header."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from madx.store.tensors import ALIGNED, DTYPES, read_bytes, tensors_in

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
files = st.dictionaries(st.text("abc.ä", min_size=1, max_size=8), st.tuples(shapes, st.sampled_from(sorted(DTYPES))), max_size=6)


def read(data: bytes, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    return tensors_in(read_bytes(path))


def written(header: dict | bytes, body: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@settings(max_examples=60)
@given(files, st.integers(0, 2**32))
def test_equal_to_the_librarys_reader(tmp_path_factory, described, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randint(0, 2 if dtype == "BOOL" else 100, shape, generator=generator).to(DTYPES[dtype])
        for name, (shape, dtype) in described.items()
    }
    data = save(tensors, metadata={"format": "pt"})
    found, theirs = read(data, tmp_path_factory.mktemp("read")), load(data)
    assert found.keys() == theirs.keys()
    for name, tensor in found.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name])
        assert tensor.data_ptr() % ALIGNED == 0


def test_large_tensors_are_not_copied(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save({"a": torch.randn(32, 16), "b": torch.randn(16, 32), "scale": torch.randn(3)}))
    data = read_bytes(path)
    inside = range(data.data_ptr(), data.data_ptr() + len(data))
    assert all(tensor.data_ptr() in inside for tensor in tensors_in(data).values())


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"", bytes(5), (1 << 62).to_bytes(8, "little") + b"{}", written(b"no json"), written(b"[1]"), written(b"{" * 100_000),
        written({"a": 1}), written({"a": {}}), written({"a": A | {"dtype": "F31"}}), written({"a": A | {"shape": [3]}}),
        written({"a": A | {"shape": [-1, -2]}}), written({"a": A | {"shape": [True, "2"]}}), written({"a": A | {"shape": None}}),
        written({"a": A | {"data_offsets": [0, 4]}}), written({"a": A | {"data_offsets": [0, 12]}}), written({"a": A | {"data_offsets": [-8, 8]}}),
        written({"a": A | {"data_offsets": [0, 8, 8]}}), written({"a": A | {"data_offsets": ["0", 8]}}), written({"a": A, "b": A}),
        written({"a": A | {"data_offsets": [0, 1 << 80]}}), written({"a": A}, bytes(9)), written({"a": A}, bytes(7)), written({}, bytes(1)),
        written({"a": A | {"dtype": "F64", "shape": [1], "data_offsets": [1, 8]}}), written({"a": A | {"shape": [1 << 70]}}),
    ],
)  # fmt: skip
def test_bytes_that_are_not_what_the_header_says(data, tmp_path):
    with pytest.raises(ValueError, match="its header|belong to no tensor"):
        read(data, tmp_path)


@settings(max_examples=150)
@given(st.integers(0, 1 << 16), st.integers(0, 255))
def test_an_altered_byte_gives_tensors_or_a_value_error(tmp_path_factory, place, byte):
    data = bytearray(save({"a": torch.randn(3), "b": torch.randn(2, 2)}))
    data[place % len(data)] = byte
    try:
        found = read(bytes(data), tmp_path_factory.mktemp("altered"))
    except ValueError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())
