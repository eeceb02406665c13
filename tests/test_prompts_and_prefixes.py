"""Prompts and prefixes on every family: padding, stacks, routes, averages, needed positions, local layers."""

import pytest
import tiny
import torch

from madx.engine import Engine
from madx.errors import CompositionError, ConfigError
from madx.module import new_module

LABELS = ("O", "B-PER")
COMPONENTS = {
    "prompt": {"prompt": {"length": 4}},
    "prefix": {"prefix": {"length": 5, "flat": True}},
    "other": {"prefix": {"length": 5, "flat": True}},
    "mlp": {"prefix": {"length": 3, "bottleneck": 8}},
    "upper": {"prefix": {"length": 3, "flat": True, "leave_out": [0]}},
}


def engine(family: str, **config) -> Engine:
    made = Engine(tiny.base(family, **config))
    for number, (name, components) in enumerate(COMPONENTS.items()):
        made.attach(tiny.wake(new_module(name, made.base, components=components), seed=number, std=1.0))
    made.attach(tiny.wake(new_module("swa", made.base, components="madx"), seed=7, std=0.1))
    made.attach(
        tiny.wake(new_module("ner", made.base, role="task", components="pfeiffer", labels=LABELS), seed=8, std=0.1)
    )
    return made


@pytest.fixture(params=tiny.FAMILY_NAMES)
def made(request) -> Engine:
    return engine(request.param)


STACKS = ("prompt", "prefix", "mlp", "upper", "prefix + swa + ner", "prompt + prefix + swa + ner", "prefix + mlp")


@torch.no_grad()
def test_every_stack_acts_and_does_not_depend_on_padding(made):
    ids, mask = tiny.inputs(3, 20)
    bare = made(ids, mask)
    for stack in STACKS:
        made.activate(stack)
        found = made(ids, mask)
        assert found.shape == bare.shape and not torch.allclose(found, bare, atol=1e-3)
        for row in range(3):
            tokens = int(mask[row].sum())
            alone = made(ids[row : row + 1, :tokens], mask[row : row + 1, :tokens])
            assert torch.allclose(alone, found[row : row + 1, :tokens], atol=1e-4), stack
        without_mask = made(ids[:1])
        assert torch.allclose(without_mask, found[:1], atol=1e-4)
        at = (torch.tensor([0, 1, 1]), torch.tensor([3, 0, 5]))
        assert torch.allclose(made(ids, mask, at=at), found[at], atol=1e-5)
        assert made.explain(ids, mask).inactive == []
    made.activate(None)
    assert torch.equal(made(ids, mask), bare)


@torch.no_grad()
def test_a_route_over_slots_of_all_lengths_equals_separate_passes(made):
    ids, mask = tiny.inputs(3, 12)
    stacks = ("prompt", "base", "prefix + swa", "mlp", "upper", "prompt + prefix + ner", "swa + ner")
    expected = []
    for stack in stacks:
        with made.using(stack):
            expected.append(made(ids, mask))
    made.activate(f"route({', '.join(stacks)})")
    order = torch.randperm(3 * len(stacks), generator=torch.Generator().manual_seed(0)).tolist()
    rows, branches = [k % 3 for k in order], [k // 3 for k in order]
    found = made(ids[rows], mask[rows], branches=branches)
    for place, (row, branch) in enumerate(zip(rows, branches)):
        real = mask[row] == 1
        assert torch.allclose(found[place][real], expected[branch][row][real], atol=1e-4), stacks[branch]


def attended(keys: torch.Tensor, values: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    return scores.softmax(-1) @ values


@torch.no_grad()
def test_a_prefix_is_keys_and_values_before_those_of_the_tokens():
    """Layer 0 of XLM-R by hand: softmax over [P_K; K], values [P_V; V]."""
    made = engine("xlm-roberta")
    ids, mask = tiny.inputs(1, 9)
    made.activate("prefix")
    attention = made.base.encoder.encoder.layer[0].attention.self
    seen = {}
    handle = made.base.encoder.encoder.layer[0].attention.output.dense.register_forward_pre_hook(
        lambda module, args: seen.update(context=args[0])
    )
    made(ids, mask)
    handle.remove()
    made.activate(None)
    x = made.base.encoder.embeddings(ids)
    unit = made.module("prefix").units["layer.0.slots"]["prefix"]

    def heads(t: torch.Tensor) -> torch.Tensor:
        return t.view(len(t), 4, 8).transpose(0, 1)

    keys = torch.cat([heads(unit.keys), heads(attention.key(x[0]))], dim=1)
    values = torch.cat([heads(unit.values), heads(attention.value(x[0]))], dim=1)
    expected = attended(keys, values, heads(attention.query(x[0]))).transpose(0, 1).reshape(9, 32)
    assert torch.allclose(seen["context"][0, 5:], expected, atol=1e-5)


@torch.no_grad()
def test_a_mean_of_prefixes_is_that_of_their_vectors(made):
    ids, mask = tiny.inputs()
    made.activate("average(0.25*prefix, 0.75*other) + ner")
    found = made(ids, mask)
    assert made.explain(ids, mask).inactive == []
    for site, units in made.module("prefix").units.items():
        mine, theirs = units["prefix"], made.module("other").units[site]["prefix"]
        mine.keys.mul_(0.25).add_(theirs.keys, alpha=0.75), mine.values.mul_(0.25).add_(theirs.values, alpha=0.75)
    made.activate("prefix + ner")
    assert torch.allclose(made(ids, mask), found, atol=1e-5)


@torch.no_grad()
def test_a_prefix_in_a_local_layer_is_seen_by_every_token():
    """ModernBERT's layers 1 and 2 of 3 see four tokens to each side; a prefix there acts on all tokens."""
    made = engine("modernbert", global_attn_every_n_layers=3)
    ids = tiny.inputs(1, 30)[0]
    components = {"prefix": {"length": 2, "flat": True, "leave_out": [0]}}
    made.attach(tiny.wake(new_module("local", made.base, components=components), std=2.0))
    bare = made(ids)
    made.activate("local")
    assert ((made(ids) - bare).abs().amax(-1) > 1e-3).all()


def test_what_cannot_be_is_refused_before_the_first_forward_pass():
    made = engine("bert")
    for stack, words in (
        ("average(prefix, mlp) + ner", "prefix of 5.*prefix of 3"),
        ("average(prefix, swa) + ner", "no slots"),
        ("0.5*prefix + ner", "Leave the factor out"),
        ("ties(prefix, other) + ner", "slots"),
    ):
        with pytest.raises(CompositionError, match=words):
            made.activate(stack)
    for kind in ("prefix", "prompt"):
        for length in (0, made.base.max_tokens):
            with pytest.raises(ConfigError, match="length"):
                new_module("m", made.base, components={kind: {"length": length}})
    made.activate("prefix")
    with pytest.raises(CompositionError, match="without the engine"):
        made.base.encoder(input_ids=tiny.inputs()[0])


def test_gradients_reach_a_prefix_and_a_prompt(made):
    for name in ("prompt", "prefix", "mlp"):
        made.activate(f"{name} + ner")
        parameters = made.train_only(name)
        made.label_logits(made(*tiny.inputs())).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


def test_a_base_with_a_convolution_refuses_slots():
    made = engine("deberta-v2", conv_kernel_size=3)
    made.activate("swa")
    made(*tiny.inputs())
    with pytest.raises(CompositionError, match="convolution"):
        made.activate("prompt")
