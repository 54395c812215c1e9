"""What a new domain lacks by all its shots is removed from an adapted generator's images: colours, grain, fine detail.

A source of photographs leaves a tint in drawings without colour, grain in flat areas, and soft edges in pixel art. Few
steps do not train them away, and the moving average keeps them; and a handful of shots are enough to say that they do
not belong there. Colours: a toRGB adds its share of the image linearly, so all of them projected together project the
image. Loud colours: what lies beyond the average goes beyond the shots' gamut too, and is brought back into it as the
image's last step. Grain: it is the noise of the layers near the image. Detail within the squares of pixel art: every
square gets its mean, in training already. The rules are ours (docs/methods.md).
"""

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from tenshot.nets import Generator
from tenshot.nets.gamut import DIRECTIONS, along_of, share_within
from tenshot.nets.layers import StyledConv, ToRGB

LEVELS = 2
"""Of 255: a direction of colour with a lower standard deviation is lacking; pixels that differ by no more are alike."""

SIDE = 64
"""Pixels a side at which grain is looked for, the size at which the rule was found."""

WITHIN = 0.1
"""A mosaic's squares have at most this share of the mean squared step between neighbours that its borders have."""

RARE = 0.001
"""Share of the shots' pixels, at either end of a direction, that a gamut does not reach to."""

Lack = Literal["palette", "grain", "mosaic", "gamut"]
LACKS: tuple[Lack, ...] = get_args(Lack)


def lacking(shots: Tensor, asked: Collection[Lack]) -> dict[str, Tensor]:
    """What `without` and `square_` remove, of what is asked for. shots: uint8 `[n 3 r r]`.

    palette: an affine map of colours (`palette_of`). grain: whether the shots have any, a scalar. mosaic: the side of
    the squares that the shots are made of (`mosaic_of`), a scalar. gamut: how far their colours go (`gamut_of`).
    """
    found: dict[str, Tensor] = {}
    if "palette" in asked:
        found["palette"] = palette_of(shots)
    if "grain" in asked:
        found["grain"] = torch.tensor(has_grain(shots))
    if "mosaic" in asked:
        found["mosaic"] = torch.tensor(mosaic_of(shots))
    if "gamut" in asked:
        found["gamut"] = torch.tensor(gamut_of(shots))
    return found


def without(generator: Generator, found: Mapping[str, Tensor]) -> Generator:
    """A copy of a generator without what `lacking` found; the generator itself if nothing was asked for."""
    palette, grain, gamut = found.get("palette"), found.get("grain"), found.get("gamut")
    if palette is None and grain is None and gamut is None:
        return generator
    result = copy.deepcopy(generator)
    if palette is not None:
        paint_(result, palette)
    if grain is not None and not grain:
        smooth_(result)
    if gamut is not None:
        result.spec = replace(result.spec, gamut=tuple(gamut.tolist()))
    return result


def square_(generator: Generator, found: Mapping[str, Tensor]) -> None:
    """Make a generator's images of squares as large as `lacking` found; nothing if it was not asked for. Trained so,
    it need not learn what the squares do away with, and D cannot tell its images by that."""
    if (mosaic := found.get("mosaic")) is not None:
        generator.spec = replace(generator.spec, mosaic=int(mosaic))


def told(found: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same for a model's card: how many directions of colour the shots have, whether grain, squares of how
    many pixels a side, and within which share of all colours theirs are."""
    card: dict[str, Any] = {}
    if (palette := found.get("palette")) is not None:
        card["colours"] = round(palette[:, :3].trace().item())  # a projector's rank
    if (grain := found.get("grain")) is not None:
        card["grain"] = bool(grain)
    if (mosaic := found.get("mosaic")) is not None:
        card["mosaic"] = int(mosaic)
    if (gamut := found.get("gamut")) is not None:
        card["gamut"] = round(share_within(gamut.tolist()), 4)
    return card


def palette_of(shots: Tensor) -> Tensor:
    """The affine map `[3 4]`, float64, that an image's colours in [-1, 1] are projected by: x to map @ (x, 1).

    Kept are the principal axes of the shots' colours along which these vary by `LEVELS` or more; along the others every
    pixel gets the shots' mean. The identity where they lack none, and where all is one colour.
    """
    total, products = torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    for image in shots:
        colours = image.flatten(1).double()
        total += colours.sum(1)
        products += colours @ colours.T
    count = len(shots) * shots[0, 0].numel()
    mean = total / count
    variances, axes = torch.linalg.eigh(products / count - mean.outer(mean))
    kept = variances >= LEVELS**2
    if kept.all() or not kept.any():
        return torch.eye(3, 4, dtype=torch.float64)
    projector = axes[:, kept] @ axes[:, kept].T
    rest = (mean - projector @ mean) / 127.5 + projector.sum(1) - 1
    return torch.cat([projector, rest[:, None]], dim=1).round(decimals=9)  # grey to the last bit


def has_grain(shots: Tensor) -> bool:
    """Whether fewer than half of all pairs of neighbouring pixels are alike, in every channel.

    Seen at `SIDE` pixels at most: the more pixels, the more alike are neighbours, in photographs too.
    """
    alike = pairs = 0
    for image in shots:
        x = F.avg_pool2d(image.float(), max(1, image.shape[-1] // SIDE)).round()
        for step in (x[..., 1:] - x[..., :-1], x[:, 1:] - x[:, :-1]):
            differences = step.abs().amax(0)
            alike += int((differences <= LEVELS).sum())
            pairs += differences.numel()
    return 2 * alike < pairs


def mosaic_of(shots: Tensor) -> int:
    """Side in pixels of the squares of one colour that the shots are made of, as pixel art is; 1 if they are not.

    The largest power of two, up to an eighth of the image, such that steps between neighbouring pixels within squares
    are small beside those across borders, wherever within: `WITHIN` of their mean square, which forgives what resizing
    leaves. Squares begin at the corner.
    """
    size = shots.shape[-1]
    steps = torch.zeros(size, dtype=torch.float64)  # mean square, by the place of the second pixel; none at the first
    for image in shots:
        x = image.double()
        steps[1:] += (x[..., 1:] - x[..., :-1]).square().mean((0, 1)) + (x[:, 1:] - x[:, :-1]).square().mean((0, 2))
    side = size // 8
    while side > 1:
        by_place = steps.view(-1, side).sum(0)  # at a border, one pixel into a square, ...
        border = by_place[0] / (size // side - 1)
        if border > 0 and by_place[1:].max() / (size // side) <= WITHIN * border:
            return side
        side //= 2
    return 1


def gamut_of(shots: Tensor) -> tuple[int, ...]:
    """How far the shots' colours go along `DIRECTIONS`: lowest and highest level of all pixels but the share `RARE` at
    either end, 26 numbers."""
    counts = torch.zeros(len(DIRECTIONS), 5 * 256, dtype=torch.int64)  # of sums from -2 * 256 to 3 * 256
    for image in shots:
        channels = list(image.flatten(1).long())
        for count, direction in zip(counts, DIRECTIONS, strict=True):
            count += torch.bincount(along_of(direction, channels) + 2 * 256, minlength=len(count))
    up_to, total = counts.cumsum(1), int(counts[0].sum())
    rare = int(RARE * total)
    low, high = (up_to > rare).int().argmax(1), (up_to >= total - rare).int().argmax(1)
    return tuple((torch.stack([low, high], 1) - 2 * 256).flatten().tolist())


@torch.no_grad()
def paint_(generator: Generator, palette: Tensor) -> None:
    """Send every image of a generator through an affine map of colours, `[3 4]`, by changing its toRGBs."""
    layers = [cast(ToRGB, layer) for layer in (generator.to_rgb1, *generator.to_rgbs)]
    for layer in layers:
        linear, weight = palette[:, :3].to(layer.bias), layer.conv.weight
        weight.copy_((linear @ weight.flatten(2)).view_as(weight))
        layer.bias.copy_((linear @ layer.bias.flatten()).view_as(layer.bias))
    layers[-1].bias.add_(palette[:, 3].to(layers[-1].bias).view_as(layers[-1].bias))


@torch.no_grad()
def smooth_(generator: Generator) -> None:
    """Switch the noise off in the layers at the full and half resolution; below, it varies shapes."""
    for layer in list(generator.convs)[-4:]:
        cast(StyledConv, layer).noise.weight.zero_()
