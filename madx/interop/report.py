"""The report of an import: which tensors became which, the settings, and what was ignored and why."""

import re
from dataclasses import dataclass

_LAYER = re.compile(r"(?<=\blayer\.)\d+")


@dataclass(frozen=True)
class ImportReport:
    """Report on the content of a foreign folder: what the module holds, and what was ignored.

    Args:
        name: of the module made.
        folder: where the files lie.
        source: the name and version that the files give themselves.
        settings: one line for each component of the module.
        mapped: pairs (name of a tensor in the files, name of the module's tensor).
        ignored: pairs (what was ignored, why).
    """

    name: str
    folder: str
    source: str
    settings: tuple[str, ...]
    mapped: tuple[tuple[str, str], ...]
    ignored: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [f"Imported {self.source} from {self.folder} as the module {self.name!r}."]
        lines += ["  settings", *(f"    {line}" for line in self.settings)]
        lines += [f"  tensors ({len(self.mapped)})", *(f"    {a} -> {b}" for a, b in collapse(self.mapped))]
        if self.ignored:
            lines += ["  ignored", *(f"    {what}: {why}" for what, why in collapse(self.ignored))]
        return "\n".join(lines)


def collapse(pairs: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """Join the pairs of names that differ only in the number of the layer.

    >>> collapse((("layer.0.up", "layer.0.u"), ("layer.1.up", "layer.1.u"), ("layer.3.up", "layer.3.u"), ("F", "f")))
    [('layer.{0-1,3}.up', 'layer.{0-1,3}.u'), ('F', 'f')]
    """
    layers: dict[tuple[str, str], list[int]] = {}
    for theirs, ours in pairs:
        found = _LAYER.search(theirs) or _LAYER.search(ours)
        key = (_LAYER.sub("\0", theirs, count=1), _LAYER.sub("\0", ours, count=1))
        layers.setdefault(key, []).extend([int(found.group())] if found else [])
    return [
        (theirs.replace("\0", f"{{{ranges(n)}}}"), ours.replace("\0", f"{{{ranges(n)}}}"))
        for (theirs, ours), n in layers.items()
    ]


def ranges(numbers: list[int]) -> str:
    """Whole numbers as ranges.

    >>> ranges([0, 1, 2, 4]), ranges([])
    ('0-2,4', 'none')
    """
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "none"
