"""How far each layer of an adapted generator goes from its source, by the layer's Fisher information.

Weights between two fine-tuned networks, and beyond the second, give working networks (WiSE-FT, arXiv:2109.01903; task
arithmetic, arXiv:2212.04089). Here the place on that line is set layer by layer. A filter's Fisher information is the
mean squared change of the loss, to first order, that its removal makes. Over a run a layer has the less of it, in
shares of what it had when the source's discriminator judged the source's images, the sooner it fits the new domain.
Where little was at stake, much of the source fits, and the layer goes back towards it; where much was, the source is
what does not fit, and the layer goes on. The formulas are ours.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from tenshot.filters import Fate, Fates, FilterGroup
from tenshot.nets import Generator

SOURCE_SAMPLES = 128
"""Latents by which the source's own Fisher information is measured, before the first step."""


def remember_(information: Tensor, fisher: Tensor) -> None:
    """Take one estimate into a layer's account, `[3]`: the source's Fisher information, the sum of the run's, and its
    number of estimates.

    fisher: that of a layer, mean over its living filters, a scalar. One that is not finite is left out.
    """
    if torch.isfinite(fisher):
        information += information.new_tensor([0.0, fisher.item(), 1.0])


def relative(information: Tensor) -> float | None:
    """A layer's Fisher information, mean over the run so far, as a share of the source's own; None before the first
    estimate, or where the source's is 0."""
    source, total, estimates = information.tolist()
    return total / estimates / source if estimates and source > 0 else None


def reach(share: float, gain: float, most: float) -> float:
    """The place of a layer between source (0) and average (1), or beyond it: gain * share, at most `most`."""
    return min(most, gain * share)


@torch.no_grad()
def extend(
    source: Generator, averaged: Generator, reaches: Mapping[str, float], fates: Fates, groups: list[FilterGroup]
) -> Generator:
    """A copy of `averaged` whose every block is at source + reach * (averaged - source).

    reaches: by the name of a styled convolution; toRGB goes with the convolution it reads, the constant input with the
    first one, the mapping network by their mean. Pruned filters (`fates`, by group) stay as they are in `averaged`.
    """
    result = copy.deepcopy(averaged)
    everywhere = {"style": sum(reaches.values()) / len(reaches), **reaches}
    for block, names in result.blocks().items():
        for name in names:
            begun, here = source.get_parameter(name), result.get_parameter(name)
            here.copy_(begun + everywhere[block] * (here - begun))
    for group in groups:
        pruned = fates[group.name] == Fate.PRUNE
        for piece in group.slices if pruned.any() else ():
            here, kept = result.get_parameter(piece.parameter), averaged.get_parameter(piece.parameter)
            here.copy_(torch.where(piece.broadcast(pruned, here), kept, here))
    return result
