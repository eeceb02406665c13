"""LoRA, DoRA and (IA)^3: the module types `lora` and `ia3`. Both have the architecture `lora` in files.

    selfattn_lora with attn_matrices q, k, v        maps query, key, value
    intermediate_lora, output_lora                  maps up, down
    alpha / r                                       the same scale
    use_dora                                        dora, of the form "adapterhub"
    use_gating                                      gate, which takes the place of alpha / r there too
    composition_mode "scale"                        (IA)^3: y <- lora_B * y, with lora_B `(width, 1)`

Releases of `adapters` before 1.1.0 did not apply alpha / r in training, so what they wrote is read with alpha = r.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from madx.config import Settings
from madx.errors import ConfigError
from madx.interop.adapterhub.methods.method import (
    Link,
    Method,
    Reading,
    Source,
    Surroundings,
    Target,
    layers_left_out,
    note,
    require_layers,
    validated,
)
from madx.module.presets import make_components

Finite = Annotated[float, Field(allow_inf_nan=False)]
#: rank and alpha of a config that has neither, and the largest rank that is read
DEFAULT_RANK, LARGEST_RANK = 8, 1 << 20
MATRICES = {"q": "query", "k": "key", "v": "value"}
#: starts from the base's matrix: the change from there is a LoRA of twice the rank
FROM_BASE = ("pissa", "olora")
INIT = {"lora": "kaiming", "bert": "normal"}


class LoraSchema(Settings):
    """Their config of LoRA, DoRA and (IA)^3, with the defaults of `adapters`."""

    architecture: Literal["lora"] = "lora"
    selfattn_lora: bool = True
    intermediate_lora: bool = False
    output_lora: bool = False
    leave_out: list[int] = Field(default_factory=list)
    r: int = Field(default=DEFAULT_RANK, ge=1, le=LARGEST_RANK)
    alpha: Finite = DEFAULT_RANK
    dropout: Finite = 0.0
    attn_matrices: tuple[Literal["q", "k", "v"], ...] = Field(default=("q", "v"), strict=False)
    composition_mode: Literal["add", "scale"] = "add"
    init_weights: Literal["lora", "bert", "ia3", "vera"] = "lora"
    init_weights_seed: int | None = None
    use_gating: bool = False
    use_dora: bool = False
    vera_d: None = None
    vera_b: None = None
    dtype: str | None = None


class LoraMethod(Method):
    """LoRA and DoRA."""

    components: ClassVar = ("lora",)

    def read(self, config: dict[str, Any], source: Source) -> Reading:
        """The component `lora`."""
        theirs, reading = validated(LoraSchema, config), Reading()
        common = _read_common(theirs, source, reading)
        alpha = theirs.alpha
        if _faulty_scale(source.version) and alpha != theirs.r:
            why = f"adapters before 1.1.0 trained without alpha / r, so alpha {theirs.r} gives the trained function"
            reading.ignored.append((f"alpha {alpha:g}", why))
            alpha = theirs.r
        if theirs.use_gating and alpha != DEFAULT_RANK:
            reading.ignored.append((f"alpha {alpha:g}", "the gate takes the place of alpha / r"))
            alpha = DEFAULT_RANK
        if theirs.use_gating and theirs.use_dora:
            raise ConfigError("use_gating with use_dora: madx has no gate of DoRA. Nothing was loaded.")
        if theirs.init_weights not in INIT:
            note(reading, f"init_weights {theirs.init_weights!r}", True, "the weights are here")
        settings = common | {
            "rank": theirs.r,
            "alpha": float(alpha),
            "dora": theirs.use_dora,
            "dora_form": "adapterhub" if theirs.use_dora else "paper",
            "gate": theirs.use_gating,
            "dropout": theirs.dropout,
            "init": INIT.get(theirs.init_weights, "kaiming"),
        }
        reading.components |= make_components({"lora": settings})
        return reading

    def write(self, components: Mapping[str, Any], target: Target) -> tuple[dict[str, Any], list[str]]:
        """Their config; `rslora` is expressed by alpha, and a start from the base by twice the rank."""
        ours = components["lora"]
        rank = ours.rank * (2 if ours.init in FROM_BASE else 1)
        config, faults = _write_common(ours, target)
        if ours.dora and ours.dora_form != "adapterhub":
            faults.append("DoRA of the form 'paper': there the bias is scaled too (dora_form: adapterhub)")
        config |= {
            "r": rank,
            "alpha": ours.scale * rank if ours.rslora or rank != ours.rank else ours.alpha,
            "use_dora": ours.dora,
            "use_gating": ours.gate,
            "dropout": ours.dropout,
            "init_weights": {name: theirs for theirs, name in INIT.items()}.get(ours.init, "lora"),
        }
        return LoraSchema(**config).model_dump(), faults

    def links(self, component: str, config: Any, *, tensors: dict[str, Tensor], around: Surroundings) -> list[Link]:
        """A, B and the gate under their own names; g = m / ||W|| from their m, by the base's W."""
        found = []
        for name, tensor in tensors.items():
            site, inner = name.split(".lora.")
            start = f"{around.layout.at(site)}.loras.{around.owner}."
            if inner == "ratio":
                found.append(_magnitude_link(start + "m.weight", name, tensor, site, around))
            elif config.init in FROM_BASE and inner in ("A", "B"):
                start_name = f"{site}.lora.start_{inner}"
                found.append(_doubled_link(f"{start}lora_{inner}", (name, start_name), tensor))
            elif not inner.startswith("start_"):
                theirs = inner if inner.startswith("gate.") else f"lora_{inner}"
                found.append(Link(start + theirs, (name,), tuple(tensor.shape)))
        return found


class Ia3Method(Method):
    """(IA)^3."""

    components: ClassVar = ("ia3",)

    def read(self, config: dict[str, Any], source: Source) -> Reading:
        """The component `ia3`."""
        theirs, reading = validated(LoraSchema, config), Reading()
        if theirs.use_gating:
            raise ConfigError(
                "This (IA)^3 adapter has use_gating=true; madx reads gates of LoRA, prefixes and bottlenecks. Nothing "
                "was loaded. Train it without use_gating."
            )
        if theirs.r != 1 or theirs.use_dora or theirs.dropout:
            raise ConfigError("composition_mode 'scale' is (IA)^3, which needs r=1, use_dora=false and dropout=0.")
        if theirs.alpha != 1 and not _faulty_scale(source.version):
            raise ConfigError(
                f"This (IA)^3 adapter has alpha={theirs.alpha:g}; only alpha=1 is read. Multiply its tensors by "
                f"{theirs.alpha:g} and set alpha to 1."
            )
        reading.components |= make_components({"ia3": _read_common(theirs, source, reading)})
        return reading

    def write(self, components: Mapping[str, Any], target: Target) -> tuple[dict[str, Any], list[str]]:
        """Their config, with the composition mode `scale`."""
        config, faults = _write_common(components["ia3"], target)
        if components["ia3"].inputs:
            faults.append(f"factors on the input of the map {components['ia3'].inputs[0]!r}")
        config |= {"r": 1, "alpha": 1.0, "composition_mode": "scale", "init_weights": "ia3"}
        return LoraSchema(**config).model_dump(), faults

    def links(self, component: str, config: Any, *, tensors: dict[str, Tensor], around: Surroundings) -> list[Link]:
        """Factors `(width,)` here, `(width, 1)` there."""
        return [
            Link(
                f"{around.layout.at(name.removesuffix('.ia3.factors'))}.loras.{around.owner}.lora_B",
                (name,),
                (*tensor.shape, 1),
                read=lambda value: [value.reshape(-1)],
                write=lambda values: values[0].reshape(-1, 1),
            )
            for name, tensor in tensors.items()
        ]


def _faulty_scale(version: str | None) -> bool:
    """True for a release of `adapters` before 1.1.0, which did not apply alpha / r."""
    found = re.match(r"adapters\.(\d{1,3})\.(\d{1,3})", version or "")
    return found is not None and (int(found[1]), int(found[2])) < (1, 1)


def _read_common(theirs: LoraSchema, source: Source, reading: Reading) -> dict[str, Any]:
    """The settings that both module types have; notes go to the report."""
    maps = [MATRICES[m] for m in MATRICES if theirs.selfattn_lora and m in theirs.attn_matrices]
    maps += ["up"] if theirs.intermediate_lora else []
    maps += ["down"] if theirs.output_lora else []
    if not maps:
        raise ConfigError(
            "This adapter changes no linear map; one of selfattn_lora, intermediate_lora and output_lora must be true."
        )
    left_out = layers_left_out(theirs.leave_out, source.depth, reading)
    require_layers(left_out, source.depth)
    note(reading, "init_weights_seed", theirs.init_weights_seed is not None, "the weights are here")
    note(reading, f"dtype {theirs.dtype!r}", theirs.dtype, "weights are read as float32")
    return {"maps": maps, "leave_out": left_out}


def _write_common(ours: Any, target: Target) -> tuple[dict[str, Any], list[str]]:
    faults = ["a change of the map 'output' (attention's output projection)"] if "output" in ours.maps else []
    matrices = [theirs for theirs, name in MATRICES.items() if name in ours.maps]
    config = {
        "selfattn_lora": bool(matrices),
        "intermediate_lora": "up" in ours.maps,
        "output_lora": "down" in ours.maps,
        "leave_out": sorted(set(range(target.depth)) - ours.layers(target.depth)),
    }
    return config | ({"attn_matrices": matrices} if matrices else {}), faults


def _doubled_link(theirs: str, ours: tuple[str, str], tensor: Tensor) -> Link:
    """Both terms of a LoRA that started from the base, `Lora.factors`; such a file is read as a plain LoRA."""
    axis = 0 if ours[0].endswith("A") else 1
    shape = tuple(n * (2 if k == axis else 1) for k, n in enumerate(tensor.shape))

    def write(values: Any) -> Tensor:
        learnt, first = values
        return torch.cat([first + learnt, learnt]) if axis == 0 else torch.cat([learnt, first], dim=1)

    return Link(theirs, ours, shape, write=write)


def _magnitude_link(theirs: str, name: str, tensor: Tensor, site: str, around: Surroundings) -> Link:
    """m `(width, 1)` there, g = m / ||W|| `(width,)` here, with ||W|| the norm of each row."""

    def norms() -> Tensor:
        return around.weight(site).to("cpu", tensor.dtype).norm(dim=1)

    def read(value: Tensor) -> list[Tensor]:
        found = norms()
        if not bool(found.all()):
            raise ConfigError(f"{theirs} cannot be read: the base's matrix at {site} has a row of zeros.")
        return [value.reshape(-1) / found]

    def write(values: Any) -> Tensor:
        return (values[0] * norms()).reshape(-1, 1)

    return Link(theirs, (name,), (*tensor.shape, 1), read=read, write=write)
