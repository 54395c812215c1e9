"""One variant against each of the others, pair by pair of the same domain and seed.

Means over seeds hide what pairs show: how often one is better, and by what factor over all domains.
"""

import math
from typing import NamedTuple

from tenshot.bench.intervals import Estimate, estimate
from tenshot.bench.specs import Spec

Numbers = dict[tuple[str, str], dict[int, float]]
"""(variant, domain) -> seed -> value."""


class Duel(NamedTuple):
    """What two variants' pairs say."""

    pairs: int
    better: int
    """Pairs in which the first variant's number is the better one."""
    log_ratio: Estimate | None
    """Of ln(first / second): mean over seeds in each domain, then mean and t-interval over domains. None where a number
    is not above 0."""


def duel(spec: Spec, numbers: Numbers, first: str, second: str, better: str) -> Duel | None:
    """`first` against `second`; None where they have no domain and seed in common. better: "lower" or "higher".

    Domains are the units of the interval, since seeds of one domain do not tell of another.
    """
    by_domain = []
    for domain in spec.domains:
        ours, theirs = numbers.get((first, domain), {}), numbers.get((second, domain), {})
        if pairs := [(ours[seed], theirs[seed]) for seed in spec.seeds if seed in ours and seed in theirs]:
            by_domain.append(pairs)
    if not by_domain:
        return None
    everywhere = [pair for pairs in by_domain for pair in pairs]
    won = sum(a < b if better == "lower" else a > b for a, b in everywhere)
    if min(map(min, everywhere)) <= 0:
        return Duel(len(everywhere), won, None)
    means = [math.fsum(math.log(a / b) for a, b in pairs) / len(pairs) for pairs in by_domain]
    return Duel(len(everywhere), won, estimate(means))


def _shown(log_ratio: Estimate | None) -> tuple[str, str]:
    """The ratio and its interval."""
    if log_ratio is None:
        return "–", "–"
    mean, half = log_ratio.mean, log_ratio.half
    low_high = "–" if half is None else f"{math.exp(mean - half):.2f} to {math.exp(mean + half):.2f}"
    return f"{math.exp(mean):.3f}", low_high


def duels(spec: Spec, numbers: Numbers, first: str, better: str) -> str:
    """A table in Markdown: `first` against every other variant."""
    lines = [
        f"| {first} against | better in pairs | ratio, geometric mean | 95 % interval over domains |",
        "|---" * 4 + "|",
    ]
    for second in spec.variants:
        if second == first or (found := duel(spec, numbers, first, second, better)) is None:
            continue
        lines.append(f"| {second} | {found.better} of {found.pairs} | {' | '.join(_shown(found.log_ratio))} |")
    if len(lines) == 2:
        return "*No pairs yet.*"
    way = "below" if better == "lower" else "above"
    whole = len(spec.domains) * len(spec.seeds)
    return "\n".join([*lines, "", f"A ratio {way} 1 speaks for {first}. {whole} pairs each when all runs are done."])
