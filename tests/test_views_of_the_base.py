"""What a module sees in a base, at every kind of site and in every family, is what the base computes there."""

import pytest
import tiny
import torch
import toys

from madx.contract.module_type import ChangeType, ComponentConfig
from madx.engine import Engine
from madx.module import new_module


class Looker(ChangeType):
    """Notes what it reads and changes nothing; `Looker.kind` and `Looker.wanted` are set by a test."""

    Config = ComponentConfig
    kind, wanted = "sublayer", ("input", "output", "residual", "layer_input")
    seen: dict = {}

    def __init__(self, config, site):
        super().__init__(config, site)
        self.reads = frozenset(self.wanted)
        self.gain = torch.nn.Parameter(torch.zeros(()))

    @classmethod
    def acts_at(cls, config, site):
        return site.kind == cls.kind

    def forward(self, view):
        Looker.seen[self.site.name] = {name: view.read(name) for name in self.wanted} | {
            "value": view.value,
            "first": view.first,
            "last": view.last,
        }
        return self.gain * view.value

    def describe(self):
        return "looks"


@pytest.fixture
def looker(monkeypatch):
    monkeypatch.setattr(Looker, "seen", {})
    with toys.registered(looker=Looker):
        yield monkeypatch


def looked(family: str, **module) -> tuple[Engine, dict, torch.Tensor]:
    made = Engine(tiny.base(family))
    made.attach(new_module("looker", made.base, components={"looker": {}}))
    ids, mask = tiny.inputs()
    bare = made(ids, mask)
    made.activate("looker")
    found = made(ids, mask)
    assert torch.allclose(found, bare, atol=1e-6)
    for unit in (u for units in made.module("looker").units.values() for u in units.values()):
        unit.gain.data.fill_(0.1)
    seen = {site: dict(tensors) for site, tensors in Looker.seen.items()}
    assert not torch.allclose(made(ids, mask), bare, atol=1e-3), "a gain acts"
    return made, seen, bare


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_sublayers(family, looker):
    made, seen, _ = looked(family)
    layers = made.base.encoder.get_submodule(made.base.family.layers)
    for number in range(made.base.depth):
        for place in ("attention", "ffn"):
            found, at = seen[f"layer.{number}.{place}"], getattr(made.base.family, place)
            if at.norm is not None:
                assert torch.equal(found["input"], found["residual"])
                norm = layers[number].get_submodule(at.norm)
                after = torch.nn.functional.layer_norm(
                    found["value"] + found["residual"], norm.normalized_shape, norm.weight, norm.bias, norm.eps
                )
            else:
                after = found["value"] + found["residual"]
            following = (
                seen.get(f"layer.{number}.ffn") if place == "attention" else seen.get(f"layer.{number + 1}.attention")
            )
            if following is not None:
                assert torch.allclose(following["residual"], after, atol=1e-5), (number, place)
        assert torch.equal(seen[f"layer.{number}.ffn"]["layer_input"], seen[f"layer.{number}.attention"]["layer_input"])
        assert torch.equal(
            seen[f"layer.{number}.attention"]["layer_input"], seen[f"layer.{number}.attention"]["residual"]
        )


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_linear_maps_layers_and_the_encoder(family, looker):
    looker.setattr(Looker, "kind", "linear"), looker.setattr(Looker, "wanted", ("input",))
    made, seen, _ = looked(family)
    assert len(seen) == 6 * made.base.depth
    for name, found in seen.items():
        site = made.base.sites[name]
        assert found["value"].shape[-1] == site.width and found["input"].shape[-1] == site.input_width, name
    queries = [seen[f"layer.0.attention.{name}"]["input"] for name in ("query", "key", "value")]
    if family != "deberta-v2":  # whose query and key maps were called last with relative positions
        assert torch.equal(queries[0], queries[2]) and torch.equal(queries[1], queries[2])
    Looker.seen.clear()
    looker.setattr(Looker, "kind", "layer"), looker.setattr(Looker, "wanted", ("layer_input",))
    made, seen, bare = looked(family)
    for number in range(1, made.base.depth):
        assert torch.equal(seen[f"layer.{number}"]["layer_input"], seen[f"layer.{number - 1}"]["value"])
    Looker.seen.clear()
    looker.setattr(Looker, "kind", "encoder"), looker.setattr(Looker, "wanted", ("states",))
    made, seen, bare = looked(family)
    states = seen["encoder"]["states"]
    assert len(states) == made.base.depth + 1 and torch.equal(seen["encoder"]["value"], bare)


@torch.no_grad()
def test_first_and_last_token_under_padding_and_slots(looker):
    looker.setattr(Looker, "kind", "layer"), looker.setattr(Looker, "wanted", ())
    made, seen, _ = looked("xlm-roberta")
    assert seen["layer.0"]["first"].tolist() == [0, 0, 0] and seen["layer.0"]["last"].tolist() == [9, 7, 5]
    made.attach(new_module("prompt", made.base, components={"prompt": {"length": 2}}))
    made.attach(new_module("prefix", made.base, components={"prefix": {"length": 3, "flat": True}}))
    made.activate("prompt + prefix + looker")
    made(*tiny.inputs())
    assert Looker.seen["layer.0"]["first"].tolist() == [5, 5, 5] and Looker.seen["layer.0"]["last"].tolist() == [
        14,
        12,
        10,
    ]
    ids, mask = tiny.inputs()
    left = mask.flip(1)  # padded on the left
    made.activate("looker")
    made(ids.flip(1), left)
    assert Looker.seen["layer.0"]["first"].tolist() == [0, 2, 4] and Looker.seen["layer.0"]["last"].tolist() == [
        9,
        9,
        9,
    ]
