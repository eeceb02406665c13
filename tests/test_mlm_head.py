"""Masked-LM heads of bases: those that were never trained are found out, and a trained one takes their place."""

import json

import pytest
import tiny
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from madx.base import load_base
from madx.engine import Engine
from madx.errors import BaseError
from madx.module import new_module


def save(folder, model):
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def add(folder, names, *, shards: bool = False):
    """Add tensors to the weights of a saved base; shards: in a second file, with a table of both."""
    path = folder / "model.safetensors"
    tensors, new = load_file(path), {name: torch.zeros(2, 2) for name in names}
    if not shards:
        save_file(tensors | new, path, metadata={"format": "pt"})
        return folder
    path.unlink()
    table = {}
    for number, part in enumerate((tensors, new), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        table |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return folder


# ---- discriminators --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [False, True])
def test_a_discriminator_that_left_a_masked_lm_head_behind_is_refused(tmp_path, shards):
    """mDeBERTa-v3 is published so: `lm_predictions` of the generator's training, and the discriminator's head."""
    model = tiny.model("deberta-v2", legacy=False, tie_word_embeddings=False)
    folder = save(tmp_path / "mdeberta", model)
    assert load_base(folder).has_mlm_head
    base = load_base(add(folder, ["mask_predictions.dense.weight"], shards=shards))
    assert not base.has_mlm_head and not base.mlm_head.random
    with pytest.raises(BaseError, match=r"is a discriminator.*generator_config\.json.*madx train-head --base"):
        base.require_mlm_head()
    base.mlm_head.trust()  # its own head is there, for those who know better
    assert base.has_mlm_head


def test_an_electra_discriminator_is_refused_and_its_random_head_is_never_trusted(tmp_path):
    from transformers import ElectraForPreTraining

    base = load_base(save(tmp_path / "electra", ElectraForPreTraining(tiny.config("electra"))))
    with pytest.raises(BaseError, match="is a discriminator.*-generator in its name"):
        base.require_mlm_head()
    with pytest.raises(BaseError, match="is a discriminator"):
        base.mlm_head.trust()


def test_a_bert_with_a_second_head_is_no_discriminator(tmp_path):
    from transformers import BertForPreTraining

    torch.manual_seed(0)
    assert load_base(save(tmp_path / "bert", BertForPreTraining(tiny.config("bert")))).has_mlm_head


# ---- the parameters of a head ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_a_head_moves_to_the_bare_encoder_of_every_family(tmp_path, family):
    model = tiny.wake(tiny.model(family).eval(), std=0.1)
    whole, bare = load_base(save(tmp_path / "whole", model)), load_base(save(tmp_path / "bare", model.base_model))
    head = {name: p.clone() for name, p in whole.mlm_head.parameters().items()}
    sizes = {p.numel() for p in head.values()}
    assert tiny.VOCABULARY in sizes, "the bias over the vocabulary is a part of the head"
    assert (tiny.VOCABULARY * 32 in sizes) is False, "the tied decoder is not"
    bare.mlm_head.put(head, sha256="ab" * 32)
    hidden = torch.randn(5, 32)
    assert torch.equal(bare.mlm_logits(hidden), whole.mlm_logits(hidden))
    assert bare.fingerprint == whole.fingerprint and bare.mlm_head.sha256 == "ab" * 32


def test_the_head_of_another_base_is_refused_whole():
    base = tiny.base("bert")
    before = tiny.snapshot(base)
    head = {name: p + 1 for name, p in base.mlm_head.parameters().items()}
    head["cls.predictions.bias"] = torch.zeros(7)
    head["lm_head.bias"] = head.pop("cls.predictions.transform.dense.bias")
    with pytest.raises(BaseError, match=r"cls\.predictions\.bias: \(140,\) here, \(7,\) there") as error:
        base.mlm_head.put(head, sha256="ab" * 32)
    assert "lm_head.bias: none here" in str(error.value) and tiny.unchanged(base, before)


def test_a_head_begins_at_the_given_bias_whatever_was_drawn_before():
    found = []
    for noise, seed in ((1, 3), (2, 3), (2, 4)):
        base = tiny.base("electra", seed=noise)
        torch.manual_seed(noise)
        base.mlm_head.begin(seed=seed, bias=torch.arange(140) / 10)
        found.append({name: p.clone() for name, p in base.mlm_head.parameters().items()})
    assert all(torch.equal(p, found[1][name]) for name, p in found[0].items())
    dense = "generator_predictions.dense.weight"
    assert found[0][dense].std() > 0 and not torch.equal(found[0][dense], found[2][dense])
    assert torch.equal(found[0]["generator_lm_head.bias"], torch.arange(140) / 10)
    base = tiny.base("bert")
    base.mlm_head.begin(seed=0, bias=torch.zeros(140))
    assert torch.equal(base.mlm_head.parameters()["cls.predictions.transform.dense.weight"], torch.eye(32))


# ---- its training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*tiny.FAMILY_NAMES, "lm_predictions"])
def test_gradients_reach_the_head_and_nothing_else(family):
    base = (
        tiny.base("deberta-v2", legacy=False, tie_word_embeddings=False)
        if family == "lm_predictions"
        else tiny.base(family)
    )
    engine = Engine(base)
    ids, _ = tiny.inputs()
    rows, columns, targets = torch.tensor([0, 1, 2]), torch.tensor([3, 2, 1]), torch.tensor([7, 8, 9])
    head = engine.train_head()
    hidden = engine(ids, at=(rows, columns))
    assert not hidden.requires_grad, "the encoder runs without gradients"
    engine.mlm_loss(hidden, targets).backward()
    ours = {name: p.grad.clone() for name, p in head.items()}
    assert all(p.grad is None for name, p in base.model.named_parameters() if name not in head)
    for parameter in head.values():
        parameter.grad = None
    exact = F.cross_entropy(base.family.mlm_logits(base.model, hidden), targets, reduction="sum")
    exact.backward()
    for name, parameter in head.items():
        assert torch.allclose(ours[name], parameter.grad, atol=1e-5), name
    engine.freeze()
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not any("forward" in module.__dict__ for module in base.model.modules()), "an idle base runs its own code"


def test_a_module_is_trained_as_before_after_a_head_was():
    engine = Engine(tiny.base())
    engine.attach(tiny.wake(new_module("swa", engine.base, language="swa"), std=0.1))
    engine.activate("swa")
    engine.train_head()
    assert not engine(tiny.inputs()[0]).requires_grad
    engine.train_only("swa")
    assert engine(tiny.inputs()[0]).requires_grad
    assert not any(p.requires_grad for p in engine.base.model.parameters())
