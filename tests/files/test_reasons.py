"""Errors of the system and of libraries in words with the way out."""

import errno
import json
import os
import pickle
import zipfile
import zlib

import pytest
import torch
import yaml

from madx.errors import MadxError, StoreError
from madx.files.places import cache_root
from madx.files.reasons import as_madx_errors, explained, in_words

ERRORS = [
    (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "runs/x: .*the disk is full"),
    (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    (OSError(errno.EROFS, "Read-only"), "read-only; choose another"),
    (PermissionError(errno.EACCES, "Permission denied", "x"), "permission denied; choose"),
    (OSError(errno.EINVAL, "Invalid argument", "x"), "x: Invalid argument"),
    (MemoryError(), "not enough memory. Lower batch_size"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "not enough memory"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "not enough memory"),
    (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "not utf-8 text.*save it as UTF-8"),
    (UnicodeEncodeError("ascii", "ọ", 0, 1, "ordinal"), "PYTHONIOENCODING=utf-8"),
    (ValueError("embedded null byte"), "cannot be a path"),
    (pickle.UnpicklingError("invalid load key"), "damaged"),
    (zipfile.BadZipFile("File is not a zip file"), "damaged"),
    (zlib.error("Error -3"), "damaged"),
    (yaml.YAMLError("x"), "damaged"),
    (EOFError("ended"), "damaged"),
    (StoreError("mine"), "^mine$"),
]


@pytest.mark.parametrize(("error", "words"), ERRORS, ids=lambda value: type(value).__name__)
def test_words(error, words):
    with pytest.raises(MadxError, match=words) as caught, as_madx_errors():
        raise error
    assert caught.value is error or caught.value.__cause__ is error


def test_json_and_safetensors():
    from safetensors import SafetensorError

    for error in (json.JSONDecodeError("Expecting value", "x", 0), SafetensorError("Error while deserializing header")):
        assert "damaged" in in_words(error)


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("x"), ValueError("x"), RuntimeError("x"), ZeroDivisionError()]
)
def test_a_fault_of_the_program_stays_what_it_is(error):
    assert in_words(error) is None
    with pytest.raises(type(error)), as_madx_errors():
        raise error
    with pytest.raises(type(error)), explained("write x"):
        raise error


def test_what_could_not_be_done():
    with pytest.raises(StoreError, match=r"^Cannot write x: .*disk is full; make room and repeat. Nothing is lost.$"):
        with explained("write x", StoreError, advice="Nothing is lost."):
            raise OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(StoreError, match="Cannot write x: .*null byte.*choose another"),
        explained("write x", StoreError),
    ):
        os.stat("a\0b")


def test_a_deleted_working_directory_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: (_ for _ in ()).throw(FileNotFoundError(2, "No such file")))
    assert "working directory was deleted" in in_words(FileNotFoundError(2, "No such file", "x"))


def test_the_folder_of_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("MADX_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.setenv("MADX_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "madx"
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(MadxError, match="set MADX_CACHE"):
        cache_root()
