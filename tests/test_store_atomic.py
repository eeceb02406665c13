"""Saving is all or nothing: full disks, Ctrl-C, killed writers and two writers at once."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
from store_tools import hidden, module, same

import madx
from madx.errors import StoreError
from madx.store import Store, save_module


@pytest.fixture(scope="module")
def base():
    return tiny.base()


def fail_at(monkeypatch, target, attribute, nth, error, *, always=False):
    """The nth call fails; `always`: the later ones too."""
    real, calls = getattr(target, attribute), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == nth or always and len(calls) > nth:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(target, attribute, call)
    return calls


FULL = OSError(errno.ENOSPC, "No space left on device")
STEPS = [("fsync", k) for k in range(1, 6)] + [("replace", 1), ("replace", 2)]


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
@pytest.mark.parametrize(("step", "nth"), STEPS)
def test_a_failure_leaves_the_old_module(step, nth, error, base, tmp_path, monkeypatch):
    old, new, store = module(base, seed=1), module(base, seed=2), Store(tmp_path)
    store.save(old)
    with monkeypatch.context() as patch:
        calls = fail_at(patch, os, step, nth, error)
        with pytest.raises(StoreError if error is FULL else KeyboardInterrupt) as caught:
            store.save(new, overwrite=True)
    assert len(calls) >= nth
    if error is FULL:
        assert "the disk is full" in str(caught.value) and str(tmp_path / "swa") in str(caught.value)
        assert "what was there before is unchanged" in str(caught.value)
    assert hidden(tmp_path) == [] and same(store.load("swa", base), old) and store.verify() == []
    store.save(new, overwrite=True)
    assert same(store.load("swa", base), new)


@pytest.mark.parametrize(("step", "nth"), [("fsync", 1), ("fsync", 4), ("fsync", 5), ("replace", 1)])
def test_a_failed_first_save_leaves_nothing(step, nth, base, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at(patch, os, step, nth, FULL)
        with pytest.raises(StoreError, match="the disk is full"):
            save_module(module(base), tmp_path / "swa")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_for_good_between_the_renames_loses_nothing(base, tmp_path, monkeypatch):
    old, store = module(base, seed=1), Store(tmp_path)
    store.save(old)
    with monkeypatch.context() as patch:
        fail_at(patch, os, "replace", 2, OSError(errno.EIO, "Input/output error"), always=True)
        with pytest.raises(StoreError, match="Input/output error"):
            store.save(module(base, seed=2), overwrite=True)
    assert not (tmp_path / "swa").exists(), "the undoing failed too"
    assert [row.name for row in store.list()] == ["swa"] and same(store.load("swa", base), old)


def test_a_real_write_that_ends_half_way(base, tmp_path):
    resource = pytest.importorskip("resource")
    old, store = module(base, seed=1), Store(tmp_path)
    store.save(old)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(StoreError, match="file would be larger than allowed"):
            store.save(module(base, seed=2), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert hidden(tmp_path) == [] and same(store.load("swa", base), old)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written(number, base, tmp_path, monkeypatch):
    fail_at(monkeypatch, os, "mkdir", 1, OSError(number, "no"), always=True)
    with pytest.raises(StoreError, match="Cannot store the module 'swa' in .*(permission denied|read-only)"):
        save_module(module(base), tmp_path / "new" / "swa")


def test_ctrl_c_while_the_old_one_is_deleted(base, tmp_path, monkeypatch):
    new, store = module(base, seed=2), Store(tmp_path)
    store.save(module(base, seed=1))
    with monkeypatch.context() as patch:
        fail_at(patch, shutil, "rmtree", 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            store.save(new, overwrite=True)
    assert same(store.load("swa", base), new) and len(hidden(tmp_path)) == 1 and len(store.list()) == 1
    store.save(module(base, "swa.v2"))
    assert len(hidden(tmp_path)) == 1, "another name's remains are not touched"
    store.save(new, overwrite=True)
    assert hidden(tmp_path) == []


def run(code, *args):
    env = os.environ | {"PYTHONPATH": str(Path(madx.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=env, stderr=subprocess.PIPE, text=True)


KILLED = """
import os, sys
from pathlib import Path
from madx.store import folders
target, stop = Path(sys.argv[1]), int(sys.argv[2])
real, calls = os.replace, []
def replace(a, b):
    calls.append(a)
    if len(calls) == stop:
        os._exit(9)
    real(a, b)
os.replace = replace
folders.delete = lambda path: os._exit(9)
folders.write_folder(target, {f: (target / f).read_bytes() for f in os.listdir(target)}, check=lambda: None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_writer_killed_at_any_rename_loses_nothing(stop, base, tmp_path):
    pytest.importorskip("fcntl")
    store, swa = Store(tmp_path), module(base)
    store.save(swa)
    child = run(KILLED, tmp_path / "swa", stop)
    assert child.communicate()[1] == "" and child.returncode == 9
    assert hidden(tmp_path) and (tmp_path / "swa").exists() == (stop != 2)
    assert [(row.name, row.fault) for row in store.list()] == [("swa", None)] and same(store.load("swa", base), swa)
    store.save(swa, overwrite=True)
    assert hidden(tmp_path) == []


SAVER = """
import sys, time
from pathlib import Path
import torch
from madx.store import Store
root, value = Path(sys.argv[1]), float(sys.argv[2])
module = torch.load(root.parent / "module.pt", weights_only=False)
with torch.no_grad():
    for p in module.parameters():
        p.fill_(value)
(root.parent / f"ready{value}").touch()
while not (root.parent / "go").exists():
    time.sleep(0.002)
for _ in range(10):
    Store(root).save(module, overwrite=True)
"""


@pytest.mark.slow
def test_two_processes_saving_one_name_leave_one_whole_module(base, tmp_path):
    pytest.importorskip("fcntl")
    store, swa = Store(tmp_path / "modules"), module(base)
    with torch.no_grad():
        for p in swa.parameters():
            p.fill_(1.0)
    store.save(swa)
    torch.save(swa, tmp_path / "module.pt")
    children = [run(SAVER, store.root, value) for value in (1.0, 2.0)]
    while not all((tmp_path / f"ready{v}").exists() for v in (1.0, 2.0)) and all(c.poll() is None for c in children):
        time.sleep(0.01)
    (tmp_path / "go").touch()
    loads = []
    while any(c.poll() is None for c in children):  # a reader meets a whole module at every moment
        loads.append({float(v) for t in store.load("swa", base).tensors().values() for v in t.unique()})
    assert [c.communicate()[1] for c in children] == ["", ""] and all(c.returncode == 0 for c in children)
    assert loads and all(values in ({1.0}, {2.0}) for values in loads)
    assert hidden(store.root) == [] and store.verify(base=base) == []
