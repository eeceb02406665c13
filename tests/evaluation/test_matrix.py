"""A transfer matrix as data: its rows, averages and differences, and the cells that it refuses."""

import csv
import io
import subprocess
import sys
import zlib
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from evaluation_tools import META, cells, matrix, printed, row

from madx.errors import DataError
from madx.metrics.significance import paired_bootstrap, seed_difference
from madx.report import to_csv, to_markdown
from madx.report.pictures.matrix import heatmap_figure
from madx.results import Missing, TransferMatrix


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
    target, none = (m.group("hau", control)[0].scores.statistics for control in ("target", "none"))
    assert one.noise and one.low is None
    assert one.sentences == paired_bootstrap(target, none, seed=[0, zlib.crc32(b"hau")])
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
        assert "under target for yor: no module for 'yor' in the store" in text
        assert "average over 2 of 3 target languages" in text
    line = next(x for x in printed(m).splitlines() if x.startswith("yor"))
    assert line.split()[-3:] == ["-", "-", "-"]
    lines = list(csv.DictReader(io.StringIO(to_csv(m))))
    gap = [x for x in lines if x["missing_because"]]
    assert len(gap) == 1 and gap[0]["control"] == "target" and gap[0]["f1"] == ""
    assert row(matrix(cells("yor", controls=controls)), "yor", "target").reason == "not evaluated"


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
