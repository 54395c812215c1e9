"""benchmarks/quality/figures.py: what it draws is what the results say."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
figures = importlib.import_module("benchmarks.quality.figures")


def result(seed, *, network="generator", steps=(100, 300), looks=(), **layers):
    """What a result file holds, as far as the figures read it."""
    pruned = {"steps": list(steps), "layers": {name.replace("_", "."): list(row) for name, row in layers.items()}}
    other = {"generator": "discriminator", "discriminator": "generator"}[network]
    return {
        "seed": seed,
        "config": {"steps": 600},
        "pruned": {network: pruned, other: {"steps": list(steps), "layers": {}}},
        "looks": list(looks),
    }


def look(step, distance, variety=1.0):
    return {"step": step, "fd_efflite_500": distance, "intra_dist_200": variety}


class TestShares:
    def test_are_the_mean_over_seeds_layer_by_layer_and_decision_by_decision(self):
        values = [result(0, conv1=(0.0, 0.25), convs_0=(0.5, 0.5)), result(1, conv1=(0.125, 0.5), convs_0=(0.5, 1.0))]
        assert figures.shares_of(values, "generator") == (
            [100, 300],
            {"conv1": [0.0625, 0.375], "convs.0": [0.5, 0.75]},
        )

    def test_of_other_steps_are_not_averaged(self):
        with pytest.raises(ValueError, match="generator at different steps"):
            figures.shares_of([result(0, conv1=(0, 0)), result(1, steps=(100, 200), conv1=(0, 0))], "generator")

    def test_hold_from_their_decision_to_the_next_and_the_last_to_the_end(self):
        assert figures.spans([100, 200, 300], [0.0, 0.1, 0.2], 600) == [(200, 300, 0.1), (300, 600, 0.2)]

    def test_say_of_which_seeds_they_are(self):
        one, two = [result(4)], [result(4), result(5)]
        assert figures.over_seeds({("dap", "a"): one, ("rick", "a"): one}) == "seed 4"
        assert figures.over_seeds({("dap", "a"): two, ("rick", "a"): two}) == "mean over 2 seeds"
        assert figures.over_seeds({("dap", "a"): two, ("rick", "a"): one}) == "mean over 1 to 2 seeds"

    @pytest.mark.parametrize("network", ["generator", "discriminator"])
    def test_every_layer_that_a_result_names_has_a_row_at_its_own_height(self, network):
        import tenshot

        sizes = {g.name: g.resolution for g in getattr(tenshot.load("faces64"), network).filter_groups()}
        rows = dict(layer for part in figures.PARTS[network] for layer in part.layers)
        assert rows == {name: sizes[name] for name in rows}
        for values in (values for each in committed("table", ("dap", "rick")).values() for values in each):
            assert values["pruned"][network]["layers"].keys() <= rows.keys()


class TestCurves:
    def test_are_means_where_every_seed_was_looked_at(self):
        values = [
            result(0, looks=[look(100, 10.0), look(200, 8.0)]),
            result(1, looks=[look(100, 20.0), look(200, 6.0), look(300, 1.0)]),
        ]
        steps, mean, own = figures.curve_of(values, "fd_efflite_500")
        assert (steps, mean, own) == ([100, 200], [15.0, 7.0], [[10.0, 8.0], [20.0, 6.0]])

    def test_a_metric_that_was_not_measured_has_no_steps(self):
        assert figures.curve_of([result(0, looks=[{"step": 100}])], "fd_efflite_500")[0] == []


def committed(spec, variants):
    results = figures.Results(figures.QUALITY / "results")
    return figures.results_of(results, spec, variants)[0]


def test_the_runs_of_a_figure_are_its_variants_on_two_domains_with_three_seeds():
    results = figures.Results(figures.QUALITY / "results")
    assert figures.results_of(results, "table", ("dap", "rick"))[1] == 2 * 2 * 3
    assert figures.results_of(results, "long", ("finetune", "dap", "rick"))[1] == 3 * 2 * 3


def test_what_is_missing_is_said_and_a_figure_without_runs_is_not_drawn(tmp_path, monkeypatch, capsys):
    (tmp_path / "results").mkdir()
    empty = figures.Results(tmp_path / "results")
    monkeypatch.setattr(figures, "Results", lambda folder: empty)
    monkeypatch.setattr(figures, "DOCS", tmp_path)
    figures.main()
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == ["docs/ratios.png is not drawn", "docs/curves.png is not drawn"]
    assert "12 of the 12 runs of table" in told[0] and "18 of the 18 runs of long" in told[1]
    assert not list(tmp_path.glob("*.png"))


def test_figures_with_gaps_are_drawn_and_are_the_same_each_time():
    found = {("dap", "bottts"): [result(0, conv1=(0.1, 0.2), looks=[look(100, 9.0), look(200, 8.0)])]}
    for draw in (figures.ratios, figures.curves):
        first = figures.png(draw(found))
        assert first.startswith(b"\x89PNG") and first == figures.png(draw(found))
