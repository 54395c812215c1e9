"""Metrics of nearest neighbours: precision, recall, density, coverage, and copies of the shots."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

COPY_PERCENTILE = 1.0  # of the held-out reals, by definition, as many count as copies
PRDC_NEIGHBOURS = 5
PRDC_PARTS = ("precision", "recall", "density", "coverage")
ROWS = 1000  # of a matrix of distances that are in memory at once


@torch.no_grad()
def prdc(fakes: Tensor, reals: Tensor, k: int = PRDC_NEIGHBOURS) -> dict[str, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991) with density and coverage
    (Naeem et al. 2020, arXiv:2002.09797).

    The ball of a sample reaches to its k-th nearest neighbour of its own set, itself not counted; its border
    is outside. Distances are euclidean, computed in float64.

    Args:
        fakes: features `[n, d]`.
        reals: features `[m, d]`.
        k: rank of the neighbour that sets a ball's radius.

    Returns:
        `precision`: share of fakes inside any real's ball. `recall`: share of reals inside any fake's ball.
        `density`: mean number of real balls around a fake, over k; can exceed 1. `coverage`: share of real
        balls with a fake inside.

    Raises:
        ValueError: if a set has k samples or fewer.
    """
    if min(len(fakes), len(reals)) <= k:
        raise ValueError(f"k={k} neighbours need more than {k} samples, not {len(fakes)} fakes and {len(reals)} reals")
    fakes, reals = fakes.double(), reals.double()
    of_fakes, of_reals = kth_neighbour(fakes, k), kth_neighbour(reals, k)
    balls = torch.zeros(len(fakes), dtype=torch.long, device=fakes.device)  # real ones around each fake
    covered, recalled = [], []
    for part, radius in zip(reals.split(ROWS), of_reals.split(ROWS), strict=True):
        distance = squared_distances(part, fakes)  # [rows, n]
        in_real = distance < radius[:, None]
        balls += in_real.sum(0)
        covered.append(in_real.any(1))
        recalled.append((distance < of_fakes).any(1))
    return {
        "precision": (balls > 0).double().mean().item(),
        "recall": torch.cat(recalled).double().mean().item(),
        "density": balls.double().mean().item() / k,
        "coverage": torch.cat(covered).double().mean().item(),
    }


@torch.no_grad()
def copy_rate(fakes: Tensor, reals: Tensor, shots: Tensor) -> dict[str, float]:
    """Share of fakes that lie closer to a training shot than 99 % of held-out reals do.

    An image's distance is that to its nearest shot, euclidean between features scaled to unit length, so
    within [0, 2]. The threshold is the first percentile (linear interpolation) of the reals' distances. A
    generator that samples the true distribution scores about 0.01; one that repeats its shots scores 1. Where
    a hundredth of the reals coincide with shots, no distance is below the threshold and the rate means
    nothing.

    Args:
        fakes: features `[n, d]`.
        reals: features `[m, d]` of held-out images, disjoint from the shots.
        shots: features `[s, d]` of the training images.

    Returns:
        `value`: the rate in [0, 1]. `threshold`: the distance below which a fake counts. `median_fake` and
        `median_real`: medians of the nearest-shot distances, to judge how far the sets lie from
        the threshold.

    Raises:
        ValueError: if a set is empty.
    """
    if min(len(fakes), len(reals), len(shots)) == 0:
        raise ValueError(f"empty set: {len(fakes)} fakes, {len(reals)} reals, {len(shots)} shots")
    of_fakes, of_reals = nearest_shot(fakes, shots), nearest_shot(reals, shots)
    threshold = torch.quantile(of_reals, COPY_PERCENTILE / 100)
    return {
        "value": (of_fakes < threshold).double().mean().item(),
        "threshold": threshold.item(),
        "median_fake": of_fakes.median().item(),
        "median_real": of_reals.median().item(),
    }


def nearest_shot(features: Tensor, shots: Tensor) -> Tensor:
    """Distance of each sample to its nearest shot after scaling all to unit length, float64 `[n]`."""
    x, s = F.normalize(features.double(), dim=1), F.normalize(shots.double(), dim=1)
    return squared_distances(x, s).amin(1).sqrt()


def kth_neighbour(x: Tensor, k: int) -> Tensor:
    """Squared distance of each sample `[n, d]` to its k-th nearest other sample, `[n]`."""
    found = []
    for start in range(0, len(x), ROWS):
        distance = squared_distances(x[start : start + ROWS], x)
        distance.diagonal(start).fill_(torch.inf)  # itself
        found.append(distance.kthvalue(k, dim=1).values)
    return torch.cat(found)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared euclidean distances `[n, m]` of rows `[n, d]` and `[m, d]`, by one matrix product."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1)[None, :]
    return torch.addmm(squares, a, b.T, alpha=-2).clamp_(min=0)
