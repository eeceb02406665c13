"""SHiRA and trainable tokens: the module type `sparse_diff`.

SHiRA (Bhardwaj et al. 2024, arXiv:2406.13175) adds values to some entries of the matrices of linear maps:

    NAME.shira_weight (entries,)    NAME.shira_indices (2, entries): rows and columns        W[i, j] <- W[i, j] + value

PEFT gives each matrix r (input width + width) entries, as many as a LoRA of the rank r has numbers. Trainable tokens
replace rows of the embeddings; the delta of a row is the new row less the base's:

    NAME.trainable_tokens_delta (tokens, width): the new rows
"""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from madx.base import Base
from madx.contract.sites import BaseParameter
from madx.errors import ConfigError, StoreError
from madx.interop.peft.methods.method import (
    Method,
    Place,
    Reading,
    Writing,
    by_module,
    listed,
    require_named,
    require_shapes,
    without_pooler,
)
from madx.interop.peft.schema import TargetSchema, checked
from madx.interop.peft.targets import linear_paths, matching
from madx.module import Module
from madx.module.presets import make_components

VALUES, INDICES, ROWS = "shira_weight", "shira_indices", "trainable_tokens_delta"
#: entries of one parameter: flat indices, ascending, and their values
Entries = tuple[Tensor, Tensor]


class ShiraSchema(TargetSchema):
    """Their config of SHiRA."""

    r: Annotated[int, Field(ge=1, le=1 << 20)] = 32
    mask_type: str = "random"
    random_seed: int | None = None
    init_weights: bool = True


class TokensSchema(TargetSchema):
    """Their config of trainable tokens."""

    token_indices: list[Annotated[int, Field(ge=0, lt=1 << 40)]]
    init_weights: bool = True


class SparseMethod(Method):
    """Entries of parameters of the encoder, in which both methods agree."""

    component: ClassVar = "sparse_diff"

    def given(self, module: Module) -> dict[str, Entries]:
        """The entries of a module by parameter that are not zero, flat indices and values on the CPU."""
        unit: Any = module.units["weights"]["sparse_diff"]
        found = {delta.parameter: (delta.places().cpu(), delta.values.detach().cpu()) for delta in unit.deltas()}
        filled = {name: (places[values != 0], values[values != 0]) for name, (places, values) in found.items()}
        return {name: entries for name, entries in filled.items() if len(entries[0])}


class ShiraMethod(SparseMethod):
    """Entries of the matrices of linear maps."""

    tails: ClassVar = (VALUES, INDICES)
    defaults: ClassVar = {
        "fan_in_fan_out": False,
        "init_weights": True,
        "mask_type": "random",
        "r": 32,
        "random_seed": None,
        "target_modules": None,
    }

    def read(self, config: dict[str, Any], tensors: dict[str, Tensor], place: Place) -> Reading:
        """The component `sparse_diff`."""
        theirs, reading = checked(ShiraSchema, config), Reading()
        groups = without_pooler(by_module(tensors, self.tails), reading)
        known = {p.name: p for p in place.base.sites["weights"].parameters}
        if other := [path for path in groups if f"{path}.weight" not in known]:
            raise ConfigError(
                f"{place.file} changes {listed(place.prefix + path for path in other)}, which is no matrix of the "
                "encoder of this base. Nothing was loaded."
            )
        require_named(groups, matching(theirs, linear_paths(place.base), place.prefix), place)
        found = {}
        for path, group in groups.items():
            parameter = known[f"{path}.weight"]
            found[parameter.name] = _entries(group, parameter, theirs.r, path=path, place=place)
            reading.mapped.append((f"{path}.{VALUES}", f"weights.sparse_diff, in {parameter.name}"))
        fill(reading, found, place)
        return reading

    def writes(self, module: Module) -> bool:
        """True for entries in matrices of layers alone."""
        return super().writes(module) and not _in_embeddings(self.given(module))

    def write(self, module: Module, base: Base) -> Writing:
        """Their config and tensors, with entries of zero up to the number that PEFT asks for."""
        given = self.given(module)
        paths = {name.removesuffix(".weight"): entries for name, entries in given.items()}
        shapes = {name: base.encoder.get_parameter(name).shape for name in given}
        if other := [name for name in given if name.removesuffix(".weight") not in linear_paths(base)]:
            raise ConfigError(
                f"{module.name!r} has entries in {listed(other)}. PEFT's SHiRA has entries in matrices of linear maps "
                "alone, and its trainable tokens whole rows of the embeddings. Export it to composable-sft."
            )
        rank = max((-(-len(values) // sum(shapes[name])) for name, (_, values) in given.items()), default=1)
        tensors: dict[str, Tensor] = {}
        for name, (places, values) in given.items():
            shape, path = shapes[name], name.removesuffix(".weight")
            count = rank * sum(shape)
            if count > shape.numel():
                raise ConfigError(
                    f"{module.name!r} has {len(values)} entries in {name} {tuple(shape)}. PEFT's SHiRA holds a "
                    f"multiple of {sum(shape)} entries in such a matrix, the same in all, and {count} are more than "
                    "the matrix has. Export it to composable-sft."
                )
            tensors |= _filled_up(path, places, values, count, shape)
        return Writing({"r": rank, "target_modules": sorted(paths)}, tensors)


class TokensMethod(SparseMethod):
    """Rows of the embeddings of words."""

    tails: ClassVar = ("token_adapter." + ROWS, ROWS)
    defaults: ClassVar = {"init_weights": True, "target_modules": None, "token_indices": []}

    def read(self, config: dict[str, Any], tensors: dict[str, Tensor], place: Place) -> Reading:
        """The component `sparse_diff`."""
        theirs, reading, words = checked(TokensSchema, config), Reading(), words_of(place.base)
        groups = by_module(tensors, self.tails)
        if list(groups) != [words.removesuffix(".weight")]:
            raise ConfigError(
                f"{place.file} trains tokens of {listed(place.prefix + p for p in groups) or 'no module'}; madx reads "
                f"those of the embeddings of words ({words.removesuffix('.weight')}). Nothing was loaded."
            )
        ((path, group),) = groups.items()
        weight, chosen = original(place.base, words), theirs.token_indices
        if len(set(chosen)) < len(chosen) or not chosen or max(chosen) >= len(weight):
            raise StoreError(f"{place.file}: token_indices must be different rows of the base's {len(weight)} pieces.")
        tail = next(iter(group))
        require_shapes({tail: (len(chosen), weight.shape[1])}, group, path, place)
        order = torch.tensor(chosen).sort()
        width = weight.shape[1]
        places = order.values[:, None] * width + torch.arange(width)
        values = (group[tail] - weight[chosen])[order.indices]
        reading.mapped.append((f"{path}.{tail}", f"weights.sparse_diff, {len(chosen)} rows of {words}"))
        if place.base.family.tied:
            why = "there they change in a tied decoder as well; here the decoder keeps the base's"
            reading.ignored.append(("the decoder's rows of these tokens", why))
        fill(reading, {words: (places.reshape(-1), values.reshape(-1))}, place)
        return reading

    def writes(self, module: Module) -> bool:
        """True for entries in the embeddings."""
        return super().writes(module) and _in_embeddings(self.given(module))

    def write(self, module: Module, base: Base) -> Writing:
        """Their config and tensors: the whole rows that have an entry."""
        given, words = self.given(module), words_of(base)
        if other := [name for name in given if name != words]:
            raise ConfigError(
                f"{module.name!r} has entries in the embeddings and in {listed(other)}. PEFT holds rows of the "
                "embeddings of words and entries of linear maps in files of two methods. Export it to composable-sft."
            )
        weight = original(base, words)
        places, values = given[words]
        rows = torch.unique(places // weight.shape[1])
        new = weight.reshape(-1).index_add(0, places, values.to(weight.dtype)).view_as(weight)[rows]
        path = words.removesuffix(".weight")
        config = {"target_modules": [path.rpartition(".")[2]], "token_indices": rows.tolist()}
        return Writing(config, {f"{path}.{ROWS}": new})


def _in_embeddings(given: dict[str, Entries]) -> bool:
    return any(name.startswith("embeddings.") for name in given)


def words_of(base: Base) -> str:
    """The name of the parameter with the embeddings of words."""
    encoder: Any = base.encoder
    words = encoder.get_input_embeddings().weight
    return next(name for name, parameter in base.encoder.named_parameters() if parameter is words)


def original(base: Base, name: str) -> Tensor:
    """A parameter of the encoder on the CPU in float32, without the weight deltas that an engine may have added."""
    engine: Any = base.engine
    weight = base.encoder.get_parameter(name) if engine is None else engine.deltas.original(name)
    return weight.detach().to("cpu", torch.float32)


def _entries(group: dict[str, Tensor], parameter: BaseParameter, rank: int, *, path: str, place: Place) -> Entries:
    """The entries of one matrix. Raises StoreError for indices that are outside of it, or there twice."""
    height, width = parameter.shape
    count = rank * (height + width)
    require_shapes({VALUES: (count,), INDICES: (2, count)}, group, path, place)
    rows, columns = group[INDICES].to(torch.int64)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    order = (rows * width + columns).sort()
    if group[INDICES].is_floating_point() or not bool(inside.all()) or bool((order.values.diff() == 0).any()):
        raise StoreError(
            f"{place.file}: {path}.{INDICES} must hold different places in the matrix ({height}, {width})."
        )
    return order.values, group[VALUES][order.indices]


def _filled_up(path: str, places: Tensor, values: Tensor, count: int, shape: torch.Size) -> dict[str, Tensor]:
    """Their tensors for one matrix; entries of zero stand at the first free places."""
    free = torch.ones(shape.numel(), dtype=torch.bool)
    free[places] = False
    more = free.nonzero().reshape(-1)[: count - len(places)]
    order = torch.cat([places, more]).sort()
    filled = torch.cat([values, values.new_zeros(len(more))])[order.indices]
    indices = torch.stack([order.values // shape[1], order.values % shape[1]]).to(torch.int32)
    return {f"{path}.{VALUES}": filled, f"{path}.{INDICES}": indices}


def fill(reading: Reading, found: dict[str, Entries], place: Place) -> None:
    """Add the component with some entries to a reading. Raises StoreError if there are none at all."""
    count = sum(len(places) for places, _ in found.values())
    if not count:
        raise StoreError(f"{place.file} has no entry in any parameter of the base: it changes nothing.")
    settings = {"entries": count, "precision": "float32"}
    reading.components |= make_components({"sparse_diff": settings})
    config: Any = reading.components["sparse_diff"]
    parameters, offset, indices, values = config.selectable(place.base.sites["weights"]), 0, [], []
    for parameter in parameters:
        if parameter.name in found:
            indices.append(found[parameter.name][0] + offset)
            values.append(found[parameter.name][1])
        offset += parameter.numel
    dtype = torch.int32 if offset < 1 << 31 else torch.int64
    reading.tensors["weights.sparse_diff.indices"] = torch.cat(indices).to(dtype)
    reading.tensors["weights.sparse_diff.values"] = torch.cat(values)
