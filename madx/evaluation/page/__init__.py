"""The report of a run: one HTML file that needs nothing else, and the same in Markdown, made from the run's folder."""

from pathlib import Path

from madx.errors import MadxError
from madx.evaluation.page.record import read_run
from madx.evaluation.storage import write_whole

HTML, MARKDOWN = "report.html", "report.md"


def write_report(folder: str | Path) -> list[Path]:
    """Read what an evaluation left in a folder and write report.html and report.md there, each whole or not at all.

    Raises DataError when the folder holds no run, MadxError when it cannot be written.
    """
    from madx.evaluation.page.render import to_html, to_markdown  # the template engine is not needed for the rest

    record = read_run(folder)
    contents = {HTML: to_html(record), MARKDOWN: to_markdown(record)}
    paths = [Path(folder) / name for name in contents]
    try:
        for path, content in zip(paths, contents.values()):
            write_whole(path, content.encode())
    except OSError as error:
        raise MadxError(f"cannot write the report to {folder}: {error}. Free space or choose another folder.") from error
    return paths
