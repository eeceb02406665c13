"""Names of tensors in AdapterHub files and in our modules.

    roberta.encoder.layer.3.output.adapters.NAME.adapter_down.0.weight     layer.3.ffn.bottleneck.down.weight
    roberta.encoder.layer.3.attention.output.adapters.NAME.adapter_up.bias layer.3.attention.bottleneck.up.bias
    roberta.invertible_adapters.NAME.F.2.weight                            embeddings.invertible.F.up.weight

Before version 2 `adapters` was called `layer_text_task_adapters` and the like, one word for each role and place.
"""

import re
from dataclasses import dataclass

from madx.contract.module_type import ComponentConfig
from madx.errors import BaseError

_BLOCKS = (
    "adapters",
    "layer_text_task_adapters",
    "layer_text_lang_adapters",
    "attention_text_task_adapters",
    "attention_text_lang_adapters",
)
_MAPS = ("invertible_adapters", "invertible_lang_adapters")


@dataclass(frozen=True)
class Layout:
    """Where `adapters` keeps its tensors in one kind of model; model_class: the class whose heads it can load."""

    prefix: str
    model_class: str
    layer: str = "encoder.layer"
    attention: str = "attention.output"
    ffn: str = "output"


LAYOUTS = {
    "bert": Layout("bert", "BertAdapterModel"),
    "roberta": Layout("roberta", "RobertaAdapterModel"),
    "xlm-roberta": Layout("roberta", "XLMRobertaAdapterModel"),
    "electra": Layout("electra", "ElectraAdapterModel"),
    "deberta-v2": Layout("deberta", "DebertaV2AdapterModel"),
    "distilbert": Layout(
        "distilbert", "DistilBertAdapterModel", "transformer.layer", "attention_adapters", "output_adapters"
    ),
}


def layout_of(model_type: str) -> Layout:
    """The layout of a model type; raises BaseError for one that the format does not cover."""
    if model_type not in LAYOUTS:
        raise BaseError(
            f"AdapterHub's `adapters` has no model class for bases of type {model_type!r}; it has: {', '.join(LAYOUTS)}."
        )
    return LAYOUTS[model_type]


@dataclass(frozen=True)
class Key:
    """A foreign key taken apart. owner: the adapter's name in it; target: our tensor's name; layer: its number, None
    for the invertible component."""

    owner: str
    target: str
    layer: int | None = None


class KeyReader:
    """Takes the keys of one layout apart. norm_before: whether the bottlenecks begin with a LayerNorm of their own."""

    def __init__(self, layout: Layout, *, norm_before: bool):
        start, places = rf"(?:{layout.prefix}\.)?", "|".join(map(re.escape, (layout.attention, layout.ffn)))
        self._layout = layout
        self._block = re.compile(
            rf"{start}{re.escape(layout.layer)}\.(\d{{1,4}})\.({places})\.(?:{'|'.join(_BLOCKS)})\.([^.]+)\.(.+)"
        )
        self._map = re.compile(rf"{start}(?:{'|'.join(_MAPS)})\.([^.]+)\.([FG])\.([02])\.(weight|bias)")
        self._inside = _inside(norm_before)

    def __call__(self, key: str) -> Key | None:
        """The key taken apart, or None for one that belongs to no bottleneck and no invertible component."""
        if found := self._block.fullmatch(key):
            layer, place, owner, rest = found.groups()
            if rest not in self._inside:
                return None
            site = f"layer.{int(layer)}.{'ffn' if place == self._layout.ffn else 'attention'}"
            return Key(owner, f"{site}.bottleneck.{self._inside[rest]}", int(layer))
        if found := self._map.fullmatch(key):
            owner, net, number, kind = found.groups()
            return Key(owner, f"embeddings.invertible.{net}.{'down' if number == '0' else 'up'}.{kind}")
        return None


def _inside(norm_before: bool) -> dict[str, str]:
    """Their names inside one bottleneck -> ours. With a norm of its own, it is stored as `adapter_norm_before` and once
    more as the first step of `adapter_down`."""
    names = {"scaling": "scale"}
    layers = {"adapter_up": "up", "adapter_norm_after": "norm_after", "gate": "gate"}
    layers |= {f"adapter_down.{int(norm_before)}": "down"}
    if norm_before:
        layers |= {"adapter_norm_before": "norm_before", "adapter_down.0": "norm_before"}
    return names | {f"{a}.{kind}": f"{b}.{kind}" for a, b in layers.items() for kind in ("weight", "bias")}


def foreign_keys(target: str, layout: Layout, name: str, components: dict[str, ComponentConfig]) -> list[str]:
    """Today's key or keys of one of our tensors (a LayerNorm before has two)."""
    site, component, inner = re.fullmatch(r"(embeddings|layer\.\d+\.\w+)\.(\w+)\.(.+)", target).groups()
    if component == "invertible":
        net, layer, kind = inner.split(".")
        return [f"{layout.prefix}.invertible_adapters.{name}.{net}.{'0' if layer == 'down' else '2'}.{kind}"]
    _, number, place = site.split(".")
    start = f"{layout.prefix}.{layout.layer}.{number}.{getattr(layout, place)}.adapters.{name}."
    return [start + theirs for theirs, ours in _inside(components["bottleneck"].norm_before).items() if ours == inner]
