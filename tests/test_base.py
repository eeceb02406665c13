"""Bases: from a folder, of every family, with their fingerprint; and refusals of what cannot be one."""

import json
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken

from madx.base import Base, load_base
from madx.base.families import FAMILIES, family_of
from madx.base.fingerprints import VALUES, base_fingerprint, tokenizer_fingerprint
from madx.engine import Engine
from madx.errors import BaseError


def save(folder, model, tokenizer=None):
    model.save_pretrained(folder)
    (tokenizer or tiny.tokenizer()).save_pretrained(folder)
    return folder


def edit(folder, change):
    """Change the tensors of a saved base."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(change(dict(tensors)) or tensors, path, metadata={"format": "pt"})


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "base", tiny.model())


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_a_saved_base_of_every_family_loads(tmp_path, family):
    model = tiny.model(family)
    model.eval()
    base = load_base(save(tmp_path / family, model))
    original = Base(model, tiny.tokenizer(), name="original")
    assert base.has_mlm_head and base.name == str(tmp_path / family) and base.revision is None
    assert base.fingerprint == original.fingerprint and base.tokenizer_fingerprint == original.tokenizer_fingerprint
    assert (
        base.architecture
        == original.architecture
        == {
            "model_type": family,
            "layers": 3,
            "width": 32,
            "vocabulary": tiny.VOCABULARY,
        }
    )
    assert (
        len(base.sites) == 34 and all(not p.requires_grad for p in base.model.parameters()) and not base.model.training
    )
    ids, mask = tiny.inputs()
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(base.model(input_ids=ids, attention_mask=mask).logits, logits)
        hidden = base.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        assert torch.allclose(base.mlm_logits(hidden[mask == 1]), logits[mask == 1], atol=1e-5)


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_the_longest_input_runs_and_one_token_more_is_not_promised(family):
    base = tiny.base(family)
    base.tokenizer = None  # of the model alone
    longest = Base(base.model, tiny.tokenizer(), name="x").config.max_position_embeddings
    expected = longest - 2 if "roberta" in family else longest
    assert base.max_tokens == expected
    ids = torch.randint(5, tiny.VOCABULARY, (1, base.max_tokens))
    with torch.no_grad():
        hidden = base.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert hidden.shape == (1, base.max_tokens, 32) and hidden.isfinite().all()
    assert tiny.base(family).max_tokens == min(62, expected)  # the tokenizer's own limit


def test_one_token_more_than_the_longest_fails_in_a_roberta():
    """So the two positions that max_tokens takes off are neither too many nor too few."""
    base = tiny.base("xlm-roberta")
    ids = torch.randint(5, tiny.VOCABULARY, (1, base.config.max_position_embeddings - 1))
    with pytest.raises((IndexError, RuntimeError)):
        base.encoder(input_ids=ids)


def test_every_described_model_type_is_a_class_of_transformers():
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    types = [t for f in FAMILIES for t in f.model_types]
    assert len(set(types)) == len(types) and set(types) <= set(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    assert {family_of(tiny.config(name)).title for name in tiny.FAMILY_NAMES} == {f.title for f in FAMILIES}


# ---- fingerprints ----------------------------------------------------------------------------------------------------


def test_fingerprint_tells_one_changed_value(folder):
    before = load_base(folder).fingerprint
    assert load_base(folder).fingerprint == before

    def change(tensors):
        tensors["roberta.encoder.layer.1.output.dense.weight"][3, 5] += 1e-3

    edit(folder, change)
    assert load_base(folder).fingerprint != before


def test_fingerprint_is_of_the_encoder_alone(folder):
    before = load_base(folder).fingerprint

    def change(tensors):
        tensors["lm_head.bias"] += 1.0

    edit(folder, change)
    assert load_base(folder).fingerprint == before


def test_fingerprint_does_not_depend_on_the_precision_computed_in(folder):
    assert load_base(folder, dtype=torch.bfloat16).fingerprint == load_base(folder).fingerprint
    assert next(load_base(folder, dtype=torch.bfloat16).model.parameters()).dtype == torch.bfloat16


def test_a_base_stored_in_half_precision_is_another_unless_its_values_agree(tmp_path):
    full = tiny.model()
    original = base_fingerprint(full.base_model)
    half = save(tmp_path / "half", tiny.model().half())
    assert load_base(half).fingerprint != original  # the values were rounded
    rounded = full.half().float()
    assert load_base(save(tmp_path / "full", rounded)).fingerprint == load_base(half).fingerprint
    assert next(load_base(half).model.parameters()).dtype == torch.float32


def test_fingerprint_samples_large_tensors_to_their_ends():
    layer = torch.nn.Linear(100, 50, bias=False)
    assert layer.weight.numel() > VALUES
    seen = {base_fingerprint(layer)}
    for place in ((0, 0), (49, 99), (24, 50)):
        with torch.no_grad():
            layer.weight[place[0] :, place[1] :] += 1.0
        seen.add(base_fingerprint(layer))
    assert len(seen) == 4
    with torch.no_grad():
        transposed = torch.nn.Linear(50, 100, bias=False)
        transposed.weight.copy_(layer.weight.reshape(100, 50))
    assert base_fingerprint(transposed) not in seen  # the shape counts


def test_tokenizer_fingerprint(tmp_path):
    tokenizer = tiny.tokenizer()
    before = tokenizer_fingerprint(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    from transformers import PreTrainedTokenizerFast

    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert tokenizer_fingerprint(again) == before
    again.model_max_length = 12
    again.padding_side = "left"
    assert tokenizer_fingerprint(again) == before
    again.add_tokens([AddedToken("neu")])
    assert tokenizer_fingerprint(again) != before


# ---- bases that cannot be used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_a_base_without_its_head_says_so(tmp_path, family):
    base = load_base(save(tmp_path / "encoder", tiny.model(family).base_model))
    assert not base.has_mlm_head and base.fingerprint == tiny.base(family).fingerprint
    with pytest.raises(BaseError, match="without its masked-LM head.*would train against random weights"):
        base.require_mlm_head()
    engine = Engine(base)
    ids, mask = tiny.inputs()
    hidden = engine(ids, mask)  # tasks work all the same
    with pytest.raises(BaseError, match="without its masked-LM head"):
        engine.mlm_logits(hidden)


@pytest.mark.parametrize("pickled", [None, True, False], ids=["safetensors", "zip", "legacy pickle"])
def test_a_deberta_head_under_lm_predictions_is_loaded(tmp_path, pickled):
    model = tiny.model("deberta-v2", legacy=False, tie_word_embeddings=False)  # transformers 4.57 ties the wrong layer
    ids, mask = tiny.inputs()
    model.eval()
    expected = model(input_ids=ids, attention_mask=mask).logits
    folder = save(tmp_path / "deberta", model)
    stored = json.loads((folder / "config.json").read_text())
    for key in ("legacy", "tie_word_embeddings"):  # published configs do not know these switches
        stored.pop(key, None)
    (folder / "config.json").write_text(json.dumps(stored))
    assert any(k.startswith("lm_predictions.") for k in load_file(folder / "model.safetensors"))
    if pickled is not None:
        tensors = load_file(folder / "model.safetensors")
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=pickled)
        (folder / "model.safetensors").unlink()
    base = load_base(folder)
    assert base.has_mlm_head
    assert torch.allclose(base.model(input_ids=ids, attention_mask=mask).logits, expected, atol=1e-6)
    engine = Engine(base)
    assert torch.allclose(engine.mlm_logits(engine(ids, mask)), expected, atol=1e-5)


def test_missing_encoder_weights(folder):
    edit(folder, lambda tensors: {k: v for k, v in tensors.items() if "layer.1.output.dense" not in k})
    with pytest.raises(BaseError, match=r"lacks weights of its encoder: roberta\.encoder\.layer\.1\.output\.dense"):
        load_base(folder)


def test_config_of_another_shape(folder):
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | {"intermediate_size": 48}))
    with pytest.raises(BaseError, match="Cannot load the base"):
        load_base(folder)


def test_a_tokenizer_larger_than_the_embeddings(tmp_path):
    save(tmp_path, tiny.model(vocab_size=100))
    with pytest.raises(BaseError, match="140 pieces|pieces, its embeddings 100: they do not belong together"):
        load_base(tmp_path)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "no_such_base_here", "a b//c", ""])
def test_what_does_not_exist(name):
    with pytest.raises(BaseError, match=r"Cannot load the base .*Give a folder with config\.json"):
        load_base(name)


def test_no_tokenizer(folder):
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(BaseError, match="okenizer"):
        load_base(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseError, match="Cannot load the base"):
        load_base(folder)


@pytest.mark.parametrize("family", ["xlm-roberta", "deberta-v2"])
@pytest.mark.parametrize("keep", [0, 5, 300, -100])
def test_truncated_weights(tmp_path, family, keep):
    folder = save(tmp_path, tiny.model(family))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BaseError, match="Cannot load the base"):
        load_base(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_type": "nothing"}', "\x00\xff"])
def test_a_broken_config(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(BaseError, match="base"):
        load_base(folder)


def test_a_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(BaseError, match="Cannot load the base"):
        load_base(folder)


def test_a_family_that_is_not_described(tmp_path):
    from transformers import FNetConfig, FNetForMaskedLM

    FNetForMaskedLM(FNetConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, intermediate_size=8)).save_pretrained(
        tmp_path
    )
    with pytest.raises(BaseError, match=r"'fnet', whose sites are not described. Described: BERT.*one more `Family`"):
        load_base(tmp_path)


def test_a_path_with_a_home_sign(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(folder, tmp_path / "mine")
    assert load_base("~/mine").name == str(tmp_path / "mine")


@pytest.mark.parametrize("longest", ["62", -1, float("nan")])
def test_a_longest_input_that_is_no_number_of_tokens_is_refused(longest, monkeypatch):
    base = tiny.base()
    monkeypatch.setattr(base.tokenizer, "model_max_length", longest)
    with pytest.raises(BaseError, match=r"tiny-xlm-roberta.*model_max_length"):
        base.max_tokens  # noqa: B018
