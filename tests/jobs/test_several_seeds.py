"""Task modules of several seeds are stored all or none, also by a run that is killed between two of them."""

import pytest
import tiny_files
from store_tools import alter

from madx.errors import StoreError
from madx.jobs import TrainTask, train_task
from madx.store import Store


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "x.conll").write_text("Juma\tB-PER\nlives\tO\nin\tO\nMoshi\tB-LOC\n\n" * 4)
    return TrainTask(
        base=tiny_files.save_base(tmp_path / "base"),
        store=str(tmp_path / "modules"),
        language="eng",
        language_module=None,
        data=str(tmp_path / "x.conll"),
        dev=str(tmp_path / "x.conll"),
        components="head_only",
        epochs=1,
        batch_size=4,
        seeds=[1, 2],
        run=str(tmp_path / "run"),
        train={"progress": False},
    )


def test_what_a_killed_run_left_is_completed_by_the_same_command_alone(settings):
    train_task(settings)
    store = Store(settings.store)
    stored = {name: store.show(name).weights.sha256 for name in store.names()}
    with pytest.raises(StoreError, match="ner@1 already holds a module"):
        train_task(settings)  # a job that is complete stays one that would replace its modules
    store.remove("ner@2")  # as a run leaves the store that is killed after its first module
    with pytest.raises(StoreError, match="ner@1 already holds a module"):
        train_task(settings.model_copy(update={"epochs": 2}))
    train_task(settings)
    assert {name: store.show(name).weights.sha256 for name in store.names()} == stored
    store.remove("ner@2")
    alter(store.root / "ner@1", lambda content: content["training"].update(seed=7))
    with pytest.raises(StoreError, match="ner@1 already holds a module"):
        train_task(settings)
