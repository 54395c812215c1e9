"""Charts as inline SVG: pure functions from numbers to markup. Colours and fonts come from the page's style sheet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 440, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 12, 40
_ROW = 20


class Svg(str):
    """Markup whose values have been escaped already; templates take it as it is."""

    def __html__(self) -> str:
        return self


@dataclass(frozen=True)
class Line:
    """A polyline, and perhaps the band it runs in."""

    label: str
    points: Sequence[tuple[float, float]]
    style: str = "s0"
    """Class of the style sheet that gives its colour."""
    band: Sequence[tuple[float, float, float]] = ()
    """(x, lower, upper)."""
    mark: tuple[float, float] | None = None
    """A point of it to stress."""


def tag(name: str, *children: str, text: str = "", **attributes: object) -> Svg:
    """An element. Attribute names lose a final underscore and write others as hyphens; None leaves one out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = escape(text) + "".join(children)
    return Svg(f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>")


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart, in at most `most` intervals."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(factor * power for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= most + 1e-9)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def plain(value: float) -> str:
    """A number for an axis: 0, 250, 0.05, 12,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 10):.4g}"


def percent(share: float) -> str:
    """A share for an axis: 5%, 0.5%."""
    return f"{round(100 * share, 6):.3g}%"


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _with_room(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str = "step",
    diagonal: bool = False,
    corner: tuple[float, float] | None = None,
    as_text: tuple[Callable[[float], str], Callable[[float], str]] = (plain, plain),
) -> Svg:
    """Lines over common axes, `WIDTH` by `HEIGHT` units, scaled by the page.

    title: read aloud in place of the picture. The horizontal axis begins at 0; so does the vertical one if a corner is
    given, up to which both then reach. diagonal: a thin line y = x. as_text: how the horizontal and the vertical axis
    write their numbers.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [y for line in lines for _, *both in line.band for y in both]
    low, high = (0.0, corner[1]) if corner else _with_room(min(ys), max(ys))
    x = _Axis(0.0, corner[0] if corner else max(*xs, 1e-9), _LEFT, WIDTH - _RIGHT)
    y = _Axis(low, high, HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(x, y, as_text), tag("text", text=x_label, class_="label", x=WIDTH - _RIGHT, y=HEIGHT - 6)]
    if diagonal:
        end = min(x.high, y.high)
        parts.append(_polyline([(0.0, 0.0), (end, end)], x, y, "even"))
    for line in lines:
        if line.band:
            outline = [(a, up) for a, _, up in line.band] + [(a, low) for a, low, _ in reversed(line.band)]
            parts.append(tag("polygon", points=_path(outline, x, y), class_=f"band {line.style}"))
    for line in lines:
        parts.append(_polyline(line.points, x, y, f"line {line.style}", tag("title", text=line.label)))
        if line.mark:
            at: dict[str, Any] = {"cx": x.place(line.mark[0]), "cy": y.place(line.mark[1])}
            parts.append(tag("circle", r=3, class_=f"mark {line.style}", **at))
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title, class_="chart")


def _grid(x: _Axis, y: _Axis, as_text: tuple[Callable[[float], str], Callable[[float], str]]) -> list[Svg]:
    parts = []
    for value in ticks(y.low, y.high):
        at = y.place(value)
        parts.append(tag("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=at, y2=at))
        parts.append(tag("text", text=as_text[1](value), class_="y tick", x=_LEFT - 8, y=at + 4))
    for value in ticks(x.low, x.high):
        parts.append(tag("text", text=as_text[0](value), class_="x tick", x=x.place(value), y=HEIGHT - _BOTTOM + 18))
    base = HEIGHT - _BOTTOM
    return [*parts, tag("line", class_="axis", x1=_LEFT, x2=WIDTH - _RIGHT, y1=base, y2=base)]


def _path(points: Sequence[tuple[float, float]], x: _Axis, y: _Axis) -> str:
    return " ".join(f"{_short(x.place(a))},{_short(y.place(b))}" for a, b in points)


def _polyline(points: Sequence[tuple[float, float]], x: _Axis, y: _Axis, style: str, *children: str) -> Svg:
    return tag("polyline", *children, points=_path(points, x, y), class_=style)


def share_row(steps: Sequence[int], bands: Sequence[tuple[str, Sequence[float | None], float]], last: int) -> Svg:
    """One layer of a pruning map: time to the right, from 0 to step `last`; the deeper the colour the larger the share.

    steps: of the decisions; each holds until the next one. bands: (fate, its share per decision, the share of full
    colour), drawn one below the other; a fate is also the class that gives the colour.
    """
    width, height = 1000, _ROW / len(bands)
    last = max(last, steps[-1] + 1)
    cells = []
    for band, (fate, shares, most) in enumerate(bands):
        for first, past, share in _spans(shares):
            if share is None:
                continue
            begin, end = steps[first], steps[past] if past < len(steps) else last
            told = f"from step {begin}: {percent(share)} {fate}"
            place: dict[str, Any] = {
                "x": width * begin / last,
                "width": width * (end - begin) / last,
                "y": band * height,
            }
            depth = 0.15 + 0.85 * share / most if share > 0 else 0.0
            cell = tag("title", text=told)
            cells.append(tag("rect", cell, height=height, fill_opacity=min(1.0, depth), class_=fate, **place))
    paper = tag("rect", width=width, height=_ROW, class_="empty")
    known = tag("rect", x=width * steps[0] / last, width=width - width * steps[0] / last, height=_ROW, class_="tuned")
    box = {"viewBox": f"0 0 {width} {_ROW}", "preserveAspectRatio": "none"}
    return tag("svg", paper, known, *cells, class_="shares", aria_hidden="true", **box)


def _spans(shares: Sequence[float | None]) -> list[tuple[int, int, float | None]]:
    """(first, one past the last, value) of every run of equal values."""
    edges = [i for i in range(len(shares)) if i == 0 or shares[i] != shares[i - 1]]
    return [(a, b, shares[a]) for a, b in zip(edges, [*edges[1:], len(shares)], strict=True)]


def fate_bar(pruned: float, preserved: float) -> Svg:
    """All filters of a layer as one bar, from the left: pruned, tuned, preserved."""
    tuned = 1 - pruned - preserved
    parts = (("pruned", 0.0, pruned), ("tuned", pruned, tuned), ("preserved", 1 - preserved, preserved))
    shown = [tag("rect", x=100 * x, width=100 * w, height=_ROW, class_=fate) for fate, x, w in parts if w > 0]
    box = {"viewBox": f"0 0 100 {_ROW}", "preserveAspectRatio": "none"}
    return tag("svg", *shown, class_="fates", aria_hidden="true", **box)


def swatch(style: str) -> Svg:
    """A legend's short piece of line."""
    line = tag("line", x1=0, x2=18, y1=5, y2=5, class_=f"line {style}")
    return tag("svg", line, viewBox="0 0 18 10", class_="swatch", aria_hidden="true")
