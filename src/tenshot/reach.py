"""How far each layer of an adapted generator goes from its source, by what is left of the layer's Fisher information.

Weights between two fine-tuned networks, and beyond the second, give working networks (WiSE-FT, arXiv:2109.01903; task
arithmetic, arXiv:2212.04089). Here the place on that line is set layer by layer. A filter's Fisher information is the
mean squared change of the loss, to first order, that its removal makes; over a layer it falls as the layer comes to fit
the new domain. Where it has fallen soon, much of the source fits, and the layer goes back towards it; where it stays
high, the source is what does not fit, and the layer goes on. The formulas are ours.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from tenshot.filters import Fate, Fates, FilterGroup
from tenshot.nets import Generator

OPENING = 0.05
"""Share of a run's estimates that says what a layer's Fisher information was when the run began."""


def remember_(information: Tensor, fisher: Tensor, is_opening: bool) -> None:
    """Take one more estimate into a layer's account, `[4]`: sum and number of its first estimates, and of all.

    fisher: the layer's Fisher information, mean over its living filters, a scalar. One that says nothing is left out.
    """
    if torch.isfinite(fisher):
        now = information.new_tensor([fisher.item(), 1.0])
        information += torch.cat([now * is_opening, now])


def remaining(information: Tensor) -> float | None:
    """A layer's Fisher information, mean over the run so far, over its mean when the run began; None until that is
    over, or where there was none."""
    first, opening, total, estimates = information.tolist()
    return (total / estimates) / (first / opening) if estimates > opening > 0 and first > 0 else None


def reach(remaining: float, gain: float, most: float) -> float:
    """The place of a layer between source (0) and average (1), or beyond it: gain * remaining, at most `most`.

    remaining: the layer's Fisher information, mean over the run so far, over what it was when the run began.
    """
    return min(most, gain * remaining)


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
