"""A generator in, its numbers out: from Python and from the command line."""

import errno
import json
import re
import shutil
from typing import ClassVar

import pytest
import torch

import tenshot
from tenshot.__main__ import main
from tenshot.cli import evaluate as cli
from tenshot.errors import TenshotError
from tenshot.files import write_atomically
from tenshot.metrics import METRICS, OFFLINE, evaluation, table
from tenshot.metrics.extractor import ExtractorDefaults, Features
from tenshot.models import load_model
from tenshot.sampling import generate_images, synthesise
from tenshot.sheets import png, to_pillow


class Colours(ExtractorDefaults):
    """Coarse pictures as features: quick, and different for different pictures."""

    name, weights_sha256, resize = "colours", "none", "none"
    seen: ClassVar[list[torch.Tensor]] = []

    def __call__(self, images, stages=False):
        self.seen.append(images)
        small = torch.nn.functional.adaptive_avg_pool2d(images.float(), 2)
        return Features(small.flatten(1), (small,) if stages else ())


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Twenty fakes instead of thousands, coarse features instead of networks, caches in the test's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    monkeypatch.delenv("TENSHOT_WEIGHTS", raising=False)
    monkeypatch.setattr(Colours, "seen", [])
    for name, metric in METRICS.items():
        monkeypatch.setitem(METRICS, name, metric._replace(n=20, n_real=min(metric.n_real, 10)))
    for key in ("efflite", "inception-clean", "inception-rick"):
        monkeypatch.setitem(table.EXTRACTORS, key, lambda place: Colours())
    rick = type("Rick", (Colours,), {"takes_floats": True})
    monkeypatch.setitem(table.EXTRACTORS, "inception-rick", lambda place: rick())


@pytest.fixture
def held_out(tmp_path, tiny_model):
    """Ten pictures of 16 px."""
    folder = tmp_path / "heldout"
    folder.mkdir()
    for i, image in enumerate(generate_images(tiny_model, range(100, 110))):
        write_atomically(folder / f"{i}.png", png(to_pillow(image)))
    return folder


FEW = pytest.mark.filterwarnings("ignore:Frechet distance of:UserWarning")


@FEW
class TestFunction:
    def test_the_offline_metrics_are_measured_on_the_images_of_the_first_seeds(
        self, tiny_model, tiny_source, held_out, shots
    ):
        found = tenshot.evaluate(tiny_source, real=held_out, shots=shots)
        assert list(found["metrics"]) == list(OFFLINE)
        assert all(result["n_fake"] == 20 for result in found["metrics"].values())
        assert found["seeds"] == [0, 19]
        assert (found["real"]["images"], found["shots"]["images"]) == (10, 10)
        assert re.fullmatch("[0-9a-f]{64}", found["model"]["sha256"])
        assert found["model"]["resolution"] == 16 and found["model"]["name"] == "tiny"
        json.dumps(found)
        assert torch.equal(torch.cat(Colours.seen[-2:]), generate_images(tiny_model, range(20)))

    def test_other_seeds_are_other_images_and_a_model_in_memory_will_do(self, tiny_model, held_out):
        found = tenshot.evaluate(tiny_model, real=held_out, metrics=["fd_efflite_2k"], first_seed=40)
        assert found["seeds"] == [40, 59] and "sha256" not in found["model"]
        assert torch.equal(torch.cat(Colours.seen[-2:]), generate_images(tiny_model, range(40, 60)))

    def test_a_run_brings_its_own_shots(self, tmp_path, tiny_source, held_out, shots):
        folder = tmp_path / "run"
        folder.mkdir()
        shutil.copy(tiny_source, folder / "model.safetensors")
        shutil.copytree(shots, folder / "shots")
        found = tenshot.evaluate(folder, real=held_out, metrics=["copy_rate_1k"])
        assert found["metrics"]["copy_rate_1k"]["n_shots"] == 10
        assert found["shots"]["path"] == str(folder / "shots")

    def test_a_run_that_keeps_no_shots_costs_only_the_metrics_that_need_them(self, tmp_path, tiny_source, held_out):
        folder = tmp_path / "run"
        (folder / "shots").mkdir(parents=True)
        shutil.copy(tiny_source, folder / "model.safetensors")
        found = tenshot.evaluate(folder, real=held_out, metrics=["fd_efflite_2k", "copy_rate_1k"])
        assert "value" in found["metrics"]["fd_efflite_2k"] and found["shots"] is None
        assert "needs" in found["metrics"]["copy_rate_1k"]["failed"]

    def test_the_metric_that_wants_unclamped_images_gets_them(self, tiny_model, held_out):
        with torch.no_grad():
            tiny_model.generator.to_rgb1.bias += 1  # brighter than white
        found = tenshot.evaluate(tiny_model, real=held_out, metrics=["fid_rick_5k", "fd_efflite_2k"])
        assert all("value" in result for result in found["metrics"].values())
        floats = torch.cat([x for x in Colours.seen if x.dtype == torch.float32])
        assert torch.equal(floats, torch.cat(list(synthesise(tiny_model.generator, range(20)))))
        assert floats.max() > 1

    def test_features_of_held_out_images_are_kept_in_the_cache(self, tmp_path, tiny_model, held_out):
        for _ in range(2):
            tenshot.evaluate(tiny_model, real=held_out, metrics=["fd_efflite_2k", "fid_clean_5k"])
        kept = [path.name for path in (tmp_path / "home-cache" / "tenshot" / "features").iterdir()]
        assert len(kept) == 1  # one network here under two keys
        assert sum(map(len, Colours.seen)) == 10 + 4 * 20

    def test_what_fails_is_reported_and_the_rest_is_measured(self, tmp_path, tiny_model, held_out):
        found = tenshot.evaluate(
            tiny_model, real=held_out, metrics=["fid_5k", "fd_efflite_2k"], weights=tmp_path, download=False
        )["metrics"]
        assert "weights-inception-2015-12-05-6726825d.pth are missing" in found["fid_5k"]["failed"]
        assert found["fd_efflite_2k"]["n_fake"] == 20

    def test_held_out_images_that_were_trained_on_are_pointed_out(self, tiny_model, held_out):
        with pytest.warns(UserWarning, match="10 of the 10 held-out images are among the shots"):
            tenshot.evaluate(tiny_model, real=held_out, shots=held_out, metrics=["fd_efflite_2k"])

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (dict(metrics=["fid"]), "unknown metric 'fid'"),
            (dict(first_seed=-1), "the first seed is -1"),
            (dict(real="nowhere"), "nowhere does not exist"),
        ],
    )
    def test_what_is_wrong_for_all_metrics_is_refused(self, tiny_model, arguments, message):
        with pytest.raises(TenshotError, match=message):
            tenshot.evaluate(tiny_model, **arguments)


class TestVerb:
    def test_prints_a_table_and_writes_the_numbers(self, tmp_path, tiny_source, held_out, shots, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "140")
        out = tmp_path / "new" / "result.json"
        arguments = ["--real", str(held_out), "--shots", str(shots), "--out", str(out)]
        assert main(["evaluate", str(tiny_source), *arguments]) == 0
        said = capsys.readouterr()
        found = json.loads(out.read_text())
        assert said.err == ""
        for name in OFFLINE:
            (row,) = (line for line in said.out.splitlines() if name in line)
            assert METRICS[name].better in row and "20" in row
        assert cli.shown(found["metrics"]["fd_efflite_2k"]) in said.out
        assert f"precision {found['metrics']['prdc_2k']['precision']:.3f}" in said.out
        assert "note: Frechet distance of 20 and 10 samples" in said.out
        assert said.out.endswith(f"{out}\n")

    def test_a_metric_that_fails_costs_only_the_exit_code(self, tmp_path, tiny_source, held_out, capsys):
        out = tmp_path / "result.json"
        arguments = f"--metrics fd_efflite_2k,fid_5k --no-download --weights {tmp_path} --out {out}".split()
        assert main(["evaluate", str(tiny_source), "--real", str(held_out), *arguments]) == 1
        said = capsys.readouterr().out
        assert "failed: fid_5k: the weights weights-inception-2015-12-05-6726825d.pth are missing" in said
        found = json.loads(out.read_text())["metrics"]
        assert "value" in found["fd_efflite_2k"] and "failed" in found["fid_5k"]

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--metrics", "fid"], "unknown metric 'fid'; there are"),
            (["--metrics", ","], "no metric was named"),
            (["--out", "result.txt"], "must end in .json"),
            (["--real", "nowhere"], "nowhere does not exist"),
            (["--out", f"{'x' * 250}.json"], "the name is too long; choose a shorter one"),
        ],
    )
    def test_what_cannot_work_is_told_before_any_work(self, tiny_source, arguments, message, capsys):
        assert main(["evaluate", str(tiny_source), *arguments]) == 1
        said = capsys.readouterr().err
        assert said.startswith("tenshot evaluate: ") and message in said
        assert not Colours.seen

    def test_an_output_that_cannot_be_written_is_told_before_any_work(self, tmp_path, tiny_source, monkeypatch, capsys):
        def denied(*_, **__):
            raise PermissionError(errno.EACCES, "denied")

        monkeypatch.setattr("tenshot.files.tempfile.mkstemp", denied)
        out = tmp_path / "result.json"
        assert main(["evaluate", str(tiny_source), "--out", str(out)]) == 1
        assert f"cannot write {out}: permission denied; choose a folder that you may" in capsys.readouterr().err
        assert not Colours.seen

    def test_the_check_of_an_output_leaves_what_is_there(self, tmp_path):
        before = '{"model": {}, "real": null, "shots": null, "seeds": null, "metrics": {}}'
        (tmp_path / "result.json").write_text(before)
        cli.check_target(tmp_path / "result.json")
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("result.json", before)]

    def test_a_metric_without_its_images_names_the_flag_for_them(self, tiny_source, capsys):
        assert main(["evaluate", str(tiny_source), "--metrics", "fd_efflite_500,intra_dist_200"]) == 1
        real, shots = (line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: "))
        assert real.startswith("failed: fd_efflite_500 compares with held-out images") and "--real" in real
        assert shots.startswith("failed: intra_dist_200 needs the training images") and "--shots" in shots

    def test_by_default_what_has_its_images_is_measured_and_the_rest_is_named(self, tiny_source, shots, capsys):
        assert main(["evaluate", str(tiny_source), "--shots", str(shots)]) == 0
        said = capsys.readouterr().out
        assert "failed" not in said and "intra_dist_1k" in said
        assert "note: left out: fd_efflite_2k, kd_efflite_2k, prdc_2k, copy_rate_1k, which need held-out" in said

    def test_a_model_without_any_images_to_judge_it_by_is_told_before_any_work(self, tiny_source, capsys):
        assert main(["evaluate", str(tiny_source)]) == 1
        assert "there is nothing to measure" in capsys.readouterr().err and not Colours.seen

    def test_a_folder_as_the_output_is_refused(self, tmp_path):
        (tmp_path / "x.json").mkdir()
        with pytest.raises(TenshotError, match="which is a folder"):
            cli.check_target(tmp_path / "x.json")


@pytest.mark.parametrize(
    "result, cell",
    [
        ({"value": 0.0123}, "0.0123"),
        ({"value": 220.04}, "220.0"),
        ({"value": None}, "none"),
        ({"failed": "why"}, "failed"),
        (
            {"precision": 1.0, "recall": 0.0, "density": 1.5, "coverage": 0.25},
            "precision 1.000\nrecall 0.000\ndensity 1.500\ncoverage 0.250",
        ),
    ],
)
def test_numbers_are_shown_with_as_many_digits_as_mean_something(result, cell):
    assert cli.shown(result) == cell


def test_a_name_in_a_card_cannot_steer_the_terminal():
    found = {"model": {"name": "\x1b]0;owned\x07\nsecond", "resolution": 64}, "metrics": {}}
    title = str(cli.table_of(found).title)
    assert not {"\x1b", "\x07", "\n"} & set(title) and "owned" in title


def test_embedded_sources_can_be_named(monkeypatch):
    seen = []
    monkeypatch.setattr(evaluation, "score", lambda fakes, *_, **__: seen.append(next(iter(fakes))) or {})
    assert evaluation.evaluate("faces64")["model"]["name"] == load_model("faces64").card["name"]
    assert seen[0].shape == (8, 3, 64, 64)
