"""The algebra of compositions: which modules act together, and how. Pure data without tensors."""

from madx.composition.algebra import (
    HUB_MARK,
    MAX_NAME,
    RESERVED,
    Average,
    Composition,
    Item,
    Route,
    Scaled,
    Stack,
    Ties,
    as_composition,
    check_name,
    of_the_hub,
    parse,
    require_stack,
)

__all__ = [
    "Average",
    "Composition",
    "HUB_MARK",
    "Item",
    "MAX_NAME",
    "RESERVED",
    "Route",
    "Scaled",
    "Stack",
    "Ties",
    "as_composition",
    "check_name",
    "of_the_hub",
    "parse",
    "require_stack",
]
