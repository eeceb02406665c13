"""ladder against a plain transcription, row by row; and that the base keeps nothing for a backward pass."""

import pytest
import tiny
import tiny_runs as runs
import torch
import torch.nn.functional as F
from by_hand import SITE, WIDTH, given, layer_norm, run, unit_at, units

from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.errors import ConfigError
from madx.module import new_module

SMALL = {"reduction_factor": 3.0, "heads": 2}
ENCODER = SITE["encoder"]
STATES = ("embedded", "first", "second", "value")


def linear(x, layer):
    return x @ layer.weight.T if layer.bias is None else x @ layer.weight.T + layer.bias


def block(s, unit):
    """B(s) of one row without padding, `(tokens, r)`."""
    size, heads = s.shape[1], unit.heads
    x, found = layer_norm(s, unit.attention_norm), []
    Q, K, V = unit.attention.weight.split(size)
    for i in range(heads):
        own = slice(i * size // heads, (i + 1) * size // heads)
        q, k, v = x @ Q[own].T, x @ K[own].T, x @ V[own].T
        found.append(torch.softmax(q @ k.T / (size / heads) ** 0.5, dim=-1) @ v)
    t = s + linear(torch.cat(found, dim=-1), unit.output)
    return t + linear(F.gelu(linear(layer_norm(t, unit.ffn_norm), unit.up)), unit.down)


def plain(unit, states, layers):
    """The change of the last state of one row, `(tokens, width)`."""
    s = linear(states[0], unit.rungs[0])
    for number, layer in enumerate(layers):
        m = torch.sigmoid(unit.gates[number] / 0.1)
        s = block(m * linear(states[layer + 1], unit.rungs[number + 1]) + (1 - m) * s, unit.blocks[number])
    return linear(layer_norm(s, unit.norm), unit.up)


@pytest.mark.parametrize("leave_out, layers", [([], (0, 1, 2)), ([1], (0, 2)), ([-1], (0, 1))])
@torch.no_grad()
def test_formula_and_padding(leave_out, layers):
    unit, at = unit_at("ladder", "encoder", SMALL | {"leave_out": leave_out}), given(ENCODER, rows=3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]).bool()
    change = run(unit, at.changed(torch.clone, mask=mask))
    for row, there in enumerate(mask):
        states = [at.tensors[name][row][there] for name in STATES]
        assert torch.allclose(change[row][there], plain(unit, states, layers))


@torch.no_grad()
def test_in_a_stack_the_last_state_is_that_which_others_have_changed():
    unit, at = unit_at("ladder", "encoder", SMALL), given(ENCODER)
    view = at.view()
    view.add(torch.ones_like(view.value))
    states = [at.tensors[name][0] for name in STATES[:-1]] + [at.tensors["value"][0] + 1]
    assert torch.allclose(unit(view)[0], plain(unit, states, (0, 1, 2)))


def test_gates_start_as_one_half_and_the_change_as_zero():
    unit = unit_at("ladder", "encoder", SMALL, awake=False)
    assert torch.equal(torch.sigmoid(unit.gates), torch.full((3,), 0.5, dtype=torch.float64))
    assert not run(unit, given(ENCODER)).any()


def test_no_gradient_flows_through_the_base():
    """A language module lies below; the base's layers run without gradients, and all of the ladder gets its own."""
    made = Engine(tiny.base())
    made.attach(tiny.wake(new_module("swa", made.base, components="madx"), std=0.1))
    labels = LabelSet.from_sentences(runs.sentences()).tags
    made.attach(tiny.wake(new_module("ner", made.base, role="task", components={"ladder": {}}, labels=labels)))
    made.activate("swa + ner")
    made.train_only("ner")
    needing = []
    layers = made.base.encoder.get_submodule(made.base.family.layers)
    handle = layers[-1].register_forward_hook(
        lambda layer, given, result: needing.append((result[0] if isinstance(result, tuple) else result).requires_grad)
    )
    task = runs.ner()
    task.loss(made, task.batches(0)[0]).backward()
    handle.remove()
    assert needing == [False]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.module("ner").parameters())


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"reduction_factor": 3.0, "heads": 3}, "ladder.heads is 3, .*4 wide .12 / 3.* heads: 1, 2, 4"),
        ({"leave_out": [0, 1, 2]}, None),
        ({"leave_out": [3]}, "layer 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    if words is None:  # a module says then that the component acts nowhere
        assert units("ladder", SMALL | settings) == []
        return
    with pytest.raises(ConfigError, match=words):
        units("ladder", SMALL | settings)


def test_sizes():
    unit = unit_at("ladder", "encoder", SMALL)
    assert unit.up.weight.shape == (WIDTH, 4) and unit.describe() == "3 blocks of width 4, 2 heads"
