"""Going back: a run's state as it was at its last good checkpoint, from its folder or from memory."""

import warnings
from typing import Any

from torch import Tensor

from tenshot.adaptation import Adaptation, begin
from tenshot.checkpoint import is_finite, restore, snapshot
from tenshot.manifest import NoCheckpoint
from tenshot.models import Model
from tenshot.recovery import MOST_RETURNS, Diverged, NotFinite, way_back
from tenshot.runs import RunDir


class Rollback:
    """Saves a run's checkpoints and takes it back to them."""

    def __init__(self, adaptation: Adaptation, source: Model, header: dict[str, Any], run: RunDir | None) -> None:
        """header: what is written with every checkpoint."""
        self.adaptation, self.source, self.header, self.run = adaptation, source, header, run
        self._copies: dict[int, dict[str, Tensor]] = {}

    def check(self, step: int) -> None:
        """Raises NotFinite if after `step` steps the networks are not to be looked at, let alone saved."""
        if not is_finite(self.adaptation):
            raise NotFinite(f"weights are not finite after step {step}", step)

    def save(self, step: int, *, is_last: bool = False) -> None:
        """A checkpoint after `step` steps; without a folder the newest `keep_last`, in memory. Raises NotFinite."""
        self.check(step)
        config, tensors = self.adaptation.config, snapshot(self.adaptation)
        if self.run:
            header = {**self.header, "is_last": is_last}
            every, keep = config.checkpoint_every, self._keep
            self.run.save_checkpoint(step, tensors, header, keep=keep, every=every, is_last=is_last)
        elif not is_last:
            self._copies[step] = _copied(tensors)
            for old in sorted(self._copies)[: -config.keep_last]:
                del self._copies[old]

    def tidy(self, step: int) -> None:
        """Delete the older checkpoints, where a kill after the last step's came before that."""
        if self.run:
            every = self.adaptation.config.checkpoint_every
            self.run.saved.tidy(step, keep=self._keep, every=every, is_last=True)

    @property
    def _keep(self) -> int:
        """How many checkpoints stay: one more while numbers are bad, so that the good ones do, to go back to."""
        return self.adaptation.config.keep_last + (not self.adaptation.health.is_well)

    def go_back(self, fault: NotFinite) -> int:
        """Return to the newest good checkpoint, or to the start, at half the learning rate and with other latents.

        The journals are rewound. Returns how many steps are done there. Raises Diverged if the run has gone back too
        often; its networks are then those of the checkpoint.
        """
        run, adaptation, health = self.run, self.adaptation, self.adaptation.health
        lr = adaptation.config.lr
        step, tensors = self._last_good(fault.since)
        restore(adaptation, tensors)
        if health.returns >= MOST_RETURNS:
            where = f"; step {step} is kept in {run.checkpoints}" if run else ""
            raise Diverged(
                f"{fault}; going back {MOST_RETURNS} times, at last at a learning rate of {lr * health.lr_scale:g}, "
                f"has not helped: try a lower --lr than {lr:g} from the beginning{where}",
                step,
            )
        before, health = health.returns, health.gone_back()
        adaptation.health = health
        self._copies = {kept: copies for kept, copies in self._copies.items() if kept <= step}
        if run:
            run.rewind(step, before)
            self.save(step)
            told = {"why": str(fault), "skipped": health.skipped, "lr": lr * health.lr_scale}
            run.append("recovery", {"step": step, "returns": health.returns, **told})
        warnings.warn(
            f"{fault}: back to step {step}, on at a learning rate of {lr * health.lr_scale:g} "
            f"({health.returns} of at most {MOST_RETURNS} times)",
            stacklevel=2,
        )
        return step

    def _last_good(self, since: int) -> tuple[int, dict[str, Tensor]]:
        every = self.adaptation.config.checkpoint_every
        step = way_back(self.run.saved.steps() if self.run else self._copies, since, every)
        if step is not None and self.run is None:
            return step, _copied(self._copies[step])
        if step is not None and self.run is not None:
            try:
                tensors, header = self.run.load_checkpoint(step)
                return header["step"], tensors
            except NoCheckpoint:  # all are damaged, of which there were warnings
                pass
        return 0, snapshot(begin(self.adaptation.config, self.source, self.adaptation.shots))


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
