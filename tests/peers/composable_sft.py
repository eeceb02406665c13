"""Live round trips with composable-sft, both ways; run where its sources lie beside madx.

It was never published as a package, and its trainers need libraries of 2022, so only its file that reads, writes and
applies weight deltas is imported:

    git clone https://github.com/cambridgeltl/composable-sft
    python tests/peers/composable_sft.py --source composable-sft/src

1. in:    differences of random density made in the peer, saved, imported: equal logits of labels;
2. out:   modules of ours, exported, loaded by the peer: equal logits of labels;
3. stack: a language's difference under a task's, both ways;
4. mlm:   a language's difference on a masked-LM model whose decoder is untied, as its script unties it.

Differences are given as shares of the largest number compared. The exit status is 1 when one exceeds 1e-5.
"""

import argparse
import functools
import importlib
import logging
import sys
import tempfile
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tiny  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from tiny import sparse  # noqa: E402
from transformers import AutoModelForTokenClassification  # noqa: E402

from madx.engine import Engine  # noqa: E402
from madx.interop import export_composable_sft, import_composable_sft  # noqa: E402

TOLERANCE = 1e-5
LABELS = ("O", "B-PER", "I-PER")
FAMILIES = ("bert", "distilbert", "electra", "roberta", "xlm-roberta", "deberta-v2")


def peer(source: str | None):
    """Its module `sft.sft`, without the package's own imports; its loader may unpickle what it wrote itself here."""
    if source:
        package = types.ModuleType("sft")
        package.__path__ = [str(Path(source) / "sft")]
        sys.modules["sft"] = package
    return importlib.import_module("sft.sft")


class Sides:
    """One tiny base with our engine, and transformers' own model classes with the same weights for the peer."""

    def __init__(self, family: str):
        self.base = tiny.base(family)
        self.engine, (self.ids, self.mask) = Engine(self.base), tiny.inputs()

    def classifier(self):
        config = type(self.base.config).from_dict(self.base.config.to_dict())
        config.num_labels = len(LABELS)
        model = AutoModelForTokenClassification.from_config(config)
        model.base_model.load_state_dict(self.base.encoder.state_dict(), strict=False)
        return model.eval()

    def untied(self):
        model = type(self.base.model)(self.base.config).eval()
        model.load_state_dict(self.base.model.state_dict())
        decoder = model.get_output_embeddings()
        decoder.weight = torch.nn.Parameter(decoder.weight.detach().clone())
        return model

    @torch.no_grad()
    def ours(self, composition: str, *, labels: bool = True):
        self.engine.activate(composition)
        hidden = self.engine(self.ids, self.mask)
        logits = self.engine.label_logits(hidden) if labels else self.engine.mlm_logits(hidden)
        self.engine.activate(None)
        return logits

    @torch.no_grad()
    def theirs(self, model):
        return model(input_ids=self.ids, attention_mask=self.mask).logits


def made_there(sft, model, density: float, *, head: bool, seed: int):
    """A difference of theirs: some tensors dense, some sparse, some empty."""
    generator, made = torch.Generator().manual_seed(seed), sft.SFT()
    for k, (name, p) in enumerate(model.named_parameters()):
        if name.startswith(model.base_model_prefix):
            kept = torch.rand(p.shape, generator=generator) < (0.0, density, 1.0)[k % 3 if k % 7 else 1]
            made.add_param(name, torch.randn(p.shape, generator=generator) * 0.1 * kept, diff=True)
        elif head:
            made.add_param(name, torch.randn(p.shape, generator=generator), diff=False)
    return made


def difference(a, b) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


def check(sft, family: str, density: float, seed: int, folder: Path) -> dict[str, float]:
    sides, found = Sides(family), {}
    made = {
        name: made_there(sft, sides.classifier(), density, head=name == "task", seed=seed + k)
        for k, name in enumerate(("lang", "task"))
    }
    for name, difference_of_theirs in made.items():
        (folder / name).mkdir()
        difference_of_theirs.save(str(folder / name))
        role = "task" if name == "task" else "language"
        module, _ = import_composable_sft(
            folder / name, sides.base, name=name, role=role, task="ner" if name == "task" else None
        )
        sides.engine.attach(module)
    model = sides.classifier()
    bare = sides.theirs(model)
    made["task"].apply(model, with_abs=True)
    assert difference(bare, sides.theirs(model)) > 0.01
    found["in, task"] = difference(sides.ours("task"), sides.theirs(model))
    made["lang"].apply(model, with_abs=False)
    found["in, stack"] = difference(sides.ours("lang + task"), sides.theirs(model))
    modules = {
        "swa": sparse(sides.base, "swa", seed, entries=density, std=0.1, language="swa"),
        "ner": sparse(sides.base, "ner", seed + 1, entries=density, std=0.1, role="task", task="ner", labels=LABELS),
    }
    for name, module in modules.items():
        sides.engine.attach(module)
        export_composable_sft(module, folder / name, base=sides.base)
    model = sides.classifier()
    sft.SFT(str(folder / "ner")).apply(model, with_abs=True)
    found["out, task"] = difference(sides.ours("ner"), sides.theirs(model))
    sft.SFT(str(folder / "swa")).apply(model, with_abs=False)
    found["out, stack"] = difference(sides.ours("swa + ner"), sides.theirs(model))
    model = sides.untied()
    sft.SFT(str(folder / "swa")).apply(model, with_abs=False)
    found["out, mlm"] = difference(sides.ours("swa", labels=False), sides.theirs(model))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", help="folder that holds its package `sft`; none: it is installed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    sft = peer(options.source)
    torch.load = functools.partial(torch.load, weights_only=False)  # its loader is from before weights_only
    print(f"composable-sft, transformers {transformers.__version__}, torch {torch.__version__}")
    worst: dict[tuple[str, str], float] = {}
    for seed, density in enumerate((0.001, 0.03, 0.5)):
        for family in FAMILIES:
            with tempfile.TemporaryDirectory() as folder:
                for what, value in check(sft, family, density, seed, Path(folder)).items():
                    worst[what, family] = max(worst.get((what, family), 0.0), value)
    for (what, family), largest in sorted(worst.items()):
        print(f"{what:10} {family:12} largest difference {largest:.1e}")
    return int(not all(largest < TOLERANCE for largest in worst.values()))


if __name__ == "__main__":
    sys.exit(main())
