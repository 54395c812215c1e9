"""The report's charts and maps: which numbers of a run are drawn, together with what, under which title."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tenshot.report.charts import Line, Svg, fate_bar, line_chart, percent, share_row, swatch
from tenshot.report.journal import Curve, History, Layer, cumulative, curve, names_in, share_with_half

_LOSSES = (
    ("Loss of D and of G", {"d": "D", "g": "G"}),
    ("Verdict of D, positive for real", {"d_real": "shots", "d_fake": "samples"}),
    ("R1 penalty", {"r1": "R1"}),
    ("Path length", {"path": "path length"}),
)
_NOT_LOSSES = {"step", "seconds", "pruned", "skipped", *(name for _, names in _LOSSES for name in names)}
_RAMP = 9
"""Colours from coarse layers to fine ones: classes r0 to r8 of the style sheet."""
_STEPS_OF_CURVE = 128


@dataclass(frozen=True)
class Chart:
    """A drawing with its title and legend."""

    title: str
    drawing: Svg
    keys: tuple[tuple[Svg, str], ...] = ()
    """(swatch, label); none for a single line."""


@dataclass(frozen=True)
class LayerRow:
    """A layer on the pruning map and in the table."""

    name: str
    resolution: int | None
    filters: int | None
    pruned: float | None
    preserved: float | None
    half: float | None
    """Share of the filters that carries half of the importance."""
    reach: float | None
    history: Svg
    now: Svg

    @property
    def tuned(self) -> float | None:
        """The rest."""
        if self.pruned is None or self.preserved is None:
            return None
        return max(0.0, 1.0 - self.pruned - self.preserved)


@dataclass(frozen=True)
class FateMap:
    """Fates of one network's layers over time."""

    network: str
    layers: tuple[LayerRow, ...]
    most: dict[str, float]
    """Fate to its largest share, which has the deepest colour; pruned, preserved or both, whichever there was."""
    first: int
    """Step of the first decision."""
    last: int
    """Step at the right edge."""
    has_reach: bool
    """Whether the journal says how far the layers go from the source."""
    importance: tuple[Chart, ...]
    """The whole curves, and where there are pruned filters the end where these lie."""


def over_steps(title: str, curves: Sequence[tuple[str, Curve, str]]) -> Chart:
    """curves: (label, curve, style); bands are drawn for one or two, more would hide each other."""
    lines = [Line(label, c.points, style, c.band if len(curves) <= 2 else ()) for label, c, style in curves]
    keys = tuple((swatch(style), label) for label, _, style in curves) if len(curves) > 1 else ()
    return Chart(title, line_chart(f"{title}, over steps", lines), keys)


def losses(stats: Sequence[dict[str, Any]]) -> list[Chart]:
    """Charts of everything that the journal `stats` holds over steps; names it does not know get one each."""
    wanted = [*_LOSSES, *((name, {name: name}) for name in names_in(stats) if name not in _NOT_LOSSES)]
    charts = []
    for title, names in wanted:
        found = [(label, curve(stats, name), f"s{i}") for i, (name, label) in enumerate(names.items())]
        if curves := [(label, c, style) for label, c, style in found if c]:
            charts.append(over_steps(title, curves))
    return charts


def metrics(entries: Sequence[dict[str, Any]]) -> Iterator[Chart]:
    """One chart for each metric that was measured at two steps or more."""
    for name in names_in(entries):
        if name != "step" and (found := curve(entries, name)):
            yield over_steps(name, [(name, found, "s0")])


def fate_map(history: History, steps: int) -> FateMap:
    """A network's map; steps: of the whole run."""
    pruned = max(share or 0.0 for layer in history.layers for share in layer.pruned)
    preserved = max(share or 0.0 for layer in history.layers for share in layer.preserved)
    most = {fate: share for fate, share in (("pruned", pruned), ("preserved", preserved)) if share} or {"pruned": 0.0}
    last = max(steps, history.steps[-1])
    rows = tuple(_layer_row(layer, history.steps, most, last) for layer in history.layers)
    has_reach = any(row.reach is not None for row in rows)
    return FateMap(history.network, rows, most, history.steps[0], last, has_reach, importance_curves(history))


def _layer_row(layer: Layer, steps: Sequence[int], most: dict[str, float], last: int) -> LayerRow:
    bands = [(fate, layer.pruned if fate == "pruned" else layer.preserved, full) for fate, full in most.items()]
    pruned, preserved = layer.pruned[-1], layer.preserved[-1]
    return LayerRow(
        name=layer.name.replace(".conv.modulation", " style"),
        resolution=layer.resolution,
        filters=layer.filters,
        pruned=pruned,
        preserved=preserved,
        half=share_with_half(layer.importance),
        reach=layer.reach,
        history=share_row(steps, bands, last),
        now=fate_bar(pruned or 0.0, preserved or 0.0),
    )


def importance_curves(history: History) -> tuple[Chart, ...]:
    """Every layer's cumulative importance at the last decision; then its beginning alone, with a dot at the last
    pruned filter of each layer. Nothing for a network whose journal has no importances.
    """
    layers = [(layer, points) for layer in history.layers if (points := cumulative(layer.importance))]
    if not layers:
        return ()
    sizes = sorted({layer.resolution or 0 for layer, _ in layers})
    styles = {size: f"r{round(i * (_RAMP - 1) / max(1, len(sizes) - 1))}" for i, size in enumerate(sizes)}
    keys = tuple((swatch(style), f"{size} px" if size else "size unknown") for size, style in styles.items())
    charts = [("all filters", (1.0, 1.0), False)]
    ends = [points[round((layer.pruned[-1] or 0.0) * len(layer.importance))] for layer, points in layers]
    corner = max(x for x, _ in ends), max(y for _, y in ends)
    if min(corner) > 0:
        charts.append(("the least important", (min(1.0, 1.5 * corner[0]), min(1.0, 2 * corner[1])), True))
    drawn = []
    for what, corner, is_marked in charts:
        lines = []
        for (layer, points), end in zip(layers, ends, strict=True):
            thin = points if is_marked else [*points[: -1 : max(1, len(points) // _STEPS_OF_CURVE)], points[-1]]
            mark = end if is_marked and layer.pruned[-1] else None
            lines.append(Line(layer.name, up_to(corner, thin), styles[layer.resolution or 0], mark=mark))
        drawing = line_chart(
            f"Cumulative importance of the {history.network}'s filters layer by layer, {what}",
            lines,
            x_label="filters, least important first",
            diagonal=True,
            corner=corner,
            as_text=(percent, percent),
        )
        drawn.append(Chart(f"{history.network.capitalize()}, {what}", drawing, keys))
    return tuple(drawn)


def up_to(corner: tuple[float, float], points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A rising polyline from (0, 0), cut where it leaves the rectangle between (0, 0) and `corner`."""
    kept = [points[0]]
    for (x0, y0), (x1, y1) in pairwise(points):
        room = [(most - a) / (b - a) for most, a, b in ((corner[0], x0, x1), (corner[1], y0, y1)) if b > most]
        if room:
            share = min(room)
            return [*kept, (x0 + share * (x1 - x0), y0 + share * (y1 - y0))]
        kept.append((x1, y1))
    return kept
