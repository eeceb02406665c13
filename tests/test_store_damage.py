"""Every kind of damage to a stored module is refused, by name and with the way out."""

import hashlib
import math

import pytest
import tiny
import torch
from store_tools import alter, forge, module, task

from madx.errors import BaseError, StoreError
from madx.store import LAYOUT, Store, load_module, save_module


@pytest.fixture(scope="module")
def base():
    return tiny.base()


def test_truncated_weights_are_refused_at_any_length(base, tmp_path):
    folder = save_module(module(base), tmp_path / "swa")
    data = (folder / LAYOUT.weights).read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(0, len(data), len(data) // 40), len(data) - 1]:
        (folder / LAYOUT.weights).write_bytes(data[:length])
        with pytest.raises(
            StoreError, match=rf"weights.safetensors is damaged: it has {length} bytes, module.json records {len(data)}"
        ):
            load_module(folder, base)
    assert Store(tmp_path).list()[0].fault and Store(tmp_path).verify()


def test_a_flipped_bit_is_refused_anywhere(base, tmp_path):
    folder = save_module(module(base), tmp_path / "swa")
    data = (folder / LAYOUT.weights).read_bytes()
    for place in range(0, len(data), len(data) // 40):
        (folder / LAYOUT.weights).write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(StoreError, match="damaged or was altered: its sha256"):
            load_module(folder, base)
        assert "sha256" in Store(tmp_path).verify("swa")[0]
    (folder / LAYOUT.weights).write_bytes(data)
    assert Store(tmp_path).verify() == [] and load_module(folder, base)


def test_truncated_json_is_refused_at_any_length(base, tmp_path):
    folder = save_module(task(base), tmp_path / "ner")
    data = (folder / LAYOUT.manifest).read_bytes()
    for length in range(0, len(data) - 1, 37):
        (folder / LAYOUT.manifest).write_bytes(data[:length])
        with pytest.raises(StoreError, match="module.json is damaged: it cannot be read as JSON"):
            load_module(folder, base)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[]", "no format number"),
        (b"{}", "no format number"),
        (b"null", "no format"),
        (b'{"format": true}', "no format number"),
        (b'{"format": 3}', "written by a newer madx: it has format 3, this madx reads up to 2"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"format": 1, "format": 1}', "the key 'format' is there twice"),
        (b'{"format": 1, "training": NaN}', "NaN is no JSON number"),
        (b'{"format": 1, "x": 1e999}', "1e999 is no JSON number"),
        (b'{"format": 1}', r"(?s)name: missing.*weights: missing"),
    ],
)
def test_json_that_is_no_module(text, message, base, tmp_path):
    folder = save_module(module(base), tmp_path / "swa")
    (folder / LAYOUT.manifest).write_bytes(text)
    with pytest.raises(StoreError, match=message) as caught:
        load_module(folder, base)
    assert str(folder / LAYOUT.manifest) in str(caught.value)
    assert Store(tmp_path).list()[0].fault and Store(tmp_path).list()[0].info is None


def part(content, k=0):
    return content["components"][k]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(lables=[]), "lables: unknown key; did you mean 'labels'"),
        (lambda c: c["weights"].update(pickle="x"), "weights.pickle: unknown key"),
        (lambda c: c.pop("licence"), "licence: missing"),
        (lambda c: c.update(name="../swa"), "name: '../swa' cannot name a module"),
        (lambda c: c.update(name=5), "name: .*string, got 5"),
        (lambda c: c.update(role="adapter"), "role: .*'fusion', got \"adapter\""),
        (lambda c: c.update(role="language", language=None), "A language module without a language"),
        (lambda c: c.update(language="Swahili"), "'Swahili' is no language code"),
        (lambda c: c.update(labels=["O", "O", "I"]), "labels: .*twice: O"),
        (lambda c: c.update(labels=["O", 1]), "labels.1: .*got 1"),
        (
            lambda c: c.update(labels=["O", "B-PER"]),
            r"(?s)head.weight: shape \(3, 32\), expected \(2, 32\) \(2 labels\).*names 2 labels",
        ),
        (lambda c: c.update(labels=[]), "(?s)head.weight: not a tensor.*names 0 labels, the weights have a head"),
        (lambda c: part(c).update(type="bottelneck"), "no module type 'bottelneck'; did you mean 'bottleneck'"),
        (lambda c: c["components"].append(part(c)), "the component 'bottleneck' is there twice"),
        (lambda c: c.update(components=[]), "belongs to none of the components"),
        (lambda c: part(c)["settings"].update(reductoin=2), "bottleneck.reductoin: .*did you mean 'reduction_factor'"),
        (lambda c: part(c)["settings"].update(activation="rellu"), "unknown activation 'rellu'"),
        (
            lambda c: part(c)["settings"].update(reduction_factor=8.0),
            r"layer.2.ffn.bottleneck.up.weight: shape \(32, 2\), expected \(32, 4\)",
        ),
        (lambda c: part(c)["settings"].update(reduction_factor=1e-300), "settings in .* make no module on this base"),
        (lambda c: part(c)["settings"].update(leave_out=[0, 1, 2]), "make no module on this base: .*acts at no site"),
        (
            lambda c: part(c)["settings"].update(leave_out=[1]),
            "layer.1.ffn.bottleneck.down.bias: not a tensor of this module",
        ),
        (
            lambda c: part(c)["settings"].update(places=["attention", "ffn"]),
            "layer.0.attention.bottleneck.up.bias: missing in the file",
        ),
        (lambda c: c["weights"].update(dtype="bfloat16"), "head.bias: float32, expected bfloat16"),
        (lambda c: c["weights"].update(dtype="int8"), "weights.dtype: "),
        (lambda c: c["weights"].update(parameters=1), r"weights: \d+ numbers, module.json records 1"),
        (lambda c: c["weights"].update(sha256="0" * 64), "module.json records 000000000000"),
        (lambda c: c["weights"].update(sha256="0"), "weights.sha256: "),
        (lambda c: c["base"].update(fingerprint="none"), "base.fingerprint: "),
        (lambda c: (c.pop("task"), c.update(seed=1)), "(?s)task: missing.*seed: unknown key"),
    ],
)
def test_altered_json_is_refused_by_name(change, message, base, tmp_path):
    folder = save_module(task(base), tmp_path / "ner")
    alter(folder, change)
    with pytest.raises(StoreError, match=message):
        load_module(folder, base)
    assert Store(tmp_path).verify("ner", base=base)


def drop(tensors, name):
    return tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            lambda t: (drop(t, "head.bias"), drop(t, "layer.1.ffn.bottleneck.up.bias")),
            ["head.bias: missing", "layer.1.ffn.bottleneck.up.bias: missing"],
        ),
        (
            lambda t: t.update({"layer.0.ffn.lora.A": torch.zeros(1)}),
            ["layer.0.ffn.lora.A: not a tensor", "none of the components bottleneck"],
        ),
        (
            lambda t: t.update({"head.bias": torch.zeros(5)}),
            [r"head.bias: shape \(5,\), expected \(3,\) \(3 labels\)", "have 5 rows"],
        ),
        (
            lambda t: t.update({"head.weight": torch.zeros(3, 32, dtype=torch.int64)}),
            ["head.weight: int64, expected float32"],
        ),
        (
            lambda t: t.update({"head.weight": torch.zeros(3, 32).half()}),
            ["head.weight: stored as float16, recorded as float32"],
        ),
        (
            lambda t: t["head.weight"].view(-1)[3:5].fill_(math.nan),
            ["head.weight: 2 of 96 numbers are infinite or not"],
        ),
        (
            lambda t: t["head.weight"].view(-1)[:2].copy_(torch.tensor([math.inf, -math.inf])),
            ["head.weight: 2 of 96 numbers"],
        ),
    ],
)
def test_weights_that_do_not_fit_their_json_are_refused_by_name(change, messages, base, tmp_path):
    folder = save_module(task(base), tmp_path / "ner")
    forge(folder, change)
    for message in messages:
        with pytest.raises(StoreError, match=message):
            load_module(folder, base)
    assert Store(tmp_path).verify("ner", base=base)


def test_a_file_that_is_no_safetensors_is_refused(base, tmp_path):
    folder = save_module(module(base), tmp_path / "swa")
    data = b"\x80\x04 a pickle"
    (folder / LAYOUT.weights).write_bytes(data)
    alter(folder, lambda c: c["weights"].update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)))
    with pytest.raises(StoreError, match="is no safetensors file of weights"):
        load_module(folder, base)


def test_missing_files_and_folders(base, tmp_path):
    store = Store(tmp_path)
    for file in (LAYOUT.manifest, LAYOUT.weights):
        folder = store.save(module(base), overwrite=True)
        (folder / file).unlink()
        with pytest.raises(StoreError, match=f"is no whole module: it lacks the file {file}"):
            store.load("swa", base)
        assert file in store.list()[0].fault and any(file in f for f in store.verify())
    folder = store.save(module(base), overwrite=True)
    (folder / LAYOUT.card).unlink()
    assert store.load("swa", base) and store.verify() == ["swa: lacks the file README.md"]
    with pytest.raises(StoreError, match="There is no module at .*nowhere: no such folder"):
        load_module(tmp_path / "nowhere", base)


def test_another_base_is_refused(base, tmp_path):
    folder = save_module(module(base), tmp_path / "swa")
    other, wide = tiny.base(seed=1), tiny.base(hidden_size=48)
    with pytest.raises(BaseError, match="(?s)made for the base 'tiny-xlm-roberta'.*weights: module"):
        load_module(folder, other)
    assert load_module(folder, other, allow_base_mismatch=True).name == "swa"
    with pytest.raises(BaseError, match="width: module 32, base 48"):
        load_module(folder, wide, allow_base_mismatch=True)
    alter(folder, lambda c: c.update(tokenizer="0" * 64))
    with pytest.raises(BaseError, match="tokenizer: module 000000000000"):
        load_module(folder, base)
    assert "tokenizer" in Store(tmp_path).verify("swa", base=base)[0] and Store(tmp_path).verify("swa") == []
