"""Copies, pickles, gradient checkpointing and detached modules always use the composition that belongs to them."""

import copy
import pickle

import pytest
import tiny
import torch

from madx.engine import Engine
from madx.errors import CompositionError, MadxError
from madx.module import new_module


def engine(family: str = "xlm-roberta") -> Engine:
    made = Engine(tiny.base(family))
    for number, name in enumerate(("swa", "eng")):
        made.attach(tiny.wake(new_module(name, made.base, language=name, components="madx"), seed=number, std=0.2))
    labels = ("O", "B-PER")
    made.attach(tiny.wake(new_module("ner", made.base, role="task", components="pfeiffer", labels=labels), seed=5))
    made.attach(tiny.sparse(made.base, "delta", language="yor"))
    return made


def hooked(base) -> list[str]:
    return [name for name, module in base.model.named_modules() if "forward" in module.__dict__]


@torch.no_grad()
def test_a_copied_engine_has_a_base_and_compositions_of_its_own():
    made, (ids, mask) = engine(), tiny.inputs()
    expected = {}
    for stack in ("swa + ner", "eng + ner", "delta + ner", None):
        with made.using(stack):
            expected[stack] = made(ids, mask)
    made.activate("delta + swa + ner")
    held = made(ids, mask)
    before = tiny.snapshot(made.base)
    twin = copy.deepcopy(made)
    assert str(twin.composition) == "delta + swa + ner" and torch.equal(twin(ids, mask), held)
    assert tiny.unchanged(made.base, before) and torch.equal(made(ids, mask), held)
    for stack in expected:
        twin.activate(stack)
        assert torch.equal(twin(ids, mask), expected[stack])
    assert twin.explain(ids, mask).composition == "base" and str(made.composition) == "delta + swa + ner"
    for parameter in twin.base.model.parameters():
        parameter.zero_()
    assert torch.equal(made(ids, mask), held)
    made.activate(None)
    assert torch.equal(made(ids, mask), expected[None])


def test_a_model_with_hooks_is_not_copied_or_pickled():
    made = engine()
    for refused in (
        lambda: copy.deepcopy(made.base.model),
        lambda: pickle.dumps(made.base.model),
        lambda: copy.deepcopy(made.base.encoder.encoder.layer),
        lambda: pickle.dumps(made),
        lambda: copy.deepcopy(made.base),
    ):
        with pytest.raises(MadxError, match=r"copy.deepcopy\(engine\)|save_module"):
            refused()
    made.close()
    assert copy.deepcopy(made.base).fingerprint == made.base.fingerprint
    assert len(list(copy.deepcopy(made.base.model).parameters())) == len(list(made.base.model.parameters()))


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_hooks_come_with_modules_and_go_with_them(family):
    base = tiny.base(family)
    made = Engine(base)
    assert hooked(base) == []
    idle = made(*tiny.inputs())
    made.attach(new_module("a", base, components={"lora": {"maps": ["query"], "leave_out": [0]}}))
    few = set(hooked(base))
    made.attach(new_module("b", base, components="houlsby_inv"))
    made.attach(new_module("p", base, components={"prefix": {"length": 2}}))
    assert few < set(hooked(base))
    made.detach("p"), made.detach("b")
    assert set(hooked(base)) == few
    made.detach("a")
    assert hooked(base) == [] and torch.equal(made(*tiny.inputs()), idle)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in base.model.modules())


def switch_checkpointing_on(model) -> None:
    """By its name in transformers 5, else by that in 4."""
    switch = getattr(model, "activation_checkpointing_enable", None)
    if switch is not None:
        switch()
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def gradients(made: Engine, *, checkpointing: bool, swap: str | None) -> list[torch.Tensor]:
    """Gradients of the task module, where another composition is activated between forward and backward pass."""
    ids, mask = tiny.inputs()
    made.activate("swa + ner")
    parameters = made.train_only("ner")
    made.base.model.train()
    if checkpointing:
        switch_checkpointing_on(made.base.model)
    torch.manual_seed(0)
    loss = made.label_logits(made(ids, mask)).square().mean()
    if swap is not None:
        made.activate(swap)
    loss.backward()
    found = [p.grad.clone() for p in parameters]
    for p in parameters:
        p.grad = None
    made.base.model.eval()
    made.activate(None)
    return found


@pytest.mark.parametrize("swap", [None, "eng + ner", "base"])
def test_a_recomputed_layer_sees_its_own_forward_pass(swap):
    made = Engine(tiny.base(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    for number, name in enumerate(("swa", "eng")):
        made.attach(tiny.wake(new_module(name, made.base, components="madx"), seed=number, std=0.2))
    labels = ("O", "B-PER")
    made.attach(
        tiny.wake(new_module("ner", made.base, role="task", components="houlsby", labels=labels), seed=5, std=0.1)
    )
    plain = gradients(made, checkpointing=False, swap=None)
    again = gradients(made, checkpointing=True, swap=swap)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, again))


def test_a_recomputation_under_other_weights_is_refused():
    made = engine()
    ids, mask = tiny.inputs()
    made.activate("delta + ner")
    made.train_only("ner")
    made.base.model.train()
    switch_checkpointing_on(made.base.model)
    loss = made.label_logits(made(ids, mask)).square().mean()
    made.activate("swa + ner")
    with pytest.raises(CompositionError, match=r"Call backward\(\) before"):
        loss.backward()


@torch.no_grad()
def test_a_mixture_of_final_norms_is_refused_in_any_order():
    made = Engine(tiny.base())
    made.attach(tiny.wake(new_module("a", made.base, components="pfeiffer"), seed=1))
    made.attach(tiny.wake(new_module("b", made.base, components={"bottleneck": {"final_norm": False}}), seed=2))
    for stack in ("average(a, b)", "average(b, a)"):
        with pytest.raises(CompositionError, match="final_norm"):
            made.activate(stack)
    made.activate("average(b, 0.5*b)")  # both leave it out


def test_the_heads_width_is_that_of_the_last_state():
    base = tiny.base("electra")  # its embeddings are narrower than its layers
    sites = dict(reversed(base.sites.items()))
    made = type(new_module("x", base, components="pfeiffer"))(
        new_module("n", base, role="task", components="pfeiffer", labels=("O",)).info, sites
    )
    assert made.head.in_features == base.width
