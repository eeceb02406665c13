"""Saving and loading one module: bit-exact round trips, and refusals of what must not be stored."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from store_tools import TRAINING, module, same, task

from madx.engine import Engine
from madx.errors import ConfigError, StoreError
from madx.module import ModuleInfo
from madx.module.presets import PRESETS, make_components
from madx.store import LAYOUT, Store, check_language, load_module, read_info, save_module
from madx.store.card import model_card
from madx.store.manifest import WeightsRecord
from madx.store.module_json import from_text, manifest_of, to_text


@pytest.fixture(scope="module")
def base():
    return tiny.base()


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
def test_every_preset_is_stored_whole(preset, tmp_path):
    base = tiny.base(hidden_size=128)  # wide enough for the highest rank and the narrowest Compacter of a preset
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
        "scores": {"f1": np.float32(0.5), "loss": np.float64("nan"), "right": np.int32(7)},
    }
    found = read_info(save_module(swa, tmp_path / "swa")).training
    assert found == {"steps": 3, "scores": {"f1": 0.5, "loss": "nan", "right": 7}}


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
        ConfigError, match="ISO 639-3 code of three small letters .*BCP 47.*Only a task or fusion module may have none"
    ):
        check_language(code)
