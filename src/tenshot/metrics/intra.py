"""Diversity within the clusters around the shots: the procedure of Intra-LPIPS, for any network's feature maps.

Intra-LPIPS (Ojha et al. 2021, arXiv:2104.06820, section 4) assigns every fake to its nearest training image
and averages the distance of pairs within each cluster: images that are all alike, or all copies of a shot,
score 0. The distance is LPIPS (Zhang et al. 2018, arXiv:1801.03924): at every position the channel vectors of
two feature maps are scaled to unit length and their squared difference is taken, weighted by channel; then the
mean over positions and the sum over stages. Without channel weights it is the mean over stages, within [0, 4].

That is a squared euclidean distance between two long vectors, one per image. So the distances of a whole cluster
are one matrix product, where the usual way encodes both images of every pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tenshot.metrics.neighbours import squared_distances

PER_CLUSTER = 50
EPS = 1e-10  # added to a norm, as in LPIPS


def descriptors(stages: Sequence[Tensor], channel_weights: Sequence[Tensor] | None = None) -> Tensor:
    """One vector per image, such that the squared euclidean distance of two is the distance defined above.

    Args:
        stages: feature maps `[n, c_s, h_s, w_s]`.
        channel_weights: `[c_s]` for each stage, none negative, as LPIPS learned them; None: all alike.

    Returns:
        float32 `[n, sum of c_s h_s w_s]`; without weights, each row of length 1 where no channel vector vanishes.
    """
    parts = []
    for i, x in enumerate(stages):
        length = x.square().sum(1, keepdim=True).sqrt_().add_(EPS)  # [n, 1, h, w]
        if channel_weights is None:
            share = math.sqrt(len(stages) * x[0, 0].numel())  # makes the sum over all entries a mean
            parts.append((x / length.mul_(share)).flatten(1))
        else:
            factor = (channel_weights[i].to(x.device) / x[0, 0].numel()).sqrt()
            parts.append((x / length).mul_(factor[:, None, None]).flatten(1))
    return torch.cat(parts, 1)


class IntraDist:
    """Accumulates fakes batch by batch, keeping only those of which pairs will be formed.

    Which fakes of a crowded cluster are kept follows from the seed and the order of the fakes, not from how
    they are cut into batches. Kept are their descriptors (of EfficientNet-Lite0 1.4 MB each, 0.7 GB for ten full
    clusters; float16 would not do: flat image areas repeat one rounding error, and 1e-5 is missed), or, where
    these are too large, the images themselves, described anew cluster by cluster.

    Args:
        shots: descriptors `[s, d]` of the training images, one cluster each.
        seed: of the draw of at most `per_cluster` fakes from each cluster.
        per_cluster: members of which pairs are formed.
        describe: from images that `update` was given to descriptors `[n, d]`; None: descriptors are kept.
    """

    def __init__(
        self,
        shots: Tensor,
        seed: int = 0,
        per_cluster: int = PER_CLUSTER,
        describe: Callable[[Tensor], Tensor] | None = None,
    ):
        self.shots = shots
        self.sizes = [0] * len(shots)
        self.nearest = math.inf
        self.describe = describe
        self._kept: list[dict[int, Tensor]] = [{} for _ in range(len(shots))]  # by cluster, then slot
        self._lots = np.full((len(shots), per_cluster), np.inf)  # the smallest lots of a cluster stay
        self._random = np.random.RandomState(seed)

    @torch.no_grad()
    def update(self, fakes: Tensor, images: Tensor | None = None) -> IntraDist:
        """Take in descriptors `[n, d]`, and the images `[n, ...]` if these are to be kept; returns itself, so that
        updates chain."""
        rows = fakes if images is None else images
        distances = squared_distances(fakes, self.shots)
        lots = self._random.random_sample(len(fakes))
        for row, lot, cluster in zip(rows, lots, distances.argmin(1).tolist(), strict=True):
            self.sizes[cluster] += 1
            slot = int(self._lots[cluster].argmax())  # a free one, else the largest lot's
            if lot < self._lots[cluster, slot]:
                self._lots[cluster, slot] = lot
                self._kept[cluster][slot] = row.clone()  # without the batch that it is a part of
        self.nearest = min(self.nearest, distances.min().item())
        return self

    @torch.no_grad()
    def result(self) -> dict[str, float | int | None]:
        """The metric and what is needed to read it.

        Returns:
            `value`: mean distance over all unordered pairs of a cluster, then unweighted over the clusters
            with at least 2 members; None if there is no such cluster. `std`: standard deviation over those
            clusters. `clusters_used`, `clusters`: how many entered the mean, and how many shots there are.
            `largest_cluster`: share of fakes in the most crowded cluster, 1 if one shot draws them all.
            `nearest_to_shot`: the smallest distance of a fake to a shot, 0 for a copy.
        """
        means = []
        for kept in self._kept:
            if len(kept) > 1:
                rows = torch.stack([kept[slot] for slot in sorted(kept)])
                means.append(mean_of_pairs(self.describe(rows) if self.describe else rows))
        return {
            "value": float(np.mean(means)) if means else None,
            "std": float(np.std(means)) if means else None,
            "clusters_used": len(means),
            "clusters": len(self.sizes),
            "largest_cluster": max(self.sizes) / max(sum(self.sizes), 1),
            "nearest_to_shot": self.nearest if math.isfinite(self.nearest) else None,
        }


def mean_of_pairs(x: Tensor) -> float:
    """Mean squared euclidean distance over all unordered pairs of rows `[m, d]`, m >= 2."""
    m = len(x)
    return squared_distances(x, x).triu(1).sum(dtype=torch.float64).item() / (m * (m - 1) / 2)


def intra_dist(fakes: Tensor, shots: Tensor, seed: int = 0, per_cluster: int = PER_CLUSTER) -> dict:
    """`IntraDist` of descriptors that are at hand: `[n, d]` of the fakes and `[s, d]` of the shots."""
    return IntraDist(shots, seed, per_cluster).update(fakes).result()
