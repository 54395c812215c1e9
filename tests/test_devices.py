"""Nothing is left behind on the CPU: on a device that is only pretended, every method takes the same steps.

A GPU is not at hand where these tests run. `pretend.Away` fails wherever code mixes devices, as a GPU would, and
computes with the CPU's numbers, so results must be equal to the bit.
"""

from unittest import mock

import pytest
import torch

from pretend import AWAY, Away, pretended
from tenshot import loop
from tenshot.adaptation import begin
from tenshot.checkpoint import restore, snapshot
from tenshot.config import RunConfig, build_method
from tenshot.devices import find_device
from tenshot.errors import TenshotError
from tenshot.methods import METHODS
from tenshot.models import save_model
from tenshot.result import averaged_model
from tenshot.sampling import generate
from tenshot.settings import build
from tenshot.sheets import png, to_pillow
from tenshot.step import run_step
from tenshot.walk import Walk, frames
from tiny import QUICK, tiny_model, tiny_shots

WEIGHT = {"estimator": "weight", "warmup": 0.2, "every": 1, "fisher_samples": 2}
MANY = [(name, {}) for name in METHODS] + [
    ("dap", {"precision": "bfloat16", "augment": "ada", "augment_p": 0.5, "ada_every": 2}),
    ("dap", {"own": {"estimator": "weight", "warmup": 0.2, "every": 1, "fisher_samples": 2}}),
    (
        "dap",
        {"own": {"estimator": "weight", "warmup": 0.2, "every": 1, "fisher_samples": 2, "reach": 1, "spread": 1.1}},
    ),
    ("rick", {"micro_batch": 1}),
]


def config_of(method, own=None, **settings):
    built = build_method(method, own or {**QUICK, "adam": {"fisher_samples": 2}}.get(method, {}))
    return build(RunConfig, {"shots": "", "method": built, "steps": 8, "batch": 2, "seed": 3, **settings})


def after_steps(config, steps=3):
    run = begin(config, tiny_model(), tiny_shots())
    losses = [run_step(run, step) for step in range(steps)]
    return run, losses


def near(tensor):
    return tensor.near if isinstance(tensor, Away) else tensor


def is_same(a, b):
    """To the bit; NaN, which stands for what is not measured yet, equals NaN."""
    return a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize(
    "method, settings", MANY, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_a_run_elsewhere_equals_one_on_the_cpu(method, settings):
    config = config_of(method, **settings)
    here, losses_here = after_steps(config)
    with pretended(), mock.patch("tenshot.adaptation.find_device", lambda name: AWAY):
        there, losses_there = after_steps(config)
        assert all(p.device == AWAY for p in there.nets.generator.parameters())
        assert losses_there == losses_here
        copied = {name: near(tensor) for name, tensor in snapshot(there).items()}
        model = averaged_model(there, 3, tiny_model(), "")
    assert all(not isinstance(p, Away) for p in model.generator.parameters()), "the result is for any machine"
    for name, tensor in snapshot(here).items():
        assert is_same(tensor, copied[name]), name


@pytest.mark.parametrize("method", ["dap", "adam", "cdc"])
def test_a_checkpoint_moves_between_devices(method):
    config = config_of(method)
    whole, _ = after_steps(config, 5)
    half, _ = after_steps(config)
    tensors = {name: tensor.detach().clone() for name, tensor in snapshot(half).items()}
    with pretended(), mock.patch("tenshot.adaptation.find_device", lambda name: AWAY):
        there = begin(config, tiny_model(), tiny_shots())
        restore(there, tensors)
        for step in (3, 4):
            run_step(there, step)
        found = {name: near(tensor) for name, tensor in snapshot(there).items()}
    for name, tensor in snapshot(whole).items():
        assert is_same(tensor, found[name]), name


def test_a_whole_run_with_its_files_ends_in_the_same_model(tmp_path):
    save_model(tmp_path / "tiny.safetensors", tiny_model())
    shots = tmp_path / "shots"
    shots.mkdir()
    for i, image in enumerate(tiny_shots()):
        (shots / f"{i}.png").write_bytes(png(to_pillow(image)))
    settings = {"source": str(tmp_path / "tiny.safetensors"), "checkpoint_every": 2, "sample_every": 4, "steps": 4}
    config = RunConfig(**{**vars(config_of("dap", **settings)), "shots": str(shots)})
    here = loop.start(config, out=tmp_path / "here")
    with pretended(), mock.patch("tenshot.adaptation.find_device", lambda name: AWAY):
        there = loop.start(config, out=tmp_path / "there")
    images = [torch.cat(list(generate(model.generator, range(3)))) for model in (here, there)]
    assert torch.equal(*images)
    assert (tmp_path / "here" / "model.safetensors").read_bytes() == (
        tmp_path / "there" / "model.safetensors"
    ).read_bytes()


def test_a_walk_computed_elsewhere_is_the_same_walk():
    model, walk = tiny_model(), Walk((4, 2, 7), 3)
    here = torch.cat(list(frames(model.generator, walk, batch=4)))
    with pretended():
        model.generator.to(AWAY)
        there = torch.cat(list(frames(model.generator, walk, batch=4)))
    assert there.device.type == "cpu" and torch.equal(here, there)


def test_mixing_devices_fails_under_the_pretence():
    with pretended():
        x = torch.ones(3).to(AWAY)
        with pytest.raises(AssertionError, match="mixes devices"):
            x + torch.ones(3)


def test_auto_is_the_cpu_where_there_is_no_gpu():
    with mock.patch("torch.cuda.is_available", lambda: False):
        assert find_device("auto") == find_device("cpu") == torch.device("cpu")
        with pytest.raises(TenshotError, match=r"cuda is not there.*no GPUs.*--device cpu"):
            find_device("cuda")


def test_auto_is_the_first_gpu_where_there_is_one():
    with mock.patch("torch.cuda.is_available", lambda: True), mock.patch("torch.cuda.device_count", lambda: 1):
        assert find_device("auto").type == find_device("cuda:0").type == "cuda"
        with pytest.raises(TenshotError, match=r"cuda:1 is not there.*finds 1 GPU;"):
            find_device("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "CPU", ""])
def test_a_name_of_no_device_is_told_so(name):
    with pytest.raises(TenshotError, match="auto, cpu, cuda or cuda:1"):
        RunConfig(shots="x", device=name)
