"""Several transfer matrices side by side: averages over the same languages, differences paired by seed, files."""

import csv
import io
import json
import random
import re
from statistics import fmean

import pytest
from matplotlib.image import imread
from rich.console import Console

from madx.errors import DataError
from madx.metrics.scores import entity_scores
from madx.report import save, to_rich
from madx.results import Cell, Entry, Matrices, Meta, Missing, TransferMatrix, joined

TAGS = ["O", "O", "B-PER", "B-LOC"]


def cell(target, seed, control, skill):
    draw = random.Random(f"{target}{seed}{control}{skill}")
    gold = [random.Random(f"{target}{i}").choices(TAGS, k=6) for i in range(40)]
    guess = [[t if draw.random() < skill else draw.choice(TAGS) for t in s] for s in gold]
    inactive = ["swa"] if skill == 0.5 else []
    return Cell(target, control, f"{target} + ner", seed, entity_scores(gold, guess), {"inactive": inactive})


def entry(
    module_type, source="eng", *, targets=("swa", "hau"), seeds=(1, 2, 3), control="target", skill=0.8, task="ner"
):
    cells = tuple(
        cell(t, s, c, skill if c == control else 0.6) for t in targets for s in seeds for c in {"none", control}
    )
    return Entry(
        task, module_type, source, TransferMatrix(Meta("ner", source, "tiny", {}, {}), cells, (), (source, *targets))
    )


def mean(e, languages, seed, control):
    return fmean(
        c.scores.f1 for c in e.matrix.cells if (c.seed, c.control) == (seed, control) and c.target in languages
    )


def test_matrices_of_two_readings_are_not_joined():
    cells = [cell("swa", seed, "target", 0.7) for seed in (1, 2)]
    read = {
        scoring: Meta("ner", "eng", "tiny", scoring=scoring, remarks=(scoring,)) for scoring in ("strict", "lenient")
    }
    with pytest.raises(DataError, match="strict and lenient"):
        joined([TransferMatrix(m, (c,)) for m, c in zip(read.values(), cells, strict=True)], task_module="ner")
    again = joined([TransferMatrix(read["lenient"], (c,)) for c in cells], task_module="ner")
    assert again.meta.scoring == "lenient" and again.meta.remarks == ("lenient",)


def test_differences_pair_the_seeds_over_the_languages_of_both():
    a, b = (
        entry("adapters", targets=("swa", "hau")),
        entry("full", targets=("hau", "yor"), control="none", skill=0.65, seeds=(2, 3, 4)),
    )
    (gap,) = Matrices((a, b)).gaps()
    assert (gap.within, gap.first, gap.second, gap.languages, gap.n) == ("from eng", "adapters", "full", ("hau",), 2)
    assert gap.delta == pytest.approx(
        fmean(mean(a, {"hau"}, s, "target") - mean(b, {"hau"}, s, "none") for s in (2, 3))
    )
    assert (a.control, b.control) == ("target", "none")


def test_a_source_is_never_among_the_languages_of_a_difference():
    a = entry("adapters", "eng", targets=("spa", "swa"))
    b = entry("adapters", "spa", targets=("eng", "swa"))
    (gap,) = Matrices((a, b)).gaps()
    assert gap.languages == ("swa",) and (gap.within, gap.first, gap.second) == ("adapters", "eng", "spa")
    other = entry("sparse", "spa", targets=("eng", "swa"))
    assert len(Matrices((a, b, other)).gaps()) == 2, "module type and source both differ: no pair"
    assert Matrices((a, entry("adapters", task="pos"))).gaps() == []
    assert Matrices((a, entry("x", targets=("hau",)))).gaps() == []


def test_an_average_needs_a_seed_with_every_language():
    e = entry("adapters")
    cells = tuple(c for c in e.matrix.cells if (c.target, c.seed) != ("hau", 3))
    e = Entry("ner", "adapters", "eng", TransferMatrix(e.matrix.meta, cells, (), e.matrix.targets))
    average = e.own("average")
    assert (average.n, average.languages) == (2, 2) and e.own("swa").n == 3
    assert average.mean == pytest.approx(fmean(mean(e, {"swa", "hau"}, s, "target") for s in (1, 2)))
    assert e.own("eng").mean is None


def test_seeds_are_joined_and_a_place_is_missing_only_if_no_seed_has_it():
    one, two = entry("a", seeds=(1,)).matrix, entry("a", seeds=(2,), targets=("swa",)).matrix
    two = TransferMatrix(
        two.meta,
        two.cells,
        (Missing("hau", "target", "failed"), Missing("yor", "none", "no file")),
        ("swa", "hau", "yor"),
    )
    both = joined([one, two], task_module="ner.a.eng")
    assert len(both.cells) == len(one.cells) + len(two.cells) and [m.target for m in both.missing] == ["yor"]
    assert both.targets == ("eng", "swa", "hau", "yor") and both.meta.task_module == "ner.a.eng"


def test_files_tell_noise_inactive_modules_and_failures(tmp_path):
    whole = Matrices((entry("adapters"), entry("inactive", skill=0.5)), (("yor", "no such | file"),), "A remark.")
    paths = save(whole, tmp_path)
    assert [p.name for p in paths] == ["matrices.json", "matrices.csv", "matrices.md", "matrices.png"]
    assert (tmp_path / "matrices/ner.adapters.eng/matrix.json").exists()
    content = json.loads(paths[0].read_text())
    assert content["failures"] == [{"what": "yor", "why": "no such | file"}] and len(content["gaps"]) == 1
    lines = list(csv.DictReader(io.StringIO(paths[1].read_text())))
    assert len(lines) == 2 * 2 * 2 * 3 and {line["module_type"] for line in lines} == {"adapters", "inactive"}
    markdown = paths[2].read_text()
    console = Console(width=160, file=io.StringIO())
    console.print(to_rich(whole))
    facts = ["INACTIVE MODULE: swa", "A remark.", "no such | file", "from eng: adapters - inactive"]
    for text in (markdown.replace("\\|", "|"), console.file.getvalue()):
        assert [fact for fact in facts if fact not in text] == [] and re.search(r"[+-]\d+\.\d! \(", text)
    assert imread(paths[3]).std() > 0.01


def test_two_matrices_for_one_place_are_refused_and_none_at_all_is_a_report_of_failures(tmp_path):
    with pytest.raises(DataError, match="two matrices for ner, a, eng"):
        Matrices((entry("a"), entry("a")))
    assert [p.name for p in save(Matrices((), (("all", "failed"),)), tmp_path)] == [
        "matrices.json",
        "matrices.csv",
        "matrices.md",
    ]
