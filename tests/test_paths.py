"""Names and files that lead elsewhere, hang or have no end: refused in words at every door."""

import os
import time

import pytest
import tiny
from cli_tools import failed, run
from odd_files import KINDS, make
from store_tools import module

from madx.config import check
from madx.data.text.blocks import _only_files
from madx.errors import ConfigError, DataError, MadxError, StoreError, TrainingError
from madx.interop.files import load, read_json, require_free
from madx.jobs import Evaluate, Matrix, evaluate, train_task
from madx.results.json import read_matrix
from madx.store import LAYOUT, Store, load_module, read_info
from madx.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")
UP = "../../up"


@pytest.fixture(scope="module")
def base():
    return tiny.base()


@pytest.fixture(autouse=True)
def in_bounded_time():
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 20


# ---- what lies in the place of a file --------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [LAYOUT.manifest, LAYOUT.weights])
@pytest.mark.parametrize("kind", KINDS)
def test_a_module_with_something_else_in_the_place_of_a_file(kind, file, base, tmp_path):
    store = Store(tmp_path)
    store.save(module(base))
    (tmp_path / "swa" / file).unlink()
    make(kind, tmp_path / "swa" / file)
    with pytest.raises(StoreError, match="swa"):
        load_module(tmp_path / "swa", base)
    if file == LAYOUT.manifest:
        with pytest.raises(StoreError, match="swa"):
            read_info(tmp_path / "swa")
    assert len(store.list()) == 1 and store.verify() != []
    store.save(module(base, "other"))
    assert [row.name for row in store.list() if row.fault is None] == ["other"]


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_that_madx_reads(kind, tmp_path):
    for name in ("checkpoint.safetensors", "matrix.json", "adapter_config.json", "pytorch_adapter.bin"):
        make(kind, tmp_path / name)
    with pytest.raises(TrainingError, match="checkpoint.safetensors cannot be read: .*resume=false"):
        read_checkpoint(tmp_path / "checkpoint.safetensors")
    with pytest.raises(DataError, match="matrix.json cannot be read"):
        read_matrix(tmp_path / "matrix.json")
    with pytest.raises(StoreError):
        read_json(tmp_path / "adapter_config.json")
    with pytest.raises(StoreError, match="cannot be read as weights"):
        load(tmp_path / "pytorch_adapter.bin")


@pytest.mark.parametrize("name", ["blocks.json", "train.npy", "held_out.npy"])
def test_a_pipe_in_the_cache_of_blocks(name, tmp_path, caplog):
    for each in ("blocks.json", "train.npy", "held_out.npy"):
        (tmp_path / each).touch()
    assert _only_files(tmp_path)
    (tmp_path / name).unlink()
    make("pipe", tmp_path / name)
    assert not _only_files(tmp_path) and f"{name} is damaged (it is a named pipe" in caplog.text


# ---- names -----------------------------------------------------------------------------------------------------------


def evaluation(**changes):
    return check(Evaluate, {"targets": {"swa": "x.conll"}} | changes, what="the settings")


@pytest.mark.parametrize("name", [UP, "/etc/x", "a\0b", "x" * 300, "swa.", "a\nb"], ids=ascii)
def test_targets_and_tasks_that_are_no_file_names(name):
    with pytest.raises(ConfigError, match="(?s)targets.*would become the name of a file"):
        evaluation(targets={name: "x.conll"})
    data = {"train": {"eng": "x"}, "dev": {"eng": "x"}, "test": {"eng": "x"}}
    good = {"base": "b", "tasks": {"ner": data}, "module_types": {"adapters": {}}}
    check(Matrix, good, what="the settings")
    for wrong in (
        {"tasks": {name: data}},
        {"module_types": {name: {}}},
        {"tasks": {"ner": data | {"test": {name: "x"}}}},
        {"tasks": {"ner": data | {"train": {name: "x"}}}},
    ):
        with pytest.raises(ConfigError, match="would become the name of a file"):
            check(Matrix, good | wrong, what="the settings")


def test_the_command_names_the_target():
    for target in (UP, "/etc/x", "swa."):
        assert f"target {target!r} would become the name of a file" in failed(
            run("evaluate", "--target", f"{target}=x")
        )


def test_targets_that_are_one_file_elsewhere():
    with pytest.raises(ConfigError, match="would be one file"):
        evaluation(targets={"swa": "x.conll", "SWA": "y.conll"})
    assert evaluation(targets={"con": "x.conll", "Kiswahili": "y.conll"}).targets


def test_a_name_that_is_too_long_with_its_seed_is_found_before_training(tmp_path):
    job = {"base": "b", "language": "eng", "data": "x", "dev": "y", "store": str(tmp_path), "run": str(tmp_path / "r")}
    with pytest.raises(MadxError, match="cannot name a module.*at most 100"):
        train_task(**job, name="n" * 99, seeds=[1, 2])


def test_two_modules_that_differ_in_case(base, tmp_path):
    store = Store(tmp_path)
    store.save(module(base, "Swa"))
    with pytest.raises(StoreError, match="holds a module 'Swa'; 'swa' would be the same folder.*another name"):
        store.save(module(base, "swa"))
    (tmp_path / "NER").mkdir()  # not a module
    store.save(module(base, "ner"))
    store.save(module(base, "Swa"), overwrite=True)


# ---- folders for results ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "file/x", "a\0b", "x" * 300, "\ud800"], ids=ascii)
def test_folders_that_cannot_be_written_are_found_first(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    job = {"base": "none", "language": "eng", "data": "x", "dev": "y", "store": str(tmp_path / "modules")}
    with pytest.raises(MadxError, match="Cannot keep results in"):
        train_task(**job, run=place)
    with pytest.raises(StoreError, match="Cannot write|Cannot keep|Cannot use"):
        require_free(tmp_path / place)
    with pytest.raises(StoreError):
        Store(tmp_path / place / "y")
        Store(tmp_path / place / "y").save(module(tiny.base()))


def test_a_store_that_is_no_path_and_a_store_that_may_only_be_read(base, tmp_path, monkeypatch):
    with pytest.raises(MadxError, match="no such user"):
        Store("~nobody-of-this-name/x")
    for path in ("a\0b", "\ud800", "x/" * 3000):
        with pytest.raises(StoreError, match="Cannot use the path"):
            Store(path)
    with pytest.raises(MadxError, match="No module 'ner'"):
        evaluate(task_module="ner", targets={"swa": "x.conll"}, store=str(tmp_path))
    store = Store(tmp_path)
    store.save(module(base))
    (tmp_path / "swa").rename(tmp_path / ".hau.00000000.old")  # left by a killed writer
    store.save(module(base))

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    for call in ("replace", "mkdir", "unlink"):
        monkeypatch.setattr(os, call, refuse)
    assert store.names() == ["swa"] and store.load("swa", base).name == "swa"
    with pytest.raises(StoreError, match="read-only; choose another folder"):
        store.save(module(base, "new"))
