"""A cut generator learns to make the uncut one's images again: unlimited latents, no images, no discriminator."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tenshot.nets import Generator
from tenshot.randomness import generator_for
from tenshot.settings import check_types, require
from tenshot.watch import Watch


@dataclass(frozen=True)
class Distillation:
    """Settings of the fine-tuning after a cut."""

    steps: int = 300
    """Steps, each of `batch` latents. 0 = no fine-tuning."""
    lr: float = 0.002
    """Adam's learning rate at its highest; it rises over 20 steps and falls to 0 along a cosine."""
    batch: int = 8
    """Latents a step."""
    features: float = 1.0
    """Weight of the channels that stay being what they were, beside the images."""
    seed: int = 0
    """Of the latents."""

    def __post_init__(self) -> None:
        check_types(self, "distillation")
        require(self, "distillation", "steps", self.steps >= 0, "at least 0")
        require(self, "distillation", "batch", self.batch >= 1, "at least 1")
        require(self, "distillation", "features", 0 <= self.features < math.inf, "at least 0")
        require(self, "distillation", "lr", 0 < self.lr < math.inf, "above 0")

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        warm = min(1.0, (step + 1) / 20)
        return self.lr * warm * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))


def distil_(
    student: Generator,
    teacher: Generator,
    kept: Mapping[str, Tensor],
    settings: Distillation,
    watch: Watch | None = None,
) -> list[float]:
    """Train `student` in place to make `teacher`'s images from the same latents and noise. Returns the losses.

    kept: the teacher's channels that the student's are, by block name. The mapping network stays as it is, so latents
    keep their meaning; all else trains. Gates stay closed.
    """
    trained = [p for name, p in student.named_parameters() if not name.startswith("style.")]
    optimiser = torch.optim.Adam(trained, lr=settings.lr, betas=(0.9, 0.99))
    losses: list[float] = []
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate(step)
        rng = generator_for(settings.seed, "distil", step)
        z = torch.randn(settings.batch, teacher.spec.latent_size, generator=rng).to(teacher.latent_avg)
        wanted: dict[str, Tensor] = {}
        found: dict[str, Tensor] = {}
        with torch.no_grad():
            ws = teacher.spread(teacher.map(z))
            noise = teacher.draw_noise(settings.batch, rng)
            images = teacher.synthesise(ws, noise, keep=wanted)
        loss = pyramid_distance(student.synthesise(ws, noise, keep=found), images)
        for name, channels in kept.items() if settings.features else ():
            loss = loss + settings.features * relative_distance(found[name], wanted[name][:, channels])
        for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            parameter.grad = gradient
        optimiser.step()
        losses.append(loss.item())
        if watch:
            watch("fine-tuning", step + 1, settings.steps)
    for parameter in trained:
        parameter.grad = None
    return losses


def relative_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over the mean square of b. A scalar; 0 = equal, 1 = as good as nothing."""
    return (a - b).square().mean() / b.square().mean().clamp_min(1e-8)


def pyramid_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of images `[n 3 r r]`, summed over r, r/2, ..., 8 pixels: outlines and tones count
    as much as grain. A scalar."""
    distance = (a - b).abs().mean()
    while a.shape[-1] > 8:
        a, b = halved(a), halved(b)
        distance = distance + (a - b).abs().mean()
    return distance


def halved(images: Tensor) -> Tensor:
    """Every 2 x 2 pixels as their mean, `[n c h w] -> [n c h/2 w/2]`."""
    return F.avg_pool2d(images, 2)
