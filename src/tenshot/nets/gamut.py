"""A gamut: how far the colours of images go along thirteen directions, and how others are brought within it."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

DIRECTIONS = sorted(
    (v for v in itertools.product((-1, 0, 1), repeat=3) if v > (0, 0, 0)), key=lambda v: (sum(map(abs, v)), v)
)
"""Of red, green and blue: the axes of the cube of colours, the diagonals of its faces and its own, each one way."""


def check_gamut(gamut: Sequence[int]) -> None:
    """Raises ValueError unless there are lowest and highest sum, in levels of 0 to 255, for each of `DIRECTIONS`."""
    if len(gamut) != 2 * len(DIRECTIONS):
        raise ValueError(f"gamut of {len(gamut)} numbers: {2 * len(DIRECTIONS)} are needed")
    for direction, low, high in zip(DIRECTIONS, gamut[::2], gamut[1::2], strict=True):
        least, most = 255 * direction.count(-1), 255 * direction.count(1)
        if not -least <= low <= high <= most:
            raise ValueError(f"gamut from {low} to {high} along {direction}: must be within {-least} to {most}")


def in_gamut(images: Tensor, gamut: Sequence[int]) -> Tensor:
    """Images `[n 3 h w]`, about [-1, 1], with every colour within a gamut; () leaves them as they are.

    A colour that is beyond goes back along one direction after the other, each time to the nearest that is within. What
    is within stays. A narrow gamut, such as a line of greys, is not quite reached from far outside.
    """
    if not gamut:
        return images
    channels = list(images.unbind(1))
    for direction, low, high in zip(DIRECTIONS, gamut[::2], gamut[1::2], strict=True):
        along = along_of(direction, channels)
        bounds = (level / 127.5 - sum(direction) for level in (low, high))
        beyond = (along - along.clamp(*bounds)) / sum(map(abs, direction))
        channels = [c - sign * beyond if sign else c for sign, c in zip(direction, channels, strict=True)]
    return torch.stack(channels, 1)


def along_of(direction: Sequence[int], channels: Sequence[Tensor]) -> Tensor:
    """How far colours go along one of `DIRECTIONS`: the sum of their channels, each with its sign."""
    first, *others = [c if sign > 0 else -c for sign, c in zip(direction, channels, strict=True) if sign]
    return sum(others, start=first)


def share_within(gamut: Sequence[int]) -> float:
    """Which share of all colours is within a gamut, by a grid of 33 levels a channel."""
    levels = torch.linspace(-1, 1, 33, dtype=torch.float64)
    colours = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).flatten(1).T[..., None, None]
    return ((in_gamut(colours, gamut) - colours).abs().amax(1) < 1e-6).double().mean().item()
