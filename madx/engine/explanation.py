"""Explanations as plain data: which module acts at which site, in which order, and how much it changes."""

from dataclasses import asdict, dataclass, field
from itertools import groupby


@dataclass
class Action:
    """One instance at one site. change: |change| / |what it changed| over the whole input (None: not measured);
    calls: how often it ran in one forward pass; averaged: number of the average it stands in (None: in none)."""

    site: str
    module: str
    component: str
    what: str
    change: float | None = None
    calls: int | None = None
    averaged: int | None = None


@dataclass
class Explanation:
    """The actions of a composition in the order of the forward pass, and the modules that are inactive."""

    composition: str
    base: str
    actions: list[Action]
    decoder: str
    head: str
    inactive: list[str] = field(default_factory=list)
    measured: bool = False

    def as_dict(self) -> dict:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict) -> "Explanation":
        """An explanation from what `as_dict` gave, in this version or in 0.1.0."""
        plain = {"inactive" if k == "silent" else k: v for k, v in plain.items()}
        actions = [{"component" if k == "part" else k: v for k, v in action.items()} for action in plain["actions"]]
        return cls(**{**plain, "actions": [Action(**action) for action in actions]})

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.composition}   on {self.base}", *self.lines(), _verdict(self.inactive, self.measured)]
        )

    def lines(self) -> list[str]:
        """A line for each run of sites, the decoder and the head."""
        rows = [("site", "acts, in this order")]
        rows += [(site, "  then  ".join(texts)) for site, texts in self.by_site()]
        rows += [("decoder", self.decoder), ("head", self.head)]
        width = max(len(site) for site, _ in rows)
        return [f"  {s:<{width}}  {t}" for s, t in rows]

    def by_site(self) -> list[tuple[str, list[str]]]:
        """Sites with their actions as text; runs of layers that read the same are joined: `layer.0-3.ffn`."""
        groups: list[tuple[list[str], list[str]]] = []
        last_of_place: dict[str, int] = {}
        for site in dict.fromkeys(a.site for a in self.actions):
            texts = self._texts([a for a in self.actions if a.site == site])
            place = _place(site)
            previous = last_of_place.get(place)
            if previous is not None and groups[previous][1] == texts and _adjacent(groups[previous][0][-1], site):
                groups[previous][0].append(site)
            else:
                groups.append(([site], texts))
                last_of_place[place] = len(groups) - 1
        return [(_span(sites), texts) for sites, texts in groups]

    def _texts(self, actions: list[Action]) -> list[str]:
        """One text for each step: an instance, or all instances whose mean is taken."""
        steps = groupby(actions, key=lambda a: (a.averaged is None and a.module, a.averaged))
        return [
            f"mean of ({',  '.join(map(self._text, members))})"
            if number is not None
            else "  then  ".join(map(self._text, members))
            for (_, number), members in ((key, list(group)) for key, group in steps)
        ]

    def _text(self, action: Action) -> str:
        change = "" if action.change is None else f" [changes {_percent(action.change)}]"
        return f"{action.module}: {action.component} {action.what}{change}"


@dataclass
class RouteExplanation:
    """The explanation of each branch of a route, by number; the modules that act at once for the rows of all branches;
    passes: the branches that share a forward pass (several where differences of weights differ); the inactive modules."""

    composition: str
    base: str
    branches: list[Explanation]
    shared: list[str]
    passes: list[list[int]]
    inactive: list[str] = field(default_factory=list)
    measured: bool = False

    def as_dict(self) -> dict:
        """Plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"route of {len(self.branches)} branches   on {self.base}"]
        for number, branch in enumerate(self.branches):
            lines += [f"branch {number}: {branch.composition}", *branch.lines()]
        if len(self.branches) > 1 and self.shared:
            lines.append(f"  at once for all rows: {', '.join(self.shared)}")
        if len(self.passes) > 1:
            order = "; ".join(", ".join(map(str, numbers)) for numbers in self.passes)
            lines.append(f"  a forward pass for each difference of weights, of the branches {order}")
        return "\n".join([*lines, _verdict(self.inactive, self.measured)])


def _verdict(inactive: list[str], measured: bool) -> str:
    note = " (measured on one forward pass)" if measured else ""
    return f"  INACTIVE: {', '.join(inactive)} does not act{note}" if inactive else f"  every module named acts{note}"


def _percent(share: float) -> str:
    """A share in percent with two significant digits, so that layers of like effect read alike."""
    if share == 0:
        return "nothing"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _place(site: str) -> str:
    """A site without the number of its layer: `layer.*.attention.query`."""
    steps = site.split(".")
    return ".".join([steps[0], "*", *steps[2:]]) if steps[0] == "layer" else site


def _adjacent(site: str, later: str) -> bool:
    """Whether two sites of the same place lie in neighbouring layers."""
    return site.startswith("layer.") and int(later.split(".")[1]) == int(site.split(".")[1]) + 1


def _span(sites: list[str]) -> str:
    """The name of neighbouring sites: `layer.0-3.ffn`."""
    if len(sites) == 1:
        return sites[0]
    first, last = (site.split(".")[1] for site in (sites[0], sites[-1]))
    return _place(sites[0]).replace("*", f"{first}-{last}")
