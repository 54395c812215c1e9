"""Scores of the averaged generator while a run goes on."""

import math
import warnings
from typing import Any

from torch import Tensor

from tenshot.config import RunConfig
from tenshot.data import load_images
from tenshot.errors import TenshotError
from tenshot.metrics import METRICS, QUICK, score
from tenshot.nets import Generator
from tenshot.sampling import generate


class Scoring:
    """Holds what is the same at every look: the held-out images and which metrics are measured."""

    def __init__(self, config: RunConfig, shots: Tensor) -> None:
        """shots: uint8 `[k 3 r r]`. Raises TenshotError for an unknown metric or images that cannot be read."""
        self.shots = shots
        self.reals = load_images(config.eval_real, shots.shape[-1]).images if config.eval_real else None
        named = [name.strip() for name in config.eval_metrics.split(",") if name.strip()]
        self.names = named or [name for name in QUICK if self.reals is not None or not METRICS[name].n_real]
        for name in self.names:
            if name not in METRICS:
                raise TenshotError(f"--eval-metrics names {name!r}; there are {', '.join(METRICS)}")
            if METRICS[name].n_real and self.reals is None:
                raise TenshotError(f"{name} needs held-out images of the new domain: give them with --eval-real")

    def __call__(self, generator: Generator) -> dict[str, dict[str, Any]]:
        """By metric what `tenshot.metrics.score` returns, or `{"failed": reason}`: a failure never ends a run. Where
        all failed at once, a warning says why."""
        fakes = generate(generator, range(max(METRICS[name].n for name in self.names)))
        try:
            with warnings.catch_warnings():  # that few images make a covariance of low rank is meant here
                warnings.simplefilter("ignore")
                return score(
                    fakes, self.reals, self.shots, self.names, device=generator.latent_avg.device, keep_going=True
                )
        except Exception as error:
            reason = str(error) if isinstance(error, TenshotError) else f"{type(error).__name__}: {error}"
        warnings.warn(f"nothing could be scored, the run goes on without: {reason}", stacklevel=2)
        return {name: {"failed": reason} for name in self.names}


def best_metric(config: RunConfig, names: list[str]) -> str | None:
    """By which of the scored metrics the best generator is kept: the named one, or the first that is a distance to
    held-out images; none otherwise. Raises TenshotError if the named one is not scored."""
    if config.keep_best:
        if config.keep_best not in names:
            raise TenshotError(f"--keep-best names {config.keep_best!r}; scored are {', '.join(names)}")
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
