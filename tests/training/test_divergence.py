"""Divergence: a run whose loss rises or whose score stays 0 is stopped in words, and goes on when that is asked for."""

from dataclasses import replace

import pytest
import tiny_runs as runs

from madx.errors import TrainingError
from madx.tasks.masked_lm import MaskedLM
from madx.tasks.ner import NER
from madx.training import loop
from madx.training.divergence import divergence
from madx.training.gradients import compute_gradients


def rows(*scores, every=50, metric="f1"):
    return [{"step": every * (i + 1), metric: score} for i, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("losses", "first", "history", "steps", "found"),
    [
        ([2.5] * 50, [2.0] * 10, rows(5.0), 1000, "2.500"),
        ([2.2] * 50, [2.0] * 10, rows(5.0), 1000, None),  # within a tenth: noise
        ([0.09] * 50, [0.01] * 10, rows(5.0), 1000, None),  # a run that begins trained varies
        ([2.5] * 20, [2.0] * 10, rows(5.0, every=20), 1000, None),  # too early to tell
        ([0.5] * 50, [2.0] * 10, rows(0.0, 0.0, 0.0), 300, "3 evaluations"),
        ([0.5] * 50, [2.0] * 10, rows(0.0, 0.0, 0.0), 301, None),  # not half of the run
        ([0.5] * 50, [2.0] * 10, rows(0.0, 0.1, 0.0), 300, None),
        ([0.5] * 50, [2.0] * 10, rows(0.0, 0.0, 0.0, every=30), 90, None),  # fewer than 100 steps
        ([], [], [], 300, None),
    ],
)
def test_the_rules(losses, first, history, steps, found):
    said = divergence(losses, first, history, NER, steps=steps)
    assert said is None if found is None else found in said


def test_a_perplexity_is_no_score_of_which_more_is_better():
    assert divergence([0.5] * 50, [2.0] * 10, rows(0.0, 0.0, 0.0, metric="perplexity"), MaskedLM, steps=300) is None


def test_a_run_with_a_rising_loss_stops_with_a_checkpoint_and_goes_on_when_asked(monkeypatch, tmp_path):
    def rising(trainable, task, *, step, **options):
        done = compute_gradients(trainable, task, step=step, **options)
        return replace(done, mean=done.mean + step)

    monkeypatch.setattr(loop, "compute_gradients", rising)
    options = {"steps": 31, "learning_rate": 1e-3, "evaluate_every": 30}
    with pytest.raises(TrainingError, match=r"diverged at step 30 of 31.*train\.learning_rate \(it is 0\.001\)"):
        runs.train("mlm", folder=tmp_path, **options)
    _, result = runs.train("mlm", folder=tmp_path, stop_diverged=False, **options)
    assert result.resumed_from == 30 and result.history[-1]["step"] == 31


def test_a_tagger_that_finds_nothing_stops(monkeypatch):
    monkeypatch.setattr(NER, "evaluate", lambda self, engine: {"f1": 0.0})
    with pytest.raises(TrainingError, match="f1 on the development data was 0 at all of 3 evaluations"):
        runs.train("ner", steps=102, evaluate_every=34, task={})
