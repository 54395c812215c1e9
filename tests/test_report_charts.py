"""From journals to SVG: the numbers in a drawing are the numbers in the journal."""

import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenshot.report import charts, drawings
from tenshot.report.journal import (
    MOST_POINTS,
    cumulative,
    curve,
    entries_in_order,
    failures,
    histories,
    metric_entries,
    pruned_filters,
    share_with_half,
)


def parsed(markup):
    return ElementTree.fromstring(markup)


def of_class(root, tag, name):
    return [e for e in root.iter(tag) if name in e.get("class", "").split()]


def number(text):
    return float(text.replace(",", "").rstrip("%")) / (100 if text.endswith("%") else 1)


def ruler(root, axis, place):
    """Position to value, from the first and the last tick of an axis: an independent reading of the drawing."""
    marks = [(float(e.get(place)), number(e.text)) for e in of_class(root, "text", axis) if "tick" in e.get("class")]
    (p0, v0), (p1, v1) = marks[0], marks[-1]
    return lambda p: v0 + (p - p0) / (p1 - p0) * (v1 - v0)


def read_lines(markup):
    """Every line of a chart, in the units of its axes."""
    root = parsed(markup)
    x, y = ruler(root, "x", "x"), ruler(root, "y", "y")
    shift = float(of_class(root, "text", "y")[0].get("y")) - float(of_class(root, "line", "grid")[0].get("y1"))
    pairs = [
        [map(float, pair.split(",")) for pair in e.get("points").split()] for e in of_class(root, "polyline", "line")
    ]
    return [[(x(a), y(b + shift)) for a, b in line] for line in pairs]


def test_a_chart_read_with_its_own_axes_gives_back_the_journal():
    stats = [{"step": s, "d": 0.3 + 0.01 * s, "g": 2 - 0.001 * s * s} for s in range(1, 41)]
    (chart,) = drawings.losses(stats)
    d, g = read_lines(chart.drawing)
    for line, name in ((d, "d"), (g, "g")):
        assert [x for x, _ in line] == pytest.approx([e["step"] for e in stats], abs=0.01)
        assert [y for _, y in line] == pytest.approx([e[name] for e in stats], abs=0.005)
    assert [label for _, label in chart.keys] == ["D", "G"]


def test_a_curve_is_the_mean_of_a_25th_of_the_values_around_each_step():
    stats = [{"step": s, "d": math.sin(s) * s} for s in range(1, 151)]
    found = curve(stats, "d")
    assert found.window == 7 and len(found.points) == 150
    for i in (0, 2, 70, 148, 149):
        near = [stats[j]["d"] for j in range(i - 3, i + 4) if 0 <= j < 150]
        assert found.points[i] == pytest.approx((i + 1, sum(near) / len(near)))
        _, low, high = found.band[i]
        assert min(near) <= low < found.points[i][1] < high <= max(near)


def test_a_long_journal_is_thinned_and_keeps_its_ends():
    found = curve([{"step": s, "d": float(s)} for s in range(1, 10_001)], "d")
    assert len(found.points) == MOST_POINTS
    assert found.points[0][0] == 1 and found.points[-1][0] == 10_000


def test_values_that_are_no_numbers_are_passed_over():
    entries = entries_in_order(
        ["text", None, {"step": 3, "d": 1.0}, {"d": 5.0}, {"step": 1, "d": 2.0}, {"step": 2, "d": float("nan")}]
    )
    assert [entry["step"] for entry in entries] == [1, 2, 3]
    assert curve(entries, "d").points == ((1, 2.0), (3, 1.0))
    assert curve(entries, "g") is None
    assert curve(entries[:2], "d") is None, "one value is no curve"


def test_a_name_that_the_report_does_not_know_gets_a_chart_of_its_own():
    stats = [{"step": s, "d": 1.0 * s, "distance": 2.0, "seconds": 0.1, "pruned": 0.0} for s in (1, 2, 3)]
    assert [chart.title for chart in drawings.losses(stats)] == ["Loss of D and of G", "distance"]


def test_text_in_a_chart_is_escaped():
    (chart,) = drawings.losses([{"step": s, '<script>"&': 1.0 * s} for s in (1, 2)])
    assert "<script" not in chart.drawing
    assert parsed(chart.drawing).get("aria-label").startswith('<script>"&')


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_evenly_apart_and_within_the_axis(low, width):
    found = charts.ticks(low, low + width)
    assert 1 <= len(found) <= 6
    slack = 1e-6 * width
    assert all(low - slack <= tick <= low + width + slack for tick in found)
    if len(found) > 1:
        step = found[1] - found[0]
        assert all(b - a == pytest.approx(step, rel=1e-6) for a, b in pairwise(found))
        assert min(abs(step / 10 ** math.floor(math.log10(step * 1.0001)) - k) for k in (1, 2, 5)) < 1e-3


def test_a_constant_gets_an_axis_around_it():
    ((line),) = read_lines(drawings.losses([{"step": s, "r1": 0.25} for s in (0, 10, 20)])[0].drawing)
    assert [y for _, y in line] == pytest.approx([0.25] * 3, abs=1e-3)


# Decisions


def decision(step, network="generator", **layers):
    return {"step": step, "network": network, "layers": layers}


def layer(pruned, preserved=0.0, importance=(1.0, 2.0, 3.0, 4.0), resolution=8):
    return {"resolution": resolution, "pruned": pruned, "preserved": preserved, "importance": list(importance)}


def test_a_map_shows_every_decision_at_its_step_in_the_colour_of_its_share():
    (history,) = histories([decision(20, a=layer(0.0)), decision(40, a=layer(0.25)), decision(60, a=layer(0.5))])
    found = drawings.fate_map(history, 100)
    root = parsed(found.layers[0].history)
    cells = of_class(root, "rect", "pruned")
    assert [(float(c.get("x")) / 10, float(c.get("width")) / 10) for c in cells] == [(20, 20), (40, 20), (60, 40)]
    depths = [float(c.get("fill-opacity")) for c in cells]
    assert depths[0] == 0 < depths[1] < depths[2] == 1
    assert [c.find("title").text for c in cells] == [
        "from step 20: 0% pruned",
        "from step 40: 25% pruned",
        "from step 60: 50% pruned",
    ]
    assert found.most == {"pruned": 0.5} and (found.first, found.last) == (20, 100)


def test_decisions_that_change_nothing_share_a_cell():
    (history,) = histories([decision(10 * k, a=layer(0.1 if k < 5 else 0.2)) for k in range(1, 10)])
    cells = of_class(parsed(drawings.fate_map(history, 90).layers[0].history), "rect", "pruned")
    assert [float(c.get("x")) / 1000 * 91 for c in cells] == pytest.approx([10, 50], abs=0.1)


def test_the_bar_of_a_layer_is_cut_by_its_fates():
    (history,) = histories([decision(5, a=layer(0.125, 0.5))])
    found = drawings.fate_map(history, 10)
    bar = {e.get("class"): (float(e.get("x")), float(e.get("width"))) for e in parsed(found.layers[0].now).iter("rect")}
    assert bar == {"pruned": (0, 12.5), "tuned": (12.5, 37.5), "preserved": (50, 50)}
    assert found.layers[0].tuned == 0.375
    bands = [e for e in parsed(found.layers[0].history).iter("rect") if e.get("class") in ("pruned", "preserved")]
    assert [(e.get("class"), float(e.get("y"))) for e in bands] == [("pruned", 0), ("preserved", 10)]


def test_a_network_that_only_preserves_has_no_band_of_pruned_filters():
    (history,) = histories([decision(5, a=layer(0.0, 0.5))])
    assert drawings.fate_map(history, 10).most == {"preserved": 0.5}


def test_networks_are_told_apart_and_entries_of_another_form_passed_over():
    entries = [
        decision(1, a=layer(0.5), b={"pruned": 0.25}),
        decision(1, "discriminator", c=layer(0.0)),
        {"step": 2, "network": "generator", "skipped": "not finite"},
        {"step": 3, "network": "generator", "layers": {}},
        {"step": 4, "network": 7, "layers": {"a": {}}},
        decision(5, a="nonsense", b={"pruned": "much", "importance": ["x"]}),
    ]
    generator, discriminator = histories(entries)
    assert (generator.network, discriminator.network) == ("generator", "discriminator")
    a, b = generator.layers
    assert (a.pruned, a.filters) == ((0.5, None), 4) and (b.pruned, b.filters, b.importance) == ((0.25, None), None, ())
    assert pruned_filters(generator) is None and pruned_filters(discriminator) == (0, 4)


def test_pruned_filters_are_counted_over_layers_of_different_width():
    (history,) = histories([decision(1, a=layer(0.25), b=layer(0.5, importance=[1.0] * 10))])
    assert pruned_filters(history) == (1 + 5, 14)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda values: sum(values) > 1e-3))
def test_cumulative_importance_rises_from_0_to_1_and_bends_upwards(values):
    points = cumulative(values)
    assert points[0] == (0.0, 0.0) and points[-1] == pytest.approx((1.0, 1.0))
    steps = [b - a for (_, a), (_, b) in pairwise(points)]
    assert all(b >= a - 1e-9 for a, b in pairwise(steps)) and steps[0] >= 0


def test_cumulative_importance_by_hand():
    assert cumulative([3.0, 1.0, 4.0]) == [(0, 0), (1 / 3, 1 / 8), (2 / 3, 4 / 8), (1, 1)]
    assert cumulative([0.0, 0.0]) == [] == cumulative([])
    assert share_with_half([3.0, 1.0, 4.0]) == pytest.approx(1 / 3)
    assert share_with_half([1.0, 1.0, 1.0, 97.0]) == 0.25
    assert share_with_half([]) is None


def test_an_importance_chart_read_with_its_axes_gives_back_the_layers():
    importance = [0.5, 2.0, 3.0, 4.5]
    (history,) = histories([decision(9, a=layer(0.25, importance=importance), b=layer(0.0, resolution=4))])
    whole, beginning = drawings.importance_curves(history)
    a, b = read_lines(whole.drawing)
    assert [x for x, _ in a] == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=1e-3)
    assert [y for _, y in a] == pytest.approx([0, 0.05, 0.25, 0.55, 1], abs=1e-3)
    assert [y for _, y in b] == pytest.approx([0, 0.1, 0.3, 0.6, 1], abs=1e-3)
    assert [label for _, label in whole.keys] == ["4 px", "8 px"]
    root = parsed(beginning.drawing)
    (dot,) = of_class(root, "circle", "mark")
    at = re.search(r"([\d.]+),([\d.]+) ([\d.]+),([\d.]+)", of_class(root, "polyline", "line")[0].get("points"))
    assert (dot.get("cx"), dot.get("cy")) == (at[3], at[4]), "the dot is the first filter, which is pruned"


def test_a_line_is_cut_where_it_leaves_the_corner():
    line = [(0.0, 0.0), (1.0, 1.0), (2.0, 3.0), (3.0, 9.0)]
    assert drawings.up_to((9.0, 9.0), line) == line
    assert drawings.up_to((9.0, 2.0), line) == [(0, 0), (1, 1), (1.5, 2)]
    assert drawings.up_to((2.5, 9.0), line) == [(0, 0), (1, 1), (2, 3), (2.5, 6)]


# Metrics


def test_metrics_are_flattened_by_value_and_by_part():
    entries = [
        {"step": 0, "metrics": {"fd": {"value": 9.0, "n": 4}, "prdc": {"precision": 0.5, "recall": 0.25, "n": 4}}},
        {"step": 5, "metrics": {"fd": {"value": 7.0}, "fid": {"failed": "no weights"}, "odd": 3}},
        {"step": 6},
    ]
    flat = metric_entries(entries)
    assert flat == [
        {"step": 0, "fd": 9.0, "prdc precision": 0.5, "prdc recall": 0.25},
        {"step": 5, "fd": 7.0},
        {"step": 6},
    ]
    assert [chart.title for chart in drawings.metrics(flat)] == ["fd"]
    ((line),) = read_lines(next(drawings.metrics(flat)).drawing)
    assert line == pytest.approx([(0, 9), (5, 7)], abs=0.02)
    assert failures(entries[:2]) == [("fid", "no weights")] and failures([]) == []
