"""The setting `fuse` of train-task and train-language: training, resuming, storing, evaluating, and what is refused."""

from pathlib import Path

import pytest
import tiny
import torch
from cli_tools import captured, failed, run
from tiny_files import fill

import madx
from madx.base import load_base
from madx.composition import Stack, parse
from madx.errors import CompositionError, ConfigError, StoreError
from madx.jobs import Predictor
from madx.jobs.fusions import remarks_on_fusions, spelled_out, with_joined
from madx.jobs.reuse import identity, stored, taking_turns
from madx.module import new_module
from madx.store import Store

LABELS = ("O", "B-PER", "B-LOC")
LOOP = {"learning_rate": 0.03, "progress": False, "evaluate_every": 2}
TEXT = {"base": "base", "block_size": 16, "batch_size": 4, "held_out_blocks": 4, "cache": "cache", "train": LOOP}
TASK = {"base": "base", "language": "eng", "data": "train.conll", "dev": "dev.conll", "seeds": [1], "train": LOOP}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, data, and modules of random weights: three languages (hau with an invertible component), two tasks."""
    made = fill(tmp_path_factory.mktemp("fusion"))
    base, store = load_base(str(made / "base")), Store(made / "modules")
    for seed, (name, parts) in enumerate({"eng": "pfeiffer", "swa": "houlsby", "hau": "madx"}.items()):
        store.save(tiny.wake(new_module(name, base, language=name, components=parts), seed=seed, std=0.1))
    for seed, name in enumerate(("one", "two")):
        own = {"role": "task", "task": "ner", "labels": LABELS, "language": "eng"}
        store.save(tiny.wake(new_module(name, base, components="pfeiffer2", **own), seed=5 + seed, std=0.1))
    return made


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """A fusion of two task modules, and one of two language modules on text, trained in the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        task = madx.train_task(**TASK, name="both", fuse=["one", "two"], epochs=3)
        text = madx.train_language(**TEXT, language="yor", corpus="swa.txt", steps=6, fuse=["eng", "swa"])
    return task, text


def test_a_fusion_of_task_modules_is_trained_over_the_language_module(here, trained):
    result, module = trained[0], trained[0].modules[0]
    history = [entry["loss"] for entry in result.training[0].history]
    assert history[-1] < history[0]
    info = Store("modules").show("both").info
    assert (info.role, info.task, info.labels) == ("fusion", "ner", module.info.labels) and "B-PER" in info.labels
    assert info.training["composition"] == "eng + fuse(one, two; both)" and info.training["joins"] == ["one", "two"]
    assert set(info.training["language_modules"]) == {"eng", "one", "two"}
    assert info.components["fusion"].places == ("ffn",) and info.components["fusion"].leave_out == (2,)  # as pfeiffer2
    weights = [a["weights"] for a in info.training["explanation"]["actions"] if a["module"] == "both"]
    assert weights == [None, None]  # nothing was measured


def test_a_fusion_of_language_modules_is_trained_on_text(here, trained):
    result = trained[1]
    assert result.after["perplexity"] < result.before["perplexity"]
    info = Store("modules").show("yor").info
    assert (info.role, info.language, info.labels) == ("fusion", "yor", ()) and info.training["joins"] == ["eng", "swa"]
    assert info.components["fusion"].places == ("attention", "ffn")  # houlsby acts at both


def test_fused_modules_stay_as_they_are(here, trained):
    assert Store("modules").verify() == []


def test_language_modules_are_fused_on_labelled_data_in_the_place_of_the_sources_own(here):
    result = madx.train_task(**TASK, name="langs", fuse=["eng", "hau"], epochs=1, overwrite=True)
    assert result.modules[0].info.training["composition"] == "fuse(eng, hau; langs)"


def test_evaluation_puts_fusions_where_their_names_stand(here, trained):
    done = madx.evaluate(task_module="both", targets={"swa": "swa-test.conll"}, progress=False, run="runs/e1")
    assert {c.control: c.composition for c in done.matrix.cells} == {
        "none": "fuse(one, two; both)",
        "source": "eng + fuse(one, two; both)",
        "target": "swa + fuse(one, two; both)",
        "mean": "eng + fuse(one, two; both)",
    }
    assert all(a["weights"] for c in done.matrix.cells for a in c.explanation["actions"] if a["module"] == "both")
    done = madx.evaluate(
        task_module="one", targets={"yor": "swa-test.conll", "swa": "swa-test.conll"}, progress=False, run="runs/e2"
    )
    found = {(c.target, c.control): c.composition for c in done.matrix.cells}
    assert found["yor", "target"] == "fuse(eng, swa; yor) + one"
    assert found["swa", "mean"] == "average(eng, fuse(eng, swa; yor)) + one"
    assert "[weights eng" in (here / "runs" / "e2" / "report.html").read_text(encoding="utf-8")


def test_a_module_that_is_fused_cannot_stand_under_its_fusion(here):
    madx.train_task(**TASK, name="langs2", fuse=["eng", "swa"], epochs=1, overwrite=True)
    done = madx.evaluate(task_module="langs2", targets={"swa": "swa-test.conll"}, progress=False, run="runs/e3")
    assert {c.composition for c in done.matrix.cells} == {"fuse(eng, swa; langs2)"}
    assert all("twice" in m.reason for m in done.matrix.missing) and done.matrix.missing


def test_predicting_says_when_others_are_joined(here, trained, caplog):
    assert next(Predictor("fuse(one, two; both)")(["Juma works"])).tags and not caplog.records
    Predictor("eng + fuse(two, one; both)")
    assert not caplog.records
    Predictor("fuse(eng, hau; yor) + one")
    assert "yor was trained over eng, swa, and joins eng, hau here" in caplog.text
    with pytest.raises(CompositionError, match=r"fuse\(one, two; both\)"):
        Predictor("eng + both")
    infos = {name: Store("modules").show(name).info for name in ("eng", "hau", "yor", "one", "two", "both")}
    route = parse("route(average(eng, fuse(eng, one; yor)), 0.5*fuse(one, hau; both))")
    assert [r.split()[0] for r in remarks_on_fusions(route, infos)] == ["yor", "both"]


def test_names_are_spelled_out_everywhere():
    joins = {"f": ("a", "b")}
    for given, wanted in (
        ("f + ner", "fuse(a, b; f) + ner"),
        ("average(0.7*f, 0.3*c) + ner", "average(0.7*fuse(a, b; f), 0.3*c) + ner"),
        ("0.5*(c + f)", "0.5*(c + fuse(a, b; f))"),
        ("fuse(f, c; g)", "fuse(fuse(a, b; f), c; g)"),
        ("ties(f, c)", "ties(fuse(a, b; f), c)"),
        ("base", "base"),
    ):
        assert str(spelled_out(parse(given), joins)) == wanted
    assert spelled_out(Stack("f"), {}) == Stack("f")
    with pytest.raises(CompositionError, match="'a' twice"):
        spelled_out(Stack("a", "f"), joins)


def test_a_stopped_training_ends_with_the_same_weights(here, trained, monkeypatch):
    from madx.training import loop

    whole, steps = loop.Loop.train_step, []

    def stops(self, **how):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return whole(self, **how)

    job = TASK | {"train": LOOP | {"checkpoint_every": 1}} | {"name": "again", "fuse": ["one", "two"], "epochs": 3}
    monkeypatch.setattr(loop.Loop, "train_step", stops)
    with pytest.raises(KeyboardInterrupt):
        madx.train_task(**job)
    monkeypatch.setattr(loop.Loop, "train_step", whole)
    module = madx.train_task(**job).modules[0]
    first = trained[0].modules[0].tensors()
    assert all(torch.equal(tensor, first[name]) for name, tensor in module.tensors().items())


def test_a_stored_fusion_is_found_again_by_what_it_joins(here, trained):
    store, base = Store("modules"), load_base("base")
    job = madx.TrainTask(**TASK, name="both", fuse=["one", "two"], epochs=3)
    under = store.show("eng").weights.sha256
    wanted = identity(job, base, seed=1, under=under) | taking_turns(store, job)
    assert stored(store, "both", wanted, type(job))
    other = job.model_copy(update={"fuse": ["two", "one"]})
    assert not stored(store, "both", identity(other, base, seed=1, under=under) | taking_turns(store, other), type(job))


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"fuse": ["one"]}, ConfigError, "fuse names one: .*at least two"),
        ({"fuse": ["one", "one"]}, ConfigError, "each named once"),
        ({"fuse": ["one", "tow"]}, StoreError, "tow.*did you mean 'two'"),
        ({"fuse": ["one", "eng"]}, ConfigError, r"one \(task\), eng \(language\)"),
        ({"fuse": ["one", "two"], "name": "one"}, ConfigError, "'one'.*set name"),
        ({"fuse": ["one", "two"], "components": "lora"}, ConfigError, "lora.*join no modules.*fusion"),
        ({"fuse": ["one", "two"], "components": "head_only"}, ConfigError, "head_only.*join no modules"),
        ({"components": "fusion"}, ConfigError, "role='fusion'.*setting fuse"),
        ({"fuse": ["eng", "swa"], "cycle": ["hau"]}, ConfigError, "cycle.*drop one"),
        ({"fuse": ["eng", "swa"], "language_module": "eng"}, CompositionError, "'eng' twice"),
    ],
)
def test_what_cannot_be_fused_is_refused(here, settings, error, words):
    with pytest.raises(error, match=words):
        madx.train_task(**TASK | {"name": "bad", "epochs": 1} | settings)
    assert "bad" not in Store("modules").names()


def test_what_cannot_be_fused_on_text_is_refused(here, trained):
    for fuse, words in (
        (["eng", "hau"], "hau cannot be fused on raw text.*components: pfeiffer"),
        (["eng", "one"], "'one'.*role task"),
        (["eng", "both"], "'both'.*role fusion"),
        (["eng"], "at least two"),
    ):
        with pytest.raises(ConfigError, match=words):
            madx.train_language(**TEXT, language="zul", corpus="swa.txt", steps=2, fuse=fuse)


def test_a_joined_module_that_is_gone_is_named(here, trained, tmp_path):
    store = Store(tmp_path)
    for name in ("both", "one"):
        store.save(Store("modules").load(name, load_base("base")))
    with pytest.raises(ConfigError, match="'both' joins one, two, but two is not in"):
        with_joined(store, ["both"])


def test_the_flag_and_the_file(here, monkeypatch, tmp_path):
    flags = "--base base --language eng --data train.conll --dev dev.conll".split()
    assert captured(monkeypatch, "train_task", "train-task", *flags, "--fuse", "one,two").fuse == ["one", "two"]
    flags = "--base base --language yor --corpus swa.txt --fuse eng,swa".split()
    found = captured(monkeypatch, "train_language", "train-language", *flags)
    assert (found.fuse, found.components) == (["eng", "swa"], "fusion")
    flags += ["--set", "components.fusion.value=false"]
    assert captured(monkeypatch, "train_language", "train-language", *flags).components == {
        "preset": "fusion",
        "fusion": {"value": False},
    }
    file = Path(tmp_path / "f.yaml")
    file.write_text("base: base\nlanguage: yor\ncorpus: swa.txt\nfuse: [eng, swa]\n", encoding="utf-8")
    assert captured(monkeypatch, "train_language", "train-language", str(file)).components == "fusion"
    assert captured(monkeypatch, "train_language", "train-language", *flags[:6]).components == "madx"


def test_on_the_command_line(here, trained):
    words = "train-language --base base --language yor --corpus swa.txt --name two_langs --fuse eng,haa".split()
    assert "did you mean 'hau'" in failed(run(*words))
    done = run("explain", "--stack", "fuse(eng, swa; yor) + one", "--text", "Juma works", "--base", "base")
    assert done.exit_code == 0 and "yor: fusion query, key, value" in done.stdout, (done.output, done.exception)
    assert "[weights eng " in done.stdout and "swa " in done.stdout


def test_the_card_names_what_is_joined(here, trained):
    card = (here / "modules" / "both" / "README.md").read_text(encoding="utf-8")
    assert "engine.activate('fuse(one, two; both)')" in card and "`one`, `two` would make" in card


def test_a_task_module_is_trained_over_a_fusion_of_language_modules(here, trained):
    result = madx.train_task(**TASK, name="above", language_module="yor", epochs=1)
    training = result.modules[0].info.training
    assert training["composition"] == "fuse(eng, swa; yor) + above" and "joins" not in training
    assert set(training["language_modules"]) == {"eng", "swa", "yor"}
    for wrong in ("both", "one"):
        with pytest.raises(ConfigError, match=f"'{wrong}' has the role"):
            madx.train_task(**TASK, name="wrong", language_module=wrong, epochs=1)


def test_lines_of_a_language_go_to_the_branch_of_its_fusion(here, trained):
    found = Predictor("route(fuse(eng, swa; yor) + one, hau + one)")
    assert found.languages == {"yor": 0, "hau": 1}
    assert [p.language for p in found([("yor", "Juma works"), ("hau", "Anna")])] == ["yor", "hau"]
