"""Mean and Student's t-interval of a few numbers, with no library of statistics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    half: float | None
    """Half the width of the interval; None for a single number."""
    n: int


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean and its t-interval, n - 1 degrees of freedom. Raises ValueError for no values."""
    n = len(values)
    if not n:
        raise ValueError("no values, no mean")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, quantile(level, n - 1) * math.sqrt(variance / n), n)


def quantile(level: float, freedom: int) -> float:
    """The t within whose distance of 0 a t-distributed number lies with probability `level`, by bisection."""
    if not 0 < level < 1 or freedom < 1:
        raise ValueError(f"level {level} and {freedom} degrees of freedom: 0 < level < 1 and at least 1 are needed")
    low, high = 0.0, 1.0
    while within(high, freedom) < level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def within(t: float, freedom: int) -> float:
    """P(|T| <= t), the finite series of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, term, total = math.cos(angle), 1.0, 0.0
    if freedom % 2 == 0:
        for k in range(0, freedom - 1, 2):  # 1 + cos^2 / 2 + 3 cos^4 / 8 + ...
            total += term
            term *= cosine**2 * (k + 1) / (k + 2)
        return math.sin(angle) * total
    for k in range(1, freedom - 1, 2):  # cos + 2 cos^3 / 3 + ...
        total += term * cosine
        term *= cosine**2 * (k + 1) / (k + 2)
    return 2 / math.pi * (angle + math.sin(angle) * total)
