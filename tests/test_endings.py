"""The end of a command: full or closed outputs, other encodings, lost folders, errors of the system, faults of ours."""

import errno
import io
import os
import signal
import subprocess
import sys

import pytest
from cli_tools import ROOT, failed, run

import madx.files.streams as streams
from madx.cli.ending import fault_in_words
from madx.cli.ending import run as run_process
from madx.training.stop_signals import SIGNALS, stop_signals


def raising(monkeypatch, error):
    """Let `madx modules list` meet an error."""
    monkeypatch.setattr("madx.store.Store.list", lambda self: (_ for _ in ()).throw(error))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files", "x.json"), "Error: x.json: too many files are open; raise the"),
        (MemoryError(), "Error: There is not enough memory"),
        (RecursionError("too deep"), "nested too deeply"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "save it as UTF-8"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (ValueError("embedded null byte"), "cannot be a path"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_the_system_end_in_words(error, words, monkeypatch, tmp_path):
    raising(monkeypatch, error)
    assert words in failed(run("modules", "list", "--store", tmp_path))
    assert isinstance(run("--debug", "modules", "list", "--store", tmp_path).exception, type(error))


def test_nobody_reads_the_output(monkeypatch, tmp_path):
    raising(monkeypatch, BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert failed(run("modules", "list", "--store", tmp_path), 141) == ""


def test_a_full_output_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr("madx.cli.console.stdout_error", lambda: OSError(errno.ENOSPC, "No space left on device"))
    assert "Cannot write the output: No space left on device" in failed(run("modules", "list", "--store", tmp_path))


def test_a_deleted_working_directory(monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: (_ for _ in ()).throw(FileNotFoundError(2, "No such file")))
    assert "working directory was deleted: change into one" in failed(run("modules", "list"))


def test_a_fault_of_the_program_is_told_as_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["madx", "modules", "list"])

    def faulty(**_):
        raise KeyError("inner")

    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with pytest.raises(SystemExit) as ended:
            run_process(faulty)
        monkeypatch.setattr(sys, "argv", ["madx", "--debug"])
        with pytest.raises(KeyError):
            run_process(faulty)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    said = capsys.readouterr().err
    assert ended.value.code == 70 and "a fault of madx" in said and "KeyError: 'inner'" in said and "--debug" in said
    assert "line" not in fault_in_words(KeyError("never raised"))


class Broken(io.StringIO):
    """A stream whose reader or disk is gone."""

    def write(self, text=""):
        raise OSError(errno.EIO, "Input/output error")

    flush = isatty = write


def test_messages_never_end_the_work(monkeypatch):
    for stream in (Broken(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert streams.MESSAGES.write("x") == 1 and not streams.MESSAGES.isatty()
        streams.MESSAGES.flush()
        from madx.training.progress import ProgressView

        with ProgressView("swa", 2) as view:
            view.step(2, loss=1.0, tokens=3)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    streams.MESSAGES.write("x")


def test_characters_that_stdout_lacks_are_escaped_and_that_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(streams, "_told", [])
    for name in ("stdin", "stdout"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict"))
    streams.prepare_streams()
    sys.stdout.write('{"text": "Ọ̀yọ́ é 😀 \udcff"}\n')
    sys.stdout.write("ọ")
    sys.stdout.flush()
    written = sys.stdout.buffer.getvalue().decode("ascii")
    assert written.startswith('{"text": "\\u1ecc\\u0300y\\u1ecd\\u0301 \\u00e9 \\ud83d\\ude00 \\udcff"}')
    assert caplog.text.count("PYTHONIOENCODING=utf-8") == 1


def test_signals_are_given_back_and_an_ignored_hangup_stays_ignored():
    pytest.importorskip("fcntl")  # POSIX
    before = {number: signal.getsignal(number) for number in SIGNALS}
    assert signal.SIGHUP in SIGNALS
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
        with stop_signals() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert asked()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGHUP)
                signal.pause()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        with stop_signals() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


PROCESS = "import sys; from madx.cli import main; sys.argv = ['madx', *sys.argv[1:]]; main()"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_real_outputs(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}

    def shell(line):
        line = line.replace("MADX", f'"{sys.executable}" -c "{PROCESS}"')
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    code, _, said = shell("MADX modules types > /dev/full")
    assert code == 1 and "Cannot write the output: No space left" in said
    code, _, said = shell("MADX --version > /dev/full")
    assert code == 1 and "Cannot write the output: No space left" in said
    code, shown, said = shell("set -o pipefail; MADX modules types | head -n 1")
    assert (code, shown, said) == (141, "components:\n", "")
    code, _, said = shell("MADX bases >&-")
    assert code == 0 and "stdout is closed" in said
    code, shown, said = shell("MADX bases 2>&-")
    assert code == 0 and "xlm-roberta" in shown
    code, shown, said = shell("MADX modules list --store ọ > x; cat x")
    assert code == 0 and "\\u1ecd" in shown and "PYTHONIOENCODING" in said
    code, _, said = shell("mkdir gone; cd gone; rmdir ../gone; MADX modules list")
    assert code == 1 and "working directory was deleted" in said
