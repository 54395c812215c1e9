"""One variant against each of the others, pair by pair of the same domain and seed.

Means over seeds hide what pairs show: how often one is better, and by what factor over all domains.
"""

import math
from typing import NamedTuple

from tenshot.bench.intervals import Estimate, estimate
from tenshot.bench.specs import Spec

Numbers = dict[tuple[str, str], dict[int, float]]
"""(variant, domain) -> seed -> value, above 0."""


class Duel(NamedTuple):
    """What two variants' pairs say."""

    pairs: int
    better: int
    """Pairs in which the first variant's number is the better one."""
    log_ratio: Estimate
    """Of ln(first / second): mean over seeds in each domain, then mean and t-interval over domains."""


def duel(spec: Spec, numbers: Numbers, first: str, second: str, better: str) -> Duel | None:
    """`first` against `second`; None where they have no domain and seed in common. better: "lower" or "higher".

    Domains are the units of the interval, since seeds of one domain do not tell of another.
    """
    by_domain = []
    for domain in spec.domains:
        ours, theirs = numbers.get((first, domain), {}), numbers.get((second, domain), {})
        seeds = [seed for seed in spec.seeds if ours.get(seed, 0) > 0 and theirs.get(seed, 0) > 0]
        if seeds:
            by_domain.append([math.log(ours[seed] / theirs[seed]) for seed in seeds])
    if not by_domain:
        return None
    logs = [log for domain in by_domain for log in domain]
    won = sum(log < 0 if better == "lower" else log > 0 for log in logs)
    return Duel(len(logs), won, estimate([math.fsum(domain) / len(domain) for domain in by_domain]))


def duels(spec: Spec, numbers: Numbers, first: str, better: str) -> str:
    """A table in Markdown: `first` against every other variant."""
    lines = [
        f"| {first} against | better in pairs | ratio, geometric mean | 95 % interval over domains |",
        "|---" * 4 + "|",
    ]
    for second in spec.variants:
        if second == first or (found := duel(spec, numbers, first, second, better)) is None:
            continue
        mean, half = found.log_ratio.mean, found.log_ratio.half
        low_high = "–" if half is None else f"{math.exp(mean - half):.2f} to {math.exp(mean + half):.2f}"
        lines.append(f"| {second} | {found.better} of {found.pairs} | {math.exp(mean):.3f} | {low_high} |")
    if len(lines) == 2:
        return "*No pairs yet.*"
    way = "below" if better == "lower" else "above"
    whole = len(spec.domains) * len(spec.seeds)
    return "\n".join([*lines, "", f"A ratio {way} 1 speaks for {first}. {whole} pairs each when all runs are done."])
