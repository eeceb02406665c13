"""Output of the command: results on stdout, all else on stderr, errors as text, quiet libraries."""

import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text
from typer.core import TyperGroup

from madx.files.reasons import in_words
from madx.files.streams import MESSAGES, silence_stdout, stdout_error
from madx.outside import visible


class PlainConsole(Console):
    """A console that shows text as it is, whoever wrote it: it knows no markup and obeys no control character.

    All that the command prints goes through one of these, so labels, languages, bases, paths, words of data and answers
    of servers need no care where they are printed. Colours come from `Text`, never from marks inside a text. Its reader
    may go away (`| head`): rich would end the process; here the command ends itself.
    """

    def __init__(self, **options: Any):
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        """Pass the error on; called by rich while it is handled."""
        raise BrokenPipeError(errno.EPIPE, "nobody reads the output any longer")

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a `Text` of a string: one that is printed, or a cell of a table."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of whatever is printed, every `Text` in it with its control characters as escapes."""
        return super().render(_shown(renderable) if isinstance(renderable, Text) else renderable, options)


def _shown(text: Text) -> Text:
    """The text as `visible` shows it, each character in its own style."""
    if visible(text.plain) == text.plain:
        return text
    changed = [place for place, letter in enumerate(text.plain) if visible(letter) != letter]
    result = text.blank_copy()
    for piece in text.divide(sorted({end for place in changed for end in (place, place + 1)})):
        escaped = Text(visible(piece.plain), style=piece.style)
        for span in piece.spans:
            escaped.stylize(span.style, span.start, None if span.end == len(piece) else span.end)
        result.append_text(escaped)
    return result


#: whether this process prints: of several (accelerate launch, torchrun) only the first does
FIRST = os.environ.get("RANK", "0") == "0"
#: results wrap nowhere: a path or a command can be copied, a pipe gets whole lines
out = PlainConsole(soft_wrap=True, quiet=not FIRST)
notes = PlainConsole(file=MESSAGES, soft_wrap=True, quiet=not FIRST)
errors = PlainConsole(file=MESSAGES, soft_wrap=True)

TRAINING = ("train-head", "train-language", "train-task", "quickstart", "matrix", "compare")


class MadxGroup(TyperGroup):
    """The root of the commands: every error that a user can meet ends as a text; with `--debug` as a traceback.

    Exit codes: 1 after an error, 130 after Ctrl-C, 141 when nobody reads the output any longer (as shells count it).
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and write out what it printed."""
        try:
            result = super().invoke(ctx)
            if (unwritten := stdout_error()) is not None:
                raise unwritten
            return result
        except BaseException as error:
            if stdout_error() is not None or isinstance(error, OSError):
                silence_stdout()
            if isinstance(error, BrokenPipeError):
                raise typer.Exit(141) from None
            if ctx.params.get("debug"):
                raise
            if isinstance(error, KeyboardInterrupt):
                errors.print(Text(_stopped(str(error), ctx.invoked_subcommand), style="yellow"))
                raise typer.Exit(130) from None
            if (text := in_words(error)) is None:
                raise
            print_error(text)
            raise typer.Exit(1) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Read the words of the command line and run it; a full disk at `--help` or `--version` is told, too."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            silence_stdout()
            if "--debug" in (kwargs.get("args") or [*args, *sys.argv]):
                raise
            print_error(str(in_words(error)))
            raise SystemExit(1) from None


def print_error(text: str) -> None:
    """Print the text of an error to stderr."""
    errors.print(Text.assemble(("Error: ", "bold red"), (text, "red")))


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
    PlainConsole(quiet=not FIRST, width=None if sys.stdout.isatty() else 200).print(table)
