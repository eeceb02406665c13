"""A whole transfer matrix on a tiny base: everything used again, nothing lost to an error, faults told at once."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from cli_tools import failed, run
from tiny_files import fill, write_conll

import madx.jobs.reuse as reuse
from madx.config import dump
from madx.data.text.files import sha256_of
from madx.errors import ConfigError, TrainingError
from madx.jobs import Matrix, make_plan, matrix
from madx.jobs.matrix.settings import JobsOf
from madx.store import Store

pytestmark = pytest.mark.slow  # a whole matrix of modules is trained


def settings(**changes) -> Matrix:
    values = {
        "base": "base",
        "corpora": {"eng": "eng.txt", "swa": "swa.txt"},
        "seeds": [1, 2],
        "progress": False,
        "run": "results",
        "tasks": {
            "ner": {
                "train": {"eng": "train.conll"},
                "dev": {"eng": "dev.conll"},
                "test": {"eng": "eng-test.conll", "swa": "swa-test.conll"},
            }
        },
        "module_types": {"adapters": {}, "head": {"language": None, "task": {"components": "head_only"}}},
        "language": {"steps": 3, "block_size": 16, "batch_size": 4, "held_out_blocks": 4},
        "task": {"epochs": 1, "train": {"learning_rate": 1e-2, "evaluate_every": 2}},
    }
    return Matrix.model_validate(values | changes)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder and the result of a first run."""
    folder = fill(tmp_path_factory.mktemp("matrix"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, matrix(settings())


@pytest.fixture
def here(first, monkeypatch) -> Path:
    monkeypatch.chdir(first[0])
    return first[0]


def shape(plan) -> dict[str, bool]:
    return {t.name.partition("-")[0] + t.name[-2:] + " " + t.what.split(", ")[1]: t.stored for t in plan.trainings}


def test_every_module_is_trained_once_and_every_entry_has_its_matrix(first):
    folder, result = first
    assert len(result.trained) == 2 + 2 + 2 and result.reused == [] and result.failures == []
    assert sorted(Store(folder / "modules").names()) == sorted(result.trained)
    assert [(e.task, e.module_type, e.source) for e in result.matrices.entries] == [
        ("ner", "adapters", "eng"),
        ("ner", "head", "eng"),
    ]
    adapters, head = result.matrices.entries
    assert {(c.target, c.control, c.seed) for c in adapters.matrix.cells if c.target == "swa"} == {
        ("swa", control, seed) for control in ("none", "source", "target", "mean") for seed in (1, 2)
    }
    assert {c.control for c in head.matrix.cells} == {"none"} and head.control == "none"
    assert result.matrices.warnings() == []
    for name in (
        "matrices.json",
        "matrices.csv",
        "matrices.md",
        "matrices.png",
        "matrices/ner.adapters.eng/heatmap.png",
    ):
        assert (folder / "results" / name).stat().st_size > 0
    assert list((folder / "results" / "runs").rglob("*.safetensors")) == [], (
        "checkpoints of finished runs are of no use"
    )
    names = Store(folder / "modules")
    task = next(n for n in result.trained if n.startswith("ner"))
    assert (
        names.show(task).info.training["language_module"]
        == names.show(next(n for n in result.trained if "eng-" in n)).weights.sha256
    )


def test_a_second_run_trains_and_evaluates_nothing(first, here):
    again = matrix(settings())
    assert again.trained == [] and again.evaluated == [] and len(again.reused) == 6 + 4
    assert [[c.scores for c in e.matrix.cells] for e in again.matrices.entries] == [
        [c.scores for c in e.matrix.cells] for e in first[1].matrices.entries
    ]


def test_a_damaged_cell_is_evaluated_anew_and_a_damaged_module_trained_anew(first, here, caplog):
    caplog.set_level("WARNING", logger="madx")
    scores = [[c.scores for c in e.matrix.cells] for e in first[1].matrices.entries]
    cells = sorted((here / "results" / "evaluations").glob("*/matrix.json"))
    content = json.loads(cells[0].read_text())
    content["cells"][0]["scores"]["f1"] = 95.0
    cells[0].write_text(json.dumps(content))  # valid JSON with another score
    cells[1].write_bytes(cells[1].read_bytes()[:-9])
    cells[2].write_bytes(cells[3].read_bytes())  # whole, but of another module
    again = matrix(settings())
    assert len(again.evaluated) == 3 and len(again.reused) == 6 + 1 and again.failures == []
    assert [[c.scores for c in e.matrix.cells] for e in again.matrices.entries] == scores
    assert caplog.text.count("evaluated anew") == 3 and "is the matrix of another evaluation" in caplog.text
    store = Store("modules")
    name = next(n for n in store.names() if n.startswith("ner") and n in again.reused)
    weights = store.root / name / "weights.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    caplog.clear()
    mended = matrix(settings())
    assert mended.trained == [name] and mended.failures == [] and store.verify() == []
    assert "sha256" in caplog.text and "trained anew" in caplog.text and weights.read_bytes() == data


def test_paths_names_and_order_do_not_matter_but_content_does(here):
    stored = shape(make_plan(settings()))
    assert len(stored) == 6 and all(stored.values())
    (here / "copy.txt").write_bytes((here / "swa.txt").read_bytes())
    renamed = settings(
        corpora={"swa": "copy.txt", "eng": "eng.txt"},
        run="elsewhere",
        module_types={
            "other": {
                "language": {
                    "components": {"bottleneck": {"reduction_factor": 2.0}, "invertible": {}},
                    "micro_batch": 2,
                }
            }
        },
    )
    assert all(t.stored for t in make_plan(renamed).trainings)
    (here / "copy.txt").write_text("the city\n" * 300)
    assert {t.job.language: t.stored for t in make_plan(renamed).trainings if t.name[:3] != "ner"} == {
        "swa": False,
        "eng": True,
    }
    other = {t.name: t for t in make_plan(settings(language=settings().language | {"steps": 4})).trainings}
    assert sum(t.stored for t in other.values()) == 2, "task modules over another language module are other modules"
    assert not {n for n, t in other.items() if not t.stored} & set(Store("modules").names()), (
        "nothing stored is replaced"
    )


def test_seeds_of_language_modules_and_stored_ones(here):
    each = make_plan(settings(language_seeds="each"))
    assert sorted(t.name[:3] + t.name[-2:] for t in each.trainings if not t.stored) == ["eng@2", "ner@2", "swa@2"]
    eng = next(n for n in Store("modules").names() if n.startswith("eng"))
    plan = make_plan(settings(module_types={"adapters": {"use": {"eng": eng, "swa": "swaa"}}}))
    assert [t.under for t in plan.trainings] == [eng, eng] and all(t.stored for t in plan.trainings)
    assert plan.failures[0].what == "swa, adapters" and "No module 'swaa'" in plan.failures[0].why
    assert plan.scorings[0].modules == {"eng": eng, "swa": None}


def test_settings_of_the_evaluation_name_languages(here):
    proxies = {"use": ["nearest", "arithmetic"], "relatives": {"swa": "eng"}, "weights": {"swa": {"eng": 1.0}}}
    given = {"mean_of": ["swa"], "controls": ["none", "mean"], "proxies": proxies}
    scoring, *_, head = make_plan(settings(evaluation=given, seeds=[1])).scorings
    eng, swa = scoring.modules["eng"], scoring.modules["swa"]
    assert scoring.job.mean_of == [swa] and scoring.job.proxies.relatives == {"swa": eng} and eng[:4] == "eng-"
    assert scoring.job.proxies.weights == {"swa": {eng: 1.0}} and scoring.job.proxies.texts == {
        "eng": "eng.txt",
        "swa": "swa.txt",
    }
    assert head.job.controls == ["none"] and head.job.proxies.use == []
    cycling = make_plan(settings(module_types={"adapters": {"task": {"cycle": ["swa"]}}}, seeds=[1])).trainings[-1]
    assert cycling.job.cycle == [swa] and cycling.under == eng and not cycling.stored


def test_texts_of_proxies_may_be_folders_and_their_content_decides(here):
    for language in ("eng", "swa"):
        (here / "texts" / language).mkdir(parents=True)
        for part in "ab":
            (here / "texts" / language / f"{part}.txt").write_text((here / f"{language}.txt").read_text())
    proxies = {"use": ["nearest"], "texts": {"eng": "texts/eng", "swa": "texts/swa"}}
    chosen = settings(
        evaluation={"controls": ["none"], "proxies": proxies}, seeds=[1], module_types={"adapters": {}}, run="folders"
    )
    result = matrix(chosen)
    assert result.failures == [] and result.trained == [] and len(result.evaluated) == 1
    (entry,) = result.matrices.entries
    assert {c.control for c in entry.matrix.cells} == {"none", "nearest"} and entry.matrix.missing == ()
    read = {f"texts/{language}/{part}.txt" for language in ("eng", "swa") for part in "ab"}
    assert all(entry.matrix.meta.data[path] == sha256_of(Path(path)) for path in read)
    assert matrix(chosen).evaluated == []
    (here / "texts" / "swa" / "b.txt").write_text("the city\n" * 300)
    assert len(matrix(chosen).evaluated) == 1


def test_the_plan_counts_the_steps_of_every_phase(here):
    def steps(**sparse) -> list[int]:
        parts = sparse.pop("components", {"sparse_diff": {"entries": 20}})
        recipe = {"language": {"components": parts, "steps": 10, "train": {"sparse": {"full_share": 0.5} | sparse}}}
        return [t.steps for t in make_plan(settings(module_types={"one": recipe}, seeds=[1])).trainings[:2]]

    assert steps(selection="magnitude") == steps(selection="diff_pruning") == [15, 15]
    assert steps(selection="magnitude", iterations=2) == [30, 30]
    assert steps(selection="fisher") == steps(selection="drop_and_grow") == steps(components="full") == [10, 10]


def test_a_failure_loses_only_what_depends_on_it(here, monkeypatch):
    real, tried = reuse.train_language, []

    def fails_for_swahili(job):
        tried.append(job.language)
        if job.language == "swa":
            raise TrainingError("the loss is nan") if len(tried) < 3 else RuntimeError("out of memory")
        return real(job)

    monkeypatch.setattr(reuse, "train_language", fails_for_swahili)
    chosen = settings(
        language=settings().language | {"steps": 2}, seeds=[1], run="failing", module_types={"adapters": {}}
    )
    result = matrix(chosen)
    assert [(f.what, f.why) for f in result.failures] == [("swa, adapters", "the loss is nan")]
    (entry,) = result.matrices.entries
    assert {c.control for c in entry.matrix.cells if c.target == "swa"} == {"none", "source", "mean"}
    assert any(m.control == "target" and "no module for 'swa'" in m.reason for m in entry.matrix.missing)
    assert json.loads(Path("failing/matrices.json").read_text())["failures"] == [
        {"what": "swa, adapters", "why": "the loss is nan"}
    ]
    again = matrix(chosen)
    assert (
        again.failures[0].why == "RuntimeError: out of memory"
        and len(again.reused) == 3
        and tried == ["eng", "swa", "swa"]
    )
    monkeypatch.undo()
    monkeypatch.chdir(here)
    mended = matrix(chosen)
    assert [n[:3] for n in mended.trained] == ["swa"] and len(mended.evaluated) == 1 and mended.failures == []


def test_a_killed_run_goes_on_from_its_checkpoint(here, monkeypatch):
    task = settings().task | {"epochs": 3, "batch_size": 8}
    chosen = settings(task=task, seeds=[1], run="killed", module_types={"adapters": {}})
    job = sys.modules["madx.jobs.train_task.job"]
    real = job.fit

    def killed(engine, name, task, *rest, **options):
        batches = task.batches

        def and_kill(step, **more):
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return batches(step, **more)

        task.batches = and_kill
        return real(engine, name, task, *rest, **options)

    monkeypatch.setattr(job, "fit", killed)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 6 of 9"):
        matrix(chosen)
    assert [(t.name[:3], t.stored, t.begun) for t in make_plan(chosen).trainings] == [
        ("eng", True, False),
        ("swa", True, False),
        ("ner", False, True),
    ]
    found = []
    monkeypatch.setattr(job, "fit", lambda *rest, **options: found.append(real(*rest, **options)) or found[-1])
    result = matrix(chosen)
    assert [n[:3] for n in result.reused] == ["eng", "swa"] and [n[:3] for n in result.trained] == ["ner"]
    assert found[0].resumed_from == 6 and make_plan(chosen).trainings[-1].begun is False


def test_bad_files_are_failures_of_their_own_and_the_command_ends_with_1(here):
    write_conll(here / "xho.conll", sentences=3)
    (here / "xho.conll").write_text((here / "xho.conll").read_text().replace("B-PER", "B-DATE"))
    tasks = {
        "ner": settings().tasks["ner"].model_dump()
        | {"test": {"swa": "swa-test.conll", "xho": "xho.conll", "yor": "yor.conll"}}
    }
    chosen = settings(tasks=tasks, module_types={"adapters": {}}, seeds=[1], run="bad")
    dump(chosen, "bad.yaml")
    dry = run("matrix", "bad.yaml", "--dry-run")
    assert (
        "0 of 3 modules to train" in dry.stdout
        and "1 evaluation, 4 test sets" in dry.stdout
        and not Path("bad").exists()
    )
    for said in (
        failed(dry),
        failed(run("matrix", "bad.yaml")) + json.dumps(json.loads(Path("bad/matrices.json").read_text())["failures"]),
    ):
        assert "ner, target xho" in said and "DATE" in said and "ner, target yor" in said and "no such file" in said
    assert [r["target"] for r in json.loads(Path("bad/matrices.json").read_text())["entries"][0]["own"]] == [
        "swa",
        "average",
    ]


FAULTS = {
    "unknown key": ({"language": {"stepz": 3}}, ["module_types.adapters.language.stepz", "did you mean 'steps'"]),
    "what the matrix sets": ({"task": {"seeds": [1]}}, ["task.seeds: the matrix sets it itself"]),
    "unknown preset": (
        {"module_types": {"a": {"task": {"components": "pfeifer"}}}},
        ["module_types.a.task.components", "did you mean 'pfeiffer'"],
    ),
    "no text for the source": (
        {"corpora": {"swa": "swa.txt"}},
        ["no text for the source language 'eng'", "language: null"],
    ),
    "a seed twice": ({"seeds": [1, 1]}, ["each seed once"]),
    "unknown control": ({"evaluation": {"controls": ["targets"]}}, ["evaluation.controls"]),
    "train is no mapping": ({"task": {"train": 3}}, ["task.train"]),
    "two codes of one language": (
        {"corpora": {"eng": "eng.txt", "sw": "swa.txt"}},
        ["tasks.ner", "'sw' and 'swa' are codes of one language"],
    ),
    "no language": ({"corpora": {"eng": "eng.txt", "Swahili": "swa.txt"}}, ["'Swahili' is no language code"]),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_the_settings_are_told_before_anything_runs(case, here):
    changes, wanted = FAULTS[case]
    with pytest.raises(ConfigError) as error:
        make_plan(settings(**changes))
    assert all(text in str(error.value) for text in wanted), error.value


def test_the_reading_of_spans_goes_to_every_job_of_a_task_with_spans(here):
    plan = make_plan(settings(scoring="lenient", module_types={"head": {"language": None}}))
    trained = [t.job.scoring for t in plan.trainings if t.name.startswith("ner")]
    assert {*trained, *(s.job.scoring for s in plan.scorings)} == {"lenient"} and trained
    data = {code: "pos.conllu" for code in ("eng",)}
    jobs = JobsOf(settings(scoring="lenient", tasks={"pos": {"train": data, "dev": data, "test": data}}))
    assert (
        jobs.evaluation("adapters", "pos", "eng").scoring == jobs.task("adapters", "pos", "eng", 1).scoring == "strict"
    )


def test_all_faults_at_once(here):
    tasks = {"nerr": {"train": {"eng": "x"}, "dev": {"swa": "x"}, "test": {"swa": "x"}}}
    with pytest.raises(
        ConfigError, match="(?s)3 faults in the matrix.*did you mean 'ner'.*add dev.eng.*language.stepz"
    ):
        make_plan(settings(tasks=tasks, language={"stepz": 1}))
