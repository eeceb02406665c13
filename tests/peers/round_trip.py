"""Live round trips with AdapterHub's `adapters`, both ways; run where that package is installed beside madx.

    python tests/peers/round_trip.py [--configs 60] [--seed 0]

1. in:   adapters of random configs, made and randomised in the peer, saved, imported: equal hidden states and logits;
2. out:  modules of ours with random settings, exported, loaded by the peer: equal hidden states and logits;
3. head: the same both ways for an adapter with a tagging head;
4. setup, fusion: the same both ways for a stack, and for a fusion above a module, saved as a whole;
5. methods that madx does not read (glow, VeRA) are refused by name.

`tests/peers/test_live.py` runs a few of each in the suite, where the package is installed.

Differences are given as shares of the largest number compared. The exit status is 1 when one exceeds 1e-5.
"""

import argparse
import copy
import logging
import random
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import adapters  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from adapters.composition import Stack  # noqa: E402

from madx.engine import Engine  # noqa: E402
from madx.errors import ConfigError  # noqa: E402
from madx.interop import (  # noqa: E402
    export_adapterhub,
    export_adapterhub_setup,
    import_adapterhub,
    import_adapterhub_setup,
)
from madx.interop.adapterhub.layouts import LAYOUTS  # noqa: E402
from madx.interop.adapterhub.methods.activations import ACTIVATIONS  # noqa: E402
from madx.module import new_module  # noqa: E402

TOLERANCE = 1e-5
LABELS = ("O", "B-PER", "I-PER")
PEER_ONLY_GELUS = ("gelu_fast", "gelu_accurate")  # the same function, rounded otherwise
GLOW = {
    "mh_adapter": False,
    "output_adapter": True,
    "reduction_factor": 2,
    "non_linearity": "relu",
    "inv_adapter": "glow",
    "inv_adapter_reduction_factor": 2,
}
UNREAD = ("vera", GLOW)
PRESETS = ("madx", "madx2", "pfeiffer", "pfeiffer2", "houlsby", "bapna", "parallel", "scaled_parallel")


#: methods that the peer computes otherwise: prompts that see padding (or raise), prefixes without relative positions
OTHERWISE = {"deberta-v2": ("prefix", "prompt"), "distilbert": ("prompt",)}


def peer_config(rng: random.Random, model_type: str) -> adapters.AdapterConfig:
    """A random config that the peer can run: a bottleneck, another method, or a union of two."""
    if rng.random() < 0.4:
        return peer_bottleneck(rng)
    left_out = rng.choice([[], [], [2], [0, 1]])
    matrices = rng.choice([["q"], ["k", "v"], ["q", "k", "v"]])
    maps = {"attn_matrices": matrices, "intermediate_lora": rng.random() < 0.5, "output_lora": rng.random() < 0.5}
    low_rank = {"r": rng.choice([1, 4]), "alpha": rng.choice([1, 8])}
    low_rank |= rng.choice([{}, {"use_dora": True}, {"use_gating": True}])
    prefix = adapters.PrefixTuningConfig(
        flat=rng.random() < 0.5,
        prefix_length=rng.choice([1, 5]),
        bottleneck_size=8,
        non_linearity=rng.choice(["tanh", "relu"]),
        leave_out=left_out,
        use_gating=rng.random() < 0.4,
        shared_gating=rng.random() < 0.5,
    )
    found = {
        "lora": adapters.LoRAConfig(**maps, **low_rank, leave_out=left_out),
        "ia3": adapters.IA3Config(**maps, leave_out=left_out),
        "prefix": prefix,
        "prompt": adapters.PromptTuningConfig(prompt_length=rng.choice([1, 4])),
        "reft": peer_reft(rng),
        "prefix and bottleneck": adapters.ConfigUnion(prefix, peer_bottleneck(rng)),
    }
    return one_of(found, model_type, rng)


def peer_reft(rng: random.Random) -> adapters.ReftConfig:
    """A random ReFT config that the peer can run and save: it loses `subtract_projection`."""
    first, last = rng.choice([(3, 0), (0, 2), (2, 1)])
    return adapters.ReftConfig(
        layers=rng.choice(["all", [0, 2]]),
        prefix_positions=first,
        suffix_positions=last,
        r=rng.choice([1, 3]),
        orthogonality=rng.random() < 0.5,
        tied_weights=rng.random() < 0.5,
        non_linearity=rng.choice([None, "relu"]),
    )


def one_of(found: dict, model_type: str, rng: random.Random):
    """One of the values whose key names no method that the peer computes otherwise."""
    keys = [key for key in found if not key.startswith(OTHERWISE.get(model_type, ()))]
    return found[rng.choice(keys)]


def peer_bottleneck(rng: random.Random) -> adapters.BnConfig:
    """A random bottleneck or Compacter config that the peer can run."""
    parallel, before = rng.random() < 0.25, rng.random() < 0.6
    inverse = rng.random() < 0.4
    phm = {"phm_layer": True, "phm_dim": rng.choice([2, 4]), "factorized_phm_W": rng.random() < 0.7}
    phm |= {"shared_phm_rule": rng.random() < 0.6}
    return adapters.BnConfig(
        **(phm if (compacter := rng.random() < 0.3) else {}),
        mh_adapter=rng.random() < 0.5,
        output_adapter=True,
        is_parallel=parallel,
        original_ln_before=before,
        reduction_factor=rng.choice([0.5, 2, 4] if compacter else [0.5, 2, 8, {"0": 4, "default": 16}]),
        original_ln_after=rng.random() < 0.8,
        non_linearity=rng.choice([a for a in ACTIVATIONS if a not in PEER_ONLY_GELUS]),
        residual_before_ln=rng.choice([True, False, "post_add"] if before and not parallel else [True, False]),
        ln_before=rng.random() < 0.3,
        ln_after=rng.random() < 0.3,
        adapter_residual_before_ln=rng.random() < 0.5,
        scaling=rng.choice([1.0, 4.0, "learned", "channel"]),
        use_gating=rng.random() < 0.3,
        init_weights=rng.choice(["bert", "mam_adapter", "houlsby"]) if not compacter else "bert",
        leave_out=rng.choice([[], [], [2], [0, 1]]),
        inv_adapter="nice" if inverse else None,
        inv_adapter_reduction_factor=rng.choice([1, 2, 4]) if inverse else None,
    )


def our_components(rng: random.Random, model_type: str) -> dict | str:
    """A preset, or random settings that the format can express."""
    if rng.random() < 0.2:
        return rng.choice(PRESETS)
    if rng.random() < 0.5:
        return our_bottleneck(rng)
    maps = rng.choice([["query"], ["key", "value", "up"], ["query", "key", "value", "up", "down"]])
    dora = rng.choice([{}, {"dora": True, "dora_form": "adapterhub"}, {"rslora": True}, {"gate": True}])
    alpha = 8.0 if "gate" in dora else rng.choice([1.0, 8.0])
    prefix = {"length": rng.choice([1, 5]), "flat": rng.random() < 0.5, "bottleneck": 8}
    prefix |= {"gate": rng.choice([False, True, "each"])}
    found = {
        "lora": {"lora": {"maps": maps, "rank": 4, "alpha": alpha, **dora}},
        "ia3": {"ia3": {"maps": maps, "leave_out": rng.choice([[], [-1]])}},
        "prefix": {"prefix": prefix | {"leave_out": rng.choice([[], [0]])}},
        "prompt": {"prompt": {"length": rng.choice([1, 4])}},
        "compacter": {"compacter": {"reduction_factor": 4.0, "dimension": rng.choice([2, 4]), **our_rules(rng)}},
        "reft": {
            "reft": {
                "rank": rng.choice([1, 3]),
                **dict(zip(("first", "last"), rng.choice([(3, 0), (0, 2), (2, 1)]))),
                "tied": rng.random() < 0.3,
                "orthogonal": rng.random() < 0.5,
                "leave_out": rng.choice([[], [1]]),
            }
        },
        "prefix and others": {"prefix": prefix, "lora": {"maps": maps, "rank": 2}, "bottleneck": {"reads": "input"}},
    }
    return one_of(found, model_type, rng)


def our_rules(rng: random.Random) -> dict:
    """Random settings of the Kronecker products of a Compacter."""
    return {"rank": rng.choice([1, 2, "full"]), "shared_rule": rng.random() < 0.6, "norm_before": rng.random() < 0.3}


def our_bottleneck(rng: random.Random) -> dict:
    """Random settings of bottleneck and invertible components that the format can express."""
    reads, residual = rng.choice(
        [("sum_norm", "output"), ("sum_norm", "sum"), ("sum_norm", "read"), ("output", "output"), ("input", "output")]
    )
    after, activation = rng.random() < 0.3, rng.choice(sorted(set(ACTIVATIONS.values())))
    parts = {
        "bottleneck": {
            "reads": reads,
            "residual": residual,
            "places": rng.choice([["ffn"], ["attention"], ["attention", "ffn"]]),
            "reduction_factor": rng.choice([0.5, 2.0, 16.0]),
            "activation": activation,
            "norm_before": rng.random() < 0.3,
            "norm_after": after,
            "norm_after_residual": after and reads != "input" and rng.random() < 0.5,
            "final_norm": rng.random() < 0.8,
            "gate": rng.random() < 0.3,
            "scaling": rng.choice([1.0, 4.0, "learned", "channel"]),
            "leave_out": rng.choice([[], [-1], [0]]),
        }
    }
    if rng.random() < 0.2:
        del parts["bottleneck"]
    if not parts or rng.random() < 0.4:
        parts["invertible"] = {"activation": activation, "reduction_factor": rng.choice([1.0, 2.0])}
    return parts


def randomise(model, name: str, seed: int) -> None:
    """Random weights for all that belongs to one adapter of the peer, and its head."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            if f".{name}." in key and not key.endswith("weight.original"):  # its diagonal holds signs
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


#: the dense layer, the norm and the decoder of each masked-LM head
HEADS = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
    "electra": ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
}
HEADS |= {"xlm-roberta": HEADS["roberta"], "deberta-v2": HEADS["bert"]}


class Twins:
    """One tiny base twice: with our engine, and as the peer's model class with the same masked-LM head.

    The peer's other way, hooks on a plain ...ForMaskedLM, never runs the inverse of an invertible component.
    """

    def __init__(self, model_type: str):
        self.model_type, self.base = model_type, tiny.base(model_type)
        with torch.no_grad():
            for name, parameter in self.base.model.named_parameters():
                if name.endswith("bias"):  # zero in a fresh model: a bias left out would not be seen
                    parameter.normal_(std=0.2)
        # with other implementations of attention, its prompts see padding, and prefixes in DistilBERT get a bias
        config = copy.deepcopy(self.base.config)
        self.peer = adapters.AutoAdapterModel.from_config(config, attn_implementation="eager").eval()
        own = {k: v for k, v in self.base.encoder.state_dict().items() if "pooler" not in k}
        missing, unexpected = self.peer.base_model.load_state_dict(own, strict=False)
        assert not unexpected and all("pooler" in k or "prompt" in k for k in missing), (missing, unexpected)
        self.peer.add_masked_lm_head("mlm")
        head = self.peer.heads["mlm"].eval()
        for place, path in zip((0, 2, 3), HEADS[model_type]):
            head[place].load_state_dict(self.base.model.get_submodule(path).state_dict())
        self.engine = Engine(self.base)
        self.ids, self.mask = tiny.inputs()

    @torch.no_grad()
    def ours(self, composition: str, *, labels: bool = False):
        self.engine.activate(composition)
        hidden = self.engine(self.ids, self.mask)
        return hidden, self.engine.label_logits(hidden) if labels else self.base.mlm_logits(hidden)

    @torch.no_grad()
    def theirs(self, setup, *, labels: bool = False):
        self.peer.set_active_adapters(setup)
        self.peer.active_head = setup if labels else "mlm"
        out = self.peer(input_ids=self.ids, attention_mask=self.mask, output_hidden_states=True)
        tokens = slice(-self.ids.shape[1], None)  # after a prompt, if there is one
        return out.hidden_states[-1][:, tokens], out.logits[:, tokens]

    def forget(self, *names: str) -> None:
        self.engine.activate(None)
        for name in names:
            self.engine.detach(name)
            self.peer.delete_adapter(name)


def setups(twins: Twins, rng: random.Random, folder: Path) -> dict[str, float]:
    """A stack of two modules as a setup, out and in."""
    modules = {
        name: tiny.wake(new_module(name, twins.base, components=parts), seed=rng.randrange(1 << 30))
        for name, parts in (("lang", "madx"), ("job", "houlsby"))
    }
    for module in modules.values():
        twins.engine.attach(module)
    export_adapterhub_setup("lang + job", modules, folder / "out", base=twins.base)
    setup, _ = twins.peer.load_adapter_setup(str(folder / "out"))
    found = {"out, setup": difference(twins.ours("lang + job"), twins.theirs(setup))}
    twins.peer.save_adapter_setup(str(folder / "in"), setup)
    roles = {"lang": "language", "job": "language"}
    composition, again, _ = import_adapterhub_setup(folder / "in", twins.base, roles=roles, allow_base_mismatch=True)
    for module in again.values():
        twins.engine.activate(None)
        twins.engine.attach(module)
    found["in, setup"] = difference(twins.ours(str(composition)), twins.theirs(setup))
    twins.forget("lang", "job")
    return found


def fusions(twins: Twins, rng: random.Random, folder: Path) -> dict[str, float]:
    """A fusion of two modules above a third as a setup, out and in."""
    parts = rng.choice(["pfeiffer", "houlsby"])
    modules = {
        name: tiny.wake(new_module(name, twins.base, components=preset), seed=rng.randrange(1 << 30))
        for name, preset in (("lang", "madx"), ("a", parts), ("b", parts))
    }
    settings = {"places": ["attention", "ffn"], "reads": "output"} if parts == "houlsby" else {}
    settings["value"] = rng.random() < 0.5
    fusion = new_module("f", twins.base, role="fusion", components={"fusion": settings})
    modules["f"] = tiny.wake(fusion, seed=rng.randrange(1 << 30))
    for module in modules.values():
        twins.engine.attach(module)
    ours = twins.ours("lang + fuse(a, b; f)")
    export_adapterhub_setup("lang + fuse(a, b; f)", modules, folder / "out", base=twins.base)
    setup, _ = twins.peer.load_adapter_setup(str(folder / "out"))
    found = {"out, fusion": difference(ours, twins.theirs(setup))}
    twins.peer.save_adapter_setup(str(folder / "in"), setup)
    roles = {"lang": "language", "a": "language", "b": "language", "a_b": "fusion"}
    composition, again, _ = import_adapterhub_setup(folder / "in", twins.base, roles=roles, allow_base_mismatch=True)
    for module in again.values():
        twins.engine.activate(None)
        twins.engine.attach(module)
    found["in, fusion"] = difference(twins.ours(str(composition)), twins.theirs(setup))
    twins.engine.activate(None)
    for name in ("f", "a_b"):
        twins.engine.detach(name)
    twins.peer.delete_adapter_fusion("a,b")
    twins.forget("lang", "a", "b")
    return found


def difference(ours, theirs) -> float:
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(ours, theirs))


def into_madx(twins: Twins, rng: random.Random, folder: Path) -> dict[str, float]:
    """Two random adapters of the peer, alone and stacked."""
    for k, name in enumerate(("one", "two")):
        twins.peer.add_adapter(name, config=peer_config(rng, twins.model_type))
        randomise(twins.peer, name, rng.randrange(1 << 30))
        twins.peer.save_adapter(str(folder / name), name, use_safetensors=k == 0 and one_name_each(twins, name))
        module, _ = import_adapterhub(folder / name, twins.base, name=name, role="language", allow_base_mismatch=True)
        twins.engine.attach(module)
    found = {"in, one": max(difference(twins.ours(n), twins.theirs(n)) for n in ("one", "two"))}
    one, two = (twins.peer.adapters_config.get(n) for n in ("one", "two"))
    if same_stack(one, two):
        found["in, stack"] = difference(twins.ours("one + two"), twins.theirs(Stack("one", "two")))
    twins.forget("one", "two")
    return found


def parts_of(config) -> list:
    """The configs of a union, or the config itself."""
    return list(getattr(config, "configs", [config]))


def one_name_each(twins: Twins, name: str) -> bool:
    """False for an adapter with two names for one tensor, which the peer cannot save as safetensors."""
    parts = parts_of(twins.peer.adapters_config.get(name))
    return not any(getattr(part, "ln_before", False) or part.architecture == "prefix_tuning" for part in parts)


def same_stack(one, two) -> bool:
    """False for a stack that the peer computes otherwise.

    Beside a parallel bottleneck it drops the other's output; of invertible maps, prompts and ReFT it uses only the
    first; low-rank changes of one linear map it multiplies.
    """
    first, second = parts_of(one), parts_of(two)
    parallel = any(getattr(part, "is_parallel", False) for part in first + second)
    ignored = any(
        getattr(part, "inv_adapter", None) or part.architecture in ("prompt_tuning", "reft") for part in second
    )
    low_rank = all(any(part.architecture == "lora" for part in parts) for parts in (first, second))
    return not (parallel or ignored or low_rank)


def out_of_madx(twins: Twins, rng: random.Random, folder: Path) -> dict[str, float]:
    module = tiny.wake(
        new_module("mine", twins.base, components=our_components(rng, twins.model_type)), seed=rng.randrange(1 << 30)
    )
    twins.engine.attach(module)
    safetensors = rng.random() < 0.5
    export_adapterhub(module, folder / "mine", base=twins.base, safetensors=safetensors)
    twins.peer.load_adapter(str(folder / "mine"), use_safetensors=safetensors)
    found = {"out, one": difference(twins.ours("mine"), twins.theirs("mine"))}
    twins.forget("mine")
    return found


def heads(twins: Twins, rng: random.Random, folder: Path) -> dict[str, float]:
    """An adapter with a tagging head, in and out."""
    module = new_module("mine", twins.base, role="task", task="ner", components="pfeiffer", labels=LABELS)
    twins.engine.attach(tiny.wake(module, seed=rng.randrange(1 << 30)))
    export_adapterhub(module, folder / "head_out", base=twins.base)
    twins.peer.load_adapter(str(folder / "head_out"))
    assert twins.peer.get_labels("mine") == list(LABELS)
    found = {"out, head": difference(twins.ours("mine", labels=True), twins.theirs("mine", labels=True))}
    twins.peer.delete_head("mine")
    twins.forget("mine")
    twins.peer.add_adapter("tag", config="seq_bn")
    twins.peer.add_tagging_head("tag", num_labels=3, id2label=dict(enumerate(LABELS)))
    randomise(twins.peer, "tag", rng.randrange(1 << 30))
    twins.peer.save_adapter(str(folder / "head_in"), "tag")
    module, _ = import_adapterhub(
        folder / "head_in", twins.base, name="tag", role="task", task="ner", allow_base_mismatch=True
    )
    assert module.info.labels == LABELS
    twins.engine.attach(module)
    found["in, head"] = difference(twins.ours("tag", labels=True), twins.theirs("tag", labels=True))
    twins.forget("tag")
    return found


def refused(twins: Twins, folder: Path) -> list[str]:
    """The configs of other types that are not refused by name; none are expected."""
    faults = []
    for kind in UNREAD:
        config = kind if isinstance(kind, str) else adapters.BnConfig(**kind)
        twins.peer.add_adapter("other", config=config)
        twins.peer.save_adapter(str(folder / "other"), "other")
        try:
            import_adapterhub(folder / "other", twins.base, name="other", role="language", allow_base_mismatch=True)
            faults.append(str(kind))
        except ConfigError as error:
            faults += [] if "Nothing was loaded" in str(error) else [f"{kind}: {error}"]
        twins.peer.delete_adapter("other")
    return faults


def compare(configs: int, seed: int) -> dict[tuple[str, str], tuple[int, float]]:
    """(how many were compared, the largest difference) for each (check, model type)."""
    rng, worst = random.Random(seed), {}
    all_twins = {model_type: Twins(model_type) for model_type in sorted(LAYOUTS)}
    for k in range(configs):
        model_type = sorted(LAYOUTS)[k % len(LAYOUTS)]
        for check in (into_madx, out_of_madx, heads, setups, fusions) if k < len(LAYOUTS) else (into_madx, out_of_madx):
            with tempfile.TemporaryDirectory() as folder:
                for what, value in check(all_twins[model_type], rng, Path(folder)).items():
                    count, largest = worst.get((what, model_type), (0, 0.0))
                    worst[what, model_type] = count + 1, max(largest, value)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=int, default=60, help="random configs each way")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print(f"adapters {adapters.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    worst = compare(options.configs, options.seed)
    for (what, model_type), (count, largest) in sorted(worst.items()):
        print(f"{what:10} {model_type:12} {count:3} compared, largest difference {largest:.1e}")
    with tempfile.TemporaryDirectory() as folder:
        faults = refused(Twins("xlm-roberta"), Path(folder))
    print(
        f"refused    {len(UNREAD) - len(faults)} of {len(UNREAD)} configs of types that are not read",
        *faults,
        sep="\n  ",
    )
    return int(bool(faults) or not all(largest < TOLERANCE for _, largest in worst.values()))


if __name__ == "__main__":
    sys.exit(main())
