"""From seeds to images: one seed is one image, whatever the batch."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.models import Model, loaded
from tenshot.nets import Generator
from tenshot.randomness import generator_for


def latents(seeds: Sequence[int], size: int) -> Tensor:
    """One standard normal latent per seed, `[n size]`."""
    return torch.cat([torch.randn(1, size, generator=generator_for(seed, "latent")) for seed in seeds])


def noises(seeds: Sequence[int], generator: Generator) -> list[Tensor]:
    """Every seed's own noise maps, one `[n 1 h w]` per styled convolution."""
    per_seed = [generator.draw_noise(1, generator_for(seed, "noise")) for seed in seeds]
    return [torch.cat(layer) for layer in zip(*per_seed, strict=True)]


def generate(
    generator: Generator, seeds: Sequence[int], *, truncation: float = 1.0, batch: int = 8
) -> Iterator[Tensor]:
    """Images of the seeds in order, `uint8 [n 3 r r]` with n <= batch at a time; see `synthesise`."""
    return (to_uint8(images) for images in synthesise(generator, seeds, truncation=truncation, batch=batch))


@torch.no_grad()
def synthesise(
    generator: Generator, seeds: Sequence[int], *, truncation: float = 1.0, batch: int = 8
) -> Iterator[Tensor]:
    """Images of the seeds as they leave the network, `float32 [n 3 r r]` in about [-1, 1], not clamped.

    truncation: 1 = as trained, towards 0 = closer to the mean image. The network always sees full batches
    (the last one is filled up and cut), so a seed's image does not depend on how many were asked for. Another
    `batch` may change a few values by one level: a sum in another order is rounded the other way.
    """
    device = generator.latent_avg.device
    for start in range(0, len(seeds), batch):
        wanted = list(seeds[start : start + batch])
        padded = wanted + wanted[:1] * (batch - len(wanted))
        w = generator.map(latents(padded, generator.spec.latent_size).to(device))
        images = generator.synthesise(generator.spread(generator.truncate(w, truncation)), noises(padded, generator))
        yield images[: len(wanted)]


def generate_images(model: Model | str | Path, seeds: Iterable[int], *, truncation: float = 1.0) -> Tensor:
    """Images of the seeds in order, `uint8 [n 3 r r]`, RGB in [0, 255].

    model: loaded, or what `tenshot.load` takes. truncation: 1 = as trained, 0.5 to 0.8 = fewer surprises, 0 = always
    the mean image. Raises TenshotError.
    """
    seeds = list(seeds)
    if not seeds or min(seeds) < 0:
        raise TenshotError(f"seeds are {seeds[:3]}: give at least one, none negative")
    check_truncation(truncation)
    return torch.cat(list(generate(loaded(model).generator, seeds, truncation=truncation)))


def check_truncation(truncation: float) -> None:
    """Raises TenshotError for a number that gives no sensible images."""
    if not 0 <= truncation <= 2:
        raise TenshotError(
            f"truncation is {truncation}: 0 gives the mean image, 1 leaves all as trained, 2 is the most"
        )


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to [0, 255], clamped and rounded, on the CPU."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def to_unit(images: Tensor) -> Tensor:
    """uint8 [0, 255] to float32 [-1, 1]."""
    return images.float() / 127.5 - 1


@torch.no_grad()
def measure_latent_avg_(generator: Generator) -> None:
    """Set the mean latent that truncation pulls towards, from fixed latents."""
    generator.latent_avg.copy_(generator.mean_latent(generator_for(0, "latent_avg")))
