"""Needed positions: past its attention, the last layer computes the positions alone that somebody will read.

A masked-LM loss reads 15 % of the positions, a word's label is read at one piece. Past its attention the last layer
treats each token by itself, so it need not treat the others: of three layers this saves a fifth of all products, of
twelve a twentieth. The numbers are equal to rounding. A pre-norm base cannot do it, since its residual stream passes the
sublayers by, and neither can a plan with a step past that point whose change depends on other tokens.
"""

from torch import Tensor

from madx.base import Base
from madx.contract.module_type import scope_of
from madx.engine.call import Positions
from madx.engine.plan import Plan


def can_narrow(base: Base, plan: Plan) -> bool:
    """Whether the last layer may compute needed positions alone under a plan."""
    last = f"layer.{base.depth - 1}"
    past = [
        step
        for site, steps in plan.items()
        if site == "encoder" or site == last or site.startswith(f"{last}.ffn")
        for step in steps
    ]
    return (
        base.family.attention.norm is not None and scope_of(past) == "token" and f"{last}.ffn" not in plan.without_norm
    )


def chosen(hidden: Tensor, at: Positions | None, *, narrowed: bool) -> Tensor:
    """The last layer's output at the needed positions, `(n, width)`; all of it, `(batch, tokens, width)`, without them."""
    if at is None:
        return hidden
    return hidden[0] if narrowed else hidden[at]
