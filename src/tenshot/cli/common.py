"""What the verbs share: flags to a dataclass, signals to a clean stop."""

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.conf import FlagCreatePairsOff, arg

from tenshot import loop
from tenshot.interrupts import Interrupted, Interrupts

_T = TypeVar("_T")
PathFlag = Annotated[str | None, arg(metavar="PATH", help_behavior_hint="")]
"""A file or folder that need not be given."""
NameFlag = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
"""A name that need not be given."""


def parse(kind: type[_T], arguments: list[str], example: str, description: str) -> _T:
    """Flags to a dataclass; a misspelt flag ends the program with exit code 2."""
    verb = " ".join(example.split()[:2])
    text = f"{description}\n\nFor example: {example}"
    tyro._experimental_options["ansi_codes"] = _colours_wanted()
    return tyro.cli(kind, args=arguments, prog=verb, description=text, config=(FlagCreatePairsOff,))


def _colours_wanted() -> bool:
    """Help goes to stdout and faults to stderr, but tyro asks stdout alone, and not NO_COLOR (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and all(s and s.isatty() for s in (sys.stdout, sys.stderr))


class Bar:
    """What is being done, and how far it is; where there is no terminal, a line as each part of it begins."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.console = console
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> "Bar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self.tasks:
            self.tasks[what] = self.bar.add_task(what)
            if not self.console.is_terminal:
                self.console.print(f"{what} ({total:,})", markup=False, soft_wrap=True)
        self.bar.update(self.tasks[what], completed=done, total=total)


class Signals:
    """Ctrl-C, SIGTERM and a closed terminal end a run at a checkpoint: when its step is done, and at once while it
    loads, scores, draws or finishes. A second signal ends it where it is."""

    def __init__(self, interrupts: Interrupts) -> None:
        self.interrupts = interrupts

    def __enter__(self) -> Interrupts:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hangup := getattr(signal, "SIGHUP", None):
            numbers += [hangup] if signal.getsignal(hangup) is not signal.SIG_IGN else []  # as under nohup
        self.before = {s: signal.signal(s, lambda number, _: self.interrupts.receive(number)) for s in numbers}
        return self.interrupts

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if isinstance(error, Interrupted):  # nothing had begun that needs a checkpoint
            error = loop.Stopped("stopped")
            error.exit_code = 128 + self.interrupts.received
            raise error
        if isinstance(error, loop.Stopped) and self.interrupts.received:
            error.exit_code = 128 + self.interrupts.received


@contextmanager
def warnings_told() -> Iterator[None]:
    """Warnings as plain lines on stderr, without the line of code that gave them."""
    before = warnings.showwarning
    warnings.showwarning = lambda message, *_, **__: print(f"tenshot: {message}", file=sys.stderr)
    try:
        yield
    finally:
        warnings.showwarning = before
