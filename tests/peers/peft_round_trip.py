"""Live round trips with Hugging Face's `peft`, both ways; run where that package is installed beside madx.

    python tests/peers/peft_round_trip.py [--fixtures tests/interop/peft_files]

1. in:  adapters of many configs, made and randomised in peft, saved, imported: equal logits of labels or words;
2. out: modules of ours, exported, loaded by peft: equal logits, and the same keys, shapes and settings as peft writes;
3. types that madx does not read (VeRA, LoHa, ...) are refused by name.

`--fixtures` writes the small files that `tests/interop/test_peft.py` reads where peft is not installed. Differences are
shares of the largest number compared. The exit status is 1 when one exceeds 1e-5.
"""

import argparse
import json
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import peft  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from madx.engine import Engine  # noqa: E402
from madx.errors import ConfigError  # noqa: E402
from madx.interop import export_peft, import_peft  # noqa: E402
from madx.module import new_module  # noqa: E402

TOLERANCE = 1e-5
LABELS = ("O", "B-PER", "I-PER")
BASES = ("xlm-roberta", "bert")
#: layer.N of every module name
TAGGING = {"task_type": "TOKEN_CLS"}
LAYERS = r".*encoder\.layer\.[02]\.attention\.self\.(query|key)"


def configs() -> dict[str, Callable[[], peft.PeftConfig]]:
    """Configs that madx reads, by name; those of a tagger have a task type."""
    lora, ia3, down = peft.LoraConfig, peft.IA3Config, ["output.dense"]
    both = {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": down}
    return {
        "lora": lambda: lora(r=4, lora_alpha=6, target_modules=["query", "value"]),
        "lora, tagger": lambda: lora(r=2, target_modules=["query", "intermediate.dense"], **TAGGING),
        "lora, all maps": lambda: lora(
            r=2,
            target_modules=["query", "key", "value", "dense"],
            exclude_modules=["lm_head.dense", "cls.predictions.transform.dense"],
        ),
        "rslora": lambda: lora(r=4, lora_alpha=6, use_rslora=True, target_modules=["query", "output.dense"]),
        "dora, tagger": lambda: lora(r=4, lora_alpha=6, use_dora=True, target_modules=["query", "value"], **TAGGING),
        "dora, rslora": lambda: lora(r=4, use_dora=True, use_rslora=True, target_modules=["key", "intermediate.dense"]),
        "regex": lambda: lora(r=3, target_modules=LAYERS),
        "some layers": lambda: lora(r=3, target_modules=["value"], layers_to_transform=[0, 2]),
        "patterns, tagger": lambda: lora(
            r=4,
            lora_alpha=8,
            target_modules=["query", "value"],
            rank_pattern={"layer.1.attention.self.query": 2, "value": 6},
            alpha_pattern={r".*layer\.0.*": 3},
            use_dora=True,
            **TAGGING,
        ),
        "ia3": lambda: ia3(**both),
        "ia3, tagger": lambda: ia3(**both, **TAGGING),
        "ia3, outputs": lambda: ia3(target_modules=["key", "intermediate.dense"], feedforward_modules=[]),
        "prefix, tagger": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3, **TAGGING),
        "prefix, network, tagger": lambda: peft.PrefixTuningConfig(
            num_virtual_tokens=2, prefix_projection=True, encoder_hidden_size=8, **TAGGING
        ),
        "prompt, tagger": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, **TAGGING),
        "shira": lambda: peft.ShiraConfig(r=2, target_modules=["query", "output.dense"]),
        "shira, tagger": lambda: peft.ShiraConfig(r=1, target_modules=["value"], **TAGGING),
        "tokens": lambda: peft.TrainableTokensConfig(token_indices=[9, 5, 30]),
    }


def ours() -> dict[str, dict]:
    """Components of modules that PEFT can express, by name."""
    every = ["query", "key", "value", "output", "up", "down"]
    return {
        "lora": {"lora": {"rank": 3, "alpha": 5.0, "maps": every, "leave_out": [1]}},
        "lora, down": {"lora": {"rank": 2, "maps": ["down"]}},
        "dora": {"lora": {"rank": 3, "alpha": 5.0, "dora": True, "rslora": True, "maps": ["query", "down"]}},
        "ia3": {"ia3": {"maps": ["key", "up"], "leave_out": [-1]}},
        "ia3, inputs": {"ia3": {"maps": ["key", "value"], "inputs": ["output", "down"]}},
        "prefix, tagger": {"prefix": {"length": 3, "flat": True, "moves_tokens": True}},
        "prefix, network, tagger": {"prefix": {"length": 2, "bottleneck": 8, "moves_tokens": True}},
        "shira": {"sparse_diff": {"entries": 90, "groups": ["layers"], "kinds": ["weight"], "precision": "float32"}},
    }


class Twins:
    """One tiny base: with our engine, and as models of transformers with the same weights for peft."""

    def __init__(self, kind: str):
        self.kind, self.base = kind, tiny.fixed_base() if kind == "xlm-roberta" else tiny.base(kind)
        if kind != "xlm-roberta":
            tiny.wake(self.base.model)
        self.engine = Engine(self.base)
        self.weights = {k: v.clone() for k, v in self.base.model.state_dict().items()}
        self.ids, self.mask = tiny.inputs()

    def model(self, *, tagger: bool) -> torch.nn.Module:
        """A model of transformers with the weights of the base; a tagger's head is random."""
        kind = transformers.AutoModelForTokenClassification if tagger else transformers.AutoModelForMaskedLM
        config = type(self.base.config).from_dict(self.base.config.to_dict() | {"id2label": dict(enumerate(LABELS))})
        config._attn_implementation = "eager"
        model = kind.from_config(config).eval()
        missing = model.load_state_dict(self.weights, strict=False).missing_keys
        assert tagger or not missing, missing
        return model

    @torch.no_grad()
    def ours(self, module, *, tagger: bool, hidden_alone: bool = False) -> torch.Tensor:
        """Logits of labels or of words at the tokens that are there; for `tokens` the last hidden state, because
        there a tied decoder changes as well."""
        self.engine.attach(module)
        self.engine.activate(module.name)
        hidden = self.engine(self.ids, self.mask)
        logits = self.engine.label_logits(hidden) if tagger else self.base.mlm_logits(hidden)
        logits = hidden if hidden_alone else logits
        self.engine.activate(None)
        self.engine.detach(module.name)
        return logits[self.mask.bool()]

    @torch.no_grad()
    def theirs(self, model, *, hidden_alone: bool = False) -> torch.Tensor:
        out = model(input_ids=self.ids, attention_mask=self.mask, output_hidden_states=True)
        found = out.hidden_states[-1] if hidden_alone else out.logits
        return found[:, -self.ids.shape[1] :][self.mask.bool()]  # behind a prompt, if there is one


def randomised(config: peft.PeftConfig, twins: Twins, *, tagger: bool, seed: int):
    """A model of peft whose own weights are random."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(twins.model(tagger=tagger), config).eval()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                around = 1.0 if "ia3_l" in name else parameter if "magnitude" in name or "tokens" in name else 0.0
                parameter.copy_(around + torch.randn(parameter.shape) * 0.2)
    model.peft_config["default"].base_model_name_or_path = f"tiny-{twins.kind}"
    return model


def share(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()


def names(name: str) -> dict:
    more = {"role": "task", "task": "ner"} if "tagger" in name else {"role": "language", "language": "swa"}
    return {"name": "mine", **more}


def into_madx(twins: Twins, name: str, make: Callable[[], peft.PeftConfig], folder: Path, seed: int) -> float:
    """The difference after an adapter of peft was read here."""
    tagger = "tagger" in name
    model = randomised(make(), twins, tagger=tagger, seed=seed)
    model.save_pretrained(str(folder))
    module, _ = import_peft(folder, twins.base, **names(name))
    hidden = {"hidden_alone": "tokens" in name}
    return share(twins.ours(module, tagger=tagger, **hidden), twins.theirs(model, **hidden))


def out_of_madx(twins: Twins, name: str, components: dict, folder: Path, seed: int) -> float:
    """The difference after a module of ours was loaded by peft. Raises AssertionError for other keys than it writes."""
    tagger = "tagger" in name
    more = {"labels": LABELS} if tagger else {}
    module = tiny.wake(new_module(base=twins.base, components=components, **names(name), **more), seed=seed)
    export_peft(module, folder / "ours", base=twins.base)
    model = peft.PeftModel.from_pretrained(twins.model(tagger=tagger), str(folder / "ours")).eval()
    found = share(twins.ours(module, tagger=tagger), twins.theirs(model))
    model.save_pretrained(str(folder / "theirs"))
    mine, again = (load_file(folder / which / "adapter_model.safetensors") for which in ("ours", "theirs"))
    assert {k: (v.shape, v.dtype) for k, v in mine.items()} == {k: (v.shape, v.dtype) for k, v in again.items()}
    ours_, theirs_ = (json.loads((folder / which / "adapter_config.json").read_text()) for which in ("ours", "theirs"))
    assert set(ours_) == set(theirs_), set(ours_) ^ set(theirs_)
    return found


def refused(twins: Twins, folder: Path) -> list[str]:
    """The types and settings that are not refused by name; none are expected."""
    every, faults = {"target_modules": ["query"]}, []
    for config in (
        peft.VeraConfig(**every),
        peft.LoHaConfig(r=2, **every),
        peft.OFTConfig(oft_block_size=4, **every),
        peft.LNTuningConfig(target_modules=["LayerNorm"]),
        peft.LoraConfig(r=2, bias="all", **every),
        peft.LoraConfig(r=2, trainable_token_indices=[5], **every),
        peft.LoraConfig(r=2, target_modules=["lm_head.dense", "query"]),
        peft.LoraConfig(r=2, target_modules=["word_embeddings"]),
    ):
        model = peft.get_peft_model(twins.model(tagger=config.task_type is not None), config)
        model.peft_config["default"].base_model_name_or_path = f"tiny-{twins.kind}"
        model.save_pretrained(str(folder))
        try:
            import_peft(folder, twins.base, **names("x"))
            faults.append(str(config.peft_type))
        except ConfigError as error:
            faults += [] if "Nothing was loaded" in str(error) else [str(error)]
    return faults


def compare() -> dict[tuple[str, str], float]:
    """The largest difference for each (check, base)."""
    found = {}
    for kind in BASES:
        twins = Twins(kind)
        for seed, (name, make) in enumerate(configs().items()):
            with tempfile.TemporaryDirectory() as folder:
                found[f"in, {name}", kind] = into_madx(twins, name, make, Path(folder), seed)
        for seed, (name, components) in enumerate(ours().items()):
            with tempfile.TemporaryDirectory() as folder:
                found[f"out, {name}", kind] = out_of_madx(twins, name, components, Path(folder), seed)
    return found


def fixtures(folder: Path) -> None:
    """Adapters of peft for the tiny base, and the logits of labels or the last hidden states with them."""
    twins = Twins("xlm-roberta")
    for seed, (name, make) in enumerate(configs().items()):
        place, tagger = folder / re.sub(r"\W+", "_", name), "tagger" in name
        model = randomised(make(), twins, tagger=tagger, seed=seed)
        model.save_pretrained(str(place))
        (place / "README.md").unlink(missing_ok=True)
        save_file(
            {"found": twins.theirs(model, hidden_alone=not tagger)[:, :8].contiguous()},
            place / "expected.safetensors",
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fixtures", type=Path, help="write the fixtures of the tests into this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print(f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    if options.fixtures:
        fixtures(options.fixtures)
        return 0
    found = compare()
    for (what, kind), value in sorted(found.items()):
        print(f"{what:30} {kind:12} difference {value:.1e}")
    with tempfile.TemporaryDirectory() as folder:
        faults = refused(Twins("xlm-roberta"), Path(folder))
    print("refused: every type and setting that is not read" if not faults else "not refused: " + "\n  ".join(faults))
    return int(bool(faults) or not all(value < TOLERANCE for value in found.values()))


if __name__ == "__main__":
    sys.exit(main())
