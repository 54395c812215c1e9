"""What a new domain surely lacks is removed from an adapted generator's images: colours, and grain.

A source of photographs leaves a tint in drawings without colour and grain in flat areas. Both are faint, few steps do
not train them away, and the moving average keeps them; and a handful of shots say with certainty that they do not
belong there. Colours: a toRGB adds its share of the image linearly, so all of them projected together project the
image. Grain: it is the noise of the layers near the image. The rules are ours (docs/methods.md).
"""

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from tenshot.nets import Generator
from tenshot.nets.layers import StyledConv, ToRGB
from tenshot.sampling import to_unit

LEVELS = 2
"""Of 255: a direction of colour with a lower standard deviation is lacking; pixels that differ by no more are alike."""


def lacking(shots: Tensor, *, colours: bool, grain: bool) -> dict[str, Tensor]:
    """What `without` removes, of what is asked for. shots: uint8 `[n 3 r r]`.

    palette: an affine map of colours (`palette_of`). grain: whether the shots have any, a scalar.
    """
    found: dict[str, Tensor] = {}
    if colours:
        found["palette"] = palette_of(shots)
    if grain:
        found["grain"] = torch.tensor(has_grain(shots))
    return found


def without(generator: Generator, found: Mapping[str, Tensor]) -> Generator:
    """A copy of a generator without what `lacking` found; the generator itself if nothing was asked for."""
    palette, grain = found.get("palette"), found.get("grain")
    if palette is None and grain is None:
        return generator
    result = copy.deepcopy(generator)
    if palette is not None:
        paint_(result, palette)
    if grain is not None and not grain:
        smooth_(result)
    return result


def palette_of(shots: Tensor) -> Tensor:
    """The affine map `[3 4]`, float64, that an image's colours are projected by: colour x to map @ (x, 1).

    Kept are the principal axes of the shots' colours along which these vary by `LEVELS` or more, at least the longest;
    along the others every pixel gets the shots' mean. The identity where they lack none.
    """
    colours = to_unit(shots).double().transpose(0, 1).flatten(1)
    mean = colours.mean(1, keepdim=True)
    variances, axes = torch.linalg.eigh(torch.cov(colours, correction=0))
    kept = variances >= (LEVELS / 127.5) ** 2
    kept[-1] = True
    if kept.all():
        return torch.eye(3, 4, dtype=torch.float64)
    projector = axes[:, kept] @ axes[:, kept].T
    return torch.cat([projector, mean - projector @ mean], dim=1).round(decimals=9)  # grey to the last bit


def has_grain(shots: Tensor) -> bool:
    """Whether fewer than half of all neighbouring pixels are alike, in every channel."""
    x = shots.int()
    steps = (x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :])
    alike = torch.cat([(step.abs().amax(1) <= LEVELS).flatten() for step in steps])
    return bool(alike.double().mean() < 0.5)


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
