"""The page of a run: one HTML file that needs nothing else, and its facts in Markdown, made from the run's folder."""

from pathlib import Path

from madx.errors import DataError
from madx.report.files import write_files
from madx.report.page.record import read_run

HTML, MARKDOWN = "report.html", "report.md"


def write_report(folder: str | Path) -> list[Path]:
    """Write report.html and report.md into the folder of an evaluation, from what it left there.

    Raises DataError when the folder holds no run, MadxError when it cannot be written.
    """
    from madx.report.page.render import to_html, to_markdown  # the template engine is not needed for the rest
    from madx.report.page.sections import context

    record = read_run(folder)
    try:
        shown = context(record)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # files without a checksum
        raise DataError(
            f"{folder}: the records of its modules are damaged ({type(error).__name__}: {error}); evaluate again, or "
            "remove modules.json to leave them out."
        ) from error
    contents = {HTML: to_html(shown).encode(), MARKDOWN: to_markdown(record.matrix, shown).encode()}
    return write_files(contents, folder, what="the report")
