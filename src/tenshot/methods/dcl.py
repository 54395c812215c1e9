"""DCL, dual contrastive learning: each image stays nearest to its own source image, and away from the shots."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tenshot.consistency import discriminator_contrast, generator_contrast
from tenshot.methods.anchors import Anchored, Pairs
from tenshot.methods.base import Batch, Context, Phase, State
from tenshot.nets import Discriminator
from tenshot.randomness import generator_for
from tenshot.settings import require


@dataclass(frozen=True)
class Dcl(Anchored):
    """Contrast each image, in the features of G and of D, with its source image for and the others against.

    A closer look at few-shot image generation, Zhao et al., CVPR 2022, arXiv:2205.03805. Anchors and patches are CDC's.
    The training code was never released: what the paper leaves open is decided here (docs/methods.md).
    """

    name: ClassVar[str] = "dcl"
    paper: ClassVar[str] = "A closer look at few-shot image generation, CVPR 2022, arXiv:2205.03805"
    adds: ClassVar[str] = "contrast in G and in D, anchors, patches"

    lambda1: float = 2.0
    """Weight of the contrast in G's features: own source image against other source images."""
    lambda2: float = 0.5
    """Weight of the contrast in D's features: own source image against shots."""
    temperature: float = 0.07
    """Cosine similarities are divided by this."""
    cl2_in_d: bool = True
    """Whether D, too, minimises the contrast in its features; the paper does not settle who does. G always does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lambda1", "lambda2"):
            require(self, self.name, name, 0 <= getattr(self, name) < math.inf, "at least 0")
        require(self, self.name, "temperature", 0 < self.temperature < math.inf, "above 0")

    def extra_losses(self, phase: Phase, context: Context, state: State, batch: Batch) -> dict[str, Tensor]:
        in_g, in_d = phase == "g" and self.lambda1 > 0, self.lambda2 > 0 and (phase == "g" or self.cl2_in_d)
        if not (in_g or in_d):
            return {}
        rng = generator_for(context.clock.seed, "dcl", phase, context.clock.step)
        pairs = self.paired(context, rng, trains=phase == "g")
        terms = {}
        if in_g:
            names = [name for name in pairs.source_maps if name != "conv1"]
            layer = _any(names, rng)
            contrast = generator_contrast(pairs.target_maps[layer], pairs.source_maps[layer], self.temperature)
            terms["cl1"] = self.lambda1 * contrast
        if in_d:
            name = "cl2" if phase == "g" else "cl2_d"
            terms[name] = self.lambda2 * self._contrast_in_d(context.nets.discriminator, pairs, batch.reals, rng)
        return terms

    def _contrast_in_d(self, discriminator: Discriminator, pairs: Pairs, shots: Tensor, rng: torch.Generator) -> Tensor:
        """In a convolution of D's blocks drawn at random; nothing is augmented, so a pair differs by generator only."""
        groups = [group for group in discriminator.filter_groups() if group.kind == "conv" and group.prunable]
        layer = _any([group.name for group in groups], rng)

        def features(images: Tensor) -> Tensor:
            return next(x for name, x in discriminator.maps(images) if name == layer)

        with torch.no_grad() if pairs.target.requires_grad else nullcontext():  # while G trains these stand still
            source, real = features(torch.cat([pairs.source, shots])).split([len(pairs.source), len(shots)])
        return discriminator_contrast(features(pairs.target), source, real, self.temperature)


def _any(names: list[str], rng: torch.Generator) -> str:
    return names[int(torch.randint(len(names), (), generator=rng))]
