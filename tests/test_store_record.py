"""`module.json`: its checksum tells every change, every field has a type, and one damaged record hides no other."""

import json
import math
import re

import pytest
import tiny
from cli_tools import run
from hypothesis import given, settings
from hypothesis import strategies as st
from store_tools import TRAINING, alter, mended, module, task

from madx.errors import StoreError
from madx.store import FORMAT, LAYOUT, Store, load_module, read_info, save_module
from madx.store.module_json import CHECKSUM, checksum, from_text


@pytest.fixture(scope="module")
def base():
    return tiny.base()


@pytest.fixture(scope="module")
def record(base, tmp_path_factory):
    """The content of a `module.json`."""
    made = task(base, language="eng", licence="MIT")
    made.info.training = TRAINING
    return json.loads((save_module(made, tmp_path_factory.mktemp("made") / "ner") / LAYOUT.manifest).read_text())


def leaves(value, at=()):
    """Every path to a value that holds no others."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path for key, inside in inner for path in leaves(inside, (*at, key))]
    return found or [at]


def put(content, path, value):
    """A copy of the content with another value at a path."""
    copy = json.loads(json.dumps(content))
    inside = copy
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return copy


def read(content):
    return from_text(json.dumps(content).encode(), "module.json")


# ---- the checksum ----------------------------------------------------------------------------------------------------


def test_the_checksum_is_of_canonical_json(record):
    assert record["format"] == FORMAT == 2 and record[CHECKSUM] == checksum(record)
    assert read(record) == read(dict(reversed(record.items()))), "neither the order of the keys nor spaces count"
    assert checksum({"b": [1.0, "ẹ"], "a": None}) == checksum({"a": None, "b": [1.0, "ẹ"], CHECKSUM: "x"})
    assert checksum({"a": 1}) != checksum({"a": 1.0}) != checksum({"a": "1.0"})


def test_every_changed_value_is_told(record):
    assert len(paths := [path for path in leaves(record) if path != ("format",)]) > 30
    for path in paths:
        for value in ("altered", 5, None):
            altered = put(record, path, value)
            if altered != record:
                with pytest.raises(StoreError, match=r"(?s)module.json is damaged or was altered:.*checksum: "):
                    read(altered)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(labels=["O", "I-PER", "B-PER"]),
        lambda c: c["training"]["scores"].update(f1=99.0),
        lambda c: c["training"].update(note="mine"),
        lambda c: c["training"].pop("seed"),
        lambda c: c["components"][0]["settings"].update(activation="gelu"),
    ],
)
def test_an_altered_record_is_refused_everywhere_with_the_way_out(change, base, tmp_path):
    store = Store(tmp_path)
    made = task(base)
    made.info.training = TRAINING
    folder = store.save(made)
    alter(folder, change, mend=False)
    for act in (lambda: store.load("ner", base), lambda: store.show("ner"), lambda: read_info(folder)):
        with pytest.raises(StoreError, match=r"module.json is damaged or was altered:\s+checksum: .*fetch the module"):
            act()
    assert "checksum" in store.verify()[0] and "checksum" in store.list()[0].fault and store.list()[0].info is None
    alter(folder, lambda c: None)
    assert store.verify() == [], "the same record with its own checksum is a record"


def test_a_record_without_its_checksum_is_damaged(record):
    with pytest.raises(StoreError, match="checksum: missing"):
        read({key: value for key, value in record.items() if key != CHECKSUM})
    with pytest.raises(StoreError, match=re.escape("checksum: 5")):
        read(record | {CHECKSUM: 5})


def test_format_1_is_no_way_round_the_checksum(record):
    with pytest.raises(StoreError, match="checksum: unknown key"):
        read(record | {"format": 1})


# ---- types -----------------------------------------------------------------------------------------------------------

SHA = "0" * 64
WRONG = [
    ({"scores": 3}, "training.scores: "),
    ({"scores": {"dev": 3}}, "training.scores: dev is 3; expected metrics with their scores"),
    ({"scores": {"dev": {"f1": True}}}, "training.scores.dev.f1: .*got true"),
    ({"scores": {"dev": {"f1": None}}}, "training.scores.dev.f1: .*got null"),
    ({"scores": {"f1": "high"}}, "training.scores.f1: .*'inf', '-inf' or 'nan'.*got \"high\""),
    ({"data": 3}, "training.data: .*got 3"),
    ({"data": ["a.txt"]}, 'training.data.0: .*got "a.txt"'),
    ({"data": [{"sha256": None}]}, "training.data.0.path: missing"),
    ({"data": [{"path": "a", "sha256": "ab"}]}, 'training.data.0.sha256: .*got "ab"'),
    ({"data": [{"path": "a", "bytes": -1}]}, "training.data.0.bytes: .*got -1"),
    ({"datasets": "wikiann"}, "training.datasets: "),
    ({"seed": "1"}, "training.seed: expected integer"),
    ({"seed": 1.5}, "training.seed: "),
    ({"steps": -1}, "training.steps: "),
    ({"best_step": True}, "training.best_step: "),
    ({"seconds": "long"}, "training.seconds: "),
    ({"job": 1, "precision": 2}, "training.job: .*training.precision: "),
    ({"settings": []}, "training.settings: "),
    ({"corpus": {"tokens": "many"}}, "training.corpus.tokens: "),
    ({"composition": ["swa"]}, "training.composition: "),
    ({"sources": {"eng": "eng + ner"}}, "training.sources.eng: "),
    ({"language_modules": {"eng": None}}, "training.language_modules.eng: "),
    ({"language_module": "eng"}, "training.language_module: "),
    ({"explanation": "all act"}, "training.explanation: "),
    ({"versions": {"torch": 2.13}}, "training.versions.torch: "),
    ({"history": [3]}, "training.history.0: "),
    ({"imported": {"sha256": SHA}}, "training.imported.format: missing"),
    ({"pulled": {"hub": "h", "repository": "r", "revision": 3, "name": "n"}}, "training.pulled.revision: "),
]


@pytest.mark.parametrize(("training", "message"), WRONG)
def test_a_training_record_of_another_type_is_neither_written_nor_read(training, message, base, record, tmp_path):
    made = module(base)
    made.info.training = training
    with pytest.raises(StoreError, match=f"(?s)The module 'swa' cannot be stored:.*{message}"):
        save_module(made, tmp_path / "swa")
    assert not list(tmp_path.iterdir())
    with pytest.raises(StoreError, match=f"(?s)module.json is damaged or was altered:.*{message}"):
        read(mended(record | {"training": training}))


RIGHT = {
    "job": "train-task",
    "settings": {"sources": {"eng": {"data": "a"}}, "train": None},
    "data": [{"path": "datasets:a:b:c", "sha256": None}, {"path": "b", "sha256": SHA, "bytes": 0, "lines": 3}],
    "corpus": {"tokens": 9, "share": 0.5},
    "seed": -1,
    "steps": 0,
    "seconds": 3,
    "precision": "bf16",
    "sources": {"eng": ["eng + ner", "ner"]},
    "language_modules": {"eng": SHA},
    "language_module": None,
    "explanation": {"actions": []},
    "scores": {"dev": {"f1": 1, "loss": "-inf"}, "other": {"x": 2.5}, "f1": "nan"},
    "history": [{"step": 1, "loss": 0.5, "phase": "sparse"}],
    "imported": {"format": "adapterhub", "sha256": SHA, "version": "1.2"},
    "pulled": {"hub": "h", "repository": "r", "revision": "c", "name": "n"},
    "my own": [{"anything": None}],
}


def test_a_training_record_comes_back_as_it_was(base, tmp_path):
    made = module(base)
    made.info.training = RIGHT
    assert read_info(save_module(made, tmp_path / "swa")).training == RIGHT
    assert load_module(tmp_path / "swa", base).info == made.info


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (10**400, "a whole number of more than 300 digits"),
        ([10**5000], "a whole number of more than 300 digits"),
        ("deep", "more than 64 levels"),
        ("inside itself", "more than 64 levels"),
        ("large", "could not be read again: more than"),
        ("wide", "could not be read again: more than"),
    ],
)
def test_a_record_that_could_not_be_read_again_is_not_written(value, message, base, tmp_path, monkeypatch):
    monkeypatch.setattr("madx.store.module_json.MOST_BYTES", 50_000)
    monkeypatch.setattr("madx.store.module_json.MOST_VALUES", 2000)
    made, inside = module(base), []
    inside.append(inside)
    deep = []
    for _ in range(100):
        deep = [deep]
    named = {"deep": deep, "inside itself": inside, "large": "x" * 60_000, "wide": [0] * 3000}
    made.info.training = {"mine": named.get(value, value) if isinstance(value, str) else value}
    with pytest.raises(StoreError, match=message):
        save_module(made, tmp_path / "swa")
    assert not list(tmp_path.iterdir())


def test_every_field_has_a_type(record):
    anything = {("format",), (CHECKSUM,)}
    for path in {path[:1] for path in leaves(record)} - anything:
        with pytest.raises(StoreError, match=path[0]):
            read(mended(put(record, path, 1.5)))


@pytest.mark.parametrize("text", [r"\ud800", r"a\udfff"])
@pytest.mark.parametrize("field", ["licence", "task"])
def test_half_a_character_is_no_text(text, field, record, base, tmp_path):
    data = json.dumps(record | {field: "MARK"}).replace("MARK", text).encode()
    with pytest.raises(StoreError, match="cannot be read as JSON .*surrogates"):
        from_text(data, "module.json")
    made = task(base)
    setattr(made.info, field, json.loads(f'"{text}"'))
    with pytest.raises(StoreError, match=f"{field}: .*UTF-8"):
        save_module(made, tmp_path / "ner")


# ---- one damaged module hides no other -------------------------------------------------------------------------------

ODD = st.sampled_from([None, True, -1, 1.5, "", "x", "\x00", [], {}, [[]], {"": None}, 10**30, "../x", {"a": 1}])


@pytest.fixture(scope="module")
def two(base, tmp_path_factory):
    """A store of the modules `ner` and `other`."""
    store = Store(tmp_path_factory.mktemp("two"))
    store.save(task(base)), store.save(task(base, "other"))
    return store


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.data())
def test_any_value_anywhere_is_read_or_refused_and_hides_no_other_module(two, record, data):
    path = data.draw(st.sampled_from(leaves(record) + [(key,) for key in record]))
    altered = mended(put(record, path, data.draw(ODD)))
    (two.root / "other" / LAYOUT.manifest).write_text(json.dumps(altered))
    ner, other = two.list()
    assert (ner.name, ner.fault, other.name) == ("ner", None, "other")
    assert other.fault, "it is the record of another module at least"
    assert all(fault.startswith("other: ") for fault in two.verify())


@pytest.mark.parametrize(
    ("scores", "shown"),
    [
        ({"held_out_after": {"perplexity": 9.5}}, "perplexity ? -> 9.5"),
        ({"held_out_before": {"perplexity": math.inf}, "held_out_after": {"loss": 1}}, "perplexity inf -> ?"),
        ({"dev": {"f1": 66.25}}, "f1 66.2"),
        ({"dev": {}, "f1": 3}, "bottleneck"),
    ],
)
def test_the_command_lists_modules_of_any_scores(scores, shown, base, tmp_path):
    made = module(base)
    made.info.training = {"scores": scores}
    Store(tmp_path).save(made)
    assert shown in " ".join(run("modules", "list", "--store", tmp_path).stdout.split())


def test_a_store_of_many_kinds_of_damage_lists_them_all(base, tmp_path):
    store = Store(tmp_path)
    damages = {
        "cut": lambda file: file.write_bytes(file.read_bytes()[:50]),
        "deep": lambda file: file.write_text("[" * 100_000),
        "empty": lambda file: file.write_text(""),
        "folder": lambda file: (file.unlink(), file.mkdir()),
        "gone": lambda file: file.unlink(),
        "number": lambda file: file.write_text('{"format": 2, "name": ' + "9" * 5000 + "}"),
        "also.wide": lambda file: file.write_text(json.dumps({"format": 2, "labels": [str(k) for k in range(10_000)]})),
    }
    for name, damage in damages.items():
        damage(store.save(module(base, name)) / LAYOUT.manifest)
    store.save(module(base, "whole"))
    rows = store.list()
    assert [row.name for row in rows] == [*sorted(damages), "whole"]
    assert all(row.fault for row in rows[:-1]) and rows[-1].fault is None
