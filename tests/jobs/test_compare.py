"""The five axes on a tiny base: what is measured is what it says, and one candidate that fails loses no other."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from cli_tools import failed, run
from tiny_files import fill

from madx.config import dump
from madx.errors import ConfigError, MadxError
from madx.jobs import Compare, compare
from madx.jobs.compare import CANDIDATES, jobs_of, measure
from madx.module.presets import preset
from madx.store import Store

pytestmark = pytest.mark.slow  # every candidate is trained and measured

FULL = CANDIDATES["full"]
SMALL = {
    "head": {"components": "head_only", "train": {"learning_rate": 1e-2}},
    "pfeiffer": {"components": "pfeiffer"},
    "full": FULL | {"train": FULL["train"] | {"learning_rate": 1e-3}},
}


def settings(**changes) -> Compare:
    values = {
        "base": "base",
        "language": "eng",
        "data": "train.conll",
        "dev": "dev.conll",
        "candidates": SMALL,
        "seeds": [1, 2],
        "training": {"epochs": 2, "batch_size": 8, "train": {"evaluate_every": 3}},
        "measured_steps": 1,
        "rounds": 3,
        "progress": False,
        "run": "results",
    }
    return Compare.model_validate(values | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("compare"))


@pytest.fixture
def here(folder, monkeypatch) -> Path:
    """The folder of the data; memory is measured in this process, which saves starting three."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(measure, "training_memory", measure.memory_here)
    return folder


def test_five_axes_for_every_candidate(here):
    result = compare(settings())
    head, pfeiffer, full = result.comparison.candidates
    store = Store("modules")
    assert sorted(store.names()) == sorted(result.trained) and len(result.trained) == 6 and result.reused == []
    for c in (head, pfeiffer, full):
        assert (
            c.failure == "" and len(c.seconds) == len(c.inference) == 3 and min(c.seconds) > 0 and min(c.inference) > 0
        )
        assert c.storage == sum(f.stat().st_size for f in (store.root / c.modules[0]).iterdir())
        assert c.scores == {s: store.show(n).info.training["scores"]["dev"]["f1"] for s, n in zip((1, 2), c.modules)}
        assert c.steps == store.show(c.modules[0]).info.training["steps"] == 6 and c.memory >= 0
    assert head.parameters < pfeiffer.parameters < full.parameters and head.storage < pfeiffer.storage < full.storage
    # head: forward alone, the last layer at all positions, since it is cached; pfeiffer: gradients of activations down
    # to the lowest of three adapters; full: of weights too
    assert 1.55 < pfeiffer.flops / head.flops < 1.75 and 2.6 < full.flops / head.flops < 3.05
    for name in ("comparison.json", "comparison.md", "comparison.png"):
        assert (here / "results" / name).stat().st_size > 0
    rows = json.loads(Path("results/comparison.json").read_text())["candidates"]
    assert [r["name"] for r in rows] == ["head", "pfeiffer", "full"] and rows[2]["flops"] == full.flops
    again = compare(settings(candidates={"a head": SMALL["head"]}))
    assert again.trained == [] and again.comparison.candidates[0].scores == head.scores


def test_a_candidate_that_fails_loses_no_other_and_the_command_ends_with_1(here):
    many = {"components": {"sparse_diff": {"entries": 10**9}}}
    dump(settings(candidates={"many": many, "head": SMALL["head"]}, seeds=[1]), "fails.yaml")
    result = run("compare", "fails.yaml")
    failed(result)
    assert "FAILED: many: sparse_diff.entries asks for 1,000,000,000 entries" in result.stdout
    many, head = json.loads(Path("results/comparison.json").read_text())["candidates"]
    assert (
        many["failure"]
        and many["flops"] is None
        and head["flops"]
        and not head["failure"]
        and len(head["inference"]) == 3
    )


def test_operations_grow_by_the_step_and_what_is_done_once_counts_once(here):
    job = jobs_of(
        settings(
            candidates={
                "fisher": {
                    "components": {"sparse_diff": {"entries": 50}},
                    "train": {"sparse": {"selection": "fisher", "samples": 6}},
                }
            }
        )
    )["fisher"]
    base = measure.open_base(job)
    task = measure.task_of(job, base)
    one, two, ten = (measure.training_flops(job, base, task, measured=1, steps=n) for n in (1, 2, 10))
    assert ten - two == pytest.approx(8 * (two - one)) and one > 1.5 * (two - one), (
        "six samples of one row beside a step of eight"
    )


def test_memory_of_all_weights_is_that_of_their_gradients_and_moments(tmp_path, here):
    weights = 32 * 60_000  # nearly all of them in the embeddings
    tiny.model(vocab_size=60_000).save_pretrained(tmp_path / "large")
    tiny.tokenizer().save_pretrained(tmp_path / "large")
    jobs = jobs_of(settings(base=str(tmp_path / "large")))
    head, full = (measure.memory_here(jobs[name], steps=2) for name in ("head", "full"))
    assert full - head > 4 * 4 * weights, "values, gradient and two moments in float32"


def test_memory_comes_from_a_process_of_its_own(folder, monkeypatch):
    monkeypatch.chdir(folder)
    job = jobs_of(settings())["head"]
    assert 0 <= measure.training_memory(job, steps=1) < 2e9
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(MadxError, match="memory of training failed: exit code 1"):
        measure.training_memory(job, steps=1)


def test_all_faults_at_once():
    candidates = {"a": {"components": "mdax"}, "b": {"stepz": 1}, "c": {"components": "madx", "seeds": [1]}}
    with pytest.raises(ConfigError) as error:
        jobs_of(settings(candidates=candidates, seeds=[1, 1]))
    for text in (
        "4 faults",
        "candidates.a.components: Unknown preset 'mdax'",
        "candidates.b.stepz: unknown key",
        "candidates.c.seeds: compare sets it itself",
        "each seed once",
    ):
        assert text in str(error.value)
    with pytest.raises(ConfigError, match="no candidate 'ful'; did you mean 'full'"):
        jobs_of(settings(only=["ful"]))
    assert list(jobs_of(settings(only=["full", "head"]))) == ["head", "full"]
    assert {job.scoring for job in jobs_of(settings(scoring="lenient")).values()} == {"lenient"}
    with pytest.raises(ConfigError, match="candidates.a.scoring: compare sets it itself"):
        jobs_of(settings(candidates={"a": {"scoring": "lenient"}}))
    with pytest.raises(ConfigError, match="did you mean 'ner'"):
        jobs_of(settings(task="nerr"))


def test_the_candidates_by_default_are_settings_that_exist():
    jobs = jobs_of(settings(candidates=CANDIDATES))
    assert jobs.keys() == CANDIDATES.keys() and jobs["full"].train.sparse.selection == "everything"
    assert preset(jobs["top_layers"].components)["sparse_diff"].top_layers == 2
    assert jobs["head_only"].train.learning_rate == 1e-3 and jobs["head_only"].epochs == 2


def test_a_selection_is_measured_over_the_steps_that_it_needs(here):
    grow = {
        "components": {"sparse_diff": {"entries": 50}},
        "epochs": 2,
        "train": {"sparse": {"selection": "drop_and_grow"}},
    }
    (found,) = compare(settings(candidates={"grow": grow}, seeds=[1], measured_steps=2)).comparison.candidates
    assert found.failure == "" and found.flops and found.memory is not None and len(found.seconds) == 3


def test_a_candidate_is_measured_in_the_format_it_trains_in_with_the_states_it_keeps(here, monkeypatch):
    half = {"components": {"bottleneck": {"leave_out": [0]}}, "train": {"precision": "bf16", "cache_frozen": "on"}}
    formats, fit = [], measure.fit
    monkeypatch.setattr(
        measure, "fit", lambda engine, *a, **k: (formats.append(engine.base.model.dtype), fit(engine, *a, **k))[1]
    )
    candidates = compare(settings(candidates={"half": half, "head": SMALL["head"]}, seeds=[1])).comparison.candidates
    assert [c.failure for c in candidates] == ["", ""]
    assert set(formats) == {torch.bfloat16, torch.float32}
