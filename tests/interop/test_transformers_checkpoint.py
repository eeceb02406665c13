"""What weights can express as a plain checkpoint: transformers alone loads it and computes the same."""

import pytest
import tiny
import torch
from tiny import snapshot, sparse, unchanged
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification, AutoTokenizer

from madx.engine import Engine
from madx.engine.merge import merged_maps
from madx.errors import CompositionError, StoreError
from madx.interop import export_plain
from madx.module import new_module
from madx.module_types.lora import Lora

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


#: what a plain checkpoint can hold: each at several maps, and the compositions of them
MERGED = {
    "lora": {"lora": {"rank": 3, "maps": ["query", "value", "up", "down"]}},
    "dora": {"lora": {"rank": 3, "dora": True, "maps": ["key", "output", "up"]}},
    "hub": {"lora": {"rank": 3, "alpha": 7.0, "dora": True, "dora_form": "adapterhub"}},
    "krona": {"krona": {"maps": ["query", "key", "value", "output", "up", "down"]}},
    "ia3": {"ia3": {}},
    "said": {"said": {"dimension": 50, "groups": ["layers", "embeddings"]}},
    "bitfit": {"sparse_diff": {"entries": "all", "kinds": ["bias"], "groups": ["layers", "embeddings"]}},
}
STACKS = (*MERGED, "lora + dora + ia3", "average(lora, krona)", "0.5*ia3 + said", "bitfit + average(dora, ia3, hub)")


def with_everything_that_merges(engine):
    """The stacks that this base can have; the modules of `MERGED` are attached."""
    base = engine.base
    biases = any(p.kind == "bias" and p.group == "layers" for p in base.sites["weights"].parameters)
    for seed, (name, parts) in enumerate(MERGED.items()):
        if name != "bitfit" or biases:
            engine.attach(tiny.wake(new_module(name, base, components=parts), seed=seed, std=0.15))
    return [stack for stack in STACKS if biases or "bitfit" not in stack]


@torch.no_grad()
def test_affine_changes_of_linear_maps_become_weights(engine):
    """Every method that can be merged and compositions of them, in every family."""
    base, (ids, mask) = engine.base, tiny.inputs()
    state, plain = snapshot(base), tiny.base(base.name.removeprefix("tiny-")).encoder
    bare = engine(ids, mask)
    for stack in with_everything_that_merges(engine):
        engine.activate(stack)
        wanted = engine(ids, mask)
        if stack == "lora":
            engine.modules["lora"].train()  # dropout must not disturb
        plain.load_state_dict(base.encoder.state_dict() | merged_maps(engine))
        found = plain(input_ids=ids, attention_mask=mask).last_hidden_state
        real = mask.bool()
        assert torch.allclose(found[real], wanted[real], atol=1e-5), stack
        assert not torch.allclose(bare[real], wanted[real], atol=1e-2), stack
    assert engine.modules["lora"].training
    engine.close()
    assert unchanged(base, state)


@torch.no_grad()
def test_a_stack_of_methods_as_a_checkpoint(engine, tmp_path):
    base, ids = engine.base, dict(zip(("input_ids", "attention_mask"), tiny.inputs()))
    with_everything_that_merges(engine)
    stack = "lora + dora + ia3" + ("" if base.config.model_type == "deberta-v2" else " + said")
    engine.activate(stack)
    wanted = base.model(**ids).logits
    export_plain(engine, tmp_path / "mlm")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "mlm").eval()
    assert torch.allclose(model(**ids).logits, wanted, atol=1e-5)
    if base.config.model_type != "modernbert":
        engine.activate("lora + dora + ia3 + ner")
        export_plain(engine, tmp_path / "ner")
        model = AutoModelForTokenClassification.from_pretrained(tmp_path / "ner").eval()
        assert torch.allclose(model(**ids).logits, engine.label_logits(engine(*ids.values())), atol=1e-5)
    engine.activate("lora + dora + ia3")
    out = engine(*ids.values())
    engine.merge()
    assert str(engine.composition) == "base" and torch.allclose(engine(*ids.values()), out, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("bottleneck", {"bottleneck": {}}),
        ("prefix", {"prefix": {"length": 2, "flat": True}}),
        ("prompt", {"prompt": {"length": 2}}),
        ("invertible", {"invertible": {}}),
        ("krona", {"krona": {"place": "ffn"}}),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(name, parts, tmp_path):
    engine = Engine(tiny.base())
    engine.attach(new_module("m", engine.base, components={"lora": {"rank": 2}} | parts))
    engine.attach(sparse(engine.base, "swa"))
    engine.activate("swa + m")
    for act in (lambda: export_plain(engine, tmp_path / "out"), engine.merge):
        with pytest.raises(
            CompositionError, match=rf"'swa \+ m' cannot be .*: m \({name}\) computes something.*krona, lora, "
        ):
            act()
    assert not (tmp_path / "out").exists() and set(engine.modules) == {"m", "swa"}


def test_a_change_that_only_claims_to_be_affine_is_refused(tmp_path, monkeypatch):
    engine = Engine(tiny.base())
    engine.attach(tiny.wake(new_module("m", engine.base, components="lora")))
    engine.activate("m")
    monkeypatch.setattr(Lora, "forward", lambda self, view: view.value.square())
    with pytest.raises(CompositionError, match=r"layer\.0\.attention\.query is not an affine function"):
        export_plain(engine, tmp_path / "out")


def test_refusals(tmp_path):
    engine = Engine(tiny.base())
    engine.attach(new_module("adapter", engine.base)), engine.attach(sparse(engine.base, "swa"))
    with pytest.raises(CompositionError, match="nothing is active"):
        export_plain(engine, tmp_path / "out")
    engine.activate("swa + adapter")
    with pytest.raises(
        CompositionError, match=r"cannot be written as a plain checkpoint: adapter \(invertible, bottleneck\) computes"
    ):
        export_plain(engine, tmp_path / "out")
    engine.activate("swa")
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError, match="not an empty folder|is a file, not a folder"):
            export_plain(engine, folder)
    assert not (tmp_path / "out").exists()
