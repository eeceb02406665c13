"""Names and links in a report's folder that lead out of it."""

import json

import pytest
from evaluation_tools import cells, fill, matrix

from madx.checksums import CHECKSUM, checksum
from madx.errors import DataError
from madx.report import save
from madx.report.page import write_report
from madx.results import Matrices
from madx.results.matrices import Entry

UP = "../../up"


def test_matrices_do_not_write_outside_of_their_folder(tmp_path):
    whole = Matrices((Entry(UP, "adapters", "eng", matrix(cells("swa"))),))
    with pytest.raises(DataError, match="task.*would become the name of a file"):
        save(whole, tmp_path / "a" / "b")
    assert not (tmp_path / "up.adapters.eng").exists()


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "run").mkdir()
    fill(tmp_path / "run")
    return tmp_path / "run"


def rename_target(run, name):
    """Write another name into the matrix, with the checksum that an attacker would compute."""
    content = json.loads((run / "matrix.json").read_text().replace('"swa"', json.dumps(name)))
    (run / "matrix.json").write_text(json.dumps(content | {CHECKSUM: checksum(content)}))


@pytest.mark.parametrize("name", [UP, "/etc/passwd", "a\0b"], ids=ascii)
def test_a_report_reads_no_file_outside(name, run_folder):
    rename_target(run_folder, name)
    with pytest.raises(DataError, match="target.*would become the name of a file"):
        write_report(run_folder)


def test_a_report_follows_no_link_out_of_its_folder(run_folder, tmp_path):
    (run_folder / "predictions").rename(tmp_path / "elsewhere")
    (run_folder / "predictions").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads out of the folder"):
        write_report(run_folder)
    (run_folder / "report.md").symlink_to(tmp_path / "mine")
    (tmp_path / "mine").write_text("mine")
    (run_folder / "predictions").unlink()
    (tmp_path / "elsewhere").rename(run_folder / "predictions")
    write_report(run_folder)
    assert (tmp_path / "mine").read_text() == "mine" and not (run_folder / "report.md").is_symlink()
