"""A smooth walk from seed to seed: its latents, and its frames.

The walk is a Catmull-Rom spline through the seeds' w latents (Catmull and Rom 1974, "A class of local interpolating
splines"), not arcs between their z. Both pass through the seeds' own images, but w is the less bent of the two
spaces (StyleGAN, arXiv:1812.04948, section 4.1): on `faces64` the spline's way, summed over the pixels' changes, is a
third shorter. It has no corner at a seed, where it goes at about half its speed. The squares of its weights sum to
at most 1, so that on average no frame is farther from the mean latent, and so no stranger, than the seeds.

Noise is that of the first seed in every frame, so that only what the latent decides moves. The first seed's frame
is its generated image; another seed's frame is its generated image up to the noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.models import Model, loaded
from tenshot.nets import Generator
from tenshot.sampling import check_truncation, latents, noises, to_uint8


@dataclass(frozen=True)
class Walk:
    """Which seeds, in which order, in how many frames. Raises TenshotError if that is no walk."""

    seeds: tuple[int, ...]
    frames: int = 60
    """From one seed to the next: seed k is frame k * frames, exactly."""
    loop: bool = True
    """Come back to the first seed: the last frame is one step before the first."""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < 2 or min(self.seeds) < 0:
            raise TenshotError(
                f"a walk goes from seed to seed, and the seeds are {list(self.seeds[:3])}: "
                "give at least two different ones, none negative"
            )
        if self.frames < 1:
            raise TenshotError(f"frames is {self.frames}: from one seed to the next it takes at least 1")

    def __len__(self) -> int:
        """Frames in all."""
        return len(self.seeds) * self.frames if self.loop else (len(self.seeds) - 1) * self.frames + 1

    def latents(self, keys: Tensor, start: int, stop: int) -> Tensor:
        """Latents of the frames start, ..., stop - 1, `[n d]`, from those of the seeds, `[seeds d]`.

        A cubic per pair of seeds whose slope at a seed is half the way from the seed before to the seed after. Ends
        that are not joined are continued straight. At a seed's frame the result is its latent, bit for bit.
        """
        before, after = (keys[-1:], keys[:2]) if self.loop else (2 * keys[:1] - keys[1:2], 2 * keys[-1:] - keys[-2:-1])
        points = torch.cat([before, keys, after])
        frame = torch.arange(start, stop, device=keys.device)
        pair = (frame // self.frames).clamp(max=len(points) - 4)
        t = (frame - pair * self.frames).double()[:, None] / self.frames
        weights = torch.cat(
            [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], dim=1
        )
        around = points[pair[:, None] + torch.arange(4, device=keys.device)]  # [n 4 d]
        return (weights[..., None] / 2 * around).sum(dim=1).to(keys.dtype)


@torch.no_grad()
def frames(generator: Generator, walk: Walk, *, truncation: float = 1.0, batch: int = 8) -> Iterator[Tensor]:
    """The walk's images in order, `uint8 [n 3 r r]` with n <= batch at a time.

    The network always sees full batches, as in `sampling.generate`, so that a seed's frame is the same image. The
    seeds' latents are held, `[seeds d]`; nothing grows with the number of frames.
    """
    device = generator.latent_avg.device
    z = latents(walk.seeds, generator.spec.latent_size).to(device)
    mapped = [generator.map(_filled(part, batch))[: len(part)] for part in z.split(batch)]
    keys = generator.truncate(torch.cat(mapped), truncation)
    noise = [layer.expand(batch, -1, -1, -1) for layer in noises(walk.seeds[:1], generator)]
    for start in range(0, len(walk), batch):
        w = walk.latents(keys, start, min(start + batch, len(walk)))
        images = generator.synthesise(generator.spread(_filled(w, batch)), noise)
        yield to_uint8(images[: len(w)])


def panels(
    models: Sequence[Model], walk: Walk, side: int, *, truncation: float = 1.0, batch: int = 8
) -> Iterator[Tensor]:
    """The frames of one or more models from the same latents, `uint8 [n models 3 side side]` at a time.

    Each seed's z goes through each model's own mapping network. Raises TenshotError where the models' latents have
    different sizes, or for a truncation that gives no sensible images.
    """
    check_truncation(truncation)
    sizes = [model.generator.spec.latent_size for model in models]
    if len(set(sizes)) > 1:
        raise TenshotError(
            f"the latents of the two models have {sizes[0]} and {sizes[1]} numbers: only models of one latent size, "
            "a source and what was adapted from it, can move together"
        )
    walks = [frames(model.generator, walk, truncation=truncation, batch=batch) for model in models]
    for images in zip(*walks, strict=True):
        yield torch.stack([resized(part, side) for part in images], dim=1)


def interpolate(
    model: Model | str | Path,
    seeds: Sequence[int],
    *,
    frames: int = 60,
    pair: Model | str | Path | None = None,
    loop: bool = True,
    truncation: float = 1.0,
) -> Tensor:
    """A smooth walk through the seeds' images, `uint8 [n 3 r r]`, RGB in [0, 255]; seed k is image k * frames.

    model: loaded, or what `tenshot.load` takes. frames: from one seed to the next. pair: a second model that moves
    from the same latents, put to the left: `[n 3 r 2r]`, where r is the larger resolution of both. loop: come back to
    the first seed, n = seeds * frames; else n = (seeds - 1) * frames + 1. Noise is that of the first seed throughout.
    Raises TenshotError.
    """
    models = [loaded(each) for each in (pair, model) if each is not None]
    side = max(each.resolution for each in models)
    parts = panels(models, Walk(tuple(seeds), frames, loop), side, truncation=truncation)
    return torch.cat([beside(part) for part in parts])


def beside(panels: Tensor) -> Tensor:
    """Models side by side, `[n k 3 h w] -> [n 3 h k*w]`."""
    return torch.cat(panels.unbind(dim=1), dim=3)


def resized(images: Tensor, side: int) -> Tensor:
    """Bicubic, `uint8 [n 3 r r] -> [n 3 side side]`; images of that size are returned as they are."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bicubic", antialias=True)


def _filled(rows: Tensor, batch: int) -> Tensor:
    """The rows and copies of the first, `batch` in all."""
    return torch.cat([rows, rows[:1].expand(batch - len(rows), -1)])
