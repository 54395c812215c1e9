"""The line that shows where a run stands: a bar in a terminal, a plain line now and then elsewhere."""

import time
import warnings

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tenshot.loop import Progress as Step
from tenshot.output import why_lost

_SMOOTHING = 0.95


class ProgressLine:
    """A watcher for `loop.start`: shows step, time left, smoothed losses, pruned share."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.smooth: dict[str, float] = {}
        self.started: float | None = None
        self.first = 0
        self.is_lost = False
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("adapting", total=None, losses="")

    def __enter__(self) -> "ProgressLine":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, now: Step) -> None:
        if self.started is None:
            self.started, self.first = time.monotonic() - now.stats["seconds"], now.step - 1
        for name in [name for name in ("d", "g") if name in now.stats]:  # a method may leave phases out
            before = self.smooth.get(name, now.stats[name])
            self.smooth[name] = _SMOOTHING * before + (1 - _SMOOTHING) * now.stats[name]
        scores = "".join(f"  {name} {value:.3g}" for name, value in now.scores.items())
        shown = "".join(f"{name.upper()} {value:.2f}  " for name, value in self.smooth.items())
        skipped = f"  skipped {now.skipped}" if now.skipped else ""
        pruned = f"pruned {now.stats['pruned']:.1%}" if now.stats["pruned"] else ""  # most methods prune nothing
        losses = f"{shown}{pruned}{skipped}{scores}".rstrip()
        self.bar.update(self.task, total=now.steps, completed=now.step, losses=losses)
        if not self.console.is_terminal and (now.step == now.steps or now.step % max(1, now.steps // 10) == 0):
            elapsed = time.monotonic() - self.started
            left = elapsed / max(1, now.step - self.first) * (now.steps - now.step)  # a run may have gone back
            self.console.print(f"step {now.step}/{now.steps}  {losses}  {left:.0f} s left")
        if not self.is_lost and (lost := why_lost(self.console.file)):
            self.is_lost = True
            way_out = "Ctrl-C or SIGTERM stops it at a checkpoint"
            warnings.warn(
                f"the output cannot be written any more ({lost.strerror}): the run goes on without it; {way_out}",
                stacklevel=2,
            )
