"""Targets: the modules of a base that a PEFT config names, and the sites of madx that they are.

    roberta.encoder.layer.3.attention.self.query        layer.3.attention.query
    roberta.encoder.layer.3.output.dense                layer.3.ffn.down

A list names modules by their whole path or its end, a text is a regular expression for the whole path. The names are
those in the model that was trained: with a head the encoder has a prefix (`roberta.`), as a bare encoder it has none.
"""

from collections.abc import Collection, Iterable, Sequence

import regex
from torch import nn

from madx.base import Base
from madx.errors import ConfigError
from madx.interop.adapterhub.methods.method import short
from madx.interop.peft.schema import TargetSchema

#: seconds that one comparison with a pattern of a file may take; a hostile pattern takes hours
PATIENCE = 0.5
#: the word that stands for all linear maps
ALL = "all-linear"


def site_paths(base: Base) -> dict[str, str]:
    """The path in the encoder of each linear map that has a site of its own -> the name of that site."""
    found = {}
    for name, site in base.sites.items():
        if site.kind == "linear":
            place = base.family.maps[f"{site.place}.{site.map}"]
            if place.shares == 1:
                found[f"{base.family.layers}.{site.layer}.{place.path}"] = name
    return found


def linear_paths(base: Base) -> list[str]:
    """Paths of all linear maps of the encoder."""
    return [path for path, module in base.encoder.named_modules() if isinstance(module, nn.Linear)]


def matching(config: TargetSchema, paths: Iterable[str], prefix: str) -> set[str]:
    """Those of some paths in the encoder that a config names.

    Args:
        prefix: of the encoder in the model that was trained, with its point, or "".
    Raises ConfigError for a pattern that is no regular expression, or that takes too long.
    """
    if config.target_modules is None:
        return set(paths)
    return {path for path in paths if _named(config, prefix + path)}


def _named(config: TargetSchema, key: str) -> bool:
    if config.exclude_modules and _among(config.exclude_modules, key):
        return False
    if isinstance(config.target_modules, str):
        return config.target_modules == ALL or _among(config.target_modules, key)
    return _among(config.target_modules or [], key) and _layer_wanted(config, key)


def _among(names: str | Collection[str], key: str) -> bool:
    """True for a path that a pattern describes as a whole, or whose end is one of the names."""
    if isinstance(names, str):
        return fits(names, key)
    return any(key == name or key.endswith(f".{name}") for name in names)


def _layer_wanted(config: TargetSchema, key: str) -> bool:
    """True where `layers_to_transform` names the layer of a path, or names none at all."""
    wanted = config.layers_to_transform
    if wanted is None or wanted == []:
        return True
    given = config.layers_pattern or []
    patterns = [rf"(?:.*?\.)?{p}" for p in ([given] if isinstance(given, str) else given)] or [r".*?\.[^.]*"]
    for pattern in patterns:
        found = _match(rf"{pattern}\.(\d{{1,4}})\..*", key)
        if found:
            return int(found[found.re.groups]) in ([wanted] if isinstance(wanted, int) else wanted)
    return False


def fits(pattern: str, key: str) -> bool:
    """True for a path that a pattern of a file describes as a whole. Raises ConfigError as `matching` does."""
    return _match(pattern, key) is not None


def _match(pattern: str, key: str) -> "regex.Match[str] | None":
    try:
        return regex.fullmatch(pattern, key, timeout=PATIENCE)
    except TimeoutError:
        raise ConfigError(
            f"The pattern {short(pattern)} of this PEFT config takes longer than {PATIENCE} s to compare with one "
            "name. List the names of the modules instead."
        ) from None
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise ConfigError(
            f"The pattern {short(pattern)} of this PEFT config is no regular expression ({str(error)[:80]})."
        ) from None


def of_pattern(table: dict[str, int] | dict[str, float], key: str) -> float | None:
    """The value of a table such as `rank_pattern` for a path: of the first pattern that describes its end."""
    return next((value for pattern, value in table.items() if fits(rf"(?:.*\.)?(?:{pattern})", key)), None)


def written_targets(base: Base, wanted: Sequence[str]) -> dict[str, object]:
    """The settings `target_modules` and `layers_to_transform` that name exactly some paths in the encoder.

    Short names are taken where they name nothing else, whole paths otherwise.
    """
    start = base.family.layers + "."
    ends = sorted({path.removeprefix(start).partition(".")[2] for path in wanted})
    layers = sorted({int(path.removeprefix(start).partition(".")[0]) for path in wanted})
    some = None if len(layers) == base.depth else layers
    everything = [path for path, _ in base.encoder.named_modules()]
    for names in ([end.rpartition(".")[2] for end in ends], ends):
        config = TargetSchema(peft_type="", target_modules=sorted(set(names)), layers_to_transform=some)
        if matching(config, everything, base.model.base_model_prefix + ".") == set(wanted):
            return {"target_modules": sorted(set(names)), "layers_to_transform": some}
    return {"target_modules": sorted(wanted), "layers_to_transform": None}
