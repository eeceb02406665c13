"""Reading a safetensors file straight into its tensors: equal to the library's reader, and strict about the header."""

import json

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save, save_model

from madx.errors import StoreError
from madx.module import new_module
from madx.store import load_module, save_module
from madx.store.manifest import LAYOUT
from madx.store.tensors import DTYPES, read_tensors

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
files = st.dictionaries(
    st.text("abc.ä", min_size=1, max_size=8), st.tuples(shapes, st.sampled_from(sorted(DTYPES))), max_size=6
)


def read(data: bytes, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    found = read_tensors(path)
    assert b"".join(found.pieces()) == data and sum(map(len, found.pieces())) == len(data)
    return found


def written(header: dict | bytes, body: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@settings(derandomize=True, max_examples=60, deadline=None)
@given(files, st.integers(0, 2**32))
def test_equal_to_the_librarys_reader(tmp_path_factory, described, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randint(0, 2 if dtype == "BOOL" else 100, shape, generator=generator).to(DTYPES[dtype])
        for name, (shape, dtype) in described.items()
    }
    data = save(tensors, metadata={"format": "pt"})
    found, theirs = read(data, tmp_path_factory.mktemp("read")), load(data)
    assert not found.fault and found.tensors.keys() == theirs.keys()
    for name, tensor in found.tensors.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name])


def test_the_tensors_of_a_loaded_module_share_no_byte_and_can_be_saved_alone(tmp_path):
    base = tiny.base()
    made = tiny.wake(
        new_module("ner", base, role="task", task="ner", components="pfeiffer", labels=("O", "B-PER", "I-PER"))
    )
    loaded = load_module(save_module(made, tmp_path / "ner"), base)
    places = sorted((p.data_ptr(), p.nbytes) for p in loaded.parameters())
    assert all(start + length <= after for (start, length), (after, _) in zip(places, places[1:]))
    for parameter in loaded.parameters():
        assert parameter.untyped_storage().nbytes() == parameter.nbytes
        assert parameter.data_ptr() % 64 == 0, "aligned as torch does it: the last bits of a product may depend on it"
    save_model(loaded, tmp_path / "theirs.safetensors")  # refuses what shares memory


def test_the_devices_default_does_not_matter(tmp_path):
    base = tiny.base()
    folder = save_module(tiny.wake(new_module("swa", base, language="swa", components="madx")), tmp_path / "swa")
    with torch.device("meta"):
        assert not any(p.is_meta for p in load_module(folder, base).parameters())


def test_ctrl_c_goes_before_damage(tmp_path, monkeypatch):
    base = tiny.base()
    folder = save_module(tiny.wake(new_module("swa", base, language="swa", components="madx")), tmp_path / "swa")
    data = bytearray((folder / LAYOUT.weights).read_bytes())
    data[-1] ^= 1
    (folder / LAYOUT.weights).write_bytes(data)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("madx.store.files._skeleton", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_module(folder, base)


def test_more_than_the_memory(tmp_path, monkeypatch):
    base = tiny.base()
    folder = save_module(tiny.wake(new_module("swa", base, language="swa", components="madx")), tmp_path / "swa")

    def empty(*_, **__):
        raise MemoryError("Unable to allocate 4.00 TiB")

    monkeypatch.setattr("madx.store.tensors.np.empty", empty)
    with pytest.raises(StoreError, match="does not fit into this machine's memory"):
        load_module(folder, base)


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(5),
        (1 << 62).to_bytes(8, "little") + b"{}",
        written(b"no json"),
        written(b"[1]"),
        written(b"{" * 100_000),
        written({"a": 1}),
        written({"a": {}}),
        written({"a": A | {"dtype": "F31"}}),
        written({"a": A | {"shape": [3]}}),
        written({"a": A | {"shape": [-1, -2]}}),
        written({"a": A | {"shape": [True, "2"]}}),
        written({"a": A | {"shape": None}}),
        written({"a": A | {"data_offsets": [0, 4]}}),
        written({"a": A | {"data_offsets": [0, 12]}}),
        written({"a": A | {"data_offsets": [-8, 8]}}),
        written({"a": A | {"data_offsets": [0, 8, 8]}}),
        written({"a": A | {"data_offsets": ["0", 8]}}),
        written({"a": A, "b": A}),
        written({"a": A | {"data_offsets": [0, 1 << 80]}}),
        written({"a": A}, bytes(9)),
        written({"a": A}, bytes(7)),
        written({}, bytes(1)),
        written({"a": A | {"dtype": "F64", "shape": [1], "data_offsets": [1, 8]}}),
        written({"a": A | {"shape": [1 << 70]}}),
        written({"a": A | {"data_offsets": [0.0, 8.0]}}),
        written({"head.\ud800": A}),
        written('{"ä": 1}'.encode("utf-16")),
        written({"a": A | {"shape": [1, 1.5]}}),
        written({"a": A | {"shape": {"2": 1}}}),
    ],
)
def test_bytes_that_are_not_what_the_header_says(data, tmp_path):
    found = read(data, tmp_path)
    assert not found.tensors and found.fault.startswith("its header")
    found.fault.encode()


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.integers(0, 1 << 16), st.integers(0, 255))
def test_an_altered_byte_gives_tensors_or_a_fault(tmp_path_factory, place, byte):
    data = bytearray(save({"a": torch.randn(3), "b": torch.randn(2, 2)}))
    data[place % len(data)] = byte
    found = read(bytes(data), tmp_path_factory.mktemp("altered"))
    assert bool(found.tensors) != bool(found.fault)
