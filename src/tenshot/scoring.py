"""Scores of the averaged generator while a run goes on."""

import math
import warnings
from collections.abc import Hashable, Iterable
from typing import Any

from torch import Tensor

from tenshot.config import RunConfig
from tenshot.data import load_images
from tenshot.errors import TenshotError
from tenshot.metrics import METRICS, QUICK, score
from tenshot.metrics.evaluation import fakes_of, takes_floats, warn_of_shared
from tenshot.nets import Generator
from tenshot.rules import StopRule, parse_rule
from tenshot.settings import require


class Scoring:
    """Holds what is the same at every look: which metrics are measured, held-out images, and what networks found in
    them and in the shots."""

    def __init__(self, config: RunConfig, shots: Tensor) -> None:
        """shots: uint8 `[k 3 r r]`. Raises TenshotError for an unknown metric or images that cannot be read."""
        self.shots = shots
        self.names = scored_names(config)
        self.known: dict[Hashable, Any] = {}
        n = max(METRICS[name].n_real for name in self.names)
        wanted = config.eval_real if n else ""
        found = load_images(wanted, shots.shape[-1], limit=n) if wanted else None
        self.reals = found.images if found else None
        self.digest = found.digest if found else None
        """Of the held-out images, as prepared."""
        warn_of_shared(self.reals, shots)

    def __call__(self, generator: Generator) -> dict[str, dict[str, Any]]:
        """By metric what `tenshot.metrics.score` returns, or `{"failed": reason}`: a failure never ends a run. Where
        all failed at once, a warning says why."""
        chosen = {name: METRICS[name] for name in self.names}
        unclamped = takes_floats(chosen)
        fakes = fakes_of(generator, chosen, 0, unclamped)
        try:
            with warnings.catch_warnings():  # that few images make a covariance of low rank is meant here
                warnings.simplefilter("ignore")
                device = generator.latent_avg.device
                return score(
                    fakes,
                    self.reals,
                    self.shots,
                    self.names,
                    device=device,
                    unclamped=unclamped,
                    keep_going=True,
                    known=self.known,
                )
        except Exception as error:
            reason = str(error) if isinstance(error, TenshotError) else f"{type(error).__name__}: {error}"
        warnings.warn(f"nothing could be scored, the run goes on without: {reason}", stacklevel=2)
        return {name: {"failed": reason} for name in self.names}


def scored_names(config: RunConfig) -> list[str]:
    """The metrics that are scored: the named ones, or the quick ones for which there are images. Raises TenshotError
    for a name that is unknown, or that needs held-out images where there are none."""
    named = [name.strip() for name in config.eval_metrics.split(",") if name.strip()]
    names = named or [name for name in QUICK if config.eval_real or not METRICS[name].n_real]
    for name in names:
        if name not in METRICS:
            raise TenshotError(f"--eval-metrics names {name!r}; there are {', '.join(METRICS)}")
        if METRICS[name].n_real and not config.eval_real:
            raise TenshotError(f"{name} needs held-out images of the new domain: give them with --eval-real")
    return names


def check_scores(config: RunConfig) -> None:
    """Before a run begins: raises TenshotError for scores that cannot be or that nobody takes, and for a metric that
    --keep-best or --stop names and that is not among them."""
    for name in ("eval_real", "eval_metrics"):
        is_used = config.eval_every > 0 or not getattr(config, name)
        require(config, "", name, is_used, "left out, or --eval-every must say when to score")
    if not config.eval_every:
        return
    names = scored_names(config)
    best_metric(config, names)
    if config.stop:
        rule = parse_rule(config.stop)
        if not any(map(rule.reads, _numbers(names))):
            told = _told("--stop", rule.metric, [name for name in names if rule.reads(name)], names)
            raise TenshotError(f"{told}{_way_to(rule, config)}")


def _numbers(names: Iterable[str]) -> list[str]:
    """Those by which generators can be ordered."""
    return [name for name in names if METRICS[name].is_number]


def _told(flag: str, named: str, read: list[str], names: list[str]) -> str:
    """That a flag names what cannot be compared, and what can."""
    if read:
        fit = ", ".join(_numbers(names)) or "none"
        return f"{flag} names {named!r}, which is several numbers; of those scored, {fit} would do"
    return f"{flag} names {named!r}; scored are {', '.join(names)}"


def _way_to(rule: StopRule, config: RunConfig) -> str:
    """How a metric that the rule reads would be scored too; empty if there is no such metric."""
    known = [name for name in _numbers((*QUICK, *METRICS)) if rule.reads(name)]
    if not known:
        return ""
    ways = [f"name {known[0]} in --eval-metrics"] if config.eval_metrics or known[0] not in QUICK else []
    if METRICS[known[0]].n_real and not config.eval_real:
        ways.append("give held-out images with --eval-real")
    return f": to score {known[0]}, {' and '.join(ways)}"


def best_metric(config: RunConfig, names: list[str]) -> str | None:
    """By which of the scored metrics the best generator is kept: the named one, or the first that is a distance to
    held-out images; none otherwise. Raises TenshotError if the named one is not scored."""
    if config.keep_best:
        if config.keep_best not in _numbers(names):
            read = [name for name in names if name == config.keep_best]
            raise TenshotError(_told("--keep-best", config.keep_best, read, names))
        return config.keep_best
    rows = {name: METRICS[name] for name in names}
    return next((name for name, row in rows.items() if row.n_real and not row.shots and row.better == "lower"), None)


def is_better(metric: str, value: float, before: float | None) -> bool:
    """Whether a value is the best so far; one that is not a number never is."""
    if not math.isfinite(value):
        return False
    return before is None or (value < before if METRICS[metric].better == "lower" else value > before)


def main_values(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The one number of every metric that has one."""
    values = {name: result.get("value") for name, result in results.items()}
    return {name: float(value) for name, value in values.items() if value is not None}
