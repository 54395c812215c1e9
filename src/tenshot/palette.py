"""Colours that a new domain does not have are removed from an adapted generator's images.

A source of photographs leaves a tint in drawings without colour, which few steps cannot train away: it is faint, and
the moving average keeps it. Ten shots say with certainty which directions of colour a domain lacks. A toRGB adds its
share of the image linearly, so all of them projected together project the image. The formulas are ours.
"""

from typing import cast

import torch
from torch import Tensor

from tenshot.nets import Generator
from tenshot.nets.layers import ToRGB
from tenshot.sampling import to_unit

LEAST = 2 / 127.5
"""Standard deviation, of [-1, 1], below which a direction of colour counts as lacking: two of 255 levels."""


def palette_of(shots: Tensor) -> Tensor:
    """The affine map `[3 4]`, float64, that an image's colours are projected by: colour x to map @ (x, 1).

    shots: uint8 `[n 3 r r]`. Kept are the principal axes of their pixels' colours along which they vary by `LEAST` or
    more, at least the longest; along the others every pixel gets the shots' mean. The identity where they lack none.
    """
    colours = to_unit(shots).double().transpose(0, 1).flatten(1)
    mean = colours.mean(1, keepdim=True)
    variances, axes = torch.linalg.eigh(torch.cov(colours, correction=0))
    kept = variances >= LEAST**2
    kept[-1] = True
    if kept.all():
        return torch.eye(3, 4, dtype=torch.float64)
    projector = axes[:, kept] @ axes[:, kept].T
    return torch.cat([projector, mean - projector @ mean], dim=1).round(decimals=9)  # grey to the last bit


@torch.no_grad()
def paint_(generator: Generator, palette: Tensor) -> None:
    """Send every image of a generator through an affine map of colours, `[3 4]`, by changing its toRGBs."""
    layers = [cast(ToRGB, layer) for layer in (generator.to_rgb1, *generator.to_rgbs)]
    for layer in layers:
        linear, weight = palette[:, :3].to(layer.bias), layer.conv.weight
        weight.copy_((linear @ weight.flatten(2)).view_as(weight))
        layer.bias.copy_((linear @ layer.bias.flatten()).view_as(layer.bias))
    layers[-1].bias.add_(palette[:, 3].to(layers[-1].bias).view_as(layers[-1].bias))
