"""CDC, cross-domain correspondence: images keep how much they resemble each other; few are asked to be real whole."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, randint

from tenshot.consistency import Reduction, Side, distance_consistency
from tenshot.methods.anchors import Anchored
from tenshot.methods.base import Batch, Context, Phase, State
from tenshot.randomness import generator_for
from tenshot.settings import require


@dataclass(frozen=True)
class Cdc(Anchored):
    """Keep the similarities among images as the source has them, and judge whole images only near anchors.

    Few-shot image generation via cross-domain correspondence, Ojha et al., CVPR 2021, arXiv:2104.06820. Everything
    trains, D's patch heads too. Where paper and public code differ the code is followed, whose weight is 1000.
    """

    name: ClassVar[str] = "cdc"
    paper: ClassVar[str] = "Few-shot image generation via cross-domain correspondence, CVPR 2021, arXiv:2104.06820"
    adds: ClassVar[str] = "distance consistency, anchors, patches"

    weight: float = 1000.0
    """Weight of the distance consistency."""
    reduction: Reduction = "entries"
    """entries: mean over all n (n - 1) terms, as in the code, to which the weight belongs; sum: over the rows, as in
    the paper, 12 times as much for 4 pairs."""
    kl_from: Side = "source"
    """source: KL(source || target), as in the code; target: KL(target || source), as in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self.name, "pairs", self.pairs >= 3, "at least 3: of two, each has but one other to resemble")
        require(self, self.name, "weight", 0 <= self.weight < math.inf, "at least 0")

    def extra_losses(self, phase: Phase, context: Context, state: State, batch: Batch) -> dict[str, Tensor]:
        if phase != "g" or not self.weight:
            return {}
        rng = generator_for(context.clock.seed, "cdc", context.clock.step)
        pairs = self.paired(context, rng, trains=True)
        names = [name for name in pairs.source_maps if name != "conv1"]
        layers = [names[i] for i in randint(len(names), (self.pairs,), generator=rng).tolist()]
        loss = distance_consistency(
            pairs.source_maps, pairs.target_maps, layers, reduction=self.reduction, kl_from=self.kl_from
        )
        return {"cdc": self.weight * loss}
