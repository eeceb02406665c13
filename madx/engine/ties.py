"""Terms: the weight deltas of a composition as summands, and the election of signs of `ties(...)`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from madx.composition import Average, Fuse, Scaled, Stack, Ties
from madx.contract.module_type import Delta, WeightsType
from madx.engine.weight_deltas import Share, State, Term, same_state
from madx.errors import CompositionError
from madx.module import Module


class Terms:
    """The weight deltas of compositions, term by term. An election is kept until one of its deltas changes."""

    def __init__(self) -> None:
        #: election -> state of its children, its deltas, norms of the kept values
        self._elected: dict[Ties, tuple[State, list[Delta], list[list[float]]]] = {}

    def forget(self) -> None:
        """Drop the elections that are kept."""
        self._elected.clear()

    def of(self, composition: Stack, modules: Mapping[str, Module], scale: float = 1.0) -> list[Term]:
        """Return the terms of a composition; a mean is a sum of terms with the weights as factors."""
        terms: list[Term] = []
        for item in composition.items:
            if isinstance(item, str):
                for component, unit in modules[item].units.get("weights", {}).items():
                    if isinstance(unit, WeightsType):
                        terms.append(Term((Share(item, component, unit, 1.0),), scale, unit.deltas))
            elif isinstance(item, Scaled):
                terms += self.of(item.child, modules, scale * item.factor)
            elif isinstance(item, Average):
                for child, weight in zip(item.children, item.weights):
                    terms += self.of(child, modules, scale * weight)
            elif isinstance(item, Fuse):
                if held := [name for name in item.names() if "weights" in modules[name].units]:
                    raise CompositionError(
                        f"'{item}' joins {', '.join(held)}, which holds weight deltas: these have no change at a site "
                        "to join. Use average(...) or ties(...) for them."
                    )
            else:
                terms += self._election(item, modules, scale)
        return terms

    def _election(self, item: Ties, modules: Mapping[str, Module], scale: float) -> list[Term]:
        branches = [self.of(child, modules) for child in item.children]
        state = [s for terms in branches for term in terms for s in term.state()]
        known = self._elected.get(item)
        if known is None or not same_state(known[0], state):
            known = self._elected[item] = (state, *elect(branches))
        _, deltas, kept = known
        shares = tuple(
            Share(s.module, s.component, s.unit, term.scale, abs(scale) * k)
            for terms, ks in zip(branches, kept)
            for term, k in zip(terms, ks)
            for s in term.shares
        )
        return [Term(shares, scale, lambda: deltas, str(item))] if shares else []


@torch.no_grad()
def elect(branches: list[list[Term]]) -> tuple[list[Delta], list[list[float]]]:
    """Join the branches, each the sum of its terms, by TIES (Yadav et al. 2023, arXiv:2306.01708).

    At every place the sign of the sum of the branches' values is elected; the result is the mean over the branches
    whose value has that sign.

    Returns:
        The deltas, and for each term of each branch the norm of its values at the places where its branch won.

    >>> delta = Delta("w", torch.tensor([3.0, 1.0]), torch.tensor([0, 1]))
    >>> one, two = (Term((), scale, lambda: [delta]) for scale in (1, -0.5))
    >>> elect([[one], [two]])[0][0].values.tolist()
    [3.0, 1.0]
    """
    by_name: dict[str, list[tuple[int, int, Delta, float]]] = {}
    for b, terms in enumerate(branches):
        for t, term in enumerate(terms):
            for delta in term.deltas():
                by_name.setdefault(delta.parameter, []).append((b, t, delta, term.scale))
    result, kept = [], [[0.0] * len(terms) for terms in branches]
    for name, found in by_name.items():
        places, inverse = torch.cat([d.places() for _, _, d, _ in found]).unique(return_inverse=True)
        parts = inverse.split([d.values.numel() for _, _, d, _ in found])
        votes: dict[int, Tensor] = {}
        for (b, _, d, scale), where in zip(found, parts):
            votes.setdefault(b, d.values.new_zeros(len(places))).index_add_(0, where, scale * d.values.reshape(-1))
        zero = found[0][2].values.new_zeros(len(places))
        sign = sum(votes.values(), zero).sign()
        won = {b: (v.sign() == sign) & (sign != 0) for b, v in votes.items()}
        count = sum((w.to(torch.float32) for w in won.values()), zero.to(torch.float32))
        mean = sum((v * won[b] for b, v in votes.items()), zero) / count.clamp_min(1.0)
        for (b, t, d, scale), where in zip(found, parts):
            kept[b][t] += (scale * d.values.reshape(-1) * won[b][where]).square().sum().item()
        result.append(Delta(name, mean, places))
    return result, [[k**0.5 for k in ks] for ks in kept]
