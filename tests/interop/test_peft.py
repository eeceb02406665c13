"""Files of PEFT: fixtures that PEFT itself wrote, round trips of our own modules, refusals.

`tests/peers/peft_round_trip.py --fixtures tests/interop/peft_files` made the fixtures, with random weights for the base
`tiny.fixed_base()`, and what PEFT computed with them.
"""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from madx.engine import Engine
from madx.errors import BaseError, CompositionError, ConfigError, MadxError, StoreError
from madx.interop import export_peft, import_peft
from madx.module import new_module

FILES = Path(__file__).parent / "peft_files"
FIXTURES = sorted(path.name for path in FILES.iterdir())
LABELS = ("O", "B-PER", "I-PER")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def fixed():
    return tiny.fixed_base()


@pytest.fixture
def lora(tmp_path):
    """A folder of PEFT with a LoRA, to be changed."""
    return Path(shutil.copytree(FILES / "lora", tmp_path / "lora"))


def load(folder, base, *, tagger=False, **more):
    names = {"role": "task", "task": "ner"} if tagger else {"role": "language", "language": "swa"}
    return import_peft(folder, base, **({"name": "x"} | names | more))


def edit(folder, **changes):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def edit_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors), folder / WEIGHTS)


def logits(module, base):
    """Logits of labels, or without a head the last hidden state, at the tokens that are there."""
    ids, mask = tiny.inputs()
    engine = Engine(base)
    engine.attach(module)
    with torch.no_grad(), engine.using(module.name):
        hidden = engine(ids, mask)
        found = engine.label_logits(hidden) if module.head is not None else hidden
    engine.close()
    return found[mask.bool()]


@pytest.mark.parametrize("name", FIXTURES)
def test_what_peft_wrote_computes_what_peft_computed(fixed, name):
    module, report = load(FILES / name, fixed, tagger="tagger" in name)
    expected = load_file(FILES / name / "expected.safetensors")["found"]
    found = logits(module, fixed)[:, :8]
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * max(1, float(expected.abs().max())))
    assert report.mapped and ("tagger" not in name or module.info.labels == ("LABEL_0", "LABEL_1", "LABEL_2"))


SAID = {
    "lora": {"lora": {"rank": 3, "alpha": 5.0, "maps": ["query", "output", "down"], "leave_out": [1]}},
    "dora": {"lora": {"rank": 3, "dora": True, "rslora": True, "maps": ["value", "up"]}},
    "pissa": {"lora": {"rank": 2, "alpha": 3.0, "init": "pissa", "rslora": True, "maps": ["query", "up"]}},
    "ia3": {"ia3": {"maps": ["key"], "inputs": ["down"], "leave_out": [0]}},
    "prefix": {"prefix": {"length": 3, "flat": True, "moves_tokens": True}},
    "shira": {"sparse_diff": {"entries": 90, "groups": ["layers"], "kinds": ["weight"], "precision": "float32"}},
}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("safetensors", [True, False])
def test_our_modules_come_back_the_same(fixed, name, safetensors, tmp_path):
    parts = {"role": "task", "task": "ner", "labels": LABELS, "components": SAID[name]}
    module = tiny.wake(new_module("x", fixed, **parts))
    export_peft(module, tmp_path / "m", base=fixed, safetensors=safetensors)
    again, _ = load(tmp_path / "m", fixed, tagger=True)
    assert again.info.labels == LABELS
    assert torch.allclose(logits(again, fixed), logits(module, fixed), atol=1e-5)


def test_rows_of_the_embeddings_are_written_as_trainable_tokens(fixed, tmp_path):
    module, _ = load(FILES / "tokens", fixed)
    export_peft(module, tmp_path / "m", base=fixed)
    ours, theirs = load_file(tmp_path / "m" / WEIGHTS), load_file(FILES / "tokens" / WEIGHTS)
    (key,) = ours
    order = torch.tensor([9, 5, 30]).argsort()
    assert json.loads((tmp_path / "m" / CONFIG).read_text())["token_indices"] == [5, 9, 30]
    assert torch.allclose(ours[key], theirs[key][order], atol=1e-6)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"peft_type": "VERA"}, "VERA.*Read are: LORA.*Nothing was loaded"),
        ({"peft_type": None}, "no peft_type"),
        ({"task_type": "CAUSAL_LM"}, "CAUSAL_LM.*Nothing was loaded"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=true"),
        ({"bias": "all"}, "bias='all'.*Nothing was loaded"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"init_lora_weights": "pissa"}, "'pissa'.*base's own weights"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices=\[3\]"),
        ({"r": 0}, "r: .*got 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"a_new_setting": 3}, "a_new_setting"),
        ({"target_modules": "(a+"}, "no regular expression"),
        ({"target_modules": r"(([\w.]+)*)*!"}, "takes longer|does not fit"),
        ({"target_modules": ["query", "key", "value"]}, "missing: .*key"),
        ({"target_modules": ["query"]}, "not in the config: .*value"),
        ({"r": 5}, r"file \(4, 32\), base and config \(5, 32\)"),
        ({"use_dora": True}, "missing: .*lora_magnitude_vector"),
    ],
)
def test_settings_that_are_not_read_are_refused_by_name(fixed, lora, changes, words):
    edit(lora, **changes)
    with pytest.raises((ConfigError, StoreError), match=f"(?s){words}"):
        load(lora, fixed)


def test_new_settings_without_a_value_change_nothing(fixed, lora):
    edit(lora, a_new_setting=None, another=False, a_third={})
    assert torch.equal(logits(load(lora, fixed)[0], fixed), logits(load(FILES / "lora", fixed)[0], fixed))


def test_targets_outside_of_the_encoder_are_refused_by_name(fixed, lora):
    head = "base_model.model.lm_head.dense.lora_A.weight"
    edit_tensors(lora, lambda tensors: tensors | {head: torch.zeros(4, 32)})
    with pytest.raises(ConfigError, match=r"(?s)lm_head\.dense.*Nothing was loaded"):
        load(lora, fixed)


def test_another_base_is_refused(fixed, lora):
    edit(lora, base_model_name_or_path="bert-base-multilingual-cased")
    with pytest.raises(BaseError, match="files bert-base-multilingual-cased, base tiny-xlm-roberta"):
        load(lora, fixed)
    load(lora, fixed, allow_base_mismatch=True)
    for changes in ({"num_hidden_layers": 4}, {"num_hidden_layers": 2}, {"hidden_size": 48}):
        with pytest.raises(MadxError, match="(?s)base"):
            load(lora, tiny.base(**changes), allow_base_mismatch=True)


def test_entries_of_shira_outside_of_a_matrix_are_refused(fixed, tmp_path):
    folder = Path(shutil.copytree(FILES / "shira", tmp_path / "shira"))
    edit_tensors(folder, lambda ts: {k: v + 99 if k.endswith("indices") else v for k, v in ts.items()})
    with pytest.raises(StoreError, match="different places"):
        load(folder, fixed)


@pytest.mark.parametrize(
    "components, words",
    [
        ("madx", "bottleneck, invertible.*cannot be written"),
        ({"prompt": {}}, "prompt.*no inverse"),
        ({"prefix": {"flat": True}}, "moves_tokens: true"),
        ({"lora": {"dora": True, "dora_form": "adapterhub"}}, "'adapterhub'.*dora_form: paper"),
        ({"lora": {}, "ia3": {}}, "each by itself"),
        ({"lora": {"gate": True}}, "gate.*UniPELT"),
        ({"sparse_diff": {"entries": 40, "kinds": ["bias"]}}, "bias.*linear maps alone"),
    ],
)
def test_modules_that_peft_cannot_express_are_refused(fixed, components, words, tmp_path):
    module = tiny.wake(new_module("x", fixed, language="swa", components=components))
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        export_peft(module, tmp_path / "m", base=fixed)
    assert not list(tmp_path.iterdir())


def test_tokens_behind_slots_that_pass_the_last_position_are_refused(fixed):
    module = new_module("x", fixed, language="swa", components={"prefix": {"length": 40, "moves_tokens": True}})
    engine = Engine(fixed)
    engine.attach(module)
    with pytest.raises(CompositionError, match=r"30 tokens.*40 slots"), engine.using("x"):
        engine(torch.full((1, 30), 7))
    engine.close()


def test_rows_whose_tokens_move_and_rows_whose_do_not_share_a_batch(fixed):
    engine, (ids, mask) = Engine(fixed), tiny.inputs(rows=2)
    for name, moves in (("moved", True), ("own", False)):
        parts = {"prompt": {"length": 3 if moves else 5, "moves_tokens": moves}}
        engine.attach(tiny.wake(new_module(name, fixed, language="swa", components=parts)))
    with torch.no_grad():
        alone = []
        for row, name in enumerate(("moved", "own")):
            with engine.using(name):
                alone.append(engine(ids[row : row + 1], mask[row : row + 1])[mask[row : row + 1].bool()])
        with engine.using("route(moved, own)"):
            both = engine(ids, mask, branches=torch.tensor([0, 1]))
    engine.close()
    for row in range(2):
        assert torch.allclose(both[row][mask[row].bool()], alone[row], atol=1e-5)
