"""precision: what auto chooses, and a base kept in bfloat16."""

import pytest
import tiny
import tiny_runs as runs
import torch
from tiny import snapshot, unchanged

from madx.jobs import common
from madx.jobs.common import open_training_base
from madx.jobs.train_language import TrainLanguage
from madx.module.presets import preset
from madx.training import TrainSettings, fit, precision
from madx.training.precision import choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("wish", ["fp32", "bf16"])
def test_a_wish_is_a_wish(wish):
    assert choose_precision(wish, CPU, width=32) == wish


def test_auto_is_bf16_where_the_hardware_multiplies_it(monkeypatch):
    for name, able in [("_is_amx_tile_supported", False), ("_is_avx512_bf16_supported", True)]:
        monkeypatch.setattr(torch.cpu, name, lambda able=able: able, raising=False)
    assert choose_precision("auto", CPU, width=768) == "bf16"
    assert choose_precision("auto", CPU, width=128) == "fp32", "a small base gains nothing"
    assert choose_precision("auto", CPU, width=768, weights=True) == "fp32", (
        "differences of weights would be rounded away"
    )
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert choose_precision("auto", CPU, width=768) == "fp32"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_precision("auto", GPU, width=768) == "bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_precision("auto", GPU, width=768) == "fp32"
    assert choose_precision("auto", torch.device("meta"), width=768) == "fp32"


def settings(**train):
    return TrainLanguage(base="x", language="swa", corpus="x", device="cpu", train=TrainSettings(**train))


@pytest.mark.parametrize("parts, dtype", [("madx", torch.bfloat16), ("lt_sft", torch.float32)])
def test_a_job_keeps_the_base_in_its_format(monkeypatch, parts, dtype):
    monkeypatch.setattr(common, "load_base", lambda name, revision: tiny.base())
    job = settings(precision="bf16")
    base, train = open_training_base(job, job.train, preset(parts))
    assert base.model.dtype == dtype and train.precision == "bf16"
    assert base.fingerprint == tiny.base().fingerprint, "a module trained on it fits the base in float32"
    job = settings()
    monkeypatch.setattr(precision, "LEAST_WIDTH", 32)
    monkeypatch.setattr(precision, "multiplies_bf16", lambda device: True)
    base, train = open_training_base(job, job.train, preset(parts))
    assert (base.model.dtype, train.precision) == {"madx": (torch.bfloat16, "bf16"), "lt_sft": (torch.float32, "fp32")}[
        parts
    ]


@pytest.mark.parametrize("kind", ["mlm", "ner"])
def test_training_on_a_base_in_bf16_stays_near_fp32_and_leaves_the_base_alone(kind):
    made = runs.engine(kind)
    made.base.model.to(torch.bfloat16)
    before = snapshot(made.base)
    _, half = runs.train(kind, made=made, steps=20)
    _, single = runs.train(kind, steps=20)
    for a, b in zip(single.history, half.history):
        assert abs(a["loss"] - b["loss"]) < 0.03 * a["loss"]
    assert single.history[0]["loss"] != half.history[0]["loss"], "nothing was computed in bfloat16"
    assert all(v.dtype == torch.float32 for v in made.module(kind).tensors().values())
    assert unchanged(made.base, before)


def test_a_run_in_bf16_is_not_taken_up_in_fp32(tmp_path):
    made = runs.engine("mlm")
    made.base.model.to(torch.bfloat16)
    runs.train("mlm", made=made, steps=4, folder=tmp_path)
    again = runs.engine("mlm")
    with pytest.raises(Exception, match="precision: checkpoint 'bf16', now 'fp32'"):
        fit(
            again,
            "mlm",
            runs.masked_lm(seed=0),
            TrainSettings(learning_rate=1e-2, progress=False, evaluate_every=1),
            steps=4,
            seed=0,
            folder=tmp_path,
        )


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_a_base_in_bf16_computes_nearly_the_same_with_attention_as_plain_products(family):
    base = tiny.base(family)
    ids, mask = tiny.inputs()
    fixed = (
        None if base.model._can_set_attn_implementation() else base.config._attn_implementation
    )  # transformers 4.57: at loading
    with torch.no_grad():
        before = base.model(ids, attention_mask=mask).logits
        precision.to_bf16(base)
        after = base.model(ids, attention_mask=mask).logits
    assert base.model.dtype == torch.bfloat16 and base.config._attn_implementation == (fixed or "eager")
    assert (before - after.float())[mask.bool()].abs().max() < 0.03 * before[mask.bool()].abs().max()
