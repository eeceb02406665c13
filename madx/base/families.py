"""Families of bases: the places of their sites, as data. A new base needs one more entry in `FAMILIES`.

A sublayer computes LN(h + x) in a post-norm base and h + x in a pre-norm base. For each, `SublayerPlace` names, as
paths inside one layer: the module whose output is h, the module whose first input is x, and either the LN that takes
h + x (post-norm) or the module whose output is the normed input (pre-norm). `MapPlace` names a linear map, or a third
of one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from madx.contract.sites import MAPS, BaseParameter, Site
from madx.errors import BaseError


@dataclass(frozen=True)
class SublayerPlace:
    """Paths inside a layer; exactly one of `norm` (post-norm) and `input` (pre-norm) is set."""

    output: str
    residual: str
    norm: str | None = None
    input: str | None = None


@dataclass(frozen=True)
class MapPlace:
    """A linear map inside a layer.

    path: of its module. share, shares: the map is number `share` of `shares` maps of equal width that the base computes
    as one matrix (ModernBERT's query, key and value).
    """

    path: str
    share: int = 0
    shares: int = 1


@dataclass(frozen=True)
class Family:
    """One family of bases.

    Args:
        title: its name in messages.
        model_types: the values of `model_type` in the configs of its bases.
        layers, embeddings: paths of the list of layers and of the embedding block inside the encoder.
        attention, ffn: places of the sublayers inside a layer.
        before_decoder: paths inside the masked-LM model; the first that exists is the last module before the decoder,
            on whose output the maps of the embeddings are inverted.
        mlm_logits: (model, hidden states `(n, width)`) -> scores `(n, vocabulary)` by the model's own head.
        embedding_width: attributes of the config that hold the width of the embeddings; the first that exists counts.
        tied: the decoder shares its weights with the embeddings; if not, nothing is inverted before it.
        head_with_embeddings: path inside the masked-LM model of a head that gets the embedding module as its second
            argument; None: there is no such head.
        maps: places of the linear maps, keyed `attention.query`.
        rows_share: maps that the base also applies to relative positions, which have no rows.
    """

    title: str
    model_types: tuple[str, ...]
    layers: str
    embeddings: str
    attention: SublayerPlace
    ffn: SublayerPlace
    before_decoder: tuple[str, ...]
    mlm_logits: Callable[[Any, Tensor], Any]
    embedding_width: tuple[str, ...] = ("hidden_size",)
    tied: bool = True
    head_with_embeddings: str | None = None
    maps: Mapping[str, MapPlace] = field(default_factory=dict)
    rows_share: tuple[str, ...] = ()


def _distilbert_logits(model: Any, hidden: Tensor) -> Any:
    return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))


def _deberta_logits(model: Any, hidden: Tensor) -> Any:
    if hasattr(model, "cls"):  # the older of the two layouts of the head
        return model.cls(hidden)
    return model.lm_predictions(hidden, model.deberta.embeddings.word_embeddings)


_BERT_ATTENTION = SublayerPlace(
    output="attention.output.dropout", residual="attention", norm="attention.output.LayerNorm"
)
_BERT_FFN = SublayerPlace(output="output.dropout", residual="intermediate", norm="output.LayerNorm")


def _maps(query: str, key: str, value: str, *, output: str, up: str, down: str) -> dict[str, MapPlace]:
    paths = {"attention": (query, key, value, output), "ffn": (up, down)}
    return {f"{place}.{name}": MapPlace(path) for place in paths for name, path in zip(MAPS[place], paths[place])}


_BERT_SELF = ("attention.self.query", "attention.self.key", "attention.self.value")
_BERT_REST = {"output": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"}
_BERT_MAPS = _maps(*_BERT_SELF, **_BERT_REST)


def _bert_like(title: str, model_types: tuple[str, ...], **changes: Any) -> Family:
    fields: dict[str, Any] = {
        "layers": "encoder.layer",
        "embeddings": "embeddings",
        "attention": _BERT_ATTENTION,
        "ffn": _BERT_FFN,
        "before_decoder": ("cls.predictions.transform",),
        "mlm_logits": lambda model, hidden: model.cls(hidden),
        "maps": _BERT_MAPS,
    }
    return Family(title, model_types, **(fields | changes))


_ROBERTA_HEAD: dict[str, Any] = {
    "before_decoder": ("lm_head.layer_norm",),
    "mlm_logits": lambda model, hidden: model.lm_head(hidden),
}

FAMILIES: tuple[Family, ...] = (
    _bert_like("BERT, mBERT", ("bert",)),
    _bert_like("RoBERTa, XLM-R", ("roberta", "xlm-roberta", "camembert"), **_ROBERTA_HEAD),
    _bert_like(
        "XLM-R-XL",
        ("xlm-roberta-xl",),
        **_ROBERTA_HEAD,
        attention=SublayerPlace(
            output="attention.output.dropout", residual="attention", input="attention.self_attn_layer_norm"
        ),
        ffn=SublayerPlace(output="output.dense", residual="LayerNorm", input="LayerNorm"),
    ),
    _bert_like(
        "ELECTRA (generator)",
        ("electra",),
        embedding_width=("embedding_size",),
        before_decoder=("generator_predictions",),
        mlm_logits=lambda model, hidden: model.generator_lm_head(model.generator_predictions(hidden)),
    ),
    _bert_like(
        "DeBERTa-v2, v3, mDeBERTa",
        ("deberta-v2",),
        before_decoder=("cls.predictions.transform", "lm_predictions.lm_head.LayerNorm"),
        mlm_logits=_deberta_logits,
        head_with_embeddings="lm_predictions.lm_head",
        maps=_maps(*(f"{path}_proj" for path in _BERT_SELF), **_BERT_REST),
        rows_share=("attention.query", "attention.key"),
    ),
    _bert_like(
        "RemBERT",
        ("rembert",),
        embedding_width=("input_embedding_size",),
        before_decoder=("cls.predictions.LayerNorm",),
        tied=False,
    ),
    Family(
        "DistilBERT",
        ("distilbert",),
        layers="transformer.layer",
        embeddings="embeddings",
        attention=SublayerPlace(output="attention", residual="attention", norm="sa_layer_norm"),
        ffn=SublayerPlace(output="ffn", residual="ffn", norm="output_layer_norm"),
        before_decoder=("vocab_layer_norm",),
        mlm_logits=_distilbert_logits,
        embedding_width=("dim",),
        maps=_maps(
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            output="attention.out_lin",
            up="ffn.lin1",
            down="ffn.lin2",
        ),
    ),
    Family(
        "ModernBERT, mmBERT",
        ("modernbert",),
        layers="layers",
        embeddings="embeddings",
        attention=SublayerPlace(output="attn", residual="attn_norm", input="attn_norm"),
        ffn=SublayerPlace(output="mlp", residual="mlp_norm", input="mlp_norm"),
        before_decoder=("head",),
        mlm_logits=lambda model, hidden: model.decoder(model.head(hidden)),
        maps={f"attention.{name}": MapPlace("attn.Wqkv", k, 3) for k, name in enumerate(("query", "key", "value"))}
        | {"attention.output": MapPlace("attn.Wo"), "ffn.up": MapPlace("mlp.Wi"), "ffn.down": MapPlace("mlp.Wo")},
    ),
)


def family_of(config: Any) -> Family:
    """Return the family of a base by its config. Raises BaseError for a base that is not described."""
    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    described = "; ".join(f"{f.title} ({', '.join(f.model_types)})" for f in FAMILIES)
    raise BaseError(
        f"The base has model type {config.model_type!r}, whose sites are not described. Described: {described}. "
        "To add one, write one more `Family` entry in madx/base/families.py (docs/architecture.md, 'A new base')."
    )


def local_layers(config: Any) -> frozenset[int]:
    """Return the layers with local attention, which sees a window of neighbouring tokens (ModernBERT)."""
    if config.model_type != "modernbert":
        return frozenset()
    types = getattr(config, "layer_types", None)  # transformers 5
    every = getattr(config, "global_attn_every_n_layers", 1)
    return frozenset(
        layer
        for layer in range(config.num_hidden_layers)
        if (types[layer] == "sliding_attention" if types is not None else layer % every != 0)
    )


def layout(family: Family, config: Any, encoder: nn.Module, *, positions: int) -> dict[str, Site]:
    """Describe all sites of a base except `weights`, by name, in the order in which the forward pass meets them.

    positions: the longest input in tokens.
    """
    depth, width = config.num_hidden_layers, config.hidden_size
    embedding_width = next(getattr(config, a) for a in (*family.embedding_width, "hidden_size") if hasattr(config, a))
    layers: Any = encoder.get_submodule(family.layers)
    sites = [
        Site("embeddings", "embeddings", embedding_width, depth),
        Site("slots", "slots", embedding_width, depth, positions=positions),
    ]
    for layer in range(depth):
        sites.append(Site(f"layer.{layer}.slots", "slots", width, depth, layer, positions=positions))
        for place in ("attention", "ffn"):
            for name in MAPS[place]:
                key = f"{place}.{name}"
                if key in family.maps:
                    shared = key in family.rows_share and getattr(config, "share_att_key", False)
                    sites.append(_map_site(family, layers[layer], key, layer=layer, depth=depth, shared=shared))
            post = getattr(family, place).norm is not None
            sites.append(Site(f"layer.{layer}.{place}", "sublayer", width, depth, layer, place, norm_after=post))
        sites.append(Site(f"layer.{layer}", "layer", width, depth, layer))
    sites.append(Site("encoder", "encoder", width, depth))
    return {site.name: site for site in sites}


def _map_site(family: Family, module: nn.Module, key: str, *, layer: int, depth: int, shared: bool) -> Site:
    place, name = key.split(".")
    found = family.maps[key]
    linear: Any = module.get_submodule(found.path)
    return Site(
        f"layer.{layer}.{key}",
        "linear",
        linear.out_features // found.shares,
        depth,
        layer,
        place,
        map=name,
        input_width=linear.in_features,
        rows_share=shared,
    )


def weights_site(family: Family, encoder: nn.Module, *, depth: int, width: int) -> Site:
    """Describe the site `weights`: the encoder's parameters, sorted by name, without the pooler's.

    Masked-LM models have no pooler, so its parameters are not comparable between models.
    """
    maps = {place.path: key for key, place in family.maps.items() if place.shares == 1}
    found = []
    for name, parameter in sorted(encoder.named_parameters()):
        if name.startswith("pooler."):
            continue
        group: Literal["embeddings", "layers", "other"] = "other"
        layer = None
        if name.startswith(family.embeddings + "."):
            group = "embeddings"
        elif name.startswith(family.layers + "."):
            group, layer = "layers", int(name.removeprefix(family.layers + ".").split(".")[0])
        owner = encoder.get_submodule(name.rpartition(".")[0])
        norm = "norm" in type(owner).__name__.lower()
        bias = name.rpartition(".")[2].endswith("bias")
        kind: Literal["weight", "bias", "norm"] = "norm" if norm else "bias" if bias else "weight"
        inside = name.removeprefix(f"{family.layers}.{layer}.").rpartition(".")[0] if layer is not None else ""
        found.append(BaseParameter(name, tuple(parameter.shape), group, layer, kind, maps.get(inside)))
    return Site("weights", "weights", width, depth, parameters=tuple(found))
