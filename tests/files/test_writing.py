"""Files and folders are written whole or not at all; what dead processes left is removed, and nothing else."""

import os
import stat
import subprocess
import sys
import time

import pytest

from madx.errors import ConfigError, MadxError
from madx.files import writing
from madx.files.writing import (
    OLD,
    TEMPORARY,
    check_folder,
    is_running,
    placed,
    sweep,
    temporary_folder,
    temporary_name,
    write_named,
    write_whole,
)


@pytest.fixture(scope="module")
def dead():
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_failure_at_any_step_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "new" / "x"
    write_whole(file, b"old")
    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
            with pytest.raises(OSError):
                write_whole(file, b"new")
    with pytest.raises(KeyboardInterrupt), placed(file) as half:
        half.write_bytes(b"half")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), temporary_folder(file) as folder:
        (folder / "y").touch()
        raise KeyboardInterrupt
    assert file.read_bytes() == b"old" and os.listdir(file.parent) == ["x"]


def test_a_disk_that_ends_half_way(tmp_path):
    resource = pytest.importorskip("resource")
    file = tmp_path / "x"
    write_whole(file, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError):
            write_whole(file, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_files_have_the_permissions_that_the_user_set(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_links_of_a_results_folder_are_replaced_and_those_that_the_user_names_followed(tmp_path):
    outside = tmp_path / "outside"
    for write, followed in ((write_whole, False), (write_named, True)):
        outside.write_bytes(b"mine")
        link = tmp_path / write.__name__
        link.symlink_to(outside)
        write(link, b"new")
        assert link.read_bytes() == b"new" and outside.read_bytes() == (b"new" if followed else b"mine")


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    (tmp_path / "null").symlink_to(os.devnull)
    write_named(tmp_path / "null", b"x")
    assert (tmp_path / "null").is_symlink() and stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_what_dead_processes_left_is_removed_and_that_of_running_ones_kept(tmp_path, dead):
    own = temporary_name()
    assert TEMPORARY.fullmatch(own) and is_running(os.getpid()) and is_running(dead) is False
    machine = TEMPORARY.fullmatch(own)[1]
    names = {
        "running": own,
        "dead": f".madx-{machine}-{dead}-00000000.tmp",
        "dead folder": f".madx-{machine}-{dead}-00000001.tmp",
        "elsewhere": ".madx-00000000-1-00000000.tmp",
        "elsewhere, old": ".madx-00000000-1-00000001.tmp",
        "a user's": ".madx-notes.tmp",
    }
    for key, name in names.items():
        (tmp_path / name).mkdir() if "folder" in key else (tmp_path / name).touch()
    (tmp_path / names["dead folder"] / "x").touch()
    (tmp_path / names["dead folder"] / "out").symlink_to(tmp_path / names["a user's"])
    long_ago = time.time() - OLD - 60
    for key in ("elsewhere, old", "running", "a user's"):
        os.utime(tmp_path / names[key], (long_ago, long_ago))
    sweep(tmp_path)
    kept = {key for key, name in names.items() if (tmp_path / name).exists()}
    assert kept == {"running", "elsewhere", "a user's"}


def test_a_writer_sweeps_the_folder_once(tmp_path, dead, monkeypatch):
    monkeypatch.setattr(writing, "_swept", set())
    left = f".madx-{TEMPORARY.fullmatch(temporary_name())[1]}-{dead}-00000000.tmp"
    (tmp_path / left).touch()
    write_whole(tmp_path / "x", b"")
    assert os.listdir(tmp_path) == ["x"]


def test_folders_for_results(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    check_folder(tmp_path / "a" / "b", "results")
    assert os.listdir(tmp_path).count("a") == 0, "nothing is made"
    for path in ("file", "file/a/b", "gone", "gone/a", "a\0b", "\ud800", "x" * 300, "y/" * 3000, "a/" + "z" * 256):
        with pytest.raises(ConfigError, match="another|shorter"):
            check_folder(f"{tmp_path}/{path}", "results", kind=ConfigError)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MadxError, match="may not be written"):
        check_folder(tmp_path / "a", "results")
