"""A task module that is trained with another pooling, as a job: setting, record, evaluation, identity."""

import random

import pytest
import tiny_files

from madx.base import load_base
from madx.config import load
from madx.errors import ConfigError
from madx.jobs import Evaluate, Predictor, evaluate
from madx.jobs.reuse import content_name, identity, stored
from madx.jobs.train_task import TrainTask, train_task
from madx.store import Store

ENDS = {"o": "O", "p": "B-PER", "l": "B-LOC"}


def write(path, *, seed):
    """Sentences of words that are alike but for their last letter, which alone tells the label."""
    draw, lines = random.Random(seed), []
    for _ in range(24):
        for _ in range(4):
            end = draw.choice("opl")
            lines.append(f"{'z' * draw.randint(1, 3)}{end}\t{ENDS[end]}")
        lines.append("")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    at = tmp_path_factory.mktemp("pooling")
    return TrainTask(
        base=tiny_files.save_base(at / "base"),
        store=str(at / "modules"),
        language="eng",
        language_module=None,
        data=write(at / "train.conll", seed=1),
        dev=write(at / "dev.conll", seed=2),
        components="head_only",
        pooling="last",
        epochs=20,
        seeds=[1],
        run=str(at / "run"),
        train={"learning_rate": 3e-2, "progress": False, "evaluate_every": 4},
    )


@pytest.fixture(scope="module")
def trained(settings):
    return train_task(settings)


def test_a_module_is_trained_evaluated_and_known_by_its_pooling(settings, trained, tmp_path):
    assert trained.modules[0].info.pooling == "last" and trained.training[0].best["f1"] > 85
    store = Store(settings.store)
    assert store.show("ner").info.pooling == "last" and store.show("ner").info.training["settings"]["pooling"] == "last"

    test = write(tmp_path / "test.conll", seed=3)
    found = evaluate(
        Evaluate(
            base=settings.base,
            store=settings.store,
            run=str(tmp_path / "run"),
            progress=False,
            targets={"eng": test},
            task_module="ner",
            controls=["none"],
        )
    )
    assert found.matrix.group("eng", "none")[0].scores.summary()["f1"] > 85

    base = load_base(settings.base)
    wanted = identity(settings, base, seed=1)
    other = settings.model_copy(update={"pooling": "first"})
    assert stored(store, "ner", wanted, TrainTask)
    assert not stored(store, "ner", identity(other, base, seed=1), TrainTask)
    names = {content_name("ner", identity(job, base, seed=1), seed=1) for job in (settings, other)}
    assert len(names) == 2


def test_the_setting_is_first_by_default_and_checked(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b\nlanguage: eng\ndata: x\ndev: y\n")
    assert load(tmp_path / "a.yaml", TrainTask).pooling == "first"
    with pytest.raises(ConfigError, match="pooling.*first_last"):
        load(tmp_path / "a.yaml", TrainTask, ["pooling=lsat"])


def test_prediction_reads_the_pooling_of_the_module(settings, trained):
    predictor = Predictor("ner", store=settings.store)
    assert [p.tags for p in predictor(["zzp zo zzzl"])] == [("B-PER", "O", "B-LOC")]
