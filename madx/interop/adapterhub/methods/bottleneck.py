"""Bottleneck and invertible adapters: the module types `bottleneck` and `invertible`.

Their switches and our settings, with h the sublayer's output and x the residual stream:

    original_ln_before    reads "sum_norm" (LN(h + x)), else "output" (h);   is_parallel: reads "input"
    residual_before_ln    residual: True "output" (h), "post_add" "sum" (h + x), False "read" (the bottleneck's input)
    mh_adapter, output_adapter                 places "attention", "ffn"
    adapter_residual_before_ln with ln_after   norm_after_residual
    original_ln_after                          final_norm
    inv_adapter "nice"                         the component `invertible`
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from madx.config import Settings
from madx.errors import ConfigError
from madx.interop.adapterhub.methods.activations import ACTIVATIONS_OUT, activation
from madx.interop.adapterhub.methods.method import (
    Link,
    Method,
    Reading,
    Source,
    Surroundings,
    Target,
    layers_left_out,
    note,
    validated,
)
from madx.module.presets import make_components

Finite = Annotated[float, Field(allow_inf_nan=False)]
Factor = Annotated[float, Field(allow_inf_nan=False, gt=1e-6, lt=1e9)]

INIT = {"bert": "normal", "mam_adapter": "zero_up", "houlsby": "truncated"}
RESIDUAL = {True: "output", "post_add": "sum", False: "read"}


class BottleneckSchema(Settings):
    """Their config of a bottleneck, with the defaults of `adapters`."""

    mh_adapter: bool
    output_adapter: bool
    reduction_factor: Factor | dict[str, Factor]
    non_linearity: str
    original_ln_before: bool = False
    original_ln_after: bool = True
    ln_before: bool = False
    ln_after: bool = False
    init_weights: Literal["bert", "mam_adapter", "houlsby"] = "bert"
    init_weights_seed: int | None = None
    is_parallel: bool = False
    scaling: Finite | Literal["learned", "channel"] = 1.0
    use_gating: bool = False
    residual_before_ln: bool | Literal["post_add"] = True
    adapter_residual_before_ln: bool = False
    inv_adapter: Literal["nice", "glow"] | None = None
    inv_adapter_reduction_factor: Factor | None = None
    cross_adapter: bool = False
    leave_out: list[int] = Field(default_factory=list)
    dropout: Finite = 0.0
    stochastic_depth: Finite = 0.0
    #: not theirs: the nested config of version 1 had an activation of its own for the invertible adapter
    inv_non_linearity: str | None = Field(default=None, exclude=True)


class BottleneckMethod(Method):
    """Bottleneck adapters of all layouts, and the invertible adapter in their config."""

    components: ClassVar = ("bottleneck", "invertible")

    def read(self, config: dict[str, Any], source: Source) -> Reading:
        """A component `bottleneck`, a component `invertible`, or both."""
        theirs, reading = validated(BottleneckSchema, config), Reading()
        if theirs.inv_adapter and source.role == "text_task" and not source.has_invertible:
            why = "named by old task configs that never used it; the file has no such weights"
            reading.ignored.append(("inv_adapter", why))
            theirs = theirs.model_copy(update={"inv_adapter": None})
        if (settings := read_frame(theirs, source.depth, reading)) is not None:
            reading.components |= make_components({"bottleneck": settings | {"init": INIT[theirs.init_weights]}})
        read_rest(theirs, reading)
        return reading

    def write(self, components: Mapping[str, Any], target: Target) -> tuple[dict[str, Any], list[str]]:
        """One config for one of the two components or for both."""
        faults: list[str] = []
        bottleneck, invertible = components.get("bottleneck"), components.get("invertible")
        names = {p.activation for p in (bottleneck, invertible) if p is not None}
        faults += [f"the activation {n!r} has no name there" for n in sorted(names - set(ACTIVATIONS_OUT))]
        if len(names) > 1:
            faults.append(f"one activation serves both components there, here are {' and '.join(sorted(names))}")
        config: dict[str, Any] = {"mh_adapter": False, "output_adapter": False, "reduction_factor": 16.0}
        if bottleneck is not None:
            init = {name: theirs for theirs, name in INIT.items()}[bottleneck.init]
            config |= write_frame(bottleneck, target.depth, faults) | {"init_weights": init}
            plain = {"norm_inside": "none", "inner_layers": 0, "interaction": "add"}
            changed = [name for name, value in plain.items() if getattr(bottleneck, name) != value]
            faults += [f"{name} {getattr(bottleneck, name)!r} of a bottleneck" for name in changed]
        if invertible is not None:
            config |= _write_invertible(invertible, target.width, faults)
        config["non_linearity"] = ACTIVATIONS_OUT.get(sorted(names)[0], "relu")
        return BottleneckSchema(**config).model_dump() | {"phm_layer": False}, faults

    def links(self, component: str, config: Any, *, tensors: dict[str, Tensor], around: Surroundings) -> list[Link]:
        """One link for each tensor."""
        if component == "invertible":
            return [_invertible_link(name, tensor, around.owner) for name, tensor in tensors.items()]
        return [sublayer_link(name, tensor, config, around) for name, tensor in tensors.items()]


# ---- config ----------------------------------------------------------------------------------------------------------


def read_frame(theirs: BottleneckSchema, depth: int, reading: Reading) -> dict[str, Any] | None:
    """Our settings of a network at a sublayer, which all types of this kind have; None if it acts nowhere."""
    if not (theirs.mh_adapter or theirs.output_adapter):
        return None
    left_out = layers_left_out(theirs.leave_out, depth, reading)
    if len(left_out) == depth:
        reading.ignored.append(("mh_adapter, output_adapter", "leave_out names every layer"))
        return None
    reads = "input" if theirs.is_parallel else "sum_norm" if theirs.original_ln_before else "output"
    residual = RESIDUAL[theirs.residual_before_ln]
    if theirs.is_parallel:  # it has no residual of its own, so both switches mean nothing
        residual = "output"
    elif residual == "sum" and reads != "sum_norm":
        raise ConfigError('residual_before_ln="post_add" needs original_ln_before=true: nothing was added before.')
    return {
        "places": [p for p, on in (("attention", theirs.mh_adapter), ("ffn", theirs.output_adapter)) if on],
        "reduction_factor": theirs.reduction_factor,
        "reads": reads,
        "residual": residual,
        "activation": activation(theirs.non_linearity),
        "norm_before": theirs.ln_before,
        "norm_after": theirs.ln_after,
        "norm_after_residual": theirs.ln_after and theirs.adapter_residual_before_ln and not theirs.is_parallel,
        "final_norm": theirs.original_ln_after,
        "scaling": theirs.scaling,
        "gate": theirs.use_gating,
        "dropout": theirs.dropout,
        "stochastic_depth": theirs.stochastic_depth,
        "leave_out": left_out,
    }


def read_rest(theirs: BottleneckSchema, reading: Reading) -> None:
    """Read the invertible component of the config, and report what is ignored.

    Raises ConfigError for a config without any component.
    """
    if theirs.inv_adapter:
        _read_invertible(theirs, reading)
    if not reading.components:
        raise ConfigError(
            "This adapter has neither bottlenecks (mh_adapter, output_adapter) nor an invertible component."
        )
    note(reading, "init_weights_seed", theirs.init_weights_seed is not None, "the weights are here")
    note(reading, "cross_adapter", theirs.cross_adapter, "an encoder has no cross-attention")


def _read_invertible(theirs: BottleneckSchema, reading: Reading) -> None:
    if theirs.inv_adapter == "glow":
        raise ConfigError(
            "This adapter has an invertible component of the kind 'glow', which madx cannot read from AdapterHub "
            "files: there it mixes the tokens' axis with the channels' and raises in use, so no such file holds a "
            "trained map. Read is: nice. Nothing was loaded."
        )
    if theirs.inv_adapter_reduction_factor is None:
        raise ConfigError("inv_adapter is set, but inv_adapter_reduction_factor is missing.")
    settings = {
        "reduction_factor": theirs.inv_adapter_reduction_factor,
        "activation": activation(theirs.inv_non_linearity or theirs.non_linearity),
    }
    reading.components |= make_components({"invertible": settings})


def write_frame(ours: Any, depth: int, faults: list[str]) -> dict[str, Any]:
    """Their settings of a network at a sublayer; what they cannot express is added to `faults`."""
    if (ours.reads, ours.residual) in (("output", "sum"), ("input", "sum"), ("input", "read")):
        faults.append(f"a bottleneck that reads {ours.reads!r} with the residual {ours.residual!r}")
    if ours.reads == "input" and ours.norm_after and ours.norm_after_residual:
        faults.append("norm_after_residual on a bottleneck that reads 'input'")
    return {
        "mh_adapter": "attention" in ours.places,
        "output_adapter": "ffn" in ours.places,
        "reduction_factor": ours.reduction_factor,
        "original_ln_before": ours.reads == "sum_norm",
        "is_parallel": ours.reads == "input",
        "original_ln_after": ours.final_norm,
        "residual_before_ln": {name: switch for switch, name in RESIDUAL.items()}[ours.residual],
        "ln_before": ours.norm_before,
        "ln_after": ours.norm_after,
        "adapter_residual_before_ln": ours.norm_after and ours.norm_after_residual,
        "scaling": ours.scaling,
        "use_gating": ours.gate,
        "dropout": ours.dropout,
        "stochastic_depth": ours.stochastic_depth,
        "leave_out": sorted(set(range(depth)) - ours.layers(depth)),
    }


def _write_invertible(ours: Any, width: int, faults: list[str]) -> dict[str, Any]:
    if ours.kind != "nice":
        faults.append(f"an invertible component of the kind {ours.kind!r} does not work there")
    half = width // 2
    inner = max(1, int(half // ours.reduction_factor))
    for inputs in (half, width - half):  # theirs are each as wide as its own half says, ours as the first half says
        if (theirs := int(inputs // ours.reduction_factor)) != inner:
            faults.append(
                f"an invertible component with a coupling {inputs}->{inner}; there it would be {inputs}->{theirs}"
            )
    return {"inv_adapter": "nice", "inv_adapter_reduction_factor": ours.reduction_factor}


# ---- keys ------------------------------------------------------------------------------------------------------------


def _invertible_link(name: str, tensor: Tensor, owner: str) -> Link:
    net, layer, kind = name.split(".")[-3:]
    theirs = f"invertible_adapters.{owner}.{net}.{'0' if layer == 'down' else '2'}.{kind}"
    return Link(theirs, (name,), tuple(tensor.shape))


#: our names of the maps of a network at a sublayer -> theirs
SUBLAYER = {"up": "adapter_up", "norm_after": "adapter_norm_after", "gate": "gate"}


def sublayer_link(
    name: str, tensor: Tensor, config: Any, around: Surroundings, *, words: Mapping[str, str] | None = None
) -> Link:
    """The link of one tensor of a network at a sublayer, `layer.3.ffn.bottleneck.down.weight`.

    words: our names of the parameters of a map -> theirs, where they differ.
    """
    number, place, part = name.split(".", 3)[1:]
    inner = part.split(".", 1)[1]
    start, shape = f"{around.layout.at(f'layer.{number}.{place}')}.adapters.{around.owner}.", tuple(tensor.shape)
    layer, _, kind = inner.partition(".")
    if layer == "scale":
        return Link(start + "scaling", (name,), shape)
    if layer == "norm_before":  # stored a second time, as the first step of `adapter_down`
        copies = (f"{start}adapter_down.0.{kind}",)
        return Link(f"{start}adapter_norm_before.{kind}", (name,), shape, copies=copies, written=copies)
    theirs = (SUBLAYER | {"down": f"adapter_down.{int(config.norm_before)}"})[layer]
    if words is not None and layer in ("down", "up"):
        kind = words[kind]
    return Link(f"{start}{theirs}.{kind}", (name,), shape)
