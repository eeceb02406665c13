"""The algebra of compositions: which modules act together, and how. Pure data without tensors."""

from madx.composition.algebra import (
    Average,
    Composition,
    Fuse,
    Item,
    Route,
    Scaled,
    Stack,
    Ties,
    require_stack,
)
from madx.composition.names import HUB_MARK, MAX_NAME, RESERVED, check_name, hub_advice
from madx.composition.parser import as_composition, parse

__all__ = [
    "HUB_MARK",
    "MAX_NAME",
    "RESERVED",
    "Average",
    "Composition",
    "Fuse",
    "Item",
    "Route",
    "Scaled",
    "Stack",
    "Ties",
    "as_composition",
    "check_name",
    "hub_advice",
    "parse",
    "require_stack",
]
