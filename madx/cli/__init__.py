"""The `madx` command. Each command imports what it needs when it runs, so that `madx --help` answers at once."""

import typer

from madx.cli import hub, jobs, many, modules, reference, similarity, using
from madx.cli import inspect as inspecting
from madx.cli.console import MadxGroup, ignore_warnings, out, set_up_messages
from madx.cli.ending import run
from madx.errors import MadxError
from madx.files.reasons import lost_folder
from madx.files.streams import prepare_streams
from madx.version import __version__

app = typer.Typer(
    cls=MadxGroup,
    name="madx",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
TRAIN, USE, KNOW = "Train and evaluate", "Use modules", "What there is"


def _version(wanted: bool) -> None:
    if wanted:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        out.print(f"madx {__version__}")
        for package in ("torch", "transformers", "accelerate"):
            try:
                out.print(f"{package} {version(package)}")
            except PackageNotFoundError:
                out.print(f"{package} (not installed)")
        out.print(f"python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def madx(
    debug: bool = typer.Option(
        False, "--debug", envvar="MADX_DEBUG", show_envvar=True, help="Show tracebacks and the libraries' messages."
    ),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print versions and stop."),
) -> None:
    """Modular cross-lingual transfer: language modules and task modules over one frozen multilingual base.

    Train a language module for each language and a task module once, in the source language; then swap the language
    module and do the task in a language that has no labelled data. Start with: madx quickstart
    """
    set_up_messages(debug=debug)
    if gone := lost_folder():  # libraries of torch would end the process without a word that helps
        raise MadxError(gone.removeprefix("; ").capitalize() + ".")


app.command("quickstart", rich_help_panel=TRAIN)(jobs.quickstart)
app.command("train-head", rich_help_panel=TRAIN)(jobs.train_head)
app.command("train-language", rich_help_panel=TRAIN)(jobs.train_language)
app.command("train-task", rich_help_panel=TRAIN)(jobs.train_task)
app.command("evaluate", rich_help_panel=TRAIN)(jobs.evaluate)
app.command("matrix", rich_help_panel=TRAIN)(many.matrix)
app.command("compare", rich_help_panel=TRAIN)(many.compare)
app.command("inspect", rich_help_panel=KNOW)(inspecting.inspect)
app.command("predict", rich_help_panel=USE)(using.predict)
app.command("explain", rich_help_panel=USE)(using.explain)
app.command("report", rich_help_panel=USE)(using.report)
app.command("export", rich_help_panel=USE)(using.export)
modules.app.command("push")(hub.push)
modules.app.command("pull")(hub.pull)
app.add_typer(modules.app, name="modules", rich_help_panel=USE)
app.command("similarity", rich_help_panel=KNOW)(similarity.similarity)
app.command("config", rich_help_panel=KNOW)(reference.config)
app.command("tasks", rich_help_panel=KNOW)(reference.tasks)
app.command("bases", rich_help_panel=KNOW)(reference.bases)


def main() -> None:
    """The console script."""
    prepare_streams()
    ignore_warnings()
    run(app)
