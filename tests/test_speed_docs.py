"""docs/performance.md: it agrees with the files of figures, the baseline takes the same steps, every script runs."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from tenshot.bench.tables import fill_places
from tenshot.errors import TenshotError
from tenshot.methods import Finetune
from tiny import tiny_model, tiny_shots

ROOT = Path(__file__).parents[1]
SPEED = ROOT / "benchmarks" / "speed"
PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def load(name):
    """A script of benchmarks/speed; it is imported from the repository's root, as it is run."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return importlib.import_module(f"benchmarks.speed.{name}")


class TestPage:
    def test_it_agrees_with_the_figures_that_are_committed(self):
        assert fill_places(PAGE, load("table").render) == PAGE, "run `python -m benchmarks.speed.table`"

    def test_it_disagrees_when_a_figure_changes(self, tmp_path):
        table, run = load("table"), load("startup")
        run.main(["--quick", "--out", str(tmp_path)])
        page = "<!-- bench:startup -->\n<!-- /bench -->"
        filled = fill_places(page, lambda name: table.render(name, tmp_path))
        assert "| tenshot --help |" in filled and "python -m benchmarks.speed.startup" in filled
        figure = json.loads((tmp_path / "startup.json").read_text())
        figure["rows"][0]["ms"]["median"] += 1000
        (tmp_path / "startup.json").write_text(json.dumps(figure))
        assert fill_places(filled, lambda name: table.render(name, tmp_path)) != filled

    def test_it_has_a_place_for_every_figure_and_every_committed_figure_has_one(self):
        places = set(re.findall(r"<!-- bench:(\S+) -->", PAGE))
        figures = set(load("table").FIGURES)
        assert {path.stem for path in (SPEED / "results").glob("*.json")} <= places <= figures

    def test_a_place_of_no_figure_is_refused(self):
        with pytest.raises(TenshotError, match="no such figure"):
            load("table").render("steps")

    def test_committed_figures_name_no_place_of_a_machine(self):
        assert not [p for p in (SPEED / "results").glob("*.json") if re.search(r'"/\w', p.read_text(encoding="utf-8"))]

    def test_figures_are_told_with_three_digits(self):
        table = load("table")
        assert [table.number(x) for x in (0.0, 0.04567, 0.5, 1.234, 45.67, 456.7, 45678.0)] == [
            "0", "0.046", "0.500", "1.23", "45.7", "457", "45,678"
        ]  # fmt: skip
        assert table.told({"median": 2.0, "q1": 1.5, "q3": 2.5, "n": 3}) == "2.00 (1.50–2.50)"
        assert table.told({"median": 2.0, "q1": 2.0, "q3": 2.0, "n": 1}) == "2.00"


class TestTurns:
    def test_every_way_has_one_turn_a_round_and_the_order_alternates(self):
        seen = []
        ticks = iter(range(1000))
        ways = {name: lambda name=name: seen.append(name) for name in "ab"}
        taken = load("measure").take_turns(ways, 3, clock=lambda: next(ticks))
        assert "".join(seen) == "ab" + "ab" + "ba" + "ab"  # the first is not counted
        assert taken == {"a": [1, 1, 1], "b": [1, 1, 1]}

    def test_a_spread_is_median_and_quartiles(self):
        assert load("measure").spread([4, 1, 2, 3, 5], 10) == {"median": 30, "q1": 20, "q3": 40, "n": 5}
        assert load("measure").ratios([2, 4], [1, 1])["median"] == 3


class TestBaseline:
    @pytest.mark.parametrize("twice", [False, True])
    def test_it_takes_the_same_steps_as_tenshot(self, twice):
        """Same networks, losses, schedule, random numbers and optimisers.

        Adam's first updates are the gradients' signs, so where one is nearly 0 rounding decides, and the two drift
        apart from the second step on.
        """
        baseline, step = load("baseline"), load("step")
        source = tiny_model()
        config = step.settings(4, path_every=2, r1_every=4)
        theirs = baseline.Baseline(source, tiny_shots(), config, twice=twice)
        ours = step.Ours(config, source, tiny_shots())
        assert type(ours.run.method).trains is Finetune.trains  # all trains
        for k in range(5):
            told, expected = ours.step(k), theirs.step(k)
            assert set(expected) == {"d", "g"} | ({"path"} if k % 2 == 0 else set()) | ({"r1"} if k % 4 == 0 else set())
            for name, value in expected.items():
                assert told[name] == pytest.approx(value, rel=5e-3 if k else 1e-5), f"{name} of step {k}"

    def test_a_part_alone_trains_its_network_only(self):
        step = load("step")
        run = step.Ours(step.settings(4), tiny_model(), tiny_shots())
        before = [p.detach().clone() for p in run.run.nets.generator.parameters()]
        assert set(run.step(0, ["r1"])) == {"r1"}
        assert all(torch.equal(a, b) for a, b in zip(before, run.run.nets.generator.parameters(), strict=True))


class TestFloor:
    def test_multiply_adds_of_products_are_those_of_their_shapes(self):
        floor = load("floor")
        x, w, f = torch.randn(2, 5, 8, 8), torch.randn(7, 5, 3, 3), torch.randn(5, 1, 3, 3)
        calls = floor.recorded(
            lambda: (torch.conv2d(x, w, padding=1), torch.conv2d(x, f, groups=5), torch.randn(4, 6) @ torch.randn(6, 3))
        )
        of = floor.measured(list(calls), 1)
        assert floor.total(calls, of)[1] == 2 * 7 * 5 * 9 * 64 + 4 * 6 * 3
        assert floor.total(calls, of, filters=True)[1] == 2 * 5 * 9 * 36

    def test_a_backward_pass_takes_twice_the_forward_pass(self):
        floor = load("floor")
        x, w = torch.randn(2, 5, 8, 8, requires_grad=True), torch.randn(7, 5, 3, 3, requires_grad=True)
        calls = floor.recorded(lambda: torch.conv2d(x, w, padding=1).sum().backward())
        assert floor.total(calls, floor.measured(list(calls), 1))[1] == 3 * 2 * 7 * 5 * 9 * 64


QUICK = {
    "step-64": ("step", []),
    "sampling": ("sampling", ["--batches", "1", "2"]),
    "fisher": ("fisher", []),
    "memory": ("memory", ["--ways", "ours"]),
    "data": ("data", []),
    "compact": ("compact", []),
    "floor": ("floor", []),
    "profile": ("profile", []),
}


@pytest.mark.parametrize("name", QUICK)
def test_a_script_writes_a_figure_that_its_table_can_show(name, tmp_path):
    script, arguments = QUICK[name]
    threads = torch.get_num_threads()
    load(script).main(["--quick", "--out", str(tmp_path), *arguments])
    assert torch.get_num_threads() == threads
    figure = json.loads((tmp_path / f"{name}.json").read_text())
    assert (
        figure["machine"]["processor"] and torch.__version__.startswith(figure["versions"]["torch"]) and figure["rows"]
    )
    shown = load("table").render(name, tmp_path)
    assert shown.count("\n| ") == len(figure["rows"]) and "–  |" not in shown


def test_every_script_is_run_here_or_needs_a_file_to_measure():
    scripts = {path.stem for path in SPEED.glob("*.py")} - {"__init__", "measure", "baseline", "table"}
    assert scripts == {script for script, _ in QUICK.values()} | {"startup", "onnx"}
