"""What a composition compiles to: for each site the steps of the forward pass, and the terms of the weights' difference."""

from collections.abc import Callable

import torch
from torch import Tensor

from madx.composition import Average, Item, Scaled, Stack, Ties
from madx.contract.module_type import Delta, ModuleType, Site, Sublayer, all_tokenwise
from madx.engine.weight_deltas import Share, Term, same_state
from madx.errors import CompositionError

#: a step changes what it is given: at a sublayer `Sublayer -> change`, at the embeddings `Tensor -> Tensor`
Watch = Callable[[str, str, ModuleType], Callable]


def steps_at(site: Site, composition: Stack, modules: dict, watch: Watch | None = None) -> list[Callable]:
    """The steps of a stack at a site, in order; `watch` may wrap each instance: (site, module, instance) -> step."""
    return [step for item in composition.items for step in item_steps(site, item, modules, watch)]


def item_steps(site: Site, item: Item, modules: dict, watch: Watch | None = None) -> list[Callable]:
    """The steps of one item of a stack at a site."""
    if isinstance(item, str):
        units = modules[item].units.get(site.name, {}).values()
        return [unit if watch is None else watch(site.name, item, unit) for unit in units]
    if isinstance(item, Ties):
        _require_no_steps(item, [name for name in item.names() if modules[name].units.get(site.name)])
        return []
    children, weights = ((item.child,), (item.factor,)) if isinstance(item, Scaled) else (item.children, item.weights)
    branches = [steps_at(site, child, modules, watch) for child in children]
    if not any(branches):
        return []
    return [WeightedChange(branches, weights) if site.kind == "sublayer" else WeightedMap(branches, weights)]


def _require_no_steps(item: Ties, computing: list[str]) -> None:
    if computing:
        raise CompositionError(
            f"'{item}' elects signs of weight differences, but {', '.join(computing)} computes something during the forward "
            "pass and has none. Join such modules by average(...)."
        )


class WeightedChange:
    """One step for an average or a factor at a sublayer: the weighted sum of the changes that its branches would make."""

    def __init__(self, branches: list[list[Callable]], weights: tuple[float, ...]):
        self.branches, self.weights = branches, weights
        self.tokenwise = all(map(all_tokenwise, branches))

    def __call__(self, at: Sublayer) -> Tensor:
        total = None
        for steps, weight in zip(self.branches, self.weights):
            if not steps:  # a branch without a part here changes nothing
                continue
            branch = at.fork()
            change = weight * branch.run(steps)
            total = change if total is None else total + change
            at.final_norm = branch.final_norm
        return total


class WeightedMap:
    """One step for an average or a factor at the embeddings: x + sum of w_i * (A_i(x) - x), with A_i the branches' maps."""

    def __init__(self, branches: list[list[Callable]], weights: tuple[float, ...]):
        self.branches, self.weights = branches, weights
        rest = 1.0 - sum(weights)
        self.rest = rest if abs(rest) > 1e-9 else 0.0  # the share of x itself; none in a mean

    def __call__(self, x: Tensor) -> Tensor:
        total = self.rest * x if self.rest else None
        for steps, weight in zip(self.branches, self.weights):
            y = x
            for step in steps:
                y = step(y)
            total = weight * y if total is None else total + weight * y
        return total

    def inverse(self, y: Tensor) -> Tensor:
        raise CompositionError(
            "This composition averages or scales invertible parts; such a map has no inverse in closed form, so it cannot "
            "feed the masked-LM decoder. Use one language module, unscaled, for masked language modelling."
        )


class Terms:
    """The differences of compositions, one term after the other; what was elected once is held again only after a change."""

    def __init__(self) -> None:
        self._elected: dict[Ties, tuple] = {}  # election -> (state of its children, differences, lengths kept)

    def forget(self) -> None:
        """Let go of what was elected."""
        self._elected.clear()

    def of(self, composition: Stack, modules: dict, scale: float = 1.0) -> list[Term]:
        """The terms of a composition: a mean is a sum of terms with the weights as factors."""
        terms: list[Term] = []
        for item in composition.items:
            if isinstance(item, str):
                for component, unit in modules[item].units.get("weights", {}).items():
                    terms.append(Term((Share(item, component, unit, 1.0),), scale, unit.deltas))
            elif isinstance(item, Scaled):
                terms += self.of(item.child, modules, scale * item.factor)
            elif isinstance(item, Average):
                for child, weight in zip(item.children, item.weights):
                    terms += self.of(child, modules, scale * weight)
            else:
                terms += self._election(item, modules, scale)
        return terms

    def _election(self, item: Ties, modules: dict, scale: float) -> list[Term]:
        branches = [self.of(child, modules) for child in item.children]
        state = [s for terms in branches for term in terms for s in term.state()]
        known = self._elected.get(item)
        if known is None or not same_state(known[0], state):
            known = self._elected[item] = (state, *elect(branches))
        _, differences, kept = known
        shares = tuple(
            Share(s.module, s.component, s.unit, term.scale, abs(scale) * k)
            for terms, ks in zip(branches, kept)
            for term, k in zip(terms, ks)
            for s in term.shares
        )
        return [Term(shares, scale, lambda: differences, str(item))] if shares else []


@torch.no_grad()
def elect(branches: list[list[Term]]) -> tuple[list[Delta], list[list[float]]]:
    """TIES (Yadav et al. 2023, arXiv:2306.01708) over the branches, each the sum of its terms: at every place the sign of
    the sum of the branches' values is elected; the result is the mean over the branches whose value has that sign.

    Returns the differences, and for each term of each branch the length |values| of what of it lies at places where its
    branch won.

    >>> one, two = (Term((), s, lambda: [Delta("w", torch.tensor([0, 1]), torch.tensor([3.0, 1.0]))]) for s in (1, -0.5))
    >>> elect([[one], [two]])[0][0].values.tolist()
    [3.0, 1.0]
    """
    by_name: dict[str, list[tuple[int, int, Delta, float]]] = {}
    for b, terms in enumerate(branches):
        for t, term in enumerate(terms):
            for difference in term.deltas():
                by_name.setdefault(difference.parameter, []).append((b, t, difference, term.scale))
    result, kept = [], [[0.0] * len(terms) for terms in branches]
    for name, found in by_name.items():
        places, inverse = torch.cat([d.places() for _, _, d, _ in found]).unique(return_inverse=True)
        parts = inverse.split([len(d.indices) for _, _, d, _ in found])
        votes: dict[int, Tensor] = {}
        for (b, _, d, scale), where in zip(found, parts):
            votes.setdefault(b, d.values.new_zeros(len(places))).index_add_(0, where, scale * d.values)
        sign = sum(votes.values()).sign()
        won = {b: (v.sign() == sign) & (sign != 0) for b, v in votes.items()}
        count = sum(w.to(torch.float32) for w in won.values())
        mean = sum(v * won[b] for b, v in votes.items()) / count.clamp_min(1.0)
        for (b, t, d, scale), where in zip(found, parts):
            kept[b][t] += (scale * d.values * won[b][where]).square().sum().item()
        result.append(Delta(name, places, mean))
    return result, [[k**0.5 for k in ks] for ks in kept]
