"""Names of the places in AdapterHub's model classes, and the form of their keys.

    roberta.encoder.layer.3.output.adapters.NAME.adapter_down.0.weight      layer.3.ffn.bottleneck.down.weight
    roberta.encoder.layer.3.attention.self.query.loras.NAME.lora_A          layer.3.attention.query.lora.A
    roberta.invertible_adapters.NAME.F.2.weight                             embeddings.invertible.F.up.weight

Before version 2 `adapters` was called `layer_text_task_adapters` and the like, one word for each role and place.
"""

import re
from dataclasses import dataclass

from madx.errors import BaseError

#: words of older versions in a key -> today's word
OLD_WORDS = {
    "layer_text_task_adapters": "adapters",
    "layer_text_lang_adapters": "adapters",
    "attention_text_task_adapters": "adapters",
    "attention_text_lang_adapters": "adapters",
    "invertible_lang_adapters": "invertible_adapters",
}
_OLD_WORD = re.compile(rf"(?<![^.])({'|'.join(OLD_WORDS)})(?=\.)")
_OWNED = (
    "adapters|invertible_adapters|shared_parameters|loras|prefix_tunings|prefix_gates|prompt_tunings|refts"
    "|adapter_fusion_layer"
)
_OWNER = re.compile(rf"(?<![^.])(?:{_OWNED})\.([^.]+)\.")

_BERT_MAPS = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "ffn.up": "intermediate.dense",
    "ffn.down": "output.dense",
}
_DEBERTA_MAPS = _BERT_MAPS | {f"attention.{m}": f"attention.self.{m}_proj" for m in ("query", "key", "value")}
_DISTILBERT_MAPS = {
    "attention.query": "attention.q_lin",
    "attention.key": "attention.k_lin",
    "attention.value": "attention.v_lin",
    "ffn.up": "ffn.lin1",
    "ffn.down": "ffn.lin2",
}


class Layout:
    """The places in one kind of model.

    Args:
        prefix: first word of every key.
        model_class: the class whose heads the format can load.
        layer: the list of layers.
        sublayers: our sublayers (`attention`, `ffn`) -> the modules in a layer that hold their bottlenecks.
        maps: our linear maps (`attention.query`) -> theirs in a layer.
        attention: the module in a layer that repeats the prefixes of all layers.
        prefixes: their name of the prefixes of self-attention; None: they act otherwise there than in madx.
    """

    def __init__(
        self,
        prefix: str,
        model_class: str,
        *,
        layer: str = "encoder.layer",
        sublayers: tuple[str, str] = ("attention.output", "output"),
        maps: dict[str, str] = _BERT_MAPS,
        attention: str = "attention.self",
        prefixes: str | None = "self_prefix",
    ):
        self.prefix, self.model_class, self.layer, self.maps = prefix, model_class, layer, maps
        self.sublayers = dict(zip(("attention", "ffn"), sublayers))
        self.attention, self.prefixes = attention, prefixes
        self._number = re.compile(rf"{re.escape(layer)}\.(\d{{1,4}})\.")

    def parse(self, key: str) -> "Key":
        """A key of any version in today's spelling without the prefix, with the owner and the layer that it names."""
        name = _OLD_WORD.sub(lambda found: OLD_WORDS[found[1]], key.removeprefix(self.prefix + "."), count=1)
        owner, layer = _OWNER.search(name), self._number.match(name)
        return Key(name, owner[1] if owner else None, int(layer[1]) if layer else None)

    def at(self, site: str) -> str:
        """Their path of one of our sites in a layer, without the prefix.

        >>> LAYOUTS["bert"].at("layer.3.ffn"), LAYOUTS["bert"].at("layer.3.ffn.up")
        ('encoder.layer.3.output', 'encoder.layer.3.intermediate.dense')
        """
        _, number, place = site.split(".", 2)
        return f"{self.layer}.{number}.{(self.sublayers | self.maps)[place]}"


@dataclass(frozen=True)
class Key:
    """A key in today's spelling without its prefix; the adapter's name in it, and the number of the layer, if any."""

    name: str
    owner: str | None
    layer: int | None


LAYOUTS = {
    "bert": Layout("bert", "BertAdapterModel"),
    "roberta": Layout("roberta", "RobertaAdapterModel"),
    "xlm-roberta": Layout("roberta", "XLMRobertaAdapterModel"),
    "electra": Layout("electra", "ElectraAdapterModel"),
    "deberta-v2": Layout("deberta", "DebertaV2AdapterModel", maps=_DEBERTA_MAPS, prefixes=None),
    "distilbert": Layout(
        "distilbert",
        "DistilBertAdapterModel",
        layer="transformer.layer",
        sublayers=("attention_adapters", "output_adapters"),
        maps=_DISTILBERT_MAPS,
        attention="attention",
        prefixes="self",
    ),
}


def layout_of(model_type: str) -> Layout:
    """The layout of a model type. Raises BaseError for one that the format does not cover."""
    if model_type not in LAYOUTS:
        raise BaseError(
            f"AdapterHub's `adapters` has no model class for bases of type {model_type!r}. Load a base of one of these "
            f"types: {', '.join(LAYOUTS)}."
        )
    return LAYOUTS[model_type]
