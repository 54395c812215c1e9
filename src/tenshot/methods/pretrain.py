"""Pretraining: a source is made by the very loop that adapts one, on many images instead of ten."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tenshot.distil import halved, pyramid_distance
from tenshot.errors import TenshotError
from tenshot.methods.base import Batch, Context, Method, Phase, State
from tenshot.nets import Discriminator
from tenshot.pairs import Pairs, load_pairs
from tenshot.settings import check_types, require


@dataclass(frozen=True)
class Pretrain(Method):
    """Every parameter of both networks trains on the images; with `pairs`, G is also distilled from known latents.

    StyleGAN2, arXiv:1912.04958. The result keeps its discriminator, so it can be adapted.
    """

    name: ClassVar[str] = "pretrain"
    paper: ClassVar[str] = "Analyzing and improving the image quality of StyleGAN, CVPR 2020, arXiv:1912.04958"
    adds: ClassVar[str] = "L1 and feature distance to images of known latents"
    keeps_discriminator: ClassVar[bool] = True
    places: ClassVar[tuple[str, ...]] = ("pairs",)

    pairs: str = ""
    """Images with known latents (folder or zip with img/NNNNNN.jpg and w_NNNNNN.npy) that G is to draw from them."""
    pair_truncation: float = 1.0
    """Truncation with which the pairs were made; their latents are stretched back by it."""
    pair_batch: int = 8
    """Pairs a step."""
    pair_l1: float = 2.0
    """Weight of the mean absolute difference of pixels, both in [-1, 1]."""
    pair_coarse: float = 0.0
    """Weight of the mean absolute differences at half the size, a quarter and so on down to 8 pixels, summed: what is
    where, and of what colour; grain is left to D."""
    pair_features: float = 2.0
    """Weight of the mean absolute difference of D's feature maps, each divided by its own mean size."""

    def __post_init__(self) -> None:
        check_types(self, self.name)
        require(self, self.name, "pair_batch", self.pair_batch >= 1, "at least 1")
        require(self, self.name, "pair_truncation", 0 < self.pair_truncation <= 1, "above 0 and at most 1")
        require(self, self.name, "pair_l1", self.pair_l1 >= 0, "at least 0")
        require(self, self.name, "pair_coarse", self.pair_coarse >= 0, "at least 0")
        require(self, self.name, "pair_features", self.pair_features >= 0, "at least 0")
        weights = self.pair_l1, self.pair_coarse, self.pair_features
        require(self, self.name, "pair_l1", not self.pairs or any(weights), "above 0, or another weight of the pairs")

    def idle(self) -> dict[str, str]:
        names = ("pair_truncation", "pair_batch", "pair_l1", "pair_coarse", "pair_features")
        return {} if self.pairs else dict.fromkeys(names, "--pretrain.pairs")

    def digest(self, resolution: int) -> str | None:
        return load_pairs(self.pairs, resolution, self.pair_truncation).digest if self.pairs else None

    def setup(self, context: Context) -> State:
        if self.pairs:
            size, latents = context.nets.generator.spec.latent_size, self._load(context).ws.shape[1]
            if latents != size:
                raise TenshotError(f"{self.pairs} has latents of {latents} numbers, the generator takes {size}")
        return {}

    def extra_losses(self, phase: Phase, context: Context, state: State, batch: Batch) -> dict[str, Tensor]:
        if phase != "g" or not self.pairs:
            return {}
        pairs, generator = self._load(context), context.nets.generator
        chosen = torch.randint(len(pairs.ws), (self.pair_batch,), generator=batch.rng)
        device = generator.latent_avg.device
        wanted = pairs.images[chosen].to(device).float() / 127.5 - 1
        ws = generator.spread(pairs.ws[chosen].to(device))
        made = generator.synthesise(ws, generator.draw_noise(len(chosen), batch.rng))
        distances = {
            "pair_l1": (self.pair_l1, lambda: (made - wanted).abs().mean()),
            "pair_coarse": (self.pair_coarse, lambda: pyramid_distance(halved(made), halved(wanted))),
            "pair_features": (self.pair_features, lambda: self._feature_distance(made, wanted, context)),
        }
        return {name: weight * distance() for name, (weight, distance) in distances.items() if weight}

    def _load(self, context: Context) -> Pairs:
        return load_pairs(self.pairs, context.nets.generator.spec.resolution, self.pair_truncation)

    @staticmethod
    def _feature_distance(made: Tensor, wanted: Tensor, context: Context) -> Tensor:
        """Mean over D's blocks of |difference| / |wanted|, blocks as D stands now; no gradient for D itself."""
        discriminator = context.nets.discriminator
        with torch.no_grad():
            targets = dict(_blocks(discriminator, wanted))
        distances = [
            (x.float() - targets[name].float()).abs().mean() / targets[name].float().abs().mean()
            for name, x in _blocks(discriminator, made)
        ]
        return torch.stack(distances).mean()


def _blocks(discriminator: Discriminator, images: Tensor) -> list[tuple[str, Tensor]]:
    """D's outputs block by block, those inside of blocks left out."""
    return [(name, x) for name, x in discriminator.maps(images) if name.count(".") == 1]
