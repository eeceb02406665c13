"""Files of an evaluation that were damaged or altered: read as they were written, or refused in words."""

import json
import logging

import pytest
from damage import in_turn, outcomes
from evaluation_tools import fill

from madx.errors import DataError
from madx.report.page import write_report
from madx.report.page.record import read_run, save_modules
from madx.results import from_json, read_matrix
from madx.results.json import VERSION

COUNT = 240


@pytest.fixture(autouse=True)
def messages(caplog):
    caplog.set_level(logging.WARNING, logger="madx")


def test_a_transfer_matrix(tmp_path):
    fill(tmp_path)
    data = (tmp_path / "matrix.json").read_bytes()
    whole = read_matrix(tmp_path / "matrix.json")
    versions = in_turn(tmp_path / "matrix.json", count=COUNT)
    equal, refused = outcomes(versions, lambda _: read_matrix(tmp_path / "matrix.json"), whole)
    assert refused > 0.8 * COUNT and equal < 0.1 * COUNT
    assert json.loads(data)["version"] == VERSION


def put(content, path, value):
    inside = content
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value


ALTERED = [
    (("cells", 0, "scores", "f1"), 95.0, "f1 is 95.0, its counts give"),
    (("cells", 0, "scores", "precision"), "high", "precision is 'high', its counts give"),
    (("cells", 0, "scores", "correct"), 3, "correct is 3, its counts give"),
    (("cells", 0, "scores", "statistics", "tp"), [0, 0, 0], "statistics of different lengths"),
    (("cells", 0, "scores", "statistics", "tp"), [0] * 12, "scores of .* are not those of their counts"),
    (("cells", 0, "scores", "per_type", "PER", "support"), 10**6, "support of"),
    (("cells", 0, "scores", "per_type", "PER", "f1"), 1e9, "per_type.PER"),
    (("cells", 0, "scores", "per_type"), [], "per_type is"),
    (("cells", 0, "scores", "token_accuracy"), None, "token_accuracy is None"),
    (("cells", 0, "target"), 3, "cell.target is 3"),
    (("cells", 0, "seed"), "1", "cell.seed is '1'"),
    (("meta", "source"), 3, "meta.source is 3"),
    (("meta", "data"), {"a": 1}, "meta.data.a is 1"),
    (("targets",), "eng", "targets is 'eng'"),
    (("missing", 0, "reason"), None, "missing.reason is None"),
]


@pytest.mark.parametrize(("path", "value", "message"), ALTERED)
def test_scores_are_compared_with_their_counts_whatever_else_agrees(path, value, message, tmp_path):
    """In a file of a version without a checksum, the counts are what tells."""
    fill(tmp_path)
    content = json.loads((tmp_path / "matrix.json").read_text())
    del content["checksum"]
    whole = json.dumps(content | {"version": 2})
    assert from_json(whole) == read_matrix(tmp_path / "matrix.json")
    put(content, path, value)
    with pytest.raises(DataError, match=f"matrix.json is damaged.*{message}"):
        from_json(json.dumps(content | {"version": 2}))


def test_an_earlier_version_is_no_way_round_the_checksum_and_is_told(tmp_path, caplog):
    fill(tmp_path)
    content = json.loads((tmp_path / "matrix.json").read_text())
    with pytest.raises(DataError, match="checksum: not of this version"):
        from_json(json.dumps(content | {"version": 2}))
    with pytest.raises(DataError, match="checksum: missing"):
        from_json(json.dumps({k: v for k, v in content.items() if k != "checksum"}))
    (tmp_path / "matrix.json").write_text(
        json.dumps({k: v for k, v in content.items() if k != "checksum"} | {"version": 2})
    )
    read_matrix(tmp_path / "matrix.json")
    assert "matrix.json is of version 2, which has no checksum" in caplog.text


def test_the_folder_of_a_run(tmp_path):
    fill(tmp_path)
    save_modules(tmp_path, [])
    whole = read_run(tmp_path)
    assert whole.predictions.keys() == {file.name for file in (tmp_path / "predictions").iterdir()} != set()
    equal, refused = outcomes(
        in_turn(tmp_path / "modules.json", count=COUNT // 4),
        lambda _: read_run(tmp_path).predictions,
        whole.predictions,
    )
    assert refused > 0.7 * COUNT / 4
    cell = next(c for c in whole.matrix.cells if whole.prediction(c.target, c.control, c.seed))
    place = cell.target, cell.control, cell.seed
    (path,) = (tmp_path / "predictions").glob("{}.{}.seed{}.conll".format(*place))
    versions = in_turn(path, count=COUNT // 4)
    equal, refused = outcomes(versions, lambda _: whole.prediction(*place), whole.prediction(*place))
    assert equal == 0 and refused > 0.9 * COUNT / 4


def test_a_record_of_a_run_without_a_checksum_that_cannot_be_shown_is_told(tmp_path, caplog):
    fill(tmp_path)
    content = {"format": "madx modules of a run", "version": 2, "modules": {"swa": {"training": 3}}}
    (tmp_path / "modules.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="modules are damaged.*remove modules.json"):
        write_report(tmp_path)
    assert "modules.json is of version 2, which has no checksum" in caplog.text
