"""Sites: the named places in a base where a module can act.

weights                                                 the encoder's parameters
embeddings                                              the output of the embedding block
slots                                                   positions that are reserved before the tokens
layer.3.attention, layer.3.ffn                          a sublayer: the change of h in LN(h + x)
layer.3.attention.query, .key, .value, .output          the linear maps of attention
layer.3.ffn.up, .down                                   the linear maps of the feed-forward block
layer.3.slots                                           that layer's keys and values at the reserved positions
layer.3                                                 the output of a layer
encoder                                                 the last state, computed from the states of all layers
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

SiteKind = Literal["weights", "embeddings", "slots", "linear", "sublayer", "layer", "encoder"]

#: the linear maps of each sublayer, in the order in which the forward pass meets them
MAPS = {"attention": ("query", "key", "value", "output"), "ffn": ("up", "down")}
MAP_NAMES = tuple(name for maps in MAPS.values() for name in maps)


#: tensors of the base that a module may read at a kind of site, beside the value that it changes
READS: dict[str, frozenset[str]] = {
    "sublayer": frozenset({"input", "output", "residual", "layer_input"}),
    "linear": frozenset({"input"}),
    "layer": frozenset({"layer_input"}),
    "encoder": frozenset({"states"}),
}


@dataclass(frozen=True)
class BaseParameter:
    """A parameter of the encoder.

    Args:
        name, shape: as in the encoder.
        group: the part of the encoder that holds it.
        layer: counted from 0; None outside the layers.
        kind: a weight matrix, a bias, or a parameter of a layer norm.
        map: the linear map that it is the weight or the bias of, such as `ffn.up`; None where it belongs to none, or to
            several (ModernBERT's query, key and value).
    """

    name: str
    shape: tuple[int, ...]
    group: Literal["embeddings", "layers", "other"]
    layer: int | None
    kind: Literal["weight", "bias", "norm"]
    map: str | None = None

    @property
    def numel(self) -> int:
        """The number of weights that it holds."""
        return prod(self.shape)


@dataclass(frozen=True)
class Site:
    """A named place in the base where a module can act.

    Args:
        name: as in the table above.
        kind: which class of module types may act there; see `madx.contract.module_type`.
        width: numbers per token of the state that a module changes or gives there.
        depth: number of layers of the base.
        layer: counted from 0; None outside the layers.
        place: `attention` or `ffn` of a sublayer and of a linear map, else None.
        parameters: all parameters of the encoder, sorted by name (at `weights` alone).
        map: name of a linear map within its sublayer, e.g. `query`; else None.
        input_width: numbers per token that a linear map reads.
        positions: the longest input of the base in tokens (at `slots` and `layer.N.slots`).
        rows_share: the base also calls this map with an input that has no rows (DeBERTa maps its relative positions by
            the query and key maps of the tokens), so the rows of one batch cannot differ here.
        norm_after: at a sublayer: the base applies an LN after the residual sum (post-norm).
    """

    name: str
    kind: SiteKind
    width: int
    depth: int
    layer: int | None = None
    place: str | None = None
    parameters: tuple[BaseParameter, ...] = ()
    map: str | None = None
    input_width: int | None = None
    positions: int | None = None
    rows_share: bool = False
    norm_after: bool = False
