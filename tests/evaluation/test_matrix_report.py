"""A transfer matrix as tables, picture and files: marks, warnings and gaps are in every one of them."""

import csv
import io
import json

import pytest
from evaluation_tools import META, cells, matrix, printed, row
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from madx.errors import DataError, MadxError
from madx.report import save, to_csv, to_markdown, to_rich
from madx.report.pictures.matrix import heatmap_figure
from madx.results import CONTROLS, Missing, TransferMatrix, from_json, to_json


def test_an_inactive_module_is_in_every_output():
    m = matrix(cells("swa", inactive=["swa"]), cells("hau"))
    assert len(m.warnings()) == 1 and "swa did not act for swa, control target" in m.warnings()[0]
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(to_rich(m))
    assert "\x1b[1;31mINACTIVE MODULE" in console.file.getvalue()  # bold red
    assert "🔴 **INACTIVE MODULE" in to_markdown(m) and "🔴 inactive" in to_markdown(m)
    flagged = [x for x in csv.DictReader(io.StringIO(to_csv(m))) if x["inactive"] == "INACTIVE MODULE: swa"]
    assert len(flagged) == 3 and {x["control"] for x in flagged} == {"target"}
    assert json.loads(to_json(m))["warnings"] == m.warnings()
    figure = heatmap_figure(m)
    assert any("INACTIVE MODULE" in t.get_text() and t.get_color() == "#CC0000" for t in figure.texts)
    assert row(m, "average", "target").inactive == ("swa",)
    assert all(c.inactive == ("swa",) for c in m.differences(samples=0) if c.target in ("swa", "average"))
    assert f"**{row(m, 'swa', 'target').mean:.1f}" not in to_markdown(m)  # cannot win the row

    clean = matrix(cells("swa"), cells("hau"))
    outputs = (to_markdown(clean), to_csv(clean), to_json(clean), printed(clean))
    assert not clean.warnings() and not any("INACTIVE" in text for text in outputs)


def test_noise_is_marked_in_table_and_footnote():
    m = matrix(cells("swa", seeds=(1,)))
    for text in (to_markdown(m), printed(m)):
        assert "≈+" in text and "swa: target - none" in text and "one seed gives no interval" in text
        assert "±" not in next(x for x in text.splitlines() if x.startswith(("swa ", "| swa ")))
    clear = matrix(cells("swa"))
    assert not any(c.noise for c in clear.differences(samples=0))
    assert "≈" not in printed(clear) and "no difference is within noise" in printed(clear)


def test_markdown_is_aligned_and_complete():
    text = to_markdown(matrix(cells("swa"), cells("hau")))
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({len(line) for line in table}) == 1 and len({line.count("|") for line in table}) == 1
    assert "Synthetic." in text and "swa/test.conll" in text and "torch 2.13.0" in text
    assert any("| PER" in line for line in tables[3]) and any("| all" in line for line in tables[3])


def test_bold_is_the_best_control():
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system="standard")
    m = matrix(cells("swa"))
    console.print(to_rich(m))
    best = row(m, "swa", "target")
    assert f"\x1b[1m{best.mean:.1f} ± {best.sd:.1f}" in console.file.getvalue()
    assert f"**{best.mean:.1f} ± {best.sd:.1f}**" in to_markdown(m)


def test_a_narrow_terminal_loses_no_digit():
    m = matrix(cells("swa"))
    assert "…" not in printed(m, 60) and "…" not in printed(m, 80)
    assert all(f"{row(m, 'swa', control).mean:.1f}" in printed(m, 60) for control in CONTROLS)


def test_csv_is_tidy():
    m = matrix(cells("swa"), cells("hau"))
    lines = list(csv.DictReader(io.StringIO(to_csv(m))))
    assert len(lines) == len(m.cells) == 24
    for line, cell in zip(lines, m.cells):
        assert (line["target"], line["control"], int(line["seed"])) == (cell.target, cell.control, cell.seed)
        assert float(line["f1"]) == cell.scores.f1
        assert float(line["PER_recall"]) == cell.scores.per_type["PER"]["recall"]


def test_a_report_of_something_else_is_refused():
    with pytest.raises(DataError, match="TransferMatrix, Matrices, Comparison, got dict; .*matrix"):
        to_markdown({})


def test_a_matrix_without_scores_is_shown_without_failing(tmp_path):
    m = TransferMatrix(META, (), (Missing("swa", "target", "killed"),))
    assert "killed" in printed(m) and "killed" in to_markdown(m)
    assert from_json(to_json(m)) == m
    save(m, tmp_path)
    with pytest.raises(DataError, match="without any language"):
        TransferMatrix(META, ())


def test_save_writes_four_files_that_belong_together(tmp_path):
    m = matrix(cells("swa"), cells("hau"))
    paths = save(m, tmp_path / "new" / "folder")
    assert [p.name for p in paths] == ["matrix.json", "matrix.csv", "matrix.md", "heatmap.png"]
    assert sorted(p.name for p in paths[0].parent.iterdir()) == sorted(p.name for p in paths)  # no temporary left
    assert from_json(paths[0].read_text(encoding="utf-8")) == m
    assert paths[3].read_bytes().startswith(b"\x89PNG")


def test_a_failed_save_leaves_the_old_files(tmp_path, monkeypatch):
    m = matrix(cells("swa"))
    save(m, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(MadxError, match="No space left.*Free space"):
        save(matrix(cells("hau")), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    with pytest.raises(MadxError, match="cannot write the matrix"):
        save(m, tmp_path / "file" / "below")


def test_heatmap_shows_every_place_and_keeps_labels_inside():
    m = matrix(cells("eng"), cells("swa"), cells("swa-Latn-TZ", controls=("none", "source")))
    figure = heatmap_figure(m)
    scores, _, differences = figure.axes
    shown = {t.get_text().strip(" ≈") for t in scores.texts}
    assert shown == {f"{r.mean:.1f} ± {r.sd:.1f}" for r in m.table() if r.mean is not None} | {"-"}
    assert [t.get_text() for t in scores.get_yticklabels()] == ["eng (source)", "swa", "swa-Latn-TZ", "average"]
    FigureCanvasAgg(figure).draw()
    outer, bar = figure.bbox, figure.axes[1].get_tightbbox()
    for label in (*scores.get_yticklabels(), *differences.get_yticklabels(), differences.xaxis.label, *figure.texts):
        box = label.get_window_extent()
        assert outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0, label.get_text()
    assert all(t.get_window_extent().x0 > bar.x1 for t in differences.get_yticklabels())
    assert len({tuple(t.get_position()) for t in scores.texts}) == 16
