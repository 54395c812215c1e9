"""What cutting a generator has gained and what it has changed, in numbers: sizes, speeds, pixels."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tenshot.compact import parameters
from tenshot.nets import Generator
from tenshot.randomness import generator_for
from tenshot.sampling import synthesise
from tenshot.watch import Watch

BATCHES = (1, 8)
"""Images at once, of which speeds are told."""
NOISE = 1.05
"""Two equal generators' medians differ by less than this factor on a machine that does other things too."""

Clock = Callable[[], float]
"""Seconds that pass, from any origin."""


def size(generator: Generator) -> dict[str, int]:
    """Parameters, and multiply-adds of one image: mapping, styles, convolutions, toRGB and low-pass filters."""
    return {"parameters": parameters(generator), "multiply_adds": multiply_adds(generator)}


@torch.no_grad()
def multiply_adds(generator: Generator) -> int:
    """Of one image from a latent z, as torch counts the operations it runs."""
    z = torch.zeros(1, generator.spec.latent_size).to(generator.latent_avg)
    with FlopCounterMode(display=False) as counter:
        generator(z)
    return counter.get_total_flops() // 2


@torch.no_grad()
def milliseconds(
    generators: Sequence[Generator], batch: int, *, seconds: float = 4.0, clock: Clock = time.perf_counter
) -> list[float]:
    """Milliseconds per image of each generator: the median of runs that take turns.

    At least 15 rounds, and as many more as begin within `seconds`, so that what else the machine does falls on all.
    """
    z = torch.randn(batch, generators[0].spec.latent_size, generator=generator_for(0, "speed")).to(
        generators[0].latent_avg
    )
    noise = generators[0].draw_noise(batch, generator_for(0, "speed", "noise"))
    taken: list[list[float]] = [[] for _ in generators]
    for generator in generators:  # the first run prepares kernels and memory
        generator(z, noise)
    end = clock() + seconds
    while len(taken[0]) < 15 or clock() < end:
        for generator, times in zip(generators, taken, strict=True):
            start = clock()
            generator(z, noise)
            times.append(clock() - start)
    return [1000 * statistics.median(times) / batch for times in taken]


def pixel_differences(a: Generator, b: Generator, latents: int, watch: Watch | None = None) -> dict[str, Any]:
    """`largest` and `mean` absolute difference of the images of the seeds 0, 1, ..., as they leave the networks.

    In units of [-1, 1]: one of 256 levels is 0.0078. Noise included, not truncated, not clamped.
    """
    largest, total, count, done = 0.0, 0.0, 0, 0
    pair: zip[tuple[Tensor, Tensor]] = zip(*(synthesise(g, range(latents)) for g in (a, b)), strict=True)
    for one, other in pair:
        difference = (one - other).abs().double()
        largest = max(largest, difference.max().item())
        total, count, done = total + difference.sum().item(), count + difference.numel(), done + len(one)
        if watch:
            watch("pixels", done, latents)
    return {"latents": latents, "largest": largest, "mean": total / count}
