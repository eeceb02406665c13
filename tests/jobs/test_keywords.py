"""Jobs by keywords: the names of the settings, faults in words, and what editors and type checkers see."""

import inspect
import logging
from pathlib import Path

import pytest

import madx
from madx.config import check, load
from madx.errors import ConfigError
from madx.jobs.keywords import settings_from, takes_keywords
from madx.training import TrainSettings

JOBS = {
    "train_language": madx.TrainLanguage,
    "train_task": madx.TrainTask,
    "evaluate": madx.Evaluate,
    "compare": madx.Compare,
    "matrix": madx.Matrix,
    "inspect": madx.Inspect,
}
GIVEN = {"base": "b", "language": "swa", "corpus": "swa.txt"}


@takes_keywords(madx.TrainLanguage)
def given(settings: madx.TrainLanguage) -> madx.TrainLanguage:
    """Give the settings back."""
    return settings


def test_keywords_an_object_and_an_object_with_changes_are_the_same_settings():
    wanted = madx.TrainLanguage(**GIVEN, seed=3, train=TrainSettings(warmup=0.2))
    assert given(**GIVEN, seed=3, train={"warmup": 0.2}) == wanted
    assert given(**GIVEN, seed=3, train=TrainSettings(warmup=0.2)) == wanted
    assert given(wanted) is wanted
    assert given(wanted.model_copy(update={"seed": 1}), seed=3) == wanted


def test_values_of_python_are_taken(tmp_path):
    made = given(base=tmp_path, language="swa", corpus=(tmp_path / "a.txt", tmp_path / "b.txt"), run=Path("x"))
    assert (made.base, made.run) == (str(tmp_path), "x")
    assert made.corpus == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]


@pytest.mark.parametrize("name", JOBS)
def test_every_job_takes_keywords_and_shows_them(name):
    job, schema = getattr(madx, name), JOBS[name]
    shown = list(inspect.signature(job).parameters)
    assert shown == ["settings", *schema.model_fields] and job.__doc__
    with pytest.raises(ConfigError, match="no_such_key: unknown key.*Allowed: base"):
        job(no_such_key=1)


@pytest.mark.parametrize(
    ("keywords", "wanted"),
    [
        ({"languag": "swa"}, ["languag: unknown key", "did you mean 'language'"]),
        ({"learning_rate": 1e-3}, ["learning_rate: unknown key", "did you mean train.learning_rate"]),
        ({"train": {"learning_rat": 1}}, ["train.learning_rat: unknown key", "'learning_rate'"]),
        ({"steps": 1.5}, ["steps", "1.5"]),
        ({"components": 3}, ["components", "3"]),
    ],
)
def test_faults_are_named_with_the_way_out(keywords, wanted):
    with pytest.raises(ConfigError) as error:
        given(**(GIVEN | keywords))
    assert all(text in str(error.value) for text in ["the settings of given", *wanted])


def test_all_faults_at_once_and_another_object():
    with pytest.raises(ConfigError) as error:
        given(language="swa", corpus="x", batch_size=0, stepz=1)
    assert all(text in str(error.value) for text in ("3 faults", "base: missing", "batch_size", "stepz"))
    with pytest.raises(ConfigError, match=r"train_language takes a TrainLanguage.*not str.*train_language\(base="):
        settings_from(madx.TrainLanguage, "swa.yaml", {}, of="train_language")


@pytest.mark.parametrize("schema", [madx.TrainLanguage, madx.TrainTask])
def test_a_key_of_an_earlier_version_is_read_with_a_notice(schema, tmp_path, caplog):
    required = {"base": "b", "language": "eng", "corpus": "x"} | {"data": "x", "dev": "x"}
    required = {key: value for key, value in required.items() if key in schema.model_fields}
    lines = [f"{key}: {value}" for key, value in required.items()]
    (tmp_path / "old.yaml").write_text("\n".join([*lines, "parts: houlsby"]))
    with caplog.at_level(logging.WARNING, logger="madx"):
        assert load(tmp_path / "old.yaml", schema).components == "houlsby"
        assert check(schema, required | {"parts": {"bottleneck": {}}}, what="x").components == {"bottleneck": {}}
    assert len(caplog.records) == 2 and all("'components'" in r.getMessage() for r in caplog.records)
    with pytest.raises(ConfigError, match="parts: unknown key"):  # one of them too many
        check(schema, required | {"parts": "houlsby", "components": "madx"}, what="x")
