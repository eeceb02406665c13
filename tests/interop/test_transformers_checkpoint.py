"""Weight differences as a plain checkpoint: transformers alone loads it and computes the same."""

import pytest
import tiny
import torch
from tiny import snapshot, sparse, unchanged
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification, AutoTokenizer

from madx.engine import Engine
from madx.errors import CompositionError, StoreError
from madx.interop import export_plain
from madx.module import new_module

LABELS = ("O", "B-PER", "I-PER")


@pytest.fixture(params=tiny.FAMILY_NAMES)
def engine(request):
    engine = Engine(tiny.base(request.param))
    engine.attach(sparse(engine.base, "swa", std=0.1))
    engine.attach(sparse(engine.base, "layers", 3, groups=["layers"], std=0.1))
    engine.attach(sparse(engine.base, "ner", 1, role="task", labels=LABELS, std=0.1))
    return engine


@torch.no_grad()
def test_a_task_loads_in_transformers_and_gives_equal_logits(engine, tmp_path):
    ids, state = tiny.inputs(), snapshot(engine.base)
    engine.activate("swa + 0.5*ner")
    if engine.base.config.model_type == "modernbert":
        with pytest.raises(CompositionError, match="more than a linear layer over the encoder.*head.dense"):
            export_plain(engine, tmp_path / "out")
        return
    export_plain(engine, tmp_path / "out")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out").eval()
    logits = model(input_ids=ids[0], attention_mask=ids[1]).logits
    assert torch.allclose(logits, engine.label_logits(engine(*ids)), atol=1e-6)
    assert model.config.id2label == dict(enumerate(LABELS)) and model.config.label2id["B-PER"] == 1
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == len(tiny.tokenizer())
    assert not [p for p in (tmp_path / "out").rglob("*") if b"madx" in p.read_bytes()]
    engine.close()
    assert unchanged(engine.base, state)


@torch.no_grad()
def test_a_language_keeps_its_decoder(engine, tmp_path):
    ids, config = tiny.inputs(), engine.base.config
    tied = config.tie_word_embeddings
    for composition in ("swa", "layers"):
        engine.activate(composition)
        export_plain(engine, tmp_path / composition)
        model = AutoModelForMaskedLM.from_pretrained(tmp_path / composition).eval()
        wanted = engine.base.model(input_ids=ids[0], attention_mask=ids[1]).logits
        assert torch.allclose(model(input_ids=ids[0], attention_mask=ids[1]).logits, wanted, atol=1e-5), composition
    assert engine.base.config is config and config.tie_word_embeddings == tied


def test_refusals(tmp_path):
    engine = Engine(tiny.base())
    engine.attach(new_module("adapter", engine.base)), engine.attach(sparse(engine.base, "swa"))
    with pytest.raises(CompositionError, match="nothing is active"):
        export_plain(engine, tmp_path / "out")
    engine.activate("swa + adapter")
    with pytest.raises(CompositionError, match="cannot be written as a plain checkpoint: adapter computes"):
        export_plain(engine, tmp_path / "out")
    engine.activate("swa")
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError, match="not an empty folder|is a file, not a folder"):
            export_plain(engine, folder)
    assert not (tmp_path / "out").exists()
