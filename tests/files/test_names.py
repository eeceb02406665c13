"""Names that become files: one rule for users, settings and stored records."""

import os

import pytest

from madx.errors import ConfigError, DataError
from madx.files.names import LONGEST, check_file_name, check_file_names, fault_of, inside

HOSTILE = [
    "../../up",
    "..",
    ".",
    ".hidden",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:",
    "C:\\x",
    "a\0b",
    "a\nb",
    "a\tb",
    "\x1b[31m",
    "a\u202eb",
    "a\u200db",
    "a\u2028b",
    "\ud800",
    "swa.",
    "swa ",
    " swa",
    "",
    "*",
    "a?",
    "<b>",
    "a|b",
    "x" * (LONGEST + 1),
    "é" * LONGEST,
    3,
    None,
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_what_is_no_file_name_is_refused_in_printable_words(name):
    with pytest.raises(DataError, match="target.*would become the name of a file.*Give a name") as caught:
        check_file_name(name, "target", kind=DataError)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "name", ["swa", "pt-BR", "Kiswahili", "sw (news)", "中文", "हिन्दी", "con", "aux", "a.b", "x" * 64]
)
def test_what_people_call_languages_and_tasks_is_allowed(name, tmp_path):
    assert check_file_name(name, "target") == name
    (tmp_path / f"{name}.{name}.{name}@1234-12345678").touch()


def test_windows_keeps_some_names(monkeypatch):
    monkeypatch.setattr("madx.files.names.os.name", "nt")
    faults = {name: fault_of(name) for name in ("con", "CON", "nul.x", "lpt1", "console", "swa")}
    monkeypatch.undo()
    assert os.name == "posix" or faults
    assert [name for name, fault in faults.items() if fault] == ["con", "CON", "nul.x", "lpt1"]


@pytest.mark.parametrize("pair", [("swa", "SWA"), ("caf\u00e9", "cafe\u0301"), ("stra\u00dfe", "STRASSE")], ids=ascii)
def test_two_names_for_one_file_are_refused(pair):
    with pytest.raises(ConfigError, match="would be one file.*another name"):
        check_file_names(pair, "target")
    check_file_names([pair[0], "other"], "target")


def test_a_path_inside_a_folder(tmp_path):
    run = tmp_path / "run"
    (run / "predictions").mkdir(parents=True)
    assert inside(run, "predictions", "x.conll") == run / "predictions" / "x.conll"
    (run / "out").symlink_to(tmp_path)
    (run / "loop").symlink_to(run / "loop")
    for names in (("..", "x"), ("out", "x"), ("/etc/passwd",), ("a\0b",)):
        with pytest.raises(DataError, match="another folder"):
            inside(run, *names, kind=DataError)
    (tmp_path / "link").symlink_to(run)
    inside(tmp_path / "link", "predictions", "x.conll")  # the folder itself may lie elsewhere
