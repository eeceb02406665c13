"""The setting `components`: a preset with one setting changed, in Python, YAML and on the command line."""

import logging

import pytest
from cli_tools import captured, failed, run

import madx
from madx.config import load
from madx.errors import ConfigError
from madx.module.components import components_of
from madx.module.presets import PRESETS, preset

CHANGED = {"preset": "madx", "bottleneck": {"reduction_factor": 4}}
TRAIN = ["train-language", "--base", "b", "--language", "swa", "--corpus", "swa.txt"]


def test_a_change_keeps_all_the_rest_of_the_preset():
    made, plain = components_of(CHANGED), preset("madx")
    assert made["invertible"] == plain["invertible"] and list(made) == list(plain)
    assert made["bottleneck"] == plain["bottleneck"].model_copy(update={"reduction_factor": 4.0})
    assert components_of({"preset": "madx"}) == components_of("madx") == plain
    spelled = {"bottleneck": {"reduction_factor": 4}}
    assert list(components_of(spelled)) == list(components_of(spelled | {"preset": None})) == ["bottleneck"]


@pytest.mark.parametrize("name", [name for name, (settings, _) in PRESETS.items() if settings])
def test_every_preset_can_be_changed(name):
    plain = preset(name)
    for component, config in plain.items():  # each setting as it is: the rest of the preset stays, too
        for setting, value in config.model_dump(mode="json").items():
            assert components_of({"preset": name, component: {setting: value}}) == plain


def test_one_line_in_yaml_and_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "swa.yaml").write_text(
        "base: b\nlanguage: swa\ncorpus: x\ncomponents: {preset: madx, bottleneck: {reduction_factor: 4}}\n"
    )
    assert load(tmp_path / "swa.yaml", madx.TrainLanguage).components == CHANGED
    flag, change = ["--components", "madx"], ["--set", "components.bottleneck.reduction_factor=4"]
    for words in (flag + change, change, ["--set", "components=madx", *change], ["--parts", "madx", *change]):
        assert captured(monkeypatch, "train_language", *TRAIN, *words).components == CHANGED, words
    task = ["train-task", "--base", "b", "--language", "eng", "--data", "x", "--dev", "x", *change]
    assert captured(monkeypatch, "train_task", *task).components == CHANGED | {"preset": "pfeiffer"}
    houlsby = captured(monkeypatch, "train_task", *task, "--components", "houlsby").components
    assert houlsby["preset"] == "houlsby"


def test_the_old_flag_is_read_with_a_notice(monkeypatch, caplog):
    with caplog.at_level(logging.WARNING, logger="madx"):
        assert captured(monkeypatch, "train_language", *TRAIN, "--parts", "houlsby").components == "houlsby"
    assert "--parts" in caplog.text and "--components" in caplog.text
    assert "--parts" not in run("train-language", "--help").stdout


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ("pfeifer", ["'pfeifer'", "did you mean 'pfeiffer'"]),
        ("pfeiffer(reduction_factor=2)", ["{preset: pfeiffer, bottleneck: {SETTING: VALUE}}"]),
        ({"preset": "pfeifer"}, ["did you mean 'pfeiffer'"]),
        ({"preset": "pfeiffer", "reduction_factor": 2}, ["reduction_factor", "bottleneck: {reduction_factor: VALUE}"]),
        ({"preset": "madx", "leave_out": [1]}, ["bottleneck and of invertible", "or invertible: {leave_out: VALUE}"]),
        ({"preset": "madx", "botleneck": {}}, ["botleneck", "did you mean 'bottleneck'"]),
        ({"preset": "lt_sft", "bottleneck": {}}, ["lt_sft has no such component", "only sparse_diff"]),
        ({"preset": "madx", "bottleneck": 2}, ["bottleneck: settings are needed", "given: 2"]),
        ({"preset": "madx", "bottleneck": {"reduction": 2}}, ["bottleneck.reduction", "'reduction_factor'"]),
    ],
)
def test_what_has_no_place_in_a_preset_is_refused(chosen, wanted):
    with pytest.raises(ConfigError) as error:
        components_of(chosen)
    assert all(text in str(error.value) for text in wanted), error.value


def test_a_fault_by_command_is_told_before_anything_is_read():
    said = failed(run(*TRAIN, "--set", "components.sparse_diff.entries=10"))
    assert "madx has no such component" in said and "components={sparse_diff: {...}}" in said
