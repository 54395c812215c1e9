"""A network pair small enough for a test and random enough that nothing is zero or one by accident."""

import torch

from tenshot.models import Model
from tenshot.nets import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec
from tenshot.pruning import Guards
from tenshot.sampling import measure_latent_avg_


def tiny_model(
    resolution: int = 16,
    channels: tuple[int, ...] = (12, 10, 8),
    latent_size: int = 16,
    mapping_depth: int = 2,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Model:
    """16 px, latent 16, two mapping layers; every parameter moved off its initial value. One seed, one pair."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(GeneratorSpec(resolution, tuple(channels), latent_size, mapping_depth))
        discriminator = Discriminator(DiscriminatorSpec(resolution, tuple(channels)))
        for network in (generator, discriminator):
            for parameter in network.parameters():
                if parameter.dim() == 1 or parameter.shape[1:] == (3, 1, 1):  # biases, noise strengths
                    parameter.data += 0.3 * torch.randn(parameter.shape)
    measure_latent_avg_(generator)
    return Model(generator.to(dtype).eval(), discriminator.to(dtype), {"kind": "source", "name": "tiny"})


def tiny_shots(count: int = 6, *, seed: int = 0) -> torch.Tensor:
    """Random blocks of colour, uint8 `[count 3 16 16]`."""
    blocks = torch.randint(0, 256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)


QUICK: dict[str, dict] = {
    "ewc": {"fisher_samples": 2},
    "dap": {
        "warmup": 0.2,
        "every": 2,
        "prune_mass": 0.1,
        "guards": Guards(min_alive=2),
        "palette": "shots",
        "grain": "shots",
        "mosaic": "shots",
        "gamut": "shots",
    },
}
"""Settings with which a method does all it does within eight steps of the tiny networks."""
