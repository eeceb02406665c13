import csv
import io
import json
import random
import re
import subprocess
import sys
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from madx.errors import DataError, MadxError
from madx.metrics.scores import entity_scores
from madx.metrics.significance import paired_bootstrap, seed_difference
from madx.report import save, to_csv, to_markdown, to_rich
from madx.report.pictures.matrix import heatmap_figure
from madx.results import CONTROLS, Cell, Meta, Missing, TransferMatrix, from_json, read_matrix, to_json

META = Meta("ner", "eng", "tiny-base", {"swa/test.conll": "ab" * 32}, {"torch": "2.13.0"}, "Synthetic.")
SKILL = {"none": 0.70, "source": 0.68, "target": 0.85, "mean": 0.72}


def cells(target, seeds=(1, 2, 3), controls=CONTROLS, inactive=(), sentences=60):
    rng = random.Random(target)
    tags = ["O", "O", "O", "B-PER", "I-PER", "B-LOC"]
    gold = [rng.choices(tags, k=8) for _ in range(sentences)]
    return [
        Cell(
            target=target,
            control=control,
            composition=f"{target} + ner",
            seed=seed,
            scores=entity_scores(
                gold, [[t if rng.random() < SKILL[control] else rng.choice(tags) for t in s] for s in gold]
            ),
            explanation={"inactive": list(inactive) if control == "target" else [], "sites": {"layer.0.ffn": ["ner"]}},
        )
        for control in controls
        for seed in seeds
    ]


def matrix(*groups, **settings):
    return TransferMatrix(META, tuple(c for group in groups for c in group), **settings)


def printed(m, width=100):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(to_rich(m))
    return console.file.getvalue()


def row(m, target, control, **kw):
    return next(r for r in m.table(**kw) if (r.target, r.control) == (target, control))


def test_table_means_and_deviation():
    m = matrix(cells("swa"), cells("hau"))
    values = [c.scores.f1 for c in m.group("swa", "target")]
    found = row(m, "swa", "target")
    assert (found.mean, found.sd, found.n) == (pytest.approx(fmean(values)), pytest.approx(stdev(values)), 3)
    macro = [fmean(c.scores.f1 for c in m.cells if c.control == "target" and c.seed == s) for s in (1, 2, 3)]
    average = row(m, "average", "target")
    assert (average.mean, average.sd) == pytest.approx((fmean(macro), stdev(macro))) and average.languages == 2
    assert row(m, "swa", "none", metric="recall").mean == pytest.approx(
        fmean(c.scores.recall for c in m.group("swa", "none"))
    )
    with pytest.raises(DataError, match="did you mean 'recall'"):
        m.table(metric="recal")


def test_source_row_comes_first_and_is_not_averaged():
    m = matrix(cells("swa"), cells("eng"), cells("hau"))
    assert m.targets == ("eng", "swa", "hau") and m.averaged() == ["swa", "hau"]
    ordered = matrix(cells("swa"), cells("eng"), cells("hau"), targets=("hau", "swa", "eng"))
    assert ordered.targets == ("eng", "hau", "swa")
    for text in (to_markdown(ordered), printed(ordered)):
        firsts = [line.lstrip("| ").split(" ")[0] for line in text.splitlines()]
        assert [w for w in firsts if w in ("eng", "hau", "swa", "average")][:4] == ["eng", "hau", "swa", "average"]


def test_of_several_sources_none_is_averaged_and_each_is_marked():
    groups = [cells(target) for target in ("hau", "deu", "eng", "swa")]
    m = TransferMatrix(replace(META, source="eng, deu"), tuple(c for group in groups for c in group))
    assert m.targets == ("deu", "eng", "hau", "swa") and m.averaged() == ["hau", "swa"]
    labels = [t.get_text() for t in heatmap_figure(m).axes[0].get_yticklabels()]
    assert labels == ["deu (source)", "eng (source)", "hau", "swa", "average"]


def test_differences_pair_the_seeds():
    m = matrix(cells("swa", seeds=(1, 2, 3)), cells("hau", seeds=(5,)))
    found = {(c.target, c.minus): c for c in m.differences()}
    a, b = m.group("swa", "target"), m.group("swa", "source")
    expected = seed_difference([c.scores.f1 for c in a], [c.scores.f1 for c in b])
    swa = found["swa", "source"]
    assert (swa.delta, swa.low, swa.high, swa.n, swa.noise) == (expected.delta, expected.low, expected.high, 3, False)
    assert swa.sentences.low > 0
    one = found["hau", "none"]
    assert (
        one.noise
        and one.low is None
        and one.sentences
        == paired_bootstrap(
            m.group("hau", "target")[0].scores.statistics,
            m.group("hau", "none")[0].scores.statistics,
            seed=[0, zlib.crc32(b"hau")],
        )
    )
    assert ("average", "none") not in found  # the languages share no seed


def test_average_is_over_languages_with_every_control():
    controls = ("none", "source", "mean")
    m = matrix(
        cells("swa"),
        cells("hau"),
        cells("yor", controls=controls),
        missing=(Missing("yor", "target", "no module for 'yor' in the store"),),
    )
    assert m.averaged() == ["swa", "hau"]
    assert row(m, "average", "none").mean == pytest.approx(fmean(row(m, t, "none").mean for t in ("swa", "hau")))
    for text in (to_markdown(m), printed(m, 200)):
        assert "yor, target: no module for 'yor' in the store" in text
        assert "average over 2 of 3 target languages" in text
    line = next(x for x in printed(m).splitlines() if x.startswith("yor"))
    assert line.split()[-3:] == ["-", "-", "-"]
    lines = list(csv.DictReader(io.StringIO(to_csv(m))))
    gap = [x for x in lines if x["missing_because"]]
    assert len(gap) == 1 and gap[0]["control"] == "target" and gap[0]["f1"] == ""
    assert row(matrix(cells("yor", controls=controls)), "yor", "target").reason == "not evaluated"


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
        assert (
            "≈+" in text
            and "swa: target - none" in text
            and "one seed gives no interval" in text
            and "±" not in next(x for x in text.splitlines() if x.startswith(("swa ", "| swa ")))
        )
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


words = st.text(max_size=6)
tag_rows = st.lists(
    st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC"]), min_size=1, max_size=4), min_size=1, max_size=4
)
records = st.none() | st.dictionaries(
    words.filter(lambda w: w != "inactive"),
    st.integers() | words | st.floats(allow_nan=False, allow_infinity=False) | st.lists(words, max_size=2).map(tuple),
    max_size=3,
)


@given(
    tag_rows,
    st.lists(st.tuples(st.sampled_from(list(CONTROLS)), st.integers(0, 10**9)), unique=True, max_size=4),
    records,
    words,
    st.dictionaries(words, words, max_size=2),
)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_json_round_trip(gold, places, record, text, data):
    rng = random.Random(0)
    made = tuple(
        Cell(
            target="swa",
            control=control,
            composition=text,
            seed=seed,
            explanation=record,
            scores=entity_scores(gold, [[rng.choice(["O", "B-PER"]) for _ in s] for s in gold]),
        )
        for control, seed in places
    )
    m = TransferMatrix(Meta("ner", "eng", text, data, {}, text), made, (Missing("hau", "mean", text),), ("hau", "swa"))
    again = from_json(to_json(m))
    assert again == m and to_json(again) == to_json(m)


def test_a_matrix_of_0_1_0_is_read_and_gives_the_figures_that_it_recorded():
    path = Path(__file__).parent / "run_of_0_1_0" / "matrix.json"
    m, recorded = read_matrix(path), json.loads(path.read_text(encoding="utf-8"))
    (explained,) = {json.dumps(c.explanation) for c in m.group("swa", "target")}
    assert m.group("swa", "target")[0].inactive == ("swa",)
    assert '"component": "bottleneck"' in explained and "silent" not in explained and '"part"' not in explained
    for name, found in (("table", m.table()), ("differences", m.differences()), ("pairs", m.pairs())):
        shown = json.loads(json.dumps([asdict(f) for f in found]))
        wanted = [{"inactive" if key == "silent" else key: value for key, value in f.items()} for f in recorded[name]]
        assert len(shown) == len(wanted) > 5, name
        for one, other in zip(shown, wanted):
            assert one.keys() == other.keys() and one == {k: _near(v) for k, v in other.items()}, name
    assert from_json(to_json(m)) == m


def _near(value):
    """A number within rounding of the same sums on another machine; dicts by value."""
    if isinstance(value, dict):
        return {key: _near(v) for key, v in value.items()}
    return pytest.approx(value) if isinstance(value, float) else value


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "matrix.json").write_bytes(b"\xff")
    for path in (tmp_path / "nothing.json", tmp_path / "matrix.json", tmp_path):
        with pytest.raises(DataError, match=f"{re.escape(str(path))} cannot be read.*madx evaluate"):
            read_matrix(path)
    (tmp_path / "matrix.json").write_text("{")
    with pytest.raises(DataError, match="matrix.json: .*not JSON"):
        read_matrix(tmp_path / "matrix.json")


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


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not JSON"),
        ("[]", "expected format"),
        ('{"format": "other"}', "got 'other'"),
        ('{"format": "madx transfer matrix", "version": 3}', "version 1 or 2, got .* version 3"),
        ('{"format": "madx transfer matrix", "version": 2}', "damaged.*meta"),
        ('{"format": "madx transfer matrix", "version": 1, "cells": [{"scores": 3}]}', "damaged"),
    ],
)
def test_from_json_bad_input(text, message):
    with pytest.raises(DataError, match=message):
        from_json(text)


def test_bad_cells():
    group = cells("swa")
    with pytest.raises(DataError, match="two cells for language swa, control none, seed 1"):
        matrix(group, group[:1])
    with pytest.raises(DataError, match="did you mean 'target'"):
        replace(group[0], control="targets")
    with pytest.raises(DataError, match="did you mean 'source'"):
        Missing("swa", "sorce", "")
    with pytest.raises(DataError, match="scored on other sentences"):
        matrix(group, [replace(c, seed=9) for c in cells("swa", seeds=(1,), sentences=59)])
    with pytest.raises(DataError, match="languages that are no targets: swa"):
        matrix(group, targets=("hau",))
    with pytest.raises(DataError, match="cannot be written as JSON"):
        replace(group[0], explanation={"site": object()})
    with pytest.raises(DataError, match="'inactive' is a list"):
        replace(group[0], explanation={"inactive": "swa"})
    with pytest.raises(DataError, match="last row"):
        replace(group[0], target="average")


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
    shown = {t.get_text() for t in scores.texts}
    assert {f"{r.mean:.1f} ± {r.sd:.1f}" for r in m.table() if r.mean is not None} | {"-"} == {
        s.strip(" ≈") for s in shown
    }
    assert [t.get_text() for t in scores.get_yticklabels()] == ["eng (source)", "swa", "swa-Latn-TZ", "average"]
    FigureCanvasAgg(figure).draw()
    outer, bar = figure.bbox, figure.axes[1].get_tightbbox()
    for label in (*scores.get_yticklabels(), *differences.get_yticklabels(), differences.xaxis.label, *figure.texts):
        box = label.get_window_extent()
        assert outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0, label.get_text()
    assert all(t.get_window_extent().x0 > bar.x1 for t in differences.get_yticklabels())
    assert len({tuple(t.get_position()) for t in scores.texts}) == 16


@pytest.mark.parametrize(
    "code, absent",
    [
        ("import madx.results", ("torch", "transformers", "rich", "matplotlib", "madx.report")),
        ("import madx.report", ("torch", "transformers", "matplotlib", "jinja2")),
        ("import madx.report.pictures.matrix", ("torch", "transformers", "matplotlib.pyplot")),
    ],
)
def test_results_need_no_renderer_and_reports_no_engine(code, absent):
    code = f"import sys; {code}; print([m for m in {absent} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
