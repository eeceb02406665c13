"""Comparison of foreign files with a base. Such files identify their base by names and shapes alone."""

from pathlib import Path

from madx.base import Base
from madx.errors import BaseError


def same_base_name(made_for: str, name: str) -> bool:
    """True if a base's path or id may be the model named in a file.

    >>> same_base_name("xlm-roberta-base", "/models/xlm-roberta-base")
    True
    >>> same_base_name("xlm-roberta-base", "models--FacebookAI--xlm-roberta-base")  # a download in the hub's cache
    True
    """
    wanted = made_for.rstrip("/").split("/")[-1].casefold()
    return any(wanted in (piece, piece.split("--")[-1]) for piece in name.casefold().replace("\\", "/").split("/"))


def require_same_base(shape: list[str], other: list[str], *, base: Base, allow_mismatch: bool) -> None:
    """Raises BaseError if files and base differ in shape, or in anything else unless that is allowed.

    Args:
        shape, other: a line for each difference, which names both sides.
    """
    if shape or other and not allow_mismatch:
        hint = (
            "It can act only on a base of the same shape."
            if shape
            else "Load that base, or pass allow_base_mismatch=True if this is the same one renamed, or its sister."
        )
        lines = "\n  ".join([fault[:200] for fault in (shape + other)[:8]])
        more = f"\n  ... and {len(shape + other) - 8} more" if len(shape + other) > 8 else ""
        raise BaseError(f"These files were made for another base than {base.label}:\n  {lines}{more}\n{hint}")


def public_name(base: Base) -> str:
    """The base's id; for a local folder only its last name, so that no private path is published."""
    return base.name if base.name.count("/") == 1 and not Path(base.name).exists() else Path(base.name).name
