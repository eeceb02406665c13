"""Small vector pictures as text. Shapes have class names that the page's style sheet colours, in light and dark
mode."""

import math
from collections.abc import Iterable
from html import escape as _escape_html
from typing import Literal

from madx.outside import visible

#: cividis at five even steps: even in lightness, and told apart with every common colour vision (Nuñez et al. 2018)
CIVIDIS = ((0, 34, 78), (66, 78, 108), (125, 124, 120), (187, 174, 109), (254, 232, 56))

#: a point as an outline, with its left half full, or full
Filling = Literal["hollow", "half", "full"]


def escape(text: str) -> str:
    """A text from outside for HTML, its control characters and marks of direction as escapes."""
    return _escape_html(visible(text))


class Svg:
    """A picture of `width` x `height` pixels with a title for screen readers; every text is escaped."""

    def __init__(self, width: float, height: float, title: str):
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def text(
        self, x: float, y: float, text: str, *, css: str = "", anchor: str = "start", colour: str | None = None
    ) -> None:
        """Text with its baseline at y; colour: a fill that overrides the page's."""
        style = f' style="fill:{colour}"' if colour else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}"{style}>{escape(text)}</text>'
        )

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        css: str = "",
        colour: str | None = None,
        hint: str = "",
    ) -> None:
        """A rectangle; hint: a text shown when the pointer rests on it."""
        style = f' style="fill:{colour}"' if colour else ""
        inside = f"<title>{escape(hint)}</title>" if hint else ""
        place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        self.parts.append(f'<rect {place} class="{css}"{style}>{inside}</rect>')

    def line(self, x1: float, y1: float, x2: float, y2: float, *, css: str = "") -> None:
        """A straight line."""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>')

    def path(self, points: list[tuple[float, float]], *, css: str = "") -> None:
        """An open line through points."""
        self.parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{css}"/>')

    def mark(self, x: float, y: float, *, shape: int, css: str = "", filling: Filling = "full", hint: str = "") -> None:
        """A point as circle, square, diamond or triangle, so that series differ without colour, too.

        css: the class of its colour. filling: a half point is a hollow one whose left half is full.
        """
        r, inside = 4.0, f"<title>{escape(hint)}</title>" if hint else ""
        whole, left = (
            (None, ()),
            (((-r, -r), (r, -r), (r, r), (-r, r)), ((-r, -r), (0, -r), (0, r), (-r, r))),
            (((0, -1.3 * r), (1.3 * r, 0), (0, 1.3 * r), (-1.3 * r, 0)), ((0, -1.3 * r), (0, 1.3 * r), (-1.3 * r, 0))),
            (((0, -1.2 * r), (1.2 * r, r), (-1.2 * r, r)), ((0, -1.2 * r), (0, r), (-1.2 * r, r))),
        )[shape % 4]
        style = f"{css} {'hollow' if filling == 'half' else filling}"
        if whole is None:
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" class="{style}">{inside}</circle>')
        else:
            self.parts.append(f'<polygon points="{_points(x, y, whole)}" class="{style}">{inside}</polygon>')
        if filling == "half":
            arc = f"M{x:.1f},{y - r:.1f} A{r},{r} 0 0 0 {x:.1f},{y + r:.1f} Z"
            shown = f'path d="{arc}"' if whole is None else f'polygon points="{_points(x, y, left)}"'
            self.parts.append(f'<{shown} class="{css} full half"/>')

    def __str__(self) -> str:
        return (
            f'<svg role="img" aria-label="{escape(self.title)}" width="{self.width:.0f}" height="{self.height:.0f}" '
            f'viewBox="0 0 {self.width:.0f} {self.height:.0f}">{"".join(self.parts)}</svg>'
        )


def _points(x: float, y: float, corners: Iterable[tuple[float, float]]) -> str:
    """The corners of a shape around a place, as the attribute `points` has them."""
    return " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)


def shade(share: float) -> tuple[str, str]:
    """Fill and text colour for a share (0..1) of the scale; the text, black or white, has a contrast of 4.5:1 or more.

    >>> shade(0.0), shade(1.0)
    (('#00224e', '#ffffff'), ('#fee838', '#000000'))
    """
    place = min(max(share, 0.0), 1.0) * (len(CIVIDIS) - 1)
    low = min(int(place), len(CIVIDIS) - 2)
    rgb = [round(a + (b - a) * (place - low)) for a, b in zip(CIVIDIS[low], CIVIDIS[low + 1])]
    return "#" + "".join(f"{c:02x}" for c in rgb), "#ffffff" if luminance(rgb) < 0.179 else "#000000"


def luminance(rgb: Iterable[float]) -> float:
    """Relative luminance of sRGB 0..255 (WCAG 2.1); the contrast of two is (L1 + 0.05) / (L2 + 0.05)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values from low to high, at most `count` + 1 of them.

    >>> ticks(0.3, 9.8)
    [2.5, 5.0, 7.5]
    """
    span = high - low or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough)
    first = math.ceil(low / step - 1e-9) * step
    return [round(first + i * step, 10) for i in range(int((high - first) / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Values 1, 2, 5 times powers of ten between low and high (above 0); of more than six the powers alone.

    >>> log_ticks(6, 130)
    [10.0, 20.0, 50.0, 100.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    return found if len(found) <= 6 else [10.0**p for p in powers if low <= 10.0**p <= high]
