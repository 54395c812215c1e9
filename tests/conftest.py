"""Shared fixtures: a source of 16 px that is trained on nothing, and ten images to adapt it to."""

import numpy as np
import pytest
import torch
from PIL import Image

from tenshot.models import Model, save_model
from tenshot.nets import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec
from tenshot.sampling import measure_latent_avg_


def make_tiny(resolution=16, channels=(16, 16, 16), latent_size=16, mapping_depth=2, seed=0) -> Model:
    """A pair of networks with random weights, biases and noise strengths; one seed, one pair."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(GeneratorSpec(resolution, tuple(channels), latent_size, mapping_depth))
        discriminator = Discriminator(DiscriminatorSpec(resolution, tuple(channels)))
        with torch.no_grad():
            for network in (generator, discriminator):
                for name, parameter in network.named_parameters():
                    if name.endswith(("activate.bias", "noise.weight", "to_rgb1.bias")):
                        parameter.normal_(0, 0.1)
    measure_latent_avg_(generator)
    return Model(generator.eval(), discriminator, {"kind": "source", "name": "tiny"})


@pytest.fixture(scope="session")
def tiny_factory():
    """`make_tiny`: networks of any shape."""
    return make_tiny


@pytest.fixture
def tiny_model() -> Model:
    """Networks of 16 px, 16 channels, latent size 16 and two mapping layers; a test may change them."""
    return make_tiny()


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
