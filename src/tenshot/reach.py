"""How far each layer of an adapted generator goes from its source, by the layer's Fisher information.

Weights between two fine-tuned networks, and beyond the second, give working networks (WiSE-FT, arXiv:2109.01903; task
arithmetic, arXiv:2212.04089). Here the place on that line is set layer by layer. A filter's Fisher information is the
mean squared change of the loss, to first order, that its removal makes. Early in a run a layer has the less of it, in
shares of what it had when the source's discriminator judged the source's images, the sooner it fits the new domain.
Where little was at stake, much of the source fits, and the layer goes back towards it; where much was, the source is
what does not fit, and the layer goes on. The formulas are ours.

Few shots also make a generator's images alike. A network beyond its average gets some of that back by spreading its
styles as far as its weights, about the mean latent: the opposite of truncation, by layers. The source needs none of it.
"""

import copy
import math
from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor

from tenshot.filters import Fate, Fates, FilterGroup
from tenshot.nets import Generator
from tenshot.nets.layers import EqualLinear
from tenshot.randomness import generator_for

SOURCE_SAMPLES = 128
"""Latents by which the source's own Fisher information is measured, before the first step."""

Mean = Literal["arithmetic", "geometric"]
Below = Literal["full", "place"]

_LEAST = torch.finfo(torch.float32).tiny
"""What an estimate of 0 counts as where logarithms are taken."""


def remember_(information: Tensor, fisher: Tensor, mean: Mean) -> None:
    """Take one estimate into a layer's account, `[3]`: the source's Fisher information, the sum of the run's (of its
    logarithm, for a geometric mean), and its number of estimates.

    fisher: that of a layer, mean over its living filters, a scalar. One that is not finite is left out.
    """
    if torch.isfinite(fisher):
        value = fisher.item()
        information += information.new_tensor(
            [0.0, math.log(max(value, _LEAST)) if mean == "geometric" else value, 1.0]
        )


def relative(information: Tensor, mean: Mean) -> float | None:
    """A layer's Fisher information, mean over the estimates so far, as a share of the source's own; None before the
    first estimate, or where the source's is 0."""
    source, total, estimates = information.tolist()
    if not estimates or source <= 0:
        return None
    average = total / estimates
    return (math.exp(average) if mean == "geometric" else average) / source


def places(shares: Mapping[str, float], gain: float, most: float, most_of_layer: float) -> dict[str, float]:
    """The place of every layer between source (0) and average (1), or beyond it.

    In proportion to the roots of the layers' `shares`, which are sizes of a first-order change where shares are mean
    squares, none farther than `most_of_layer`; before that bound their mean is `gain` times the mean share, at most
    `most`. So where a whole network is to go far, its layers keep their distances.
    """
    roots = {name: math.sqrt(share) for name, share in shares.items()}
    mean = sum(roots.values()) / len(roots)
    wanted = min(most, gain * sum(shares.values()) / len(shares))
    return {name: min(most_of_layer, wanted * root / mean) if mean > 0 else 0.0 for name, root in roots.items()}


def beyond(place: float, early: float) -> float:
    """A place beyond the average as it is once a run has gone on: what lies beyond 1 times the root of `early`, the
    share of the run by which the place was found.

    To go on beyond the average is to forecast training that is still to come. Weights that walk at random are as far
    from the source as the root of their steps, so this keeps the way beyond the average as long as it was. Places up
    to 1 stay.
    """
    return min(place, 1.0) + max(place - 1.0, 0.0) * math.sqrt(early)


def spreads_of(reaches: Mapping[str, float], spread: float, below: Below) -> dict[str, float]:
    """How many times as much each block's styles are to vary: `spread`, times the block's place where that is beyond
    the average. below: place = of what `spread` adds, a block below the average gets its place's share, none at the
    source; full = all of it.
    """
    shares = {block: min(1.0, place) if below == "place" else 1.0 for block, place in reaches.items()}
    return {block: (1 + (spread - 1) * shares[block]) * max(1.0, place) for block, place in reaches.items()}


@torch.no_grad()
def extend(
    source: Generator,
    averaged: Generator,
    reaches: Mapping[str, float],
    spreads: Mapping[str, float],
    fates: Fates,
    groups: list[FilterGroup],
) -> Generator:
    """A copy of `averaged` whose every block is at source + reach * (averaged - source).

    reaches: by the name of a styled convolution; toRGB goes with the convolution it reads, the constant input with the
    first one, the mapping network by their mean. A block's styles then vary with the latent as many times as much as
    `spreads` says, by the same names, about those of the mean latent. Pruned filters (`fates`, by group) stay as they
    are in `averaged`.
    """
    result = copy.deepcopy(averaged)
    everywhere = {"style": sum(reaches.values()) / len(reaches), **reaches}
    for block, names in result.blocks().items():
        for name in names if everywhere[block] != 1.0 else ():
            begun, here = source.get_parameter(name), result.get_parameter(name)
            here.copy_(begun + everywhere[block] * (here - begun))
    _spread_(result, spreads)
    for group in groups:
        pruned = fates[group.name] == Fate.PRUNE
        for piece in group.slices if pruned.any() else ():
            here, kept = result.get_parameter(piece.parameter), averaged.get_parameter(piece.parameter)
            here.copy_(torch.where(piece.broadcast(pruned, here), kept, here))
    return result


def _spread_(generator: Generator, factors: Mapping[str, float]) -> None:
    """Multiply how far each block's styles are from those of the mean latent, by the block's factor."""
    if all(factor == 1.0 for factor in factors.values()):
        return
    mean, blocks = generator.mean_latent(generator_for(0, "latent_avg")), generator.blocks()
    for block, factor in factors.items():
        for name in (name for name in blocks[block] if name.endswith(".modulation.weight")):
            modulation = cast(EqualLinear, generator.get_submodule(name.removesuffix(".weight")))
            before = modulation(mean)
            modulation.weight.mul_(factor)
            modulation.bias.add_((before - modulation(mean)) / modulation.lr_mul)
