"""From importances to fates, two rules: dynamic adaptive pruning's and RICK's. Pure functions of tensors.

DAP (Journal of Graphics 2026, 47(1):131-142) publishes the idea: track Fisher information throughout
training, turn it into cumulative importance weights, let those set each layer's pruning ratio anew. The formulas here
are ours; `docs/methods.md` says what was decided and why. RICK (arXiv:2304.07574) pools layers and cuts at two fixed
percentiles: `decide_pooled`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tenshot.filters import Fate
from tenshot.settings import check_types, require

_ROUNDING = 1e-9  # cumulative sums of equal weights must not fall short of k / n


@dataclass(frozen=True)
class Guards:
    """What no decision may exceed, whatever the importances say."""

    max_ratio: float = 0.5
    """Largest share of a layer that may be pruned."""
    max_new: float = 0.1
    """Largest share of a layer that one decision may prune; one filter at least, unless it is 0."""
    min_alive: int = 4
    """Filters of a layer that always survive."""

    def __post_init__(self) -> None:
        check_types(self, "dap.guards")
        for name in ("max_ratio", "max_new"):
            require(self, "dap.guards", name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        require(self, "dap.guards", "min_alive", self.min_alive >= 0, "at least 0")


def track(
    tracked: Tensor, fisher: Tensor, alive: Tensor, beta: float, estimates: int, scale: Tensor | None = None
) -> Tensor:
    """Bias-corrected moving average of F / mean(F), `[count]` each; `estimates` counts this one, from 1.

    Written as a step towards the new value, A_t = A_{t-1} + (1 - beta) / (1 - beta^t) (F_t - A_{t-1}), so the tracked
    value needs no correction when it is read. The mean is over the layer's living filters, so the loss's scale does not
    matter. Filters that are not alive keep the value they were pruned with: see `decide`. scale: what F is divided by
    instead, a scalar.
    """
    scale = fisher[alive].mean() if scale is None else scale
    if not torch.isfinite(scale) or scale <= 0:
        return tracked
    weight = (1.0 - beta) / (1.0 - beta**estimates)
    return torch.where(alive, torch.lerp(tracked, fisher / scale, weight), tracked)


def ramp(step: int, warmup: int, settle: int) -> float:
    """From 0 at `warmup` to 1 at `settle`, fast first and then ever slower: 1 - (1 - x)^3 (arXiv:1710.01878)."""
    if step < warmup:
        return 0.0
    if step >= settle:
        return 1.0
    return 1.0 - (1.0 - (step - warmup) / (settle - warmup)) ** 3


def cumulative_weights(importance: Tensor, order: Tensor) -> Tensor:
    """C_k = w_1 + ... + w_k, the share of the importance that the first k filters of an order carry together.

    `[count], [count] -> [count]`, w = importance / sum, in float64.
    """
    weights = importance.double()[order]
    return weights.cumsum(0) / weights.sum()


def decide(
    importance: Tensor,
    before: Tensor,
    *,
    prune_mass: float,
    preserve_mass: float,
    guards: Guards,
    revive: bool = False,
    wanted: int | None = None,
    rank: Tensor | None = None,
) -> Tensor:
    """The fate of each filter of one layer, `[count], [count] -> [count]`.

    Pruned: the longest run of least important filters that together carry at most `prune_mass` of the layer's
    importance.
    Preserved: the shortest run of most important living filters that carries at least `preserve_mass`. Tuned: the rest.
    How many that is follows from how concentrated the layer's importance is; nobody sets a ratio.

    Filters pruned before count towards `prune_mass` with the importance they had, so deciding again with the same
    importances changes nothing. Without `revive` they stay pruned; with it each fate is decided afresh. A layer whose
    importances say nothing (all zero, or not finite) keeps the fates it had.

    For comparisons, other rules can say how many filters are to go (`wanted`, see `count_cumulative` and those below
    it; the guards still hold), and by which numbers `[count]`, 0 or more, smallest first, they are chosen (`rank`).
    """
    total = importance.double().sum()
    if not torch.isfinite(total) or total <= 0:
        return before
    count = len(importance)
    was_pruned = before == Fate.PRUNE
    bound = was_pruned if not revive else torch.zeros_like(was_pruned)
    ranked = torch.where(bound, -1.0, (importance if rank is None else rank).double())  # the bound ones first, always
    order = torch.argsort(ranked, stable=True)
    if wanted is None:
        wanted = _light(importance, order, prune_mass)

    most = min(int(guards.max_ratio * count), count - guards.min_alive)
    most = min(most, int(was_pruned.sum()) + (max(1, int(guards.max_new * count)) if guards.max_new else 0))
    pruned = torch.zeros_like(was_pruned)
    pruned[order[: max(min(wanted, most), int(bound.sum()))]] = True

    living = torch.where(pruned, 0.0, importance.double())
    order = torch.argsort(living, stable=True)
    is_heavy = cumulative_weights(living, order) > 1.0 - preserve_mass + _ROUNDING
    preserved = torch.zeros_like(was_pruned)
    preserved[order[is_heavy]] = True

    fates = torch.full_like(before, Fate.TUNE)
    fates[preserved] = Fate.PRESERVE
    fates[pruned] = Fate.PRUNE
    return fates


def _light(importance: Tensor, order: Tensor, prune_mass: float) -> int:
    """How many of the first filters of an order carry at most `prune_mass` of the importance together."""
    is_light = (cumulative_weights(importance, order) <= prune_mass + _ROUNDING) & (prune_mass > 0)
    return int(is_light.sum())


def count_cumulative(importance: Tensor, prune_mass: float) -> int:
    """DAP's own count of filters that go, whoever they are: `decide`'s, with the pruned ones ranked as the others."""
    total = importance.double().sum()
    if not torch.isfinite(total) or total <= 0:
        return 0
    return _light(importance, torch.argsort(importance.double(), stable=True), prune_mass)


def count_single(importance: Tensor, level: float) -> int:
    """Each filter for itself: how many have an importance of at most `level` times their layer's mean. 0 = none."""
    return int((importance.double() <= level * importance.double().mean()).sum()) if level else 0


def count_share(importances: Mapping[str, Tensor], share: float, *, pooled: bool) -> dict[str, int]:
    """A share of filters set beforehand, as numbers by layer: the floor of `share` times the layer's filters; or,
    `pooled`, those among the least important of all layers together."""
    if not pooled:
        return {name: int(share * len(values) + _ROUNDING) for name, values in importances.items()}
    order = torch.argsort(torch.cat([values.double() for values in importances.values()]), stable=True)
    is_low = torch.zeros(len(order), dtype=torch.bool)
    is_low[order[: int(share * len(order) + _ROUNDING)]] = True
    parts = is_low.split([len(values) for values in importances.values()])
    return {name: int(part.sum()) for name, part in zip(importances, parts, strict=True)}


def decide_pooled(
    importance: Tensor,
    before: Tensor,
    *,
    prune_percent: float,
    tune_percent: float,
    counted: Tensor,
    max_new: float = 1.0,
) -> Tensor:
    """The fate of each filter of a pool of layers by two fixed percentiles (RICK, arXiv:2304.07574), `[count]` each.

    Pruned: F <= the `prune_percent`-th percentile (0 = none), and whatever was pruned before. Preserved: F > the
    `tune_percent`-th. Tuned: the rest. Percentiles interpolate linearly, as numpy's, over the filters that `counted`
    (bool) names. Of the filters at or below the lower one, ties with it included, one decision prunes the least
    important, at most the share `max_new` of those counted, rounded up. A pool whose importances say nothing (all zero,
    or not finite) keeps the fates it had.
    """
    values = importance.double()
    total = values[counted].sum()
    if not torch.isfinite(total) or total <= 0:
        return before
    percents = torch.tensor([prune_percent, tune_percent], dtype=torch.float64, device=values.device)
    low, high = torch.quantile(values[counted], percents / 100.0)
    was_pruned = before == Fate.PRUNE
    is_new = (values <= low) & ~was_pruned & (prune_percent > 0)
    most = math.ceil(max_new * int(counted.sum()))
    order = torch.argsort(torch.where(is_new, values, torch.inf), stable=True)
    is_new[order[most:]] = False

    fates = torch.full_like(before, Fate.TUNE)
    fates[values > high] = Fate.PRESERVE
    fates[was_pruned | is_new] = Fate.PRUNE
    return fates
