"""A task module that is its head alone, the feature-based baseline: training, store, explanation and export."""

import pytest
import tiny
import tiny_runs
import torch
from cli_tools import run
from store_tools import alter
from tiny import snapshot, unchanged

from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.errors import ConfigError, StoreError
from madx.interop import export_plain
from madx.module import new_module
from madx.store import Store

LABELS = LabelSet.from_sentences(tiny_runs.sentences()).tags


def head_only(base, name="ner"):
    return new_module(name, base, role="task", language="eng", components="head_only", task="ner", labels=LABELS)


def test_it_trains_its_head_and_nothing_else():
    engine = tiny_runs.engine("ner")
    engine.activate(None)
    engine.detach("ner")
    torch.manual_seed(0)
    module = engine.attach(head_only(engine.base))
    assert module.parameter_count() == (engine.base.width + 1) * len(LABELS)
    before = snapshot(engine.base)
    engine.activate("ner")
    _, result = tiny_runs.train("ner", made=engine, steps=20)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert unchanged(engine.base, before)


def test_it_is_not_called_inactive_unless_another_head_predicts():
    engine = Engine(tiny.base())
    for name in ("ner", "other"):
        engine.attach(head_only(engine.base, name))
    engine.attach(tiny.wake(new_module("eng", engine.base, language="eng", components="madx")))
    engine.activate("eng + ner")
    explained = engine.explain(*tiny.inputs())
    assert explained.inactive == [] and explained.head == f"ner: {len(LABELS)} labels"
    engine.activate("ner + other")
    assert engine.explain(*tiny.inputs()).inactive == ["ner"]


def test_it_is_stored_read_listed_and_exported(tmp_path):
    base = tiny.base()
    store, engine = Store(tmp_path / "modules"), Engine(base)
    module = head_only(base)
    store.save(module)
    again = store.load("ner", base)
    assert again.info.components == {} and torch.equal(again.head.weight, module.head.weight)
    assert store.verify() == [] and store.verify("ner", base=base) == []
    assert "head alone" in run("modules", "list", "--store", tmp_path / "modules").stdout
    engine.attach(again)
    engine.activate("ner")
    assert (export_plain(engine, tmp_path / "plain") / "model.safetensors").exists()


def test_neither_components_nor_labels_is_refused(tmp_path):
    base = tiny.base()
    with pytest.raises(ConfigError, match="has no components"):
        new_module("eng", base, language="eng", components="head_only")
    folder = Store(tmp_path).save(head_only(base))
    alter(folder, lambda content: content.update(labels=[]))
    with pytest.raises(StoreError, match="at least one component, or labels"):
        Store(tmp_path).load("ner", base)
