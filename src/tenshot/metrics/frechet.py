"""Frechet distance between two sets of features (Heusel et al. 2017, arXiv:1706.08500, equation 6).

moments = Moments().update(batch).update(batch)...     mean and covariance, one pass, float64
frechet_distance(moments_a, moments_b)                 |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of a stream of feature batches, accumulated in float64 on the CPU.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1979), which keeps its precision
    when the mean is large against the spread. However a set is cut into batches, the result agrees to
    rounding.

    Attributes:
        n: samples seen.
        mean: float64 `[d]`.
    """

    def __init__(self):
        self.n = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)  # sum of (x - mean)(x - mean)^T

    def update(self, features: Tensor) -> Moments:
        """Take in a batch `[n, d]`; returns itself, so that updates chain."""
        x = features.detach().double().cpu()
        if x.ndim != 2 or (self.n and x.shape[1] != len(self.mean)):
            raise ValueError(f"features must be [n, {len(self.mean) if self.n else 'd'}], not {list(x.shape)}")
        if len(x) == 0:
            return self
        mean = x.mean(0)
        centred = x - mean
        scatter = centred.T @ centred
        if self.n:
            total = self.n + len(x)
            shift = mean - self.mean
            self._scatter += scatter + torch.outer(shift, shift) * (self.n * len(x) / total)
            self.mean = self.mean + shift * (len(x) / total)
        else:
            self.mean, self._scatter = mean, scatter
        self.n += len(x)
        return self

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance (divided by n - 1), float64 `[d, d]`."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, not {self.n}")
        return self._scatter / (self.n - 1)


def frechet_distance(a: Tensor | Moments, b: Tensor | Moments, offset: float = 0.0) -> float:
    """Frechet distance of two Gaussians fitted to the two sets: >= 0, in squared feature units, 0 for the
    same set.

    With S = F F^T for each set, tr (S_a S_b)^(1/2) is the sum of the singular values of F_a^T F_b; the
    factors come from an eigendecomposition. Unlike a Schur square root of the product, this stays real and
    finite for singular covariances and needs no diagonal offset.

    Args:
        a: features `[n, d]`, or their moments.
        b: features `[m, d]`, or their moments.
        offset: added to the diagonals of both covariances under the root, as pytorch-fid and its descendants do (with
            1e-6) where their root fails.

    Warns:
        UserWarning: if a set has no more samples than dimensions. The value is finite but biased upwards;
            compare it only with values from as many samples.

    Raises:
        ValueError: if a set has fewer than 2 samples, the dimensions differ, or a feature is not finite.
    """
    a, b = (s if isinstance(s, Moments) else Moments().update(s) for s in (a, b))
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features have {len(a.mean)} and {len(b.mean)} dimensions")
    cov_a, cov_b = a.cov, b.cov
    if not (torch.isfinite(cov_a).all() and torch.isfinite(cov_b).all()):
        raise ValueError("features contain NaN or infinity")
    warn_if_rank_deficient(a.n, b.n, len(a.mean))
    margin = offset * torch.eye(len(cov_a), dtype=cov_a.dtype)
    cross = torch.linalg.svdvals(factor(cov_a + margin).T @ factor(cov_b + margin)).sum()
    distance = (a.mean - b.mean).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(distance.item(), 0.0)  # rounding can leave -1e-12


def warn_if_rank_deficient(n: int, m: int, dimensions: int) -> None:
    """Warn the caller's caller if either set has no more samples than dimensions."""
    if min(n, m) <= dimensions:
        warnings.warn(
            f"Frechet distance of {n} and {m} samples in {dimensions} dimensions: covariance is "
            "rank-deficient, the value is biased and comparable only at equal sample counts",
            stacklevel=3,
        )


def factor(cov: Tensor) -> Tensor:
    """F `[d, rank]` with F F^T = cov, of `[d, d]`; eigenvalues within rounding of 0 count as 0."""
    values, vectors = torch.linalg.eigh(cov)
    alive = values > len(cov) * torch.finfo(cov.dtype).eps * values[-1]
    return vectors[:, alive] * values[alive].sqrt()
