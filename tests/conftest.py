"""Shared fixtures: a source of 16 px that is trained on nothing, and ten images to adapt it to."""

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

import tiny
from tenshot.models import Model, save_model

# The same examples in every run, so that a change is not refused for another's fault; `explore` draws new ones. No
# deadline: another program on the machine is no fault.
settings.register_profile("tenshot", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("tenshot")


@pytest.fixture(scope="session")
def tiny_factory():
    """Networks of any shape."""
    return tiny.tiny_model


@pytest.fixture
def tiny_model() -> Model:
    """Networks of 16 px; a test may change them."""
    return tiny.tiny_model(channels=(16, 16, 16))


@pytest.fixture
def tiny_source(tmp_path, tiny_model):
    """`tiny_model` as a file."""
    path = tmp_path / "tiny.safetensors"
    save_model(path, tiny_model)
    return path


@pytest.fixture
def shots(tmp_path):
    """A folder of ten images, 16 to 40 px: discs of ten colours on ten others."""
    folder = tmp_path / "shots"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, side in enumerate(np.linspace(16, 40, 10).astype(int)):
        ys, xs = np.mgrid[:side, :side] - (side - 1) / 2
        is_disc = np.hypot(xs, ys) < side * rng.uniform(0.2, 0.45)
        disc, paper = rng.integers(0, 256, (2, 3), dtype=np.uint8)
        Image.fromarray(np.where(is_disc[..., None], disc, paper)).save(folder / f"{i}.png")
    return folder
