"""When numbers stop being finite or memory runs out: what is left out, when a run goes back, when it ends. Pure.

A phase (`step`) whose loss or gradient is not finite changes nothing and is counted. `PATIENCE` times in a row mean
that the state itself is spoilt: the run goes back to its last good checkpoint and tries again at half the learning rate
and with other latents, noise and augmentation, at most `MOST_RETURNS` times. All of that is counted in `Health`, which
is part of every checkpoint, so a run that is resumed decides as the unbroken one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tenshot.errors import TenshotError

PATIENCE = 5
"""Updates of one site in a row that may be left out before the run goes back."""
MOST_RETURNS = 3
"""How often a run goes back before it ends."""
SITES = ("d", "r1", "g", "path", "fisher")
"""What is counted apart: the four phases of a step, and estimates of importance that a method passed over."""


class NotFinite(TenshotError):
    """Numbers that training cannot go on from; the loop answers by going back."""

    def __init__(self, what: str, since: int) -> None:
        super().__init__(what)
        self.since = since
        """The last step (from 0) before which all was well, as far as is known."""


class Diverged(TenshotError):
    """Numbers stayed bad whatever was tried. The checkpoint from before is kept."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(what)
        self.step = step
        """How many steps were done at that checkpoint."""


@dataclass(frozen=True)
class Row:
    """How often in a row the updates of one site were left out, and since which step (from 0)."""

    count: int = 0
    since: int = 0


@dataclass(frozen=True)
class Health:
    """What has gone wrong in a run so far, and what was changed because of it."""

    micro_batch: int = 0
    """Images that pass through a network at once; 0 = the whole batch."""
    skipped: int = 0
    """Updates that were left out, of all sites together, those that the run went back behind included."""
    returns: int = 0
    """How often the run went back."""
    rows: tuple[Row, ...] = (Row(),) * len(SITES)
    """By site."""

    @property
    def is_well(self) -> bool:
        """Whether the last update of every site was made: only then is a checkpoint worth going back to."""
        return not any(row.count for row in self.rows)

    @property
    def lr_scale(self) -> float:
        """Factor on both learning rates: halved with every return."""
        return 0.5**self.returns

    @property
    def names(self) -> tuple[str | int, ...]:
        """What random numbers are called besides their purpose: after a return the same ones would end the same way."""
        return ("return", self.returns) if self.returns else ()

    def after(self, step: int, faults: Mapping[str, str]) -> "Health":
        """Once a step is done. faults: by site why its update was left out, "" if it was made; no entry if not due."""
        rows = tuple(_counted(row, step, faults.get(site)) for site, row in zip(SITES, self.rows, strict=True))
        return replace(self, rows=rows, skipped=self.skipped + sum(map(bool, faults.values())))

    def longest(self) -> tuple[str, Row]:
        """The site whose updates were left out most often in a row."""
        return max(zip(SITES, self.rows, strict=True), key=lambda pair: pair[1].count)

    def gone_back(self) -> "Health":
        """As a run goes on from a checkpoint: rows begin anew, what was counted stays."""
        return replace(self, returns=self.returns + 1, rows=(Row(),) * len(SITES))

    def to_tensor(self) -> Tensor:
        """All fields, int64 `[3 + 2 sites]`."""
        rows = [number for row in self.rows for number in (row.count, row.since)]
        return torch.tensor([self.micro_batch, self.skipped, self.returns, *rows])

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> "Health":
        """What `to_tensor` wrote. Raises TenshotError for anything else."""
        numbers = tensor.tolist() if tensor.dim() == 1 and tensor.dtype == torch.int64 else []
        if len(numbers) != 3 + 2 * len(SITES) or min(numbers) < 0:
            raise TenshotError("the checkpoint's count of what went wrong is damaged: resume from another one")
        rows = tuple(Row(*pair) for pair in zip(numbers[3::2], numbers[4::2], strict=True))
        return cls(*numbers[:3], rows=rows)


def _counted(row: Row, step: int, fault: str | None) -> Row:
    if fault is None:
        return row
    return Row(row.count + 1, row.since if row.count else step) if fault else Row()


def way_back(steps: Iterable[int], since: int, every: int) -> int | None:
    """The checkpoint to go back to: the newest with a good step after it; None = begin again.

    steps: after how many steps there are checkpoints. since: the step (from 0) whose update was the first to be left
    out; a checkpoint of just that many steps is the state that failed. every: steps between the run's own checkpoints.
    Others, written when it was stopped, do not count, or a resumed run would go back elsewhere than the unbroken one.
    """
    return max((step for step in steps if step < since and every and step % every == 0), default=None)


def half(micro_batch: int, rows: int) -> int:
    """The next smaller number of images at once after one that did not fit; 0 = not even one fits. rows: the most that
    a network is ever given at once."""
    return min(micro_batch or rows, rows) // 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or Python, could not get memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    told = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in told for sign in _NO_MEMORY)


_NO_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")
