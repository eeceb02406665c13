"""The store: bit-exact round trips, every kind of damage refused in words, and saving that is all or nothing."""

import errno
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import madx
from madx.engine import Engine
from madx.errors import BaseError, ConfigError, MadxError, StoreError
from madx.module import ModuleInfo, new_module
from madx.module.presets import PRESETS, make_components
from madx.store import Store, check_target, folders, load_module, read_info, save_module
from madx.store.card import model_card
from madx.store.manifest import FORMAT, LAYOUT, WeightsRecord, check_language, from_text, manifest_of, to_text
from madx.store.metadata import HUB_CODES
from madx.store.weights import encode

LABELS = ("O", "B-PER", "I-PER")
TRAINING = {
    "data": [{"path": "/home/juma/my texts/swa.txt", "sha256": "ab" * 32, "bytes": 12}],
    "datasets": ["wikiann"],
    "steps": 7,
    "seed": 0,
    "settings": {"learning_rate": 1e-4, "batch": {"size": 64}},
    "versions": {"torch": "2.13"},
    "scores": {"perplexity": {"before": 60.25, "after": math.inf}},
}


@pytest.fixture(scope="module")
def base():
    return tiny.base()


def module(base, name="swa", components="madx", *, seed=0, **more):
    if more.get("role") != "task":
        more = {"language": "swa"} | more
    return tiny.wake(new_module(name, base, components=components, **more), seed=seed)


def task(base, name="ner", **more):
    return module(base, name, "pfeiffer", role="task", task="ner", labels=LABELS, **more)


def same(a, b):
    return a.tensors().keys() == b.tensors().keys() and all(
        torch.equal(t, b.tensors()[n]) for n, t in a.tensors().items()
    )


def alter(folder, change):
    """Change module.json by hand."""
    file = folder / LAYOUT.manifest
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def forge(folder, change):
    """Change the tensors and mend the record of them, as a careless tool would."""
    file = folder / LAYOUT.weights
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    data = file.read_bytes()
    new = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "parameters": sum(t.numel() for t in tensors.values()),
    }
    alter(folder, lambda content: content["weights"].update(new))


def hidden(root):
    return [entry.name for entry in root.iterdir() if entry.name.startswith(".")]


# ---- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_round_trip_is_bit_exact_on_every_family(family, tmp_path):
    base, store = tiny.base(family), Store(tmp_path / "modules")
    swa = module(
        base, "swa", {"bottleneck": {"reduction_factor": 2.0}, "invertible": {"kind": "glow"}}, licence="Apache-2.0"
    )
    swa.info.training = TRAINING
    ner = task(base)
    assert store.save(swa) == tmp_path / "modules" / "swa" and store.save(ner).name == "ner"
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again, head = store.load("swa", base), store.load("ner", base)
    assert torch.equal(torch.get_rng_state(), state), "loading draws no random number"
    assert same(swa, again) and same(ner, head) and head.head.out_features == 3
    assert head.info == ner.info and read_info(tmp_path / "modules/ner") == ner.info
    assert all(p.requires_grad and p.dtype == torch.float32 for p in again.parameters())
    assert again.info.training["scores"]["perplexity"] == {"before": 60.25, "after": "inf"}
    engine, ids = Engine(base), tiny.inputs()
    with torch.no_grad():
        engine.attach(swa), engine.attach(ner), engine.activate("swa + ner")
        before = engine.label_logits(engine(*ids))
        engine.activate(None)
        engine.attach(again), engine.attach(head), engine.activate("swa + ner")
        assert torch.equal(engine.label_logits(engine(*ids)), before)


@pytest.mark.parametrize("preset", [name for name, (parts, _) in PRESETS.items() if parts])
def test_every_preset_is_stored_whole(preset, base, tmp_path):
    made = module(base, "m", preset)
    loaded = load_module(save_module(made, tmp_path / "m"), base)
    assert (
        same(made, loaded) and loaded.info == made.info and list(loaded.info.components) == list(made.info.components)
    )


def test_order_of_parts_survives(base, tmp_path):
    made = module(base, "m", {"invertible": {}, "bottleneck": {}})
    assert list(read_info(save_module(made, tmp_path / "m")).components) == ["invertible", "bottleneck"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_load_as_float32(dtype, base, tmp_path):
    swa = module(base)
    full, half = save_module(swa, tmp_path / "full"), save_module(swa, tmp_path / "half", dtype=dtype)
    loaded = load_module(half, base)
    for name, tensor in swa.tensors().items():
        assert torch.equal(loaded.tensors()[name], tensor.to(getattr(torch, dtype)).float())
    numbers = swa.parameter_count()
    assert (full / LAYOUT.weights).stat().st_size - (half / LAYOUT.weights).stat().st_size > 1.9 * numbers
    assert json.loads((half / LAYOUT.manifest).read_text())["weights"]["dtype"] == dtype
    with pytest.raises(StoreError, match="'float61'; did you mean 'float16'"):
        save_module(swa, tmp_path / "x", dtype="float61")


def test_saving_twice_gives_the_same_bytes(base, tmp_path):
    swa = module(base)
    a, b = save_module(swa, tmp_path / "a"), save_module(swa, tmp_path / "b")
    assert all((a / f).read_bytes() == (b / f).read_bytes() for f in LAYOUT.files)
    text = (a / LAYOUT.manifest).read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert sorted(e.name for e in a.iterdir()) == sorted(LAYOUT.files)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,20}", fullmatch=True).filter(
    lambda n: n not in ("base", "average")
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # a lone surrogate is no text in UTF-8
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
BOTTLENECK = st.fixed_dictionaries(
    {},
    optional={
        "places": st.sampled_from([["ffn"], ["attention"], ["attention", "ffn"]]),
        "reduction_factor": st.floats(0.1, 64)
        | st.dictionaries(st.sampled_from(["0", "1", "default"]), st.floats(0.5, 8), min_size=1),
        "reads": st.sampled_from(["sum_norm", "output", "input"]),
        "scaling": st.floats(-9, 9) | st.just("learned"),
        "leave_out": st.lists(st.integers(-3, 2), max_size=2),
        "dropout": st.floats(0, 0.9),
        "gate": st.booleans(),
    },
)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    name=NAMES,
    bottleneck=BOTTLENECK,
    training=st.dictionaries(TEXT, PLAIN, max_size=3),
    labels=st.lists(TEXT.filter(bool), unique=True, max_size=4),
    language=st.sampled_from([None, "swa", "zh-Hant-TW"]),
    licence=st.none() | st.text("ABC-.0", min_size=1),
)
def test_the_json_keeps_everything(name, bottleneck, training, labels, language, licence):
    info = ModuleInfo(
        name=name,
        role="task",
        language=language,
        components=make_components({"invertible": {}, "bottleneck": bottleneck}),
        task=None,
        labels=tuple(labels),
        training=training,
        licence=licence,
    )
    manifest = manifest_of(info, WeightsRecord(sha256="0" * 64, bytes=1, dtype="float32", parameters=2))
    again = from_text(to_text(manifest).encode(), "x")
    assert again == manifest and again.info() == info and to_text(again) == to_text(manifest)
    card = model_card(again)
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "madx"


# ---- damage ----------------------------------------------------------------------------------------------------------


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
        (b'{"format": 2}', "written by a newer madx: it has format 2, this madx reads up to 1"),
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
        (lambda c: c.update(role="adapter"), "role: .*'language' or 'task', got 'adapter'"),
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


# ---- what must not be stored -----------------------------------------------------------------------------------------


def test_what_cannot_be_stored_is_named_and_nothing_is_written(base, tmp_path):
    def refused(change, message, **more):
        broken = task(base)
        with torch.no_grad():
            change(broken)
        with pytest.raises(StoreError, match=message):
            save_module(broken, tmp_path / "ner", **more)
        assert list(tmp_path.iterdir()) == []

    refused(lambda m: m.head.weight[0].fill_(math.nan), "head.weight: 32 of 96 numbers are infinite or not a number")
    refused(lambda m: m.head.bias[1:2].fill_(-math.inf), "head.bias: 1 of 3")
    refused(lambda m: m.head.bias[0].fill_(1e5), "head.bias: 1 numbers are too large for float16", dtype="float16")
    refused(lambda m: setattr(m.info, "labels", ("O",)), "names 1 labels, but its head has 3 rows")
    refused(lambda m: setattr(m.info, "language", "swahili"), "'swahili' is no language code")
    refused(
        lambda m: setattr(m.info, "training", {"a": [Path("x")], 3: 1}),
        "(?s)the key 3 is no text.*training.a.0: .*Path is neither",
    )
    refused(lambda m: setattr(m.info, "training", {"a": "\ud800"}), "training.a: .*UTF-8")
    refused(
        lambda m: (setattr(m.info, "role", "language"), setattr(m.info, "language", None)),
        "A language module without a language",
    )


def test_numbers_of_numpy_are_stored_as_numbers(base, tmp_path):
    swa = module(base)
    swa.info.training = {
        "steps": np.int64(3),
        "scores": {"f1": np.float32(0.5), "loss": np.float64("nan"), "best": True},
    }
    found = read_info(save_module(swa, tmp_path / "swa")).training
    assert found == {"steps": 3, "scores": {"f1": 0.5, "loss": "nan", "best": True}} and found["scores"]["best"] is True


def test_large_finite_weights_are_not_mistaken_for_infinite_ones(base, tmp_path):
    swa = module(base)
    with torch.no_grad():
        swa.get_parameter("layer.0.ffn.bottleneck.down.weight").fill_(3e38)  # their sum overflows
    assert same(swa, load_module(save_module(swa, tmp_path / "swa"), base))


@pytest.mark.parametrize(
    "code", ["swa", "pt", "pt-BR", "sr-Latn", "zh-Hant-TW", "es-419", "ca-valencia", "de-1996", "en-x-kiezi"]
)
def test_language_codes(code):
    assert check_language(code) == code and check_language(None, role="task") is None


@pytest.mark.parametrize("code", ["", "s", "SWA", "swahili", "swa_KE", "swa-ke", "swa-", "swa\n", "../x", 5, None])
def test_what_is_no_language_code(code):
    with pytest.raises(
        ConfigError, match="ISO 639-3 code of three small letters .*BCP 47.*Only a task module may have none"
    ):
        check_language(code)


# ---- all or nothing --------------------------------------------------------------------------------------------------


def fail_at(monkeypatch, target, attribute, nth, error, *, always=False):
    """The nth call fails; `always`: the later ones too."""
    real, calls = getattr(target, attribute), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == nth or always and len(calls) > nth:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(target, attribute, call)
    return calls


FULL = OSError(errno.ENOSPC, "No space left on device")
STEPS = [("fsync", k) for k in range(1, 6)] + [("replace", 1), ("replace", 2)]


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
@pytest.mark.parametrize(("step", "nth"), STEPS)
def test_a_failure_leaves_the_old_module(step, nth, error, base, tmp_path, monkeypatch):
    old, new, store = module(base, seed=1), module(base, seed=2), Store(tmp_path)
    store.save(old)
    with monkeypatch.context() as patch:
        calls = fail_at(patch, os, step, nth, error)
        with pytest.raises(StoreError if error is FULL else KeyboardInterrupt) as caught:
            store.save(new, overwrite=True)
    assert len(calls) >= nth
    if error is FULL:
        assert "the disk is full" in str(caught.value) and str(tmp_path / "swa") in str(caught.value)
        assert "what was there before is unchanged" in str(caught.value)
    assert hidden(tmp_path) == [] and same(store.load("swa", base), old) and store.verify() == []
    store.save(new, overwrite=True)
    assert same(store.load("swa", base), new)


@pytest.mark.parametrize(("step", "nth"), [("fsync", 1), ("fsync", 4), ("fsync", 5), ("replace", 1)])
def test_a_failed_first_save_leaves_nothing(step, nth, base, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at(patch, os, step, nth, FULL)
        with pytest.raises(StoreError, match="the disk is full"):
            save_module(module(base), tmp_path / "swa")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_for_good_between_the_renames_loses_nothing(base, tmp_path, monkeypatch):
    old, store = module(base, seed=1), Store(tmp_path)
    store.save(old)
    with monkeypatch.context() as patch:
        fail_at(patch, os, "replace", 2, OSError(errno.EIO, "Input/output error"), always=True)
        with pytest.raises(StoreError, match="Input/output error"):
            store.save(module(base, seed=2), overwrite=True)
    assert not (tmp_path / "swa").exists(), "the undoing failed too"
    assert [row.name for row in store.list()] == ["swa"] and same(store.load("swa", base), old)


def test_a_real_write_that_ends_half_way(base, tmp_path):
    resource = pytest.importorskip("resource")
    old, store = module(base, seed=1), Store(tmp_path)
    store.save(old)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(StoreError, match="file would be larger than allowed"):
            store.save(module(base, seed=2), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert hidden(tmp_path) == [] and same(store.load("swa", base), old)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written(number, base, tmp_path, monkeypatch):
    fail_at(monkeypatch, os, "mkdir", 1, OSError(number, "no"), always=True)
    with pytest.raises(StoreError, match="Cannot store the module 'swa' in .*(permission denied|read-only)"):
        save_module(module(base), tmp_path / "new" / "swa")


def test_ctrl_c_while_the_old_one_is_deleted(base, tmp_path, monkeypatch):
    new, store = module(base, seed=2), Store(tmp_path)
    store.save(module(base, seed=1))
    with monkeypatch.context() as patch:
        fail_at(patch, shutil, "rmtree", 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            store.save(new, overwrite=True)
    assert same(store.load("swa", base), new) and len(hidden(tmp_path)) == 1 and len(store.list()) == 1
    store.save(module(base, "swa.v2"))
    assert len(hidden(tmp_path)) == 1, "another name's remains are not touched"
    store.save(new, overwrite=True)
    assert hidden(tmp_path) == []


def run(code, *args):
    env = os.environ | {"PYTHONPATH": str(Path(madx.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=env, stderr=subprocess.PIPE, text=True)


KILLED = """
import os, sys
from pathlib import Path
from madx.store import folders
target, stop = Path(sys.argv[1]), int(sys.argv[2])
real, calls = os.replace, []
def replace(a, b):
    calls.append(a)
    if len(calls) == stop:
        os._exit(9)
    real(a, b)
os.replace = replace
folders.delete = lambda path: os._exit(9)
folders.write_folder(target, {f: (target / f).read_bytes() for f in os.listdir(target)}, check=lambda: None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_writer_killed_at_any_rename_loses_nothing(stop, base, tmp_path):
    pytest.importorskip("fcntl")
    store, swa = Store(tmp_path), module(base)
    store.save(swa)
    child = run(KILLED, tmp_path / "swa", stop)
    assert child.communicate()[1] == "" and child.returncode == 9
    assert hidden(tmp_path) and (tmp_path / "swa").exists() == (stop != 2)
    assert [(row.name, row.fault) for row in store.list()] == [("swa", None)] and same(store.load("swa", base), swa)
    store.save(swa, overwrite=True)
    assert hidden(tmp_path) == []


SAVER = """
import sys, time
from pathlib import Path
import torch
from madx.store import Store
root, value = Path(sys.argv[1]), float(sys.argv[2])
module = torch.load(root.parent / "module.pt", weights_only=False)
with torch.no_grad():
    for p in module.parameters():
        p.fill_(value)
(root.parent / f"ready{value}").touch()
while not (root.parent / "go").exists():
    time.sleep(0.002)
for _ in range(10):
    Store(root).save(module, overwrite=True)
"""


@pytest.mark.slow
def test_two_processes_saving_one_name_leave_one_whole_module(base, tmp_path):
    pytest.importorskip("fcntl")
    store, swa = Store(tmp_path / "modules"), module(base)
    with torch.no_grad():
        for p in swa.parameters():
            p.fill_(1.0)
    store.save(swa)
    torch.save(swa, tmp_path / "module.pt")
    children = [run(SAVER, store.root, value) for value in (1.0, 2.0)]
    while not all((tmp_path / f"ready{v}").exists() for v in (1.0, 2.0)) and all(c.poll() is None for c in children):
        time.sleep(0.01)
    (tmp_path / "go").touch()
    loads = []
    while any(c.poll() is None for c in children):  # a reader meets a whole module at every moment
        loads.append({float(v) for t in store.load("swa", base).tensors().values() for v in t.unique()})
    assert [c.communicate()[1] for c in children] == ["", ""] and all(c.returncode == 0 for c in children)
    assert loads and all(values in ({1.0}, {2.0}) for values in loads)
    assert hidden(store.root) == [] and store.verify(base=base) == []


# ---- the store -------------------------------------------------------------------------------------------------------


def test_list_show_verify_remove(base, tmp_path):
    store = Store(tmp_path / "modules")
    assert store.list() == [] and store.verify() == []
    with pytest.raises(StoreError, match="No module 'swa' in the store .*(none)"):
        store.load("swa", base)
    store.save(module(base, "swahili")), store.save(task(base))
    (store.root / "notes").mkdir(), (store.root / "notes" / "README.md").touch(), (store.root / "file").touch()
    rows = store.list()
    assert [row.name for row in rows] == ["ner", "swahili"] and not any(row.fault for row in rows)
    shown = store.show("swahili")
    assert shown == rows[1] and shown.info.language == "swa" and shown.weights.dtype == "float32"
    assert shown.bytes == sum(f.stat().st_size for f in shown.path.iterdir())
    for act in (store.show, store.remove, store.verify, lambda name: store.load(name, base)):
        with pytest.raises(StoreError, match="No module 'swahilli' in the store .*; did you mean 'swahili'"):
            act("swahilli")
    store.remove("swahili")
    assert [row.name for row in store.list()] == ["ner"] and hidden(store.root) == []
    alter(store.root / "ner", lambda c: c.update(labels=["O", "B"]))
    assert store.verify("ner") == ["ner: head: module.json names 2 labels, the weights have 3 rows"]
    store.remove("ner")  # a damaged module can go
    with pytest.raises(StoreError, match="(?s)is damaged"):
        folder = store.save(module(base))
        (folder / LAYOUT.manifest).write_text("{")
        store.show("swa")


def test_a_taken_name_needs_overwrite(base, tmp_path):
    store, old, new = Store(tmp_path), module(base, seed=1), module(base, seed=2)
    store.save(old)
    with pytest.raises(StoreError, match="already holds a module. Pass overwrite=True"):
        store.save(new)
    with pytest.raises(StoreError, match="already holds a module"):
        check_target(tmp_path / "swa")
    check_target(tmp_path / "swa", overwrite=True), check_target(tmp_path / "free")
    assert same(store.load("swa", base), old)
    store.save(new, overwrite=True)
    assert same(store.load("swa", base), new)


def test_other_peoples_files_are_never_deleted(base, tmp_path):
    store = Store(tmp_path)
    (tmp_path / "photos").mkdir(), (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(StoreError, match="holds other files and no module"):
        save_module(module(base), tmp_path / "photos", overwrite=True)
    folder = store.save(module(base))
    (folder / "notes.txt").touch()
    with pytest.raises(StoreError, match="is not replaced: beside the module it holds notes.txt"):
        store.save(module(base), overwrite=True)
    with pytest.raises(StoreError, match="is not removed: beside the module it holds notes.txt"):
        store.remove("swa")
    with pytest.raises(StoreError, match="No module 'photos'"):
        store.remove("photos")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file; a module needs a folder"):
        save_module(module(base), tmp_path / "file", overwrite=True)
    with pytest.raises(StoreError, match="is a file, not a folder"):
        save_module(module(base), tmp_path / "file" / "swa")
    with pytest.raises(StoreError, match="is not a folder"):
        Store(tmp_path / "file")
    assert (tmp_path / "photos" / "a.jpg").exists() and (folder / "notes.txt").exists()


def test_a_renamed_folder_loads_by_path_only(base, tmp_path, caplog):
    store, swa = Store(tmp_path), module(base)
    store.save(swa).rename(tmp_path / "hau")
    with caplog.at_level("INFO", "madx"):
        assert load_module(tmp_path / "hau", base).name == "swa"
    assert "holds the module 'swa'; it keeps that name" in caplog.text
    with pytest.raises(StoreError, match="holds a module that calls itself 'swa'. Rename the folder to 'swa'"):
        store.load("hau", base)
    assert "calls itself 'swa'" in store.list()[0].fault and store.verify() == ["hau: calls itself 'swa'"]


@pytest.mark.parametrize("name", ["../out", "..", ".", "/etc", "a/b", "", ".hidden", "base", "a\\b", "x\n"])
def test_names_cannot_leave_the_store(name, base, tmp_path):
    store = Store(tmp_path / "modules")
    save_module(module(base), tmp_path / "out")
    for act in (store.show, store.remove, store.verify, lambda n: store.load(n, base)):
        with pytest.raises(MadxError, match="cannot name a module"):
            act(name)
    assert (tmp_path / "out" / LAYOUT.weights).exists()


def test_links_are_refused_and_removal_takes_the_link_only(base, tmp_path):
    outside, store = save_module(module(base), tmp_path / "outside" / "swa"), Store(tmp_path / "modules")
    store.root.mkdir()
    (store.root / "swa").symlink_to(outside)
    for act in (store.show, lambda n: store.load(n, base)):
        with pytest.raises(StoreError, match="swa is a link; a store reads only its own files"):
            act("swa")
    assert "is a link" in store.verify()[0] and "is a link" in store.list()[0].fault
    with pytest.raises(StoreError, match="is a link, not a folder to replace"):
        store.save(module(base), overwrite=True)
    store.remove("swa")
    assert store.list() == [] and Store(outside.parent).verify() == []
    inner = store.save(module(base))
    (inner / LAYOUT.weights).unlink()
    (inner / LAYOUT.weights).symlink_to(outside / LAYOUT.weights)
    with pytest.raises(StoreError, match="weights.safetensors is a link"):
        store.load("swa", base)
    assert load_module(inner, base), "by its path, as in the cache of a download, it may be read"
    store.remove("swa")
    assert (outside / LAYOUT.weights).exists()


def test_remains_of_one_name_are_told_from_those_of_another(tmp_path):
    for name in (
        ".swa.0123abcd.new",
        ".swa.v2.0123abcd.new",
        ".swa.0123abcd.old",
        ".swa.old",
        "swa.0123abcd.old",
        ".aswa.0123abcd.new",
    ):
        (tmp_path / name).mkdir()
    assert sorted(p.name for p in folders.remains(tmp_path / "swa")) == [".swa.0123abcd.new", ".swa.0123abcd.old"]


# ---- the model card --------------------------------------------------------------------------------------------------


def test_card_says_what_the_hub_and_a_reader_need(base, tmp_path):
    swa = module(base, language="swa", licence="CC-BY-4.0")
    swa.info.training = TRAINING
    swa.info.base = swa.info.base | {"name": "FacebookAI/xlm-roberta-base", "revision": "e73636d"}
    card = (save_module(swa, tmp_path / "swa") / LAYOUT.card).read_text()
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "library_name": "madx",
        "language": ["sw"],
        "license": "cc-by-4.0",
        "base_model": "FacebookAI/xlm-roberta-base",
        "base_model_relation": "adapter",
        "datasets": ["wikiann"],
        "pipeline_tag": "fill-mask",
        "tags": ["madx", "language-module", "cross-lingual", "bottleneck", "invertible"],
    }
    for text in (
        "# swa\n",
        "| bottleneck | reduction_factor | 2.0 |",
        f"| swa.txt | {'ab' * 32} | 12 |",
        "batch.size | 64 |",
        "| perplexity.after | inf |",
        "| steps | 7 |",
        "| revision | e73636d |",
    ):
        assert text in card, text
    assert "juma" not in card, "a card tells nobody's home folder"


def test_card_of_a_task_module_on_a_local_base(base, tmp_path):
    ner = task(base, language="sr-Latn")
    ner.info.base = ner.info.base | {"name": "/home/juma/mini|xlmr"}
    card = (save_module(ner, tmp_path / "ner") / LAYOUT.card).read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["language"] == ["sr"] and front["language_bcp47"] == ["sr-Latn"] and "base_model" not in front
    assert front["pipeline_tag"] == "token-classification" and "ner" in front["tags"] and "license" not in front
    assert "Labels: `O`, `B-PER`, `I-PER`" in card and "| name | mini\\|xlmr |" in card and "juma" not in card
    assert card.count("Not recorded.") == 3


@pytest.mark.parametrize(
    ("role", "training", "expected"),
    [
        (
            "task",
            {
                "data": [{"path": "datasets:o/wikiann:sw:train"}, {"path": "datasets:o/wikiann:sw:validation"}],
                "scores": {"dev": {"f1": 66.5, "recall": 60, "best": True, "note": "x"}},
            },
            (
                {("f1", 66.5), ("recall", 60)},
                "o/wikiann",
                "o/wikiann sw validation",
                "sw",
                "validation",
                "token-classification",
                ["o/wikiann"],
            ),
        ),
        (
            "task",
            {"data": [{"path": "/home/juma/a.conll"}, "/home/juma/dev.conll"], "scores": {"dev": {"f1": 1.0}}},
            ({("f1", 1.0)}, "local", "development data (dev.conll)", None, None, "token-classification", None),
        ),
        (
            "language",
            {
                "data": [{"path": "datasets:imdb:test"}],
                "scores": {
                    "held_out_before": {"perplexity": 9.0},
                    "held_out_after": {"perplexity": 3.5, "loss": "inf"},
                },
            },
            ({("perplexity", 3.5)}, "imdb", "imdb test", None, None, "fill-mask", ["imdb"]),
        ),
        (
            "language",
            {"scores": {"held_out_after": {"perplexity": 3.5}}},
            ({("perplexity", 3.5)}, "local", "held-out part", None, None, "fill-mask", None),
        ),
    ],
)
def test_the_hubs_library_reads_scores_and_data_from_the_card(base, role, training, expected):
    from huggingface_hub import ModelCard

    made = task(base, language="eng") if role == "task" else module(base)
    made.info.training = training
    card = ModelCard(model_card(encode(made, "float32")[0]))
    results = card.data.eval_results
    first = results[0]
    found = {(r.metric_type, r.metric_value) for r in results}
    assert (
        found,
        first.dataset_type,
        first.dataset_name,
        first.dataset_config,
        first.dataset_split,
        first.task_type,
        card.data.datasets,
    ) == expected
    assert card.data.model_name == made.name and card.data.pipeline_tag == expected[5]


@pytest.mark.parametrize(
    "training",
    [
        {"scores": 3},
        {"scores": {"dev": 3}},
        {"scores": {"dev": {}}},
        {"data": 3, "datasets": 4},
        {"data": [None, {}]},
        {"data": ["datasets:"], "scores": {"dev": {"f1": None}}},
    ],
)
def test_a_card_is_made_of_any_record(base, training):
    made = task(base)
    made.info.training = training
    front = yaml.safe_load(model_card(encode(made, "float32")[0]).split("---\n")[1])
    assert "model-index" not in front and "datasets" not in front


@pytest.mark.parametrize(
    ("licence", "keys"),
    [
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("MIT", {"license": "mit"}),
        ("AGPL-3.0-only", {"license": "agpl-3.0"}),
        ("Juma's own", {"license": "other", "license_name": "Juma's own"}),
    ],
)
def test_a_licence_in_the_hubs_words(base, licence, keys):
    made = module(base, licence=licence)
    front = yaml.safe_load(model_card(encode(made, "float32")[0]).split("---\n")[1])
    assert {k: v for k, v in front.items() if k.startswith("license")} == keys


def test_the_code_on_the_card_runs(base, tmp_path, monkeypatch):
    folder = save_module(module(base), tmp_path / "swa")
    code = (folder / LAYOUT.card).read_text().split("```")[1].removeprefix("python\n")
    assert len(code.strip().splitlines()) == 5
    fresh = tiny.base()
    monkeypatch.setattr(madx, "load_base", lambda name: fresh)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    assert str(found["engine"].composition) == "swa" and same(found["engine"].modules["swa"], module(base))


def test_hub_codes_are_of_two_letters_and_name_no_language_twice():
    assert (
        len(HUB_CODES) == 184 and all(len(v) == 2 for v in HUB_CODES.values()) and len(set(HUB_CODES.values())) == 184
    )
    picks = {
        "swa": "sw",
        "eng": "en",
        "deu": "de",
        "zho": "zh",
        "hau": "ha",
        "yor": "yo",
        "xho": "xh",
        "fin": "fi",
        "ind": "id",
    }
    assert all(HUB_CODES[k] == v for k, v in picks.items()) and FORMAT == 1
