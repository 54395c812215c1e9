"""Adaptive discriminator augmentation (ADA, arXiv:2006.06676, appendix B): pixel blitting, geometry and colour, "bgc".

`draw` decides what happens to each image, `geometry` and `colour` say it as one matrix each, `apply` does it.
`adjust` controls the probability.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tenshot.warp import blit, resample


@dataclass(frozen=True)
class Draw:
    """What each of n images drew, float64 on the CPU, in the order in which it is done; neutral where not drawn."""

    mirror: Tensor
    """`[n]` -1: left and right change places; 1."""
    turns: Tensor
    """`[n]` quarter turns, counter-clockwise, 0 to 3."""
    shift: Tensor
    """`[n 2]` translation as (x, y) in shares of the size, to the right and down, rounded to whole pixels."""
    scale: Tensor
    """`[n]` enlargement."""
    before: Tensor
    """`[n]` rotation before stretching, counter-clockwise in radians."""
    stretch: Tensor
    """`[n]` enlargement of x, and reduction of y."""
    after: Tensor
    """`[n]` rotation after stretching."""
    drift: Tensor
    """`[n 2]` as `shift`, not rounded."""
    brightness: Tensor
    """`[n]` added to every channel."""
    contrast: Tensor
    """`[n]` factor of every channel."""
    luma: Tensor
    """`[n]` -1: brightness changes its sign, colours stay; 1."""
    hue: Tensor
    """`[n]` rotation about the grey axis, in radians, from red to green."""
    saturation: Tensor
    """`[n]` factor of the distance from the grey axis."""


def ada(images: Tensor, rng: torch.Generator, p: float) -> Tensor:
    """Augment `[n 3 h w]`, about [-1, 1]; may leave that range. Squares of 16 pixels or more.

    p: probability of each operation, for each image by itself, in [0, 1]. rng: a generator of the CPU; what is taken
    from it depends on n alone. Differentiable any number of times with respect to the images. Half precision is
    computed in float32 and returned in its own type.
    """
    return apply(images, draw(len(images), rng, p))


def draw(n: int, rng: torch.Generator, p: float) -> Draw:
    """Decide for n images, each operation with probability p in [0, 1]; with 0, all of it is neutral.

    As in the paper, half of the mirrorings and luma flips that happen, and a quarter of the turns, change nothing. Each
    of the two rotations has probability 1 - sqrt(1 - p), so that at least one of them happens with probability p.
    """

    def uniform(reach: float, *shape: int) -> Tensor:
        return (torch.rand(n, *shape, generator=rng, dtype=torch.float64) * 2.0 - 1.0) * reach

    def normal(deviation: float, *shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=rng, dtype=torch.float64) * deviation

    def integer(count: int) -> Tensor:
        return torch.randint(count, (n,), generator=rng).double()

    def maybe(value: Tensor, neutral: float, probability: float = p) -> Tensor:
        is_drawn = torch.rand(n, generator=rng, dtype=torch.float64) < probability
        return torch.where(is_drawn if value.dim() == 1 else is_drawn[:, None], value, neutral)

    p_rotation = 1.0 - math.sqrt(1.0 - p)
    return Draw(
        mirror=maybe(1.0 - 2.0 * integer(2), 1.0),
        turns=maybe(integer(4), 0.0),
        shift=maybe(uniform(0.125, 2), 0.0),
        scale=maybe(normal(0.2).exp2(), 1.0),
        before=maybe(uniform(math.pi), 0.0, p_rotation),
        stretch=maybe(normal(0.2).exp2(), 1.0),
        after=maybe(uniform(math.pi), 0.0, p_rotation),
        drift=maybe(normal(0.125, 2), 0.0),
        brightness=maybe(normal(0.2), 0.0),
        contrast=maybe(normal(0.5).exp2(), 1.0),
        luma=maybe(1.0 - 2.0 * integer(2), 1.0),
        hue=maybe(uniform(math.pi), 0.0),
        saturation=maybe(normal(1.0).exp2(), 1.0),
    )


def geometry(drawn: Draw, height: int, width: int) -> Tensor:
    """The inverse of everything that moves pixels: (x, y, 1) in the result -> in the source, `[n 3 3]`.

    In pixels from the centre, y down: what `warp` wants.
    """
    size = torch.tensor([width, height], dtype=torch.float64)
    one = torch.ones_like(drawn.scale)
    return (
        _scaling(drawn.mirror, one)
        @ _rotation(drawn.turns * (math.pi / 2.0))
        @ _translation(-(drawn.shift * size).round())
        @ _scaling(1.0 / drawn.scale, 1.0 / drawn.scale)
        @ _rotation(drawn.before)
        @ _scaling(1.0 / drawn.stretch, drawn.stretch)
        @ _rotation(drawn.after)
        @ _translation(-drawn.drift * size)
    )


def colour(drawn: Draw) -> Tensor:
    """(r, g, b, 1) -> (r, g, b, 1), `[n 4 4]`."""
    eye = torch.eye(3, dtype=torch.float64)
    grey = torch.full([3, 3], 1.0 / 3.0, dtype=torch.float64)  # projects on the grey axis
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / math.sqrt(3.0)  # axis x ...
    contrast, luma, hue, saturation = (
        value[:, None, None] for value in (drawn.contrast, drawn.luma, drawn.hue, drawn.saturation)
    )
    linear = (
        (eye * saturation + grey * (1.0 - saturation))
        @ (eye * hue.cos() + cross * hue.sin() + grey * (1.0 - hue.cos()))
        @ (eye - grey * (1.0 - luma))
        * contrast
    )
    matrix = torch.eye(4, dtype=torch.float64).repeat(len(linear), 1, 1)
    matrix[:, :3, :3] = linear
    matrix[:, :3, 3] = linear.sum(2) * drawn.brightness[:, None]
    return matrix


def apply(images: Tensor, drawn: Draw) -> Tensor:
    """Do what was drawn. What moves only by whole pixels is not filtered; what drew nothing stays as it is."""
    x = images if images.dtype in (torch.float32, torch.float64) else images.float()
    inverse = geometry(drawn, *x.shape[2:])
    between_pixels = [
        drawn.scale != 1,
        drawn.before != 0,
        drawn.stretch != 1,
        drawn.after != 0,
        (drawn.drift != 0).any(1),
    ]
    is_resampled = torch.stack(between_pixels).any(0)
    is_blitted = (inverse != torch.eye(3)).flatten(1).any(1) & ~is_resampled
    x = _warp(x, is_blitted, inverse, blit)
    x = _warp(x, is_resampled, inverse, resample)
    matrix = colour(drawn)
    if (matrix != torch.eye(4)).any():
        matrix = matrix.to(x.dtype).to(x.device)
        x = torch.baddbmm(matrix[:, :3, 3:], matrix[:, :3, :3], x.flatten(2)).view_as(x)
    return x.to(images.dtype)


def adjust(p: float, sign: float, images: int, ada_images: float, target: float = 0.6, legacy: bool = False) -> float:
    """The next probability, p + sign(r - target) * images / ada_images, in [0, 1] (section 3 of the paper).

    sign: r, the mean of sign(D(real)) over the `images` real images since the last adjustment, -1 to 1; 1 where D
    overfits. ada_images: in as many, p goes from 0 to 1. legacy: the step is also multiplied by the target, as in the
    code that the few-shot papers ran with 500000; 1500 steps of 4 images then raise p to 0.0072 at most.
    """
    direction = (sign > target) - (sign < target)
    step = images / ada_images * (target if legacy else 1.0)
    return min(max(p + direction * step, 0.0), 1.0)


def _warp(x: Tensor, chosen: Tensor, inverse: Tensor, how: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Warp the chosen images, `[n]`, and keep the others."""
    if not chosen.any():
        return x
    if chosen.all():
        return how(x, inverse)
    index = chosen.nonzero()[:, 0].to(x.device)
    return x.index_copy(0, index, how(x.index_select(0, index), inverse[chosen]))


def _matrix(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Two rows of numbers per image, `[n]` each, and 0 0 1 -> `[n 3 3]`."""
    zero = torch.zeros_like(rows[0][0])
    return torch.stack([torch.stack(row, 1) for row in (*rows, (zero, zero, zero + 1.0))], 1)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return _matrix((x, zero, zero), (zero, y, zero))


def _rotation(angle: Tensor) -> Tensor:
    """Undoes a counter-clockwise rotation, as y points down."""
    zero = torch.zeros_like(angle)
    return _matrix((angle.cos(), -angle.sin(), zero), (angle.sin(), angle.cos(), zero))


def _translation(offset: Tensor) -> Tensor:
    zero, one = torch.zeros_like(offset[:, 0]), torch.ones_like(offset[:, 0])
    return _matrix((one, zero, offset[:, 0]), (zero, one, offset[:, 1]))
