"""benchmarks/quality/removal.py: one filter goes and nothing else, and its statistics are those of others."""

import argparse
import importlib
import json
import math
import random
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
from scipy import stats

from tenshot.filters import gate_of
from tenshot.metrics.extractor import Features
from tenshot.metrics.frechet import frechet_distance
from tenshot.sampling import synthesise
from tenshot.sheets import png, to_pillow
from tiny import tiny_model, tiny_shots

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
removal = importlib.import_module("benchmarks.quality.removal")


class MeanColours:
    """Stands for the network whose features are compared: the means of 4 by 4 blocks of 4 by 4 pixels."""

    name, weights_sha256, resize, packages, batch = "means", "-", "none", (), 16

    def __call__(self, images, stages=False):
        return Features(torch.nn.functional.avg_pool2d(images.float(), 4).flatten(1))


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestStatistics:
    def test_spearman_is_scipys_also_with_ties(self):
        a, b = numbers(5, 12), numbers(5, 12, seed=1)
        a, b = a.round(decimals=0), a + b.round(decimals=0)
        wanted = [stats.spearmanr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
        assert removal.spearman(a, b).tolist() == pytest.approx(wanted, abs=1e-12)

    def test_equal_values_say_nothing(self):
        assert math.isnan(removal.spearman(torch.ones(4), numbers(4)))

    def test_the_distance_is_the_protocols(self):
        reals, fakes = numbers(60, 20), 1.5 * numbers(15, 20, seed=1) + 0.3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert removal.distance_to(reals)(fakes) == pytest.approx(frechet_distance(fakes, reals), rel=1e-9)

    def test_within_layers_is_the_mean_over_layers_and_knows_nothing_of_their_scales(self):
        layers = ["a"] * 6 + ["b"] * 6
        x, y = numbers(12), numbers(12, seed=1)
        columns = {"layer": layers, "x": x.tolist(), "y": y.tolist()}
        rho, low, high = removal.correlation(columns, "x", "y", within=True, tries=200)
        wanted = [stats.spearmanr(x[k : k + 6], y[k : k + 6]).statistic for k in (0, 6)]
        assert rho == pytest.approx(sum(wanted) / 2) and low < rho < high
        columns["x"] = (x + torch.tensor([0.0] * 6 + [100.0] * 6)).tolist()
        assert removal.correlation(columns, "x", "y", within=True, tries=200) == (rho, low, high)
        overall = removal.correlation(columns, "x", "y", within=False, tries=200)
        assert overall[0] == pytest.approx(stats.spearmanr(columns["x"], y).statistic)

    def test_an_interval_covers_the_truth_about_as_often_as_it_says(self):
        """Independent columns, 60 times; a 95 % interval may miss 0 a few times."""
        draw = random.Random(0)
        hits = 0
        for _ in range(60):
            columns = {"layer": ["a"] * 24, **{name: [draw.random() for _ in range(24)] for name in "xy"}}
            _, low, high = removal.correlation(columns, "x", "y", within=True, tries=200)
            hits += low <= 0 <= high
        assert 50 <= hits <= 60

    def test_the_lowest_quarters_share_is_a_quarter_by_an_estimator_that_knows_nothing_and_least_by_the_truth(self):
        draw = random.Random(0)
        columns = {"layer": ["a"] * 2000 + ["b"] * 400}
        columns |= {name: [draw.random() for _ in columns["layer"]] for name in ("truth", "other")}
        assert removal.lowest_quarter(columns, "other", "truth") == pytest.approx(0.25, abs=0.02)
        assert removal.lowest_quarter(columns, "truth", "truth") == pytest.approx(
            1 / 16, abs=0.01
        )  # uniform: x squared


class TestRemoval:
    def test_one_gate_is_closed_and_comes_back(self):
        generator = tiny_model().generator
        before = {name: value.clone() for name, value in generator.state_dict().items()}
        group = removal.groups_of(generator)[2]
        with removal.without(generator, group, 3):
            changed = {name for name, value in generator.state_dict().items() if not torch.equal(value, before[name])}
            assert changed == {f"{group.name}.gate"} and gate_of(generator, group).sum() == group.count - 1
        assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())

    def test_only_its_own_channel_is_silent_and_the_layers_before_it_are_as_they_were(self):
        generator, maps = tiny_model().generator, ({}, {})
        ws = generator.spread(generator.map(numbers(2, 16).float()))
        group = removal.groups_of(generator)[2]
        generator.synthesise(ws, keep=maps[0])
        with removal.without(generator, group, 3):
            generator.synthesise(ws, keep=maps[1])
        assert group.name == "convs.1"
        for name in ("conv1", "convs.0"):
            assert torch.equal(maps[0][name], maps[1][name])
        silent = maps[0]["convs.1"].clone()
        silent[:, 3] = 0
        assert torch.equal(silent, maps[1]["convs.1"])

    def test_nothing_removed_is_no_harm(self):
        model = tiny_model()
        seen = removal.look(model.generator, model.discriminator, MeanColours(), 12)
        distance = removal.distance_to(MeanColours()(tiny_shots(8)).pooled)
        assert set(removal.harm(seen, seen, distance).values()) == {0.0}

    def test_harm_is_what_its_names_say(self):
        model = tiny_model()
        images = torch.cat(list(synthesise(model.generator, range(8))))
        seen = removal.look(model.generator, model.discriminator, MeanColours(), 8)
        assert torch.equal(seen.images, images)
        after = removal.Look(images + 0.5, seen.losses + torch.tensor([1.0, -1.0] * 4), seen.features + 2)
        distance = removal.distance_to(seen.features)
        found = removal.harm(seen, after, distance)
        assert found["image"] == pytest.approx(0.25) and found["loss"] == pytest.approx(1.0)
        assert found["mean_loss"] == pytest.approx(0.0, abs=1e-6) and found["mean_loss/0"] == pytest.approx(1.0)
        assert found["fd"] == found["worse"] == pytest.approx(4 * seen.features.shape[1], rel=1e-4)
        assert removal.harm(after, seen, distance)["worse"] == -found["worse"]

    def test_the_filters_are_drawn_from_every_layer_once_each_and_the_same_for_a_seed(self):
        groups = removal.groups_of(tiny_model().generator)
        chosen = removal.drawn(groups, 3, 0)
        assert len(chosen) == len(set((group.name, index) for group, index in chosen)) == 3 * len(groups)
        assert all(0 <= index < group.count for group, index in chosen)
        assert chosen == removal.drawn(groups, 3, 0) != removal.drawn(groups, 3, 1)
        assert len(removal.drawn(groups, 1000, 0)) == sum(group.count for group in groups)


@pytest.fixture
def data(tmp_path):
    """A domain as folders, which load as archives do."""
    for part, images in (("shots", tiny_shots(4)), ("heldout", tiny_shots(24, seed=1))):
        folder = tmp_path / "dots.zip" / part
        folder.mkdir(parents=True)
        for k, image in enumerate(images):
            (folder / f"{k}.png").write_bytes(png(to_pillow(image)))
    return tmp_path


def test_the_whole_way_on_a_tiny_network(data):
    options = argparse.Namespace(
        data=data, domain="dots", seed=0, steps=3, filters=4, fakes=8, reals=20, samples=2, out=None
    )
    found = removal.measure(options, tiny_model(), MeanColours())
    columns = found["filters"]
    assert len(set(map(len, columns.values()))) == 1 and len(columns["layer"]) == 4 * 5 and found["reals"] == 20
    assert set(removal.ESTIMATORS) | set(removal.TRUTHS) <= columns.keys()
    assert min(columns["image"]) > 0 and min(columns["tracked"]) > 0
    text = removal.as_json({"dots": found})
    assert json.loads(text)["dots"] == found and str(data) not in text and len(text.splitlines()) < 60
    told = removal.table(found)
    assert "20 filters, mean of 5 layers" in told and "nan" not in told
    assert columns == removal.measure(options, tiny_model(), MeanColours())["filters"]


def test_the_page_says_what_was_measured_and_the_file_names_no_place_of_a_machine():
    text = removal.FIGURES.read_text(encoding="utf-8")
    page = (ROOT / "docs" / "ablations.md").read_text(encoding="utf-8")
    assert not re.search(r'"/\w', text)
    for domain, found in json.loads(text).items():
        assert removal.table(found) in page, domain
