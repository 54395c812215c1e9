"""Kernel distance: unbiased squared maximum mean discrepancy (Gretton et al. 2012, equation 3) with the cubic
kernel (x.y / d + 1)^3 that KID uses (Binkowski et al. 2018, arXiv:1801.01401)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SUBSETS = 100
SUBSET_SIZE = 1000


@torch.no_grad()
def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 0
) -> dict[str, float | int]:
    """Mean of the unbiased estimate over random subsets, as KID is reported. Around 0 for equal
    distributions, where it can be negative.

    The kernel matrices of the full sets are computed once; the sums over all subsets are then products with
    0/1 matrices that tell who is in which subset.

    Args:
        a: features `[n, d]`.
        b: features `[m, d]`.
        subsets: how many pairs of subsets.
        subset_size: samples in each, drawn without replacement; lowered to the smaller set.
        seed: of the draw.

    Returns:
        `value`: mean over subsets. `std`: standard deviation over subsets. `subsets`, `subset_size`: as used.

    Raises:
        ValueError: if a set has fewer than 2 samples.
    """
    size = min(subset_size, len(a), len(b))
    if size < 2:
        raise ValueError(f"kernel distance needs at least 2 samples a set, not {len(a)} and {len(b)}")
    a, b = a.double(), b.double()
    random = np.random.RandomState(seed)
    in_a, in_b = (membership(len(x), subsets, size, random).to(x.device) for x in (a, b))  # [subsets, n]
    k_aa, k_bb, k_ab = cubic_kernel(a, a), cubic_kernel(b, b), cubic_kernel(a, b)
    pairs = size * (size - 1)
    within_a = ((in_a @ k_aa.fill_diagonal_(0)) * in_a).sum(1) / pairs
    within_b = ((in_b @ k_bb.fill_diagonal_(0)) * in_b).sum(1) / pairs
    across = ((in_a @ k_ab) * in_b).sum(1) / size**2
    values = within_a + within_b - 2 * across  # [subsets]
    return {
        "value": values.mean().item(),
        "std": values.std(correction=0).item(),
        "subsets": subsets,
        "subset_size": size,
    }


def cubic_kernel(a: Tensor, b: Tensor) -> Tensor:
    """(x.y / d + 1)^3 for all rows `[n, d]` and `[m, d]`, `[n, m]`."""
    return (a @ b.T).div_(a.shape[1]).add_(1).pow_(3)


def membership(n: int, subsets: int, size: int, random: np.random.RandomState) -> Tensor:
    """Which of n samples are in which subset: float64 `[subsets, n]` of 0 and 1, `size` ones in a row."""
    member = torch.zeros(subsets, n, dtype=torch.float64)
    for row in member:
        row[torch.from_numpy(random.choice(n, size, replace=False))] = 1
    return member
