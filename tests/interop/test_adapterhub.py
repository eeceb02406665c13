"""AdapterHub folders: round trips in every family, all settings of bottlenecks, and tagging heads."""

import json

import pytest
import tiny
import torch
from adapterhub_tools import HOULSBY_INV, LABELS, edit, load, module, same
from hypothesis import given, settings
from hypothesis import strategies as st

from madx.engine import Engine
from madx.errors import ConfigError, StoreError
from madx.interop import export_adapterhub
from madx.interop.adapterhub.layouts import LAYOUTS
from madx.interop.adapterhub.methods.activations import ACTIVATIONS


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(LAYOUTS))
@pytest.mark.parametrize("safetensors", [False, True])
def test_round_trip_on_every_family(model_type, safetensors, tmp_path):
    base = tiny.base(model_type)
    made = module(base, HOULSBY_INV, labels=LABELS)
    folder = export_adapterhub(made, tmp_path / "m", base=base, safetensors=safetensors)
    assert sorted(p.suffix for p in folder.iterdir()) == sorted(
        [".json", ".json"] + [".safetensors" if safetensors else ".bin"] * 2
    )
    again, report = load(folder, base, role="task", task="ner", language="swa")
    assert same(made, again) and again.info.labels == LABELS and again.info.components == made.info.components
    assert (again.info.role, again.info.task, again.info.language) == ("task", "ner", "swa")
    assert again.info.base == base.identity() and again.info.training["imported"]["format"] == "adapterhub"
    assert {ours for _, ours in report.mapped} == set(made.tensors())
    engine = Engine(base)
    engine.attach(made), engine.attach(again)
    ids = tiny.inputs()
    with torch.no_grad(), engine.using("swa"):
        expected = engine.label_logits(engine(*ids))
    with torch.no_grad(), engine.using("x"):
        assert torch.equal(engine.label_logits(engine(*ids)), expected)


BOTTLENECKS = st.fixed_dictionaries(
    {
        "places": st.sampled_from([["ffn"], ["attention"], ["attention", "ffn"]]),
        "reduction_factor": st.one_of(
            st.sampled_from([0.5, 1.0, 2.0, 16.0, 100.0]),
            st.dictionaries(st.sampled_from("012"), st.sampled_from([1.5, 4.0])).map(lambda d: d | {"default": 8.0}),
        ),
        "activation": st.sampled_from(sorted(set(ACTIVATIONS.values()))),
        "norm_before": st.booleans(),
        "norm_after": st.booleans(),
        "final_norm": st.booleans(),
        "gate": st.booleans(),
        "scaling": st.sampled_from([1.0, 4.0, "learned", "channel"]),
        "init": st.sampled_from(["normal", "truncated", "zero_up"]),
        "dropout": st.sampled_from([0.0, 0.1]),
        "stochastic_depth": st.sampled_from([0.0, 0.2]),
        "leave_out": st.lists(st.integers(0, 2), unique=True, max_size=2).map(sorted),
    }
)
FLOW = st.sampled_from(
    [
        ("sum_norm", "output"),
        ("sum_norm", "sum"),
        ("sum_norm", "read"),
        ("output", "output"),
        ("output", "read"),
        ("input", "output"),
    ]
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    bottleneck=st.none() | BOTTLENECKS,
    flow=FLOW,
    after=st.booleans(),
    inverse=st.none() | st.sampled_from([1.0, 2.0, 4.0]),
    safe=st.booleans(),
)
def test_any_setting_that_the_format_can_say_comes_back(tmp_path_factory, base, bottleneck, flow, after, inverse, safe):
    parts = {}
    if bottleneck is not None:
        after = after and bottleneck["norm_after"] and flow[0] != "input"
        parts["bottleneck"] = bottleneck | {"reads": flow[0], "residual": flow[1], "norm_after_residual": after}
    if inverse is not None or not parts:
        parts["invertible"] = {
            "reduction_factor": inverse or 2.0,
            "activation": (bottleneck or {"activation": "relu"})["activation"],
        }
    made = module(base, parts)
    folder = export_adapterhub(made, tmp_path_factory.mktemp("x") / "m", base=base, safetensors=safe)
    again, _ = load(folder, base)
    assert again.info.components == made.info.components and same(made, again)


def test_negative_layers_are_written_as_numbers(base, tmp_path):
    folder = export_adapterhub(module(base, "madx2"), tmp_path / "m", base=base)
    assert json.loads((folder / "adapter_config.json").read_text())["config"]["leave_out"] == [2]
    again, _ = load(folder, base)
    assert "layer.2.ffn" not in again.units and "layer.1.ffn" in again.units


def test_labels_are_ordered_by_their_numbers(base, tagged):
    made = module(base, "pfeiffer", labels=LABELS)
    edit(tagged, {"label2id": {"I-PER": 2, "O": 0, "B-PER": "1"}}, "head_config.json")
    again, _ = load(tagged, base, role="task")
    assert again.info.labels == LABELS and torch.equal(again.head.weight, made.head.weight)
    edit(tagged, {"label2id": None}, "head_config.json")
    again, report = load(tagged, base, role="task")
    assert again.info.labels == ("LABEL_0", "LABEL_1", "LABEL_2") and "labels are called LABEL_0" in str(report)
    for table in (
        {"O": 0, "B": 1},
        {"O": 0, "B": 1, "I": 3},
        {"O": 0, "B": 1, "I": 1},
        {"O": 0, "B": 1, "I": None},
        [],
        {},
    ):
        edit(tagged, {"label2id": table}, "head_config.json")
        with pytest.raises(ConfigError, match="must number its labels"):
            load(tagged, base, role="task")


def test_the_head_of_a_plain_token_classifier(base, tagged):
    made = module(base, "pfeiffer", labels=LABELS)
    table = {"O": 0, "B-PER": 1, "I-PER": 2}
    edit(
        tagged,
        lambda full: {
            "config": None,
            "model_class": "XLMRobertaForTokenClassification",
            "name": None,
            "num_labels": 3,
            "label2id": table,
        },
        "head_config.json",
    )
    torch.save({f"classifier.{k}": v for k, v in made.head.state_dict().items()}, tagged / "pytorch_model_head.bin")
    again, _ = load(tagged, base, role="task")
    assert same(again, made) and again.info.labels == LABELS


def test_heads_that_do_not_come_along_are_named_or_refused(base, tagged):
    again, report = load(tagged, base, role="task", task="ner", with_head=False)
    assert again.head is None and again.info.task is None and "head 'swa' (tagging): with_head=False" in str(report)
    again, report = load(tagged, base)
    assert again.head is None and "the module made is a language module" in str(report)
    edit(tagged, {"layers": 2}, "head_config.json")
    with pytest.raises(ConfigError, match="has 2 layers.*with_head=False"):
        load(tagged, base, role="task")
    edit(tagged, {"head_type": "classification"}, "head_config.json")
    assert "(classification): madx has no task" in str(load(tagged, base, role="task")[1])
    edit(tagged, {"head_type": "tagging", "layers": 1}, "head_config.json")
    torch.save(
        {"heads.swa.1.weight": torch.zeros(3, 30), "heads.swa.1.bias": torch.zeros(3)},
        tagged / "pytorch_model_head.bin",
    )
    with pytest.raises(StoreError, match="head.weight: file .3, 30., base and labels .3, 32."):
        load(tagged, base, role="task")
    torch.save({"heads.swa.4.weight": torch.zeros(3, 32)}, tagged / "pytorch_model_head.bin")
    with pytest.raises(StoreError, match="does not explain: heads.swa.4.weight"):
        load(tagged, base, role="task")
    (tagged / "head_config.json").unlink()
    assert "without head_config.json" in str(load(tagged, base)[1])
