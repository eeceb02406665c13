"""Explanations as plain data: the modules that act at each site, their order, and the size of their changes.

`madx.engine.explain` makes explanations; results and reports store them and show them. Nothing here needs a model.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

#: keys in records written by madx 0.1.0 -> their names today
_OLD_KEYS = {"silent": "inactive", "part": "component"}


@dataclass
class Action:
    """One component of a module at one site.

    what: the component in a few words. change: the largest |change| / |value that it changed| over the calls, 0 or
    more; None when nothing was measured. calls: how often the component ran in one forward pass, None when nothing was
    measured. averaged: the number of the average that the module stands in, None outside of an average. weights: of a
    fusion module, the mean weight over all tokens of each child, by its text; None for any other, or not measured.
    """

    site: str
    module: str
    component: str
    what: str
    change: float | None = None
    calls: int | None = None
    averaged: int | None = None
    weights: dict[str, float] | None = None


@dataclass
class Explanation:
    """The actions of a stack in the order of the forward pass.

    composition, base: as text. decoder: what is undone before the MLM decoder. head: the module that predicts, with the
    number of its labels. inactive: the modules of the composition that change nothing. measured: whether the shares of
    change come from a forward pass; without one, `inactive` holds the modules that stand at no site.
    """

    composition: str
    base: str
    actions: list[Action]
    decoder: str
    head: str
    inactive: list[str] = field(default_factory=list)
    measured: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The explanation as dicts and lists, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Explanation":
        """Read what `as_dict` gave, in this version or in 0.1.0. Raises KeyError or TypeError on anything else."""
        plain = _renamed(plain)
        return cls(**{**plain, "actions": [Action(**_renamed(action)) for action in plain["actions"]]})

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.composition}   on {self.base}", *self.lines(), _verdict(self.inactive, self.measured)]
        )

    def lines(self) -> list[str]:
        """A line for each run of equal sites, then the decoder and the head."""
        rows = [("site", "acts, in this order")]
        rows += [(site, "  then  ".join(texts)) for site, texts in self.by_site()]
        rows += [("decoder", self.decoder), ("head", self.head)]
        width = max(len(site) for site, _ in rows)
        return [f"  {s:<{width}}  {t}" for s, t in rows]

    def by_site(self) -> list[tuple[str, list[str]]]:
        """Sites with their actions as text; neighbouring layers that read the same are joined, `layer.0-3.ffn`."""
        groups: list[tuple[list[str], list[str]]] = []
        last_of_place: dict[str, int] = {}
        for site in dict.fromkeys(a.site for a in self.actions):
            texts = _steps([a for a in self.actions if a.site == site])
            layer, place = _layer_and_place(site)
            previous = last_of_place.get(place)
            if previous is not None and layer is not None and groups[previous][1] == texts:
                before, _ = _layer_and_place(groups[previous][0][-1])
                if before == layer - 1:
                    groups[previous][0].append(site)
                    continue
            groups.append(([site], texts))
            if layer is not None:
                last_of_place[place] = len(groups) - 1
        return [(_span(sites), texts) for sites, texts in groups]


@dataclass
class RouteExplanation:
    """The explanation of each branch of a route, by its number.

    shared: modules that act in one pass for the rows of all branches. passes: the numbers of the branches that share a
    forward pass; there are several passes where weight deltas differ. inactive, measured: as in `Explanation`.
    """

    composition: str
    base: str
    branches: list[Explanation]
    shared: list[str]
    passes: list[list[int]]
    inactive: list[str] = field(default_factory=list)
    measured: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The explanation as dicts and lists, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "RouteExplanation":
        """Read what `as_dict` gave, in this version or in 0.1.0. Raises KeyError or TypeError on anything else."""
        plain = _renamed(plain)
        return cls(**{**plain, "branches": [Explanation.from_dict(branch) for branch in plain["branches"]]})

    def __str__(self) -> str:
        lines = [f"route of {len(self.branches)} branches   on {self.base}"]
        for number, branch in enumerate(self.branches):
            lines += [f"branch {number}: {branch.composition}", *branch.lines()]
        if len(self.branches) > 1 and self.shared:
            lines.append(f"  at once for all rows: {', '.join(self.shared)}")
        if len(self.passes) > 1:
            order = "; ".join(", ".join(map(str, numbers)) for numbers in self.passes)
            lines.append(f"  the weight deltas differ, so these branches run in separate forward passes: {order}")
        return "\n".join([*lines, _verdict(self.inactive, self.measured)])


def _renamed(plain: dict[str, Any]) -> dict[str, Any]:
    """A record under today's keys."""
    return {_OLD_KEYS.get(key, key): value for key, value in plain.items()}


def _steps(actions: Sequence[Action]) -> list[str]:
    """One text for each step of a site: a module's components, or all modules whose mean is taken."""
    texts = []
    for (_, number), group in groupby(actions, key=lambda a: (a.averaged is None and a.module, a.averaged)):
        members = [_text(action) for action in group]
        texts.append(f"mean of ({',  '.join(members)})" if number is not None else "  then  ".join(members))
    return texts


def _text(action: Action) -> str:
    change = "" if action.change is None else f" [changes {_percent(action.change)}]"
    shares = ", ".join(f"{child} {_percent(weight)}" for child, weight in (action.weights or {}).items())
    return f"{action.module}: {action.component} {action.what}{f' [weights {shares}]' if shares else ''}{change}"


def _verdict(inactive: Sequence[str], measured: bool) -> str:
    note = " (measured on one forward pass)" if measured else ""
    if not inactive:
        return f"  every module named acts{note}"
    return f"  INACTIVE: {', '.join(inactive)} {'does' if len(inactive) == 1 else 'do'} not act{note}"


def _percent(share: float) -> str:
    """A share in percent with two significant digits, so that layers of similar effect read alike."""
    if share == 0:
        return "nothing"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _layer_and_place(site: str) -> tuple[int | None, str]:
    """`layer.2.ffn.up` -> (2, "ffn.up"), `layer.2` -> (2, ""); a site outside of the layers has no number."""
    first, *rest = site.split(".")
    return (int(rest[0]), ".".join(rest[1:])) if first == "layer" and rest else (None, site)


def _span(sites: Sequence[str]) -> str:
    """`layer.0-3.ffn` for the sites of neighbouring layers."""
    if len(sites) == 1:
        return sites[0]
    (first, place), (last, _) = _layer_and_place(sites[0]), _layer_and_place(sites[-1])
    return f"layer.{first}-{last}" + (f".{place}" if place else "")
