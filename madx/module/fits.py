"""Does a module fit? It needs the base that it was made for, and a head where labels are to be predicted."""

from torch import nn

from madx.base import Base
from madx.errors import BaseError, CompositionError, ConfigError
from madx.module.module import Module, ModuleInfo
from madx.module.pooling import FIRST


def require_base(info: ModuleInfo, base: Base, *, allow_base_mismatch: bool = False) -> None:
    """Compare the base that a module records with the one at hand; raises BaseError naming each difference.

    A module that records no base fits any. `allow_base_mismatch` admits a base with other weights or another tokenizer
    (aligned sister bases); its shape must agree always.
    """
    recorded = info.base
    if recorded is None:
        return
    here = base.identity()
    shape = [
        f"{key}: module {value}, base {here['architecture'].get(key)}"
        for key, value in recorded["architecture"].items()
        if here["architecture"].get(key) != value
    ]
    other = []
    if recorded["fingerprint"] != here["fingerprint"]:
        other.append(f"weights: module {recorded['fingerprint'][:12]}, base {here['fingerprint'][:12]}")
    ours, theirs = info.tokenizer, base.tokenizer_fingerprint
    if ours is not None and theirs is not None and ours != theirs:
        other.append(f"tokenizer: module {ours[:12]}, base {theirs[:12]}")
    if not shape and (allow_base_mismatch or not other):
        return
    way_out = (
        "It can act only on a base of the same shape."
        if shape
        else "Load that base, or pass allow_base_mismatch=True if this one is meant to be its sister."
    )
    raise BaseError(
        f"The module {info.name!r} was made for the base {recorded['name']!r}, not for {base.name!r}:\n  "
        + "\n  ".join(shape + other)
        + f"\n{way_out}"
    )


def require_parameters(module: Module, base: Base) -> None:
    """Raise BaseError when a module holds weight deltas of parameters whose names or shapes differ from the base's."""
    here = base.sites["weights"].parameters
    for unit in module.units.get("weights", {}).values():
        if unit.site.parameters != here:
            other = sorted({(p.name, p.shape) for p in unit.site.parameters} ^ {(p.name, p.shape) for p in here})
            raise BaseError(
                f"The module {module.name!r} holds deltas of other parameters than those of {base.name!r}; the first "
                f"that differs: {other[0][0]} {other[0][1]}. It can act only on a base of the same shape."
            )


def require_task_head(module: Module) -> nn.Linear:
    """The module's head; raises CompositionError for a module without one."""
    if module.head is None:
        raise CompositionError(
            f"The module {module.name!r} (role {module.info.role}) has no head, so it predicts no labels. "
            "End the composition with a task module, e.g. 'swa + ner'."
        )
    return module.head


def require_first_piece(module: Module, what: str) -> None:
    """Raise ConfigError for a module whose head reads words by another pooling than `first`.

    what: the reader that takes labels at first pieces alone, for the message.
    """
    if module.info.pooling != FIRST:
        raise ConfigError(
            f"The head of {module.name!r} reads words by the pooling {module.info.pooling!r}, but {what} takes "
            "a word's label at its first piece, so its predictions would be wrong. Use the module in madx, or train "
            "one with pooling: first."
        )
