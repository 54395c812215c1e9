"""Scores while a run goes on, and the rule that ends it."""

import json

import pytest
import torch
from PIL import Image

from tenshot import loop, scoring
from tenshot.__main__ import main
from tenshot.config import RunConfig
from tenshot.errors import TenshotError
from tenshot.methods import Finetune
from tenshot.metrics import METRICS
from tenshot.models import load_model, save_model
from tenshot.rules import parse_rule
from tiny import tiny_model, tiny_shots


@pytest.mark.parametrize(
    ("text", "values", "holds"),
    [
        ("copy_rate>0.2", {"copy_rate_200": 0.3}, True),
        ("copy_rate > 0.2", {"copy_rate_200": 0.2}, False),
        ("fd_efflite_500<50", {"fd_efflite_500": 49.0}, True),
        ("fd<50", {"kd_efflite_2k": 1.0}, False),
        ("copy_rate>2e-1", {}, False),
    ],
)
def test_a_rule_holds_when_its_metric_compares_as_said(text, values, holds):
    assert parse_rule(text).holds(values) is holds


@pytest.mark.parametrize("text", ["copy_rate", "copy_rate=1", "copy_rate>x", "copy_rate>nan", ">1", "a>1 b>2"])
def test_a_rule_that_is_none_is_refused_with_an_example(text):
    with pytest.raises(TenshotError, match=r"--stop is .*write a metric, > or <, and a number.*copy_rate>0\.2"):
        parse_rule(text)


def test_a_rule_needs_to_know_when_to_look():
    with pytest.raises(TenshotError, match="--stop is 'fd<1': it must be left out, or --eval-every must say when"):
        RunConfig("shots", stop="fd<1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_metrics": "fd_efflite_500"}, "needs held-out images of the new domain: give them with --eval-real"),
        ({"eval_metrics": "beauty"}, "--eval-metrics names 'beauty'; there are"),
        ({"eval_real": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_scored_stops_before_the_first_step(settings, message):
    with pytest.raises(TenshotError, match=message):
        scoring.Scoring(RunConfig("shots", eval_every=1, **settings), tiny_shots())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop": "fooo>0.2"}, r"--stop names 'fooo'; scored are intra_dist_200$"),
        (
            {"stop": "copy_rate>0.2"},
            r"scored are intra_dist_200: to score copy_rate_200, give held-out images with --eval-real$",
        ),
        (
            {"stop": "copy_rate>0.2", "eval_metrics": "intra_dist_1k"},
            r"are intra_dist_1k: to score copy_rate_200, name copy_rate_200 in --eval-metrics and give .*--eval-real$",
        ),
        (
            {"stop": "copy_rate>0.2", "eval_metrics": "fd_efflite_500", "eval_real": "images"},
            r"scored are fd_efflite_500: to score copy_rate_200, name copy_rate_200 in --eval-metrics$",
        ),
        (
            {"stop": "copy_rate_1k>0.2", "eval_real": "images"},
            r"fd_efflite_500, copy_rate_200, intra_dist_200: to score copy_rate_1k, name .* in --eval-metrics$",
        ),
        (
            {"eval_every": 0, "eval_real": "images"},
            "--eval-real is 'images': it must be left out, or --eval-every must",
        ),
        ({"eval_every": 0, "eval_metrics": "x"}, "--eval-metrics is 'x': it must be left out, or --eval-every must"),
        ({"keep_best": "fooo"}, r"--keep-best names 'fooo'; scored are intra_dist_200$"),
        (
            {"keep_best": "prdc_2k", "eval_metrics": "prdc_2k,intra_dist_1k", "eval_real": "images"},
            r"--keep-best names 'prdc_2k', which is several numbers; of those scored, intra_dist_1k would do$",
        ),
        (
            {"stop": "prdc>0.2", "eval_metrics": "prdc_2k", "eval_real": "images"},
            r"--stop names 'prdc', which is several numbers; of those scored, none would do$",
        ),
    ],
)
def test_a_rule_about_what_is_not_scored_is_refused_with_the_way_to_score_it(settings, message):
    with pytest.raises(TenshotError, match=message):
        scoring.check_scores(RunConfig("shots", **{"eval_every": 1, **settings}))


@pytest.mark.parametrize("stop", ["copy_rate>0.2", "COPY_RATE_200>0.2", "fd<9", "intra_dist_200<0.1"])
def test_a_rule_may_say_how_a_scored_metric_begins(stop):
    scoring.check_scores(RunConfig("shots", eval_every=1, eval_real="images", stop=stop))


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_rule_that_cannot_fire_leaves_the_run_that_is_there(tmp_path, run_of, capsys, more):
    run_of()
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    begun = ["adapt", str(tmp_path / "shots"), "--source", str(tmp_path / "tiny.safetensors"), "--overwrite", *more]
    assert main([*begun, "--out", str(tmp_path / "run"), "--eval-every", "2", "--stop", "copy_rate>0.2"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "--stop names 'copy_rate'" in said.err
    with pytest.raises(TenshotError, match="--stop names 'fooo'"):
        run_of(stop="fooo>1")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """Six steps, scored every second one by a stand-in: how many times it has looked, over ten."""
    save_model(tmp_path / "tiny.safetensors", tiny_model())
    (tmp_path / "shots").mkdir()
    for i, shot in enumerate(tiny_shots()):
        Image.fromarray(shot.permute(1, 2, 0).numpy()).save(tmp_path / "shots" / f"{i}.png")
    looks = []

    def stand_in(fakes, reals, shots, names, device, unclamped, keep_going, known):
        assert known.setdefault("looks", len(looks)) == 0, "each look of a run must know what the first one found"
        looks.append(next(iter(fakes)))
        assert keep_going and shots.shape[0] == 6
        values = {"intra_dist_200": {"value": len(looks) / 10, "n_fake": 200}, "alone": {"value": None}}
        return {**values, "other": {"failed": "no weights"}}

    monkeypatch.setattr(scoring, "score", stand_in)

    def run(out="run", watch=None, **settings):
        settings = {"steps": 6, "batch": 2, "checkpoint_every": 0, "sample_every": 0, "eval_every": 2, **settings}
        config = RunConfig(str(tmp_path / "shots"), str(tmp_path / "tiny.safetensors"), Finetune(), **settings)
        return loop.start(config, out=tmp_path / out, watch=watch)

    return run


def entries(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scores_are_journaled_when_due_and_shown_until_the_next(tmp_path, run_of):
    shown = []
    run_of(watch=lambda now: shown.append(now.scores))
    journal = entries(tmp_path / "run" / "metrics.jsonl")
    assert [entry["step"] for entry in journal] == [2, 4, 6]
    assert journal[0]["metrics"]["other"] == {"failed": "no weights"}
    assert {name for now in shown for name in now} == {"intra_dist_200"}
    values = [now.get("intra_dist_200") for now in shown]
    assert values == [None, 0.1, 0.1, 0.2, 0.2, 0.3]


def test_scoring_changes_nothing_of_the_run(tmp_path, run_of):
    run_of("scored")
    run_of("other", eval_every=0)
    one, other = (load_model(tmp_path / name).generator.state_dict() for name in ("scored", "other"))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.filterwarnings("ignore:.*are among the shots")
@pytest.mark.parametrize(("names", "kind"), [("fid_rick_5k,fd_efflite_500", torch.float32), ("fid_5k", torch.uint8)])
def test_a_metric_that_wants_unrounded_images_gets_them_on_the_way_too(tmp_path, run_of, monkeypatch, names, kind):
    seen = []
    monkeypatch.setattr(
        scoring, "score", lambda fakes, *_, unclamped, **__: seen.append((next(iter(fakes)), unclamped)) or {}
    )
    run_of(eval_every=6, eval_metrics=names, eval_real=str(tmp_path / "shots"))
    assert [(images.dtype, unclamped) for images, unclamped in seen] == [(kind, kind == torch.float32)]


def test_a_run_ends_early_by_its_rule_with_a_finished_model(tmp_path, run_of):
    run_of(stop="intra_dist>0.15")
    assert [entry["step"] for entry in entries(tmp_path / "run" / "stats.jsonl")][-1] == 4
    assert load_model(tmp_path / "run").card["steps"] == 4
    with pytest.raises(TenshotError, match="has finished"):
        loop.resume(tmp_path / "run")


def test_held_out_images_that_are_shots_are_told_before_the_first_step(tmp_path):
    shots = tiny_shots()
    for i, image in enumerate(shots[:2]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    with pytest.warns(UserWarning, match="2 of the 2 held-out images are among the shots"):
        scoring.Scoring(RunConfig("shots", eval_every=1, eval_real=str(tmp_path)), shots)


def test_no_more_held_out_images_are_held_than_are_read(tmp_path, monkeypatch):
    for i, image in enumerate(tiny_shots(5, seed=9)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    monkeypatch.setitem(METRICS, "fd_efflite_500", METRICS["fd_efflite_500"]._replace(n_real=3))
    config = RunConfig("shots", eval_every=1, eval_real=str(tmp_path), eval_metrics="fd_efflite_500")
    assert len(scoring.Scoring(config, tiny_shots()).reals) == 3
