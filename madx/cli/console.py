"""Output of the command: results on stdout, all else on stderr, errors as text, quiet libraries."""

import logging
import os
import sys
import warnings
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text
from typer.core import TyperGroup

from madx.errors import MadxError

#: whether this process prints: of several (accelerate launch, torchrun) only the first does
FIRST = os.environ.get("RANK", "0") == "0"
#: results wrap nowhere: a path or a command can be copied, a pipe gets whole lines
out = Console(soft_wrap=True, highlight=False, emoji=False, quiet=not FIRST)
notes = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False, quiet=not FIRST)
errors = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)

TRAINING = ("train-head", "train-language", "train-task", "quickstart", "matrix", "compare")


class MadxGroup(TyperGroup):
    """The root of the commands. A MadxError ends with its text and code 1, Ctrl-C with 130; `--debug`: a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a MadxError ends as one message and exit code 1, Ctrl-C with how to go on and 130."""
        try:
            return super().invoke(ctx)
        except MadxError as error:
            if ctx.params.get("debug"):
                raise
            errors.print(Text.assemble(("Error: ", "bold red"), (str(error), "red")))
            raise typer.Exit(1) from None
        except KeyboardInterrupt as stop:
            if ctx.params.get("debug"):
                raise
            errors.print(Text(_stopped(str(stop), ctx.invoked_subcommand), style="yellow"))
            raise typer.Exit(130) from None


def _stopped(text: str, command: str | None) -> str:
    if command not in TRAINING:
        return "Stopped."
    where = (
        f"{text[0].upper()}{text[1:]}."
        if text
        else "Stopped. Run the same command again to go on from the last checkpoint."
    )
    return f"{where} (Without --fresh or resume=false, which begin anew.) Modules in the store are as they were."


class _Handler(logging.Handler):
    """A handler that prints madx's own messages as text alone; a warning is marked as one."""

    def emit(self, record: logging.LogRecord) -> None:
        loud = record.levelno >= logging.WARNING
        mark = (f"{record.levelname.lower()}: ", "bold red" if record.levelno > logging.WARNING else "bold yellow")
        notes.print(Text.assemble(mark if loud else "", (record.getMessage(), "" if loud else "dim")))


def set_up_messages(*, debug: bool) -> None:
    """Send madx's messages to stderr, and those of the libraries only when debugging."""
    log = logging.getLogger("madx")
    log.handlers = [h for h in log.handlers if not isinstance(h, _Handler)] + [_Handler()]
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("DATASETS_VERBOSITY", "error")


def ignore_warnings() -> None:
    """Silence Python warnings, which are for developers, unless `python -W` or --debug asks for them."""
    if not sys.warnoptions and "--debug" not in sys.argv:
        warnings.simplefilter("ignore")


def quiet_transformers() -> None:
    """Turn off the bar for loading weights from disk; a download from the hub keeps its own."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    asked_off = are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if not asked_off:
        enable_progress_bars()


def counted(count: int, what: str) -> str:
    """A number with what it counts.

    >>> counted(1, "module"), counted(1200, "module")
    ('1 module', '1,200 modules')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def shell(*words: str) -> str:
    """Words as one line that can be pasted into a shell."""
    from shlex import join

    return join(words)


def show_table(table: RenderableType) -> None:
    """Print a rich table as wide as the terminal, or wide enough for most when the output is a pipe or a file."""
    Console(quiet=not FIRST, highlight=False, width=None if sys.stdout.isatty() else 200).print(table)
