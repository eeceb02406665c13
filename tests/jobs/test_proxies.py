"""Proxies in the evaluation, for languages with and without a module: each is a column, each gap has a reason."""

import json

import pytest
import tiny
import tiny_files
from cli_tools import failed, run

from madx.base import load_base
from madx.composition import parse
from madx.data import world
from madx.errors import ConfigError
from madx.jobs import Evaluate, evaluate
from madx.jobs.evaluate import control_compositions
from madx.jobs.proxies import Proxies, likeness, proxy_compositions, proxy_weights
from madx.module import new_module
from madx.report import to_markdown
from madx.store import Store

USE = ["nearest", "weighted", "arithmetic", "emea"]
GIVEN = {"swa": {"hau": 3.0, "yor": 1.0}, "zul": {"yor": 1.0, "hau": 0.5, "swa": 0.5}}
POOL = {"eng": "eng", "hau": "hau", "yor": "yor"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store with modules of eng, hau, swa, yor, a difference of weights for deu, and the task module ner@1, ner@2."""
    at = tmp_path_factory.mktemp("proxies")
    base, store = load_base(tiny_files.save_base(at / "base")), Store(at / "modules")
    for seed, language in enumerate(("eng", "hau", "swa", "yor")):
        store.save(tiny.wake(new_module(language, base, language=language, components="madx"), seed=seed, std=0.1))
    difference = new_module("deu", base, language="deu", components="lt_sft")
    store.save(difference)
    for seed in (1, 2):
        module = new_module(
            f"ner@{seed}",
            base,
            role="task",
            language="eng",
            components="pfeiffer",
            task="ner",
            labels=("O", "B-PER", "B-LOC"),
        )
        module.info.training["seed"] = seed
        store.save(tiny.wake(module, seed=seed, std=0.2))
    for number, name in enumerate(("swa", "zul")):
        tiny_files.write_conll(at / f"{name}.conll", sentences=6, seed=number)
    for language in ("eng", "deu", "swa", "fin"):
        world.write_corpus(language, at / f"{language}.txt", sentences=60, seed=1)
    return at


def settings(folder, **changes):
    given = {
        "base": str(folder / "base"),
        "store": str(folder / "modules"),
        "run": str(folder / "run"),
        "progress": False,
        "targets": {t: str(folder / f"{t}.conll") for t in ("swa", "zul")},
        "mean_of": ["eng", "hau", "swa", "yor"],
        "proxies": {"use": USE, "weights": GIVEN},
    }
    return Evaluate(**(given | changes))


@pytest.fixture(scope="module")
def result(folder):
    return evaluate(settings(folder))


def test_every_proxy_is_a_column_for_languages_with_and_without_a_module(result):
    m = result.matrix
    assert m.columns == ("none", "source", "target", "mean", *USE)
    texts = {(c.target, c.control): c.composition for c in m.cells if c.seed == 2}
    assert texts["swa", "nearest"] == "hau + ner@2" and texts["zul", "nearest"] == "yor + ner@2"
    assert texts["swa", "weighted"] == "average(0.75*hau, 0.25*yor) + ner@2"
    assert texts["zul", "weighted"] == "average(0.5*yor, 0.25*hau, 0.25*swa) + ner@2"
    assert texts["swa", "arithmetic"] == "average(0.9*swa, 0.1*hau) + ner@2"
    assert texts["zul", "arithmetic"] == "average(0.9*yor, 0.1*eng) + ner@2"  # its relative and the source
    assert texts["swa", "emea"] == texts["swa", "mean"] == "average(eng, hau, yor) + ner@2"
    assert texts["zul", "emea"] == "average(eng, hau, swa, yor) + ner@2"
    assert {(g.target, g.control) for g in m.missing} == {("zul", "target")}
    assert all(c.inactive == () and c.explanation["measured"] for c in m.cells)
    assert all(parse(c.composition) is not None for c in m.cells)
    assert len(list((result.folder / "predictions").glob("zul.emea.seed*.conll"))) == 2


def test_the_mixing_is_recorded_and_lowers_the_entropy(result, folder):
    found = [c.explanation["mixing"] for c in result.matrix.cells if c.control == "emea"]
    assert len(found) == 4 and all(f["steps"] == 1 and f["entropy_before"] > 0 for f in found)
    assert all(sum(f["weights"].values()) == pytest.approx(1) for f in found)
    gentle = evaluate(settings(folder, controls=["none"], proxies={"use": ["emea"], "emea": {"steps": 8, "rate": 1.0}}))
    records = [c.explanation["mixing"] for c in gentle.matrix.cells if c.control == "emea"]
    assert all(r["entropy_after"] < r["entropy_before"] for r in records)
    assert records[0]["entropy_before"] == pytest.approx(found[0]["entropy_before"], abs=1e-6)


def test_a_second_run_gives_the_same_scores(result, folder):
    targets = {"zul": str(folder / "zul.conll")}
    again = evaluate(
        settings(
            folder, run=str(folder / "again"), targets=targets, proxies={"use": USE, "weights": {"zul": GIVEN["zul"]}}
        )
    )
    assert list(again.matrix.cells) == [c for c in result.matrix.cells if c.target == "zul"]


def test_nothing_is_missing_without_a_reason(folder):
    m = evaluate(
        settings(folder, mean_of=["swa", "deu"], proxies={"use": USE}, only={"swa": ["none", "nearest", "emea"]})
    ).matrix
    why = {(g.target, g.control): g.reason for g in m.missing}
    assert why["swa", "nearest"] == "no text of swa, deu to compare: give proxies.texts, or proxies.weights.swa"
    assert why["swa", "weighted"] == "left out by the setting only.swa"
    assert why["swa", "emea"] == "one other language module: two are needed to mix"
    assert "deu is a weight delta" in why["zul", "emea"]
    assert "no text of zul, swa, deu" in why["zul", "arithmetic"]
    assert all(reason in to_markdown(m) for reason in why.values())
    assert {r.control for r in m.table() if r.target == "swa" and r.mean is not None} == {"none"}


def test_weights_come_from_texts(folder, caplog):
    proxies = Proxies(
        use=["weighted"], texts={x: str(folder / f"{x}.txt") for x in ("eng", "deu", "swa", "fin")}, sharpness=4.0
    )
    alike = likeness(proxies)
    weights = proxy_weights(proxies, "fin", pool={"eng": "eng", "deu": "deu", "swa_2": "swa"}, alike=alike)
    expected = {m: alike["fin"][x] ** 4 for m, x in (("eng", "eng"), ("deu", "deu"), ("swa_2", "swa"))}
    assert weights == pytest.approx({m: w / sum(expected.values()) for m, w in expected.items()}, abs=1e-4)
    assert sum(weights.values()) == pytest.approx(1, abs=1e-12)
    one = proxies.model_copy(update={"top": 1})
    assert list(proxy_weights(one, "fin", pool={"eng": "eng", "swa": "swa"}, alike=alike).values()) == [1.0]
    assert "mostly chance" in caplog.text  # 60 sentences
    given = proxies.model_copy(update={"weights": {"fin": {"swa": 2.0, "eng": 6.0}}})
    assert proxy_weights(given, "fin", pool={}, alike=alike) == {"eng": 0.75, "swa": 0.25}


def compositions(proxies, **changes):
    given = {"language": "zul", "own": None, "source": "eng", "pool": POOL, "settings": proxies, "alike": {}}
    return proxy_compositions("ner", **(given | changes))


def test_arithmetic_in_every_case():
    found = compositions(Proxies(relatives={"zul": "hau"}, share=0.7))
    assert str(found["arithmetic"]) == "average(0.7*hau, 0.3*eng) + ner" and isinstance(found["nearest"], str)
    assert "itself: see source" in compositions(Proxies(relatives={"zul": "eng"}))["arithmetic"]
    assert "neither" in compositions(Proxies(relatives={"zul": "hau"}), source=None)["arithmetic"]
    beyond = compositions(Proxies(relatives={"zul": "hau"}, share=1.25), own="zul")["arithmetic"]
    assert str(beyond) == "average(1.25*zul, -0.25*hau) + ner"  # a negated relative
    assert str(compositions(Proxies(relatives={"zul": "hau"}, share=1.0), own="zul")["arithmetic"]) == "zul + ner"
    assert "no other language module" in compositions(Proxies(), pool={})["weighted"]


def test_the_controls_are_what_they_were():
    found = control_compositions(
        "ner", language="swa", source="eng", modules={"eng": "eng", "swa": "swa", "hau": "hau"}
    )
    assert {k: str(v) for k, v in found.items()} == {
        "none": "ner",
        "source": "eng + ner",
        "target": "swa + ner",
        "mean": "average(eng, hau) + ner",
    }


@pytest.mark.parametrize(
    "changes, text",
    [
        (
            {"proxies": {"use": ["weighted"], "weights": {"swah": {"hau": 1.0}}}},
            "proxies.weights speaks of 'swah'.*did you mean 'swa'",
        ),
        ({"proxies": {"use": ["arithmetic"], "relatives": {"hau": "yor"}}}, "proxies.relatives speaks of 'hau'"),
        ({"proxies": {"use": ["weighted"], "weights": {"swa": {"swa": 1.0}}}}, "names 'swa', the target's own module"),
        ({"proxies": {"use": ["weighted"], "weights": {"swa": {"hau": -1.0}}}}, "proxies.weights.swa: .*not negative"),
        ({"proxies": {"use": ["weighted"], "weights": {"swa": {}}}}, "proxies.weights.swa: nothing to weigh"),
        ({"proxies": {"weights": GIVEN}}, "none is chosen: set proxies.use"),
        ({"only": {"hau": ["none"]}}, "only speaks of 'hau'"),
        ({"only": {"swa": ["none", "nearest"]}, "proxies": {}}, "only.swa names nearest, not chosen"),
    ],
)
def test_bad_choices(folder, changes, text):
    with pytest.raises(ConfigError, match=text):
        evaluate(settings(folder, **changes))


def test_a_module_that_is_not_there_is_named(folder):
    from madx.errors import StoreError

    with pytest.raises(StoreError, match="hua"):
        evaluate(settings(folder, proxies={"use": ["weighted"], "weights": {"swa": {"hua": 1.0}}}))


def test_similarity_by_command(folder):
    texts = [f"{x}={folder / x}.txt" for x in ("eng", "deu", "swa")]
    shown = run("similarity", *texts, "--top", "1")
    assert shown.exit_code == 0 and "    deu: {eng: 1}" in shown.stdout and "weights:" in shown.stdout
    record = json.loads(run("similarity", *texts, "--json", "--measure", "cosine").stdout)
    assert record["similarity"]["eng"]["deu"] == record["similarity"]["deu"]["eng"] and record["measure"] == "cosine"
    assert sum(record["weights"]["swa"].values()) == pytest.approx(1)
    assert "one text for each" in failed(run("similarity", texts[0], texts[0]))
    assert "LANGUAGE=PATH" in failed(run("similarity", "swa"))
