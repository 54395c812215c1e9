"""A network pair small enough for a test and random enough that nothing is zero or one by accident."""

import torch

from tenshot.models import Model
from tenshot.nets import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec

CHANNELS = (12, 10, 8)


def tiny_model(*, dtype: torch.dtype = torch.float32, seed: int = 0) -> Model:
    """16 px, latent 16, two mapping layers; every parameter moved off its initial value."""
    rng = torch.Generator().manual_seed(seed)
    generator = Generator(GeneratorSpec(16, CHANNELS, latent_size=16, mapping_depth=2))
    discriminator = Discriminator(DiscriminatorSpec(16, CHANNELS))
    for network in (generator, discriminator):
        for parameter in network.parameters():
            jitter = torch.randn(parameter.shape, generator=rng)
            parameter.data.copy_(
                parameter.data * 0.0 + jitter if parameter.dim() > 1 else parameter.data + 0.3 * jitter
            )
    for layer in generator.style[1:]:
        layer.weight.data *= 100.0  # stored over lr_mul
    return Model(generator.to(dtype), discriminator.to(dtype), {"kind": "source", "name": "tiny"})


def tiny_shots(count: int = 6, *, seed: int = 0) -> torch.Tensor:
    """Random blocks of colour, uint8 `[count 3 16 16]`."""
    blocks = torch.randint(0, 256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)
