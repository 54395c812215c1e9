"""Differentiable augmentation of what the discriminator sees, the same kind for real and generated images."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Augment = Literal["none", "flip", "diffaug", "ada"]
"""none; flip: mirror half of the shots; diffaug: flip, and colour, translation and cutout on everything D sees;
ada: flip, and the pipeline of `tenshot.ada` with a probability that adapts."""


def flip(images: Tensor, rng: torch.Generator) -> Tensor:
    """Mirror each image with probability 1/2, `[n c h w]`."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=rng) < 0.5
    return torch.where(mirrored.to(images.device), images.flip(3), images)


def diffaug(images: Tensor, rng: torch.Generator, p: float = 1.0) -> Tensor:
    """Colour, translation by up to 1/8, and a cut-out square of half the size (DiffAugment, arXiv:2006.10738).

    `[n 3 h w]` in [-1, 1]; may leave that range. p: probability that an image is changed, by all three together (1 in
    the paper). Differentiable any number of times with respect to the images.
    """
    is_changed = (torch.rand(len(images), 1, 1, 1, generator=rng) >= 1.0 - p).to(images.device)
    return torch.where(is_changed, _diffaug(images, rng), images)


def _diffaug(images: Tensor, rng: torch.Generator) -> Tensor:
    n, _, height, width = images.shape

    def uniform(low: float, high: float) -> Tensor:
        return (torch.rand(n, 1, 1, 1, generator=rng) * (high - low) + low).to(images.device)

    x = images + uniform(-0.5, 0.5)  # brightness
    mean = x.mean(dim=1, keepdim=True)
    x = mean + (x - mean) * uniform(0.0, 2.0)  # saturation
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * uniform(0.5, 1.5)  # contrast
    x = _translate(x, rng, height // 8)
    return x * _cutout(n, height, width, rng).to(images.device)


def _translate(images: Tensor, rng: torch.Generator, most: int) -> Tensor:
    height, width = images.shape[2:]
    shifts = torch.randint(-most, most + 1, (len(images), 2), generator=rng).tolist()
    padded = F.pad(images, (most, most, most, most))
    moved = [
        padded[i, :, most + dy : most + dy + height, most + dx : most + dx + width] for i, (dy, dx) in enumerate(shifts)
    ]
    return torch.stack(moved)


def _cutout(n: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """1 outside and 0 inside a square of half the size around a random centre, `[n 1 h w]`."""
    centre_y = torch.randint(0, height + 1, (n, 1, 1), generator=rng)
    centre_x = torch.randint(0, width + 1, (n, 1, 1), generator=rng)
    y, x = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    inside = (y - centre_y + height // 4).ge(0) & (y - centre_y < height // 4)
    inside = inside & (x - centre_x + width // 4).ge(0) & (x - centre_x < width // 4)
    return (~inside).float()[:, None]
