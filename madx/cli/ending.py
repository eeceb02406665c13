"""The end of the process: signals that end it clean up first, and a fault of the program itself is told as one."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from madx.cli.console import print_error
from madx.errors import MadxError

#: exit code of a fault of the program (EX_SOFTWARE of sysexits.h)
FAULT = 70


def run(app: Callable[..., Any]) -> None:
    """Run the command line of this process; it ends in SystemExit."""
    _stop_on_signals()
    try:
        app(prog_name="madx")
    except Exception as error:
        if isinstance(error, MadxError) or "--debug" in sys.argv or os.environ.get("MADX_DEBUG"):
            raise
        print_error(fault_in_words(error))
        raise SystemExit(FAULT) from None


def fault_in_words(error: BaseException) -> str:
    """Say that the program itself has a fault, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return (
        f"This is a fault of madx or of a library, not yours: {type(error).__name__}: {str(error)[:300]}{place}. What "
        "was stored before is whole. Run the command again as `madx --debug ...`, and report the traceback to madx."
    )


def _stop_on_signals() -> None:
    """End on SIGTERM and SIGHUP as on Ctrl-C, so that temporary files are removed; ignored signals stay ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt
