"""From a run's journals to what is drawn: smoothed curves, and each layer's fates over time. Pure functions.

Entries come from files that may have been cut, merged or written by another version, so whatever does not have the
expected form is passed over.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from tenshot.metrics.neighbours import PRDC_PARTS

MOST_POINTS = 160
"""Points of a curve; more cannot be told apart on a page."""
MOST_DECISIONS = 120
"""Columns of a pruning map, for the same reason."""


@dataclass(frozen=True)
class Curve:
    """One number over steps."""

    name: str
    points: tuple[tuple[float, float], ...]
    """(step, mean over `window` entries around it)."""
    band: tuple[tuple[float, float, float], ...]
    """(step, 10th, 90th percentile of those entries); empty without smoothing."""
    window: int
    """Entries that a mean is taken over; 1 = as written."""


@dataclass(frozen=True)
class Layer:
    """What became of one layer's filters, decision by decision."""

    name: str
    resolution: int | None
    """Height and width of the layer's output, in pixels."""
    filters: int | None
    pruned: tuple[float | None, ...]
    """Share of the filters, one per decision; None where the decision does not name the layer."""
    preserved: tuple[float | None, ...]
    importance: tuple[float, ...]
    """One number per filter at the last decision; empty if it was not written down."""
    reach: float | None
    """At the last decision: how far the layer went from the source, 1 = as far as the moving average."""


@dataclass(frozen=True)
class History:
    """A network's decisions."""

    network: str
    steps: tuple[int, ...]
    layers: tuple[Layer, ...]


LARGEST = 1e100


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a finite number, of a size that sums of many stand."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def entries_in_order(entries: Iterable[Any]) -> list[dict[str, Any]]:
    """The entries that are objects with a step, by step."""
    kept = [entry for entry in entries if isinstance(entry, dict) and is_number(entry.get("step"))]
    return sorted(kept, key=lambda entry: entry["step"])


def curve(entries: Sequence[dict[str, Any]], name: str) -> Curve | None:
    """One of the journal's numbers, smoothed over a 25th of its entries; None if fewer than two entries have it."""
    pairs = [(entry["step"], entry[name]) for entry in entries if is_number(entry.get(name))]
    if len(pairs) < 2:
        return None
    half = len(pairs) // 50
    steps, values = zip(*pairs, strict=True)
    shown = sorted({round(i) for i in np.linspace(0, len(pairs) - 1, min(len(pairs), MOST_POINTS))})
    points, band = [], []
    for i in shown:
        near = values[max(0, i - half) : i + half + 1]
        points.append((steps[i], math.fsum(near) / len(near)))
        if half:
            low, high = np.percentile(near, (10, 90))
            band.append((steps[i], float(low), float(high)))
    return Curve(name, tuple(points), tuple(band), 2 * half + 1)


def names_in(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Every number that the entries hold, in the order of first sight."""
    return list(dict.fromkeys(name for entry in entries for name, value in entry.items() if is_number(value)))


def metric_entries(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`{"step": n, "metrics": {name: {"value": x}}}` to `{"step": n, name: x}`; a metric of parts, one name a part."""
    flat = []
    for entry in entries:
        metrics = entry.get("metrics")
        row = {"step": entry["step"]}
        for name, result in metrics.items() if isinstance(metrics, dict) else ():
            if not isinstance(result, dict):
                continue
            if is_number(result.get("value")):
                row[name] = result["value"]
            else:
                row |= {f"{name} {part}": result[part] for part in PRDC_PARTS if is_number(result.get(part))}
        flat.append(row)
    return flat


def failures(entries: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(metric, reason) of what failed at the last measurement: `{"metrics": {name: {"failed": reason}}}`."""
    metrics = entries[-1].get("metrics") if entries else None
    results = metrics.items() if isinstance(metrics, dict) else ()
    return [(name, str(told["failed"])) for name, told in results if isinstance(told, dict) and "failed" in told]


def histories(entries: Sequence[dict[str, Any]]) -> list[History]:
    """The decisions of each network, generator first as the journal has it."""
    by_network: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if isinstance(entry.get("network"), str) and isinstance(entry.get("layers"), dict) and entry["layers"]:
            by_network.setdefault(entry["network"], []).append(entry)
    return [_history(network, decisions) for network, decisions in by_network.items()]


def _history(network: str, decisions: list[dict[str, Any]]) -> History:
    shown = sorted({round(i) for i in np.linspace(0, len(decisions) - 1, min(len(decisions), MOST_DECISIONS))})
    decisions = [decisions[i] for i in shown]
    names = dict.fromkeys(name for entry in decisions for name in entry["layers"])
    layers = [_layer(name, [entry["layers"].get(name) for entry in decisions]) for name in names]
    return History(network, tuple(int(entry["step"]) for entry in decisions), tuple(layers))


def _layer(name: str, told: list[Any]) -> Layer:
    known = [values if isinstance(values, dict) else {} for values in told]
    last = next((values for values in reversed(known) if values), {})
    importance = last.get("importance")
    if not isinstance(importance, list) or not all(is_number(value) and value >= 0 for value in importance):
        importance = []
    resolution, filters, reach = last.get("resolution"), len(importance) or last.get("filters"), last.get("reach")
    return Layer(
        name,
        int(resolution) if is_number(resolution) else None,
        int(filters) if is_number(filters) else None,
        tuple(_share(values, "pruned") for values in known),
        tuple(_share(values, "preserved") for values in known),
        tuple(importance),
        float(reach) if is_number(reach) else None,
    )


def _share(values: dict[str, Any], fate: str) -> float | None:
    share = values.get(fate, 0.0) if values else None
    return min(1.0, max(0.0, float(share))) if is_number(share) else None


def pruned_filters(history: History) -> tuple[int, int] | None:
    """(pruned, all) filters of a network after its last decision; None if the journal does not say how many."""
    if any(layer.filters is None or layer.pruned[-1] is None for layer in history.layers):
        return None
    pruned = sum(round((layer.pruned[-1] or 0.0) * (layer.filters or 0)) for layer in history.layers)
    return pruned, sum(layer.filters or 0 for layer in history.layers)


def cumulative(importance: Sequence[float]) -> list[tuple[float, float]]:
    """(share of the filters, share of the layer's importance they carry together), from the least important on.

    From (0, 0) to (1, 1). Empty for a layer without importance.
    """
    total = math.fsum(importance)
    if not total > 0:
        return []
    shares = np.cumsum(sorted(importance), dtype=np.float64) / total
    return [(0.0, 0.0), *((k / len(shares), float(share)) for k, share in enumerate(shares, start=1))]


def share_with_half(importance: Sequence[float]) -> float | None:
    """The smallest share of a layer's filters that carries half of its importance; None without importance."""
    points = cumulative(importance)
    light = sum(carried <= 0.5 for _, carried in points[1:])
    return 1.0 - light / len(importance) if points else None
