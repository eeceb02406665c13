"""LoRA, with DoRA and rank-stabilised scaling: the module type `lora`.

    NAME.lora_A.weight (rank, input width)   NAME.lora_B.weight (width, rank)   NAME.lora_magnitude_vector (width,)

PEFT may give each map its own rank r_i and alpha_i (`rank_pattern`, `alpha_pattern`), and change some maps in some
layers only. A component of madx has one rank r and one scale s, and the same maps in all of its layers. It computes the
same nevertheless: A_i and B_i get rows and columns of zeros up to the largest rank, B_i is multiplied by s_i / s, and a
place without tensors gets a fresh unit, which changes nothing (B = 0).
"""

import re
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from madx.base import Base
from madx.errors import ConfigError, StoreError
from madx.interop.adapterhub.methods.method import short
from madx.interop.peft.methods.method import (
    Method,
    Place,
    Reading,
    Writing,
    by_module,
    paths_of,
    product,
    require_shapes,
    require_targets,
    units_of,
    without_pooler,
)
from madx.interop.peft.schema import TargetSchema, checked, refuse_set
from madx.interop.peft.targets import of_pattern, written_targets
from madx.module import Module
from madx.module.presets import make_components

Rank = Annotated[int, Field(ge=1, le=1 << 20)]
Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False)]
A, B, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
#: initialisations that leave the base's weights as they are; others subtract from them what the adapter starts with
KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
#: settings that make another function of LoRA
OTHER = {
    "lora_bias": "a bias in B",
    "layer_replication": "layers of the base are repeated",
    "target_parameters": "parameters outside linear maps are changed",
    "trainable_token_indices": "rows of the embeddings are trained as well",
    "alora_invocation_tokens": "only the tokens behind an invocation are changed",
    "use_qalora": "the input is pooled in groups (QALoRA)",
    "use_bdlora": "A and B are block-diagonal (BD-LoRA)",
    "arrow_config": "several LoRAs are routed (Arrow)",
    "kasa_config": "the change has singular values (KaSA)",
    "velora_config": "activations are compressed (VeLoRA)",
    "monteclora_config": "the weights are drawn at random (MonteCLoRA)",
    "megatron_config": "the base is split over devices (Megatron)",
}


class LoraSchema(TargetSchema):
    """Their config of LoRA, with the defaults of PEFT."""

    r: Rank = 8
    lora_alpha: Alpha = 8
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str | None = True
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    lora_bias: bool = False
    layer_replication: list[Any] | None = None
    target_parameters: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, Any] | None = None
    alora_invocation_tokens: list[int] | None = None
    use_qalora: bool = False
    use_bdlora: Any = None
    arrow_config: dict[str, Any] | None = None
    kasa_config: dict[str, Any] | None = None
    velora_config: dict[str, Any] | None = None
    monteclora_config: dict[str, Any] | None = None
    megatron_config: dict[str, Any] | None = None
    # of no effect where the settings above are off, or only on the start of training
    megatron_core: str | None = None
    qalora_group_size: int = 16
    ensure_weight_tying: bool = False
    loftq_config: dict[str, Any] | None = None
    corda_config: dict[str, Any] | None = None
    eva_config: dict[str, Any] | None = None
    lora_ga_config: dict[str, Any] | None = None

    def scale(self, path: str) -> float:
        """s_i, the factor of B_i A_i x at a module."""
        alpha, rank = of_pattern(self.alpha_pattern or {}, path) or self.lora_alpha, self.rank(path)
        return alpha / (rank**0.5 if self.use_rslora else rank)

    def rank(self, path: str) -> int:
        """r_i, the rank at a module."""
        return int(of_pattern(self.rank_pattern or {}, path) or self.r)


class LoraMethod(Method):
    """Low-rank changes of linear maps."""

    component: ClassVar = "lora"
    tails: ClassVar = (A, B, MAGNITUDE + ".weight", MAGNITUDE)
    defaults: ClassVar = {
        "alora_invocation_tokens": None,
        "alpha_pattern": {},
        "arrow_config": None,
        "bias": "none",
        "corda_config": None,
        "ensure_weight_tying": False,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "kasa_config": None,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 8,
        "lora_bias": False,
        "lora_dropout": 0.0,
        "lora_ga_config": None,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "monteclora_config": None,
        "qalora_group_size": 16,
        "r": 8,
        "rank_pattern": {},
        "target_modules": None,
        "target_parameters": None,
        "trainable_token_indices": None,
        "use_bdlora": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
        "velora_config": None,
    }

    def read(self, config: dict[str, Any], tensors: dict[str, Tensor], place: Place) -> Reading:
        """The component `lora`."""
        theirs, reading = checked(LoraSchema, config), Reading()
        _refuse(theirs)
        groups = without_pooler(by_module(tensors, self.tails), reading)
        sites = require_targets(groups, theirs, place)
        if not sites:
            raise StoreError(f"{place.file} has no change of a linear map that madx reads: it changes nothing.")
        for path, site in sites.items():
            _check(groups[path], theirs, path=path, site=place.base.sites[site], place=place)
        ranks = {path: groups[path][A].shape[0] for path in sites}
        maps, left_out, more = product(list(sites.values()), place.base)
        settings = _settings(theirs, sites, ranks) | {"maps": maps, "leave_out": left_out}
        reading.components = make_components({"lora": settings})
        ours: Any = reading.components["lora"]
        for path, site in sites.items():
            found = _padded(groups[path], rank=ours.rank, factor=theirs.scale(place.prefix + path) / ours.scale)
            if theirs.use_dora:
                found["ratio"] = _ratio(groups[path], place.matrix(site), path)
            reading.tensors |= {f"{site}.lora.{name}": value for name, value in found.items()}
            reading.mapped += [
                (f"{path}.{tail}", f"{site}.lora.{ {A: 'A', B: 'B'}.get(tail, 'ratio') }") for tail in groups[path]
            ]
        for site in more:
            reading.tensors |= _fresh(place.base.sites[site], site, ours)
            reading.ignored.append((f"{site} (not in the files)", "a fresh unit stands there, which changes nothing"))
        if len({(rank, theirs.scale(place.prefix + path)) for path, rank in ranks.items()}) > 1:
            why = f"brought to the rank {ours.rank} and the scale {ours.scale:g} by zeros and a factor on B"
            reading.ignored.append(("the ranks and scales of single maps", why))
        return reading

    def write(self, module: Module, base: Base) -> Writing:
        """Their config and tensors."""
        ours: Any = module.info.components["lora"]
        if ours.dora_form != "paper":
            raise ConfigError(
                f"The DoRA of {module.name!r} has the form {ours.dora_form!r}; PEFT computes that of the paper "
                "(dora_form: paper). Export it to adapterhub, or train it in the other form."
            )
        if ours.gate:
            raise ConfigError(
                f"The LoRA of {module.name!r} has a gate (UniPELT), which PEFT does not have. Export it to adapterhub."
            )
        paths, tensors = paths_of(module, "lora", base), {}
        place = Place(base, "", None)  # type: ignore[arg-type]
        rank = ours.rank
        for site, unit in units_of(module, "lora").items():
            tensors[f"{paths[site]}.{A}"], tensors[f"{paths[site]}.{B}"] = unit.factors()
            rank = len(tensors[f"{paths[site]}.{A}"])  # twice that of the settings for PiSSA and OLoRA
            if ours.dora:
                tensors[f"{paths[site]}.{MAGNITUDE}"] = unit.magnitude(place.matrix(site).to(unit.A.device))
        alpha = ours.scale * (rank**0.5 if ours.rslora else rank)
        alpha = round(alpha) if abs(alpha - round(alpha)) < 1e-9 else alpha
        config = {"r": rank, "lora_alpha": alpha, "lora_dropout": ours.dropout, "use_rslora": ours.rslora}
        more = {"use_dora": ours.dora, "init_lora_weights": "gaussian" if ours.init == "normal" else True}
        return Writing(config | more | written_targets(base, list(paths.values())), tensors)


def _refuse(theirs: LoraSchema) -> None:
    """Raises ConfigError for a setting that makes another function of LoRA."""
    refuse_set(theirs, **OTHER)
    if theirs.bias != "none":
        raise ConfigError(
            f"These files have bias={short(theirs.bias)}: biases of the base were trained as well. madx reads only "
            "bias='none'. Nothing was loaded. Train without them, or train LoRA and BitFit here."
        )
    init = theirs.init_lora_weights
    known = init if not isinstance(init, str) else init.lower()
    if not any(known is value or isinstance(value, str) and known == value for value in KEEPS_BASE):
        raise ConfigError(
            f"These files have init_lora_weights={short(init)}: with it the base's own weights were changed before "
            "training, so the adapter fits no unchanged base. Nothing was loaded. Save it with "
            "path_initial_model_for_weight_conversion, which makes an ordinary LoRA of it."
        )


def _check(group: dict[str, Tensor], theirs: LoraSchema, *, path: str, site: Any, place: Place) -> None:
    if MAGNITUDE + ".weight" in group:  # the name of some releases
        group.setdefault(MAGNITUDE, group.pop(MAGNITUDE + ".weight").reshape(-1))
    rank = theirs.rank(place.prefix + path)
    shapes: dict[str, tuple[int, ...]] = {A: (rank, site.input_width), B: (site.width, rank)}
    if theirs.use_dora:
        shapes[MAGNITUDE] = (site.width,)
        if MAGNITUDE in group:
            group[MAGNITUDE] = group[MAGNITUDE].reshape(-1)
    require_shapes(shapes, group, path, place)


def _settings(theirs: LoraSchema, sites: dict[str, str], ranks: dict[str, int]) -> dict[str, Any]:
    """Settings of the component but its places: the largest rank, and alpha as it is there if all maps share it."""
    rank = max(ranks.values())
    alpha = theirs.lora_alpha
    if theirs.alpha_pattern and len(set(ranks.values())) == 1:
        found = {of_pattern(theirs.alpha_pattern, path) or alpha for path in sites}
        alpha = found.pop() if len(found) == 1 else alpha
    return {
        "rank": rank,
        "alpha": float(alpha),
        "rslora": theirs.use_rslora,
        "dora": theirs.use_dora,
        "dropout": theirs.lora_dropout,
    }


def _padded(group: dict[str, Tensor], *, rank: int, factor: float) -> dict[str, Tensor]:
    """A and B of the component's rank and scale."""
    more = rank - group[A].shape[0]
    scaled = group[B] if abs(factor - 1) < 1e-12 else group[B] * factor
    return {"A": F.pad(group[A], (0, 0, 0, more)), "B": F.pad(scaled, (0, more))}


def _ratio(group: dict[str, Tensor], weight: Tensor, path: str) -> Tensor:
    """g = m / ||W||, `(width,)`. Raises ConfigError for a row of W that is zero."""
    norms = weight.to(torch.float32).square().sum(1).sqrt()
    if not bool(norms.all()):
        raise ConfigError(f"{path}.{MAGNITUDE} cannot be read: the base's matrix there has a row of zeros.")
    return group[MAGNITUDE] / norms


def _fresh(site: Any, name: str, ours: Any) -> dict[str, Tensor]:
    """A unit that changes nothing and can be trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(map(int, re.findall(r"\d+", name))))
        start = nn.init.kaiming_uniform_(torch.empty(ours.rank, site.input_width), a=5**0.5)
    found = {"A": start, "B": torch.zeros(site.width, ours.rank)}
    found |= {"ratio": torch.ones(site.width)} if ours.dora else {}
    return {f"{name}.lora.{key}": value for key, value in found.items()}
