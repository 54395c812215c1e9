"""Looks at the averaged generator while a run goes on: scores, the best so far, sheets, and the rule that ends it.

What a look found is in the run's folder before the next checkpoint is. A run that was stopped in the middle of a look
takes it again when it is resumed.
"""

from pathlib import Path
from typing import Any

from tenshot.adaptation import Adaptation
from tenshot.errors import TenshotError
from tenshot.models import Model, load_model, save_model
from tenshot.result import averaged_model, save_samples
from tenshot.rules import parse_rule
from tenshot.runs import RunDir
from tenshot.scoring import Scoring, best_metric, is_better, main_values


def is_due(step: int, every: int) -> bool:
    """Whether what is done every so many steps is done after this one; 0 = never."""
    return every > 0 and step % every == 0


def _card_of(path: Path) -> dict[str, Any]:
    """A model's card; empty for a file that is missing or damaged."""
    try:
        return load_model(path).card
    except TenshotError:
        return {}


class Looks:
    """Remembers the newest scores and the best; what it knew before a resume, it reads from the journal."""

    def __init__(self, adaptation: Adaptation, source: Model, digest: str, run: RunDir | None) -> None:
        """source: what the run began with; digest: its file's sha256. Raises TenshotError for scores that cannot be."""
        config = adaptation.config
        self.adaptation, self.source, self.digest, self.run = adaptation, source, digest, run
        self.scoring = Scoring(config, adaptation.shots) if config.eval_every else None
        self.metric = best_metric(config, self.scoring.names) if self.scoring else None
        self.rule = parse_rule(config.stop) if config.stop else None
        self.begin_again()

    @property
    def reals(self) -> str | None:
        """Hash of the held-out images that scores are against; None without."""
        return self.scoring.digest if self.scoring else None

    def begin_again(self) -> None:
        """Forget, and read the journal: after a run went back, which has rewound it."""
        self.scores: dict[str, float] = {}
        """The newest value of every metric that has one."""
        self._best: float | None = None
        self._scored = 0
        entries = self.run.read("metrics") if self.run else []
        for entry in entries:
            self._learn(entry["step"], entry["metrics"])
        if self.run and self._best is not None:  # what counts is the file: a look since undone may have written it
            card = _card_of(self.run.best)
            is_left = card.get("steps") in [entry["step"] for entry in entries]
            self._best = card.get("best", {}).get("value") if is_left else None

    def __call__(self, step: int) -> bool:
        """All that is due after a step. Returns whether it is the run's last: there are no more, or the rule holds."""
        config = self.adaptation.config
        is_end = step == config.steps  # so that the result itself has scores, whatever eval_every is
        if self.scoring and step and (is_end or is_due(step, config.eval_every)) and self._scored < step:
            results = self.scoring(self.adaptation.method.averaged(self.adaptation.nets, self.adaptation.state))
            if self._learn(step, results):
                self._keep_best(step)
            if self.run:  # last: a look without its line is taken again
                self.run.append("metrics", {"step": step, "metrics": results})
        is_last = is_end or (self.rule is not None and self.rule.holds(self.scores))
        if self.run and (step == 0 or is_last or is_due(step, config.sample_every)):
            save_samples(self.adaptation, self.run, step)
        return is_last

    def _learn(self, step: int, results: dict[str, dict[str, Any]]) -> bool:
        """Whether the results are the best so far."""
        self.scores, self._scored = main_values(results), step
        value = self.scores.get(self.metric) if self.metric else None
        if self.metric is None or value is None or not is_better(self.metric, value, self._best):
            return False
        self._best = value
        return True

    def _keep_best(self, step: int) -> None:
        if self.run:
            model = averaged_model(self.adaptation, step, self.source, self.digest)
            model.card["best"] = {"metric": self.metric, "value": self._best}
            save_model(self.run.best, model)
