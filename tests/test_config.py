"""Settings: what is written can be read, what makes no sense stops with a sentence."""

import dataclasses
import json
import math

import pytest

from tenshot.config import RunConfig, build_method, differences, read_config
from tenshot.errors import TenshotError
from tenshot.methods import METHODS, Dap, Finetune
from tenshot.presets import preset_config
from tenshot.pruning import Guards


@pytest.mark.parametrize("method", [Finetune(), Dap(), Dap(estimator="weight", beta=0.5, guards=Guards(max_ratio=0.2))])
def test_what_is_written_is_read_back_equal(tmp_path, method):
    config = RunConfig(shots="some/where", method=method, steps=77, augment="flip", lr=0.001)
    (tmp_path / "config.json").write_text(config.to_json())
    assert read_config(tmp_path / "config.json") == config


def test_a_method_keeps_its_settings_under_its_own_name():
    values = json.loads(RunConfig(shots="x", method=Dap(prune_mass=0.3)).to_json())
    assert values["method"] == "dap" and values["dap"]["prune_mass"] == 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepps": 5}, "unknown setting stepps; known are shots, source"),
        ({"dap": {"prune": 1}}, "unknown setting prune; known are"),
        ({"dap": {"guards": {"max": 1}}}, "unknown setting max"),
        ({"method": {"name": "dap"}}, "there is no method {'name': 'dap'}"),
        ({"beta1": 1}, "--beta1 is 1: it must be at least 0 and below 1"),
        ({"dap": {"beta": 1}}, "--dap.beta is 1: it must be at least 0 and below 1"),
        ({"dap": {"fisher_samples": 0}}, "--dap.fisher-samples is 0"),
        ({"dap": {"guards": {"max_ratio": float("nan")}}}, "--dap.guards.max-ratio is nan"),
        ({"dap": {"guards": {"min_alive": -1}}}, "--dap.guards.min-alive is -1"),
        ({"dap": {"estimator": "weight", "revive": True}}, "--dap.revive is True"),
        ({"dap": {"estimator": "wieght"}}, "--dap.estimator is 'wieght': it must be one of gate, weight"),
        ({"dap": 3}, "expected an object of settings for Dap, found 3"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"steps": True}, "steps is True"),
        ({"augment": "blur"}, "augment is 'blur'"),
        ({"steps": 0}, "--steps is 0: it must be at least 1"),
        ({"mixing": 1.5}, "--mixing is 1.5: it must be between 0 and 1"),
        ({"lr": -1}, "--lr is -1: it must be at least 0.0"),
        ({"seed": 10**15}, "--seed is 1000000000000000: it must be at most 999,999,999,999,999"),
        (
            {"pretrain": {"pair_l1": float("inf")}, "method": "pretrain"},
            "--pretrain.pair-l1 is inf: it must be a finite",
        ),
        ({"lr": 10**400}, "it must be a finite number"),
        ({"method": "magic"}, "there is no method 'magic'; known are finetune, ada"),
        ({"method": "dap", "dap": {"every": 0}}, "--dap.every is 0: it must be at least 1"),
        ({"dap": {"warmup": 0.9, "settle": 0.5}}, "--dap.warmup is 0.9: it must be from 0 to settle, 0.5"),
        ({"dap": {"prune_mass": 1.0}}, "--dap.prune-mass is 1.0: it must be at least 0 and below 1"),
    ],
)
def test_settings_that_make_no_sense_stop_with_a_sentence(tmp_path, change, message):
    values = json.loads(RunConfig(shots="x").to_json()) | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(TenshotError) as error:
        read_config(tmp_path / "config.json")
    assert message in str(error.value)


def test_settings_that_differ_are_named_with_both_values():
    now, before = (json.loads(RunConfig(shots="x", batch=batch).to_json()) for batch in (2, 4))
    assert differences(now, now) == [] and differences(now, before) == ["batch: 2 now, 4 before"]
    before["dap"]["every"], before["stop"], before["batch"] = 7, "copy_rate>0.2", 2
    assert differences(now, before) == ['stop: "" now, "copy_rate>0.2" before', "dap.every: 20 now, 7 before"]
    before = {**now, "method": "cdc", "cdc": {"weight": 1}}
    del before["dap"]
    assert differences(now, before) == ['method: "dap" now, "cdc" before']
    assert differences(now, None) == []


@pytest.mark.parametrize("kind", [RunConfig, *METHODS.values()])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_fraction_may_be_infinite_or_no_number(kind, value):
    names = [field.name for field in dataclasses.fields(kind) if isinstance(field.default, float)]
    for name in names:
        with pytest.raises(TenshotError, match=f"{name.replace('_', '-')} is {value}: it must be a finite number"):
            kind(**{"shots": "x"} if kind is RunConfig else {}, **{name: value})


def test_a_setting_without_default_is_named_when_missing(tmp_path):
    (tmp_path / "config.json").write_text('{"steps": 3}')
    with pytest.raises(TenshotError, match="missing setting shots"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("text", ["{", "[1]", "", "[" * 100_000], ids=["cut", "list", "empty", "deep"])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(TenshotError, match=r"config\.json (is not JSON|holds no JSON object)"):
        read_config(tmp_path / "config.json")


def test_a_whole_number_is_taken_for_a_fraction():
    assert build_method("dap", {"warmup": 0}) == Dap(warmup=0.0)


def test_a_misspelt_choice_or_a_wrong_type_stops_in_python_too():
    with pytest.raises(TenshotError, match="--augment is 'diffAug': it must be one of none, flip, diffaug, ada"):
        RunConfig(shots="x", augment="diffAug")  # type: ignore[arg-type]
    with pytest.raises(TenshotError, match=r"--steps is 2\.5: it must be a whole number"):
        RunConfig(shots="x", steps=2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_where_it_is_from(name):
    method = METHODS[name]
    assert method.name == name and method.paper and method.__doc__


def test_an_augmentation_that_would_augment_nothing_is_refused():
    with pytest.raises(TenshotError, match=r"--augment-p is 0\.0: it must be above 0 with --augment diffaug"):
        preset_config("x", "dap", "paper", augment="diffaug")
    assert preset_config("x", "dap", "paper", augment="diffaug", augment_p=0.5).augment_p == 0.5
