"""FID and KID as torch-fidelity computes them, from features that are at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tenshot.metrics.frechet import warn_if_rank_deficient
from tenshot.metrics.kernel import SUBSET_SIZE, SUBSETS
from tenshot.metrics.weights import needs


def fid(fakes: Tensor, reals: Tensor) -> dict[str, float]:
    """Frechet Inception distance by torch-fidelity's own functions.

    Args:
        fakes: features `[n, d]`.
        reals: features `[m, d]`.

    Warns:
        UserWarning: if a set has no more samples than dimensions; the value is finite but biased upwards.

    Raises:
        ValueError: if a set has fewer than 2 samples or a feature is not finite.
        TenshotError: if torch-fidelity is missing.
    """
    theirs = needs("torch-fidelity", _fid_functions)
    for features in (fakes, reals):
        if len(features) < 2 or not torch.isfinite(features).all():
            raise ValueError(f"a FID needs at least 2 samples of finite features, not {list(features.shape)}")
    warn_if_rank_deficient(len(fakes), len(reals), fakes.shape[1])
    a, b = (theirs.fid_features_to_statistics(features.cpu()) for features in (fakes, reals))
    return {"value": theirs.fid_statistics_to_metric(a, b, verbose=False)[theirs.KEY_METRIC_FID]}


def kid(fakes: Tensor, reals: Tensor, seed: int = 0) -> dict[str, float | int]:
    """Kernel Inception distance by torch-fidelity's own function: mean and deviation over 100 subsets of 1,000.

    Args:
        fakes: features `[n, d]`.
        reals: features `[m, d]`.
        seed: of the subsets.

    Raises:
        ValueError: if a set has fewer than 2 samples.
        TenshotError: if torch-fidelity is missing.
    """
    theirs = needs("torch-fidelity", _kid_functions)
    size = min(SUBSET_SIZE, len(fakes), len(reals))
    if size < 2:
        raise ValueError(f"a KID needs at least 2 samples a set, not {len(fakes)} and {len(reals)}")
    found = theirs.kid_features_to_metric(
        fakes.cpu(), reals.cpu(), kid_subsets=SUBSETS, kid_subset_size=size, rng_seed=seed, verbose=False
    )
    return {
        "value": found[theirs.KEY_METRIC_KID_MEAN],
        "std": found[theirs.KEY_METRIC_KID_STD],
        "subsets": SUBSETS,
        "subset_size": size,
    }


def _fid_functions() -> Any:
    from torch_fidelity import metric_fid

    return metric_fid


def _kid_functions() -> Any:
    from torch_fidelity import metric_kid

    return metric_kid
