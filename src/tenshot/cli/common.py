"""What the verbs share: flags to a dataclass, signals to a clean stop."""

import signal
from typing import Annotated, Any, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from tenshot import loop
from tenshot.progress import ProgressLine

_T = TypeVar("_T")
PathFlag = Annotated[str | None, arg(metavar="PATH", help_behavior_hint="")]
"""A file or folder that need not be given."""
NameFlag = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
"""A name that need not be given."""


def parse(kind: type[_T], arguments: list[str], example: str, description: str) -> _T:
    """Flags to a dataclass; a misspelt flag ends the program with exit code 2."""
    verb = " ".join(example.split()[:2])
    text = f"{description}\n\nFor example: {example}"
    return tyro.cli(kind, args=arguments, prog=verb, description=text, config=(FlagCreatePairsOff,))


class Signals:
    """Ctrl-C and SIGTERM end the run after the step under way, at a checkpoint; a second one at once."""

    def __init__(self, watch: ProgressLine) -> None:
        self.watch = watch
        self.received = 0

    def __enter__(self) -> None:
        self.before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}

    def _stop(self, number: int, frame: Any) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        self.watch.stop()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if isinstance(error, loop.Stopped) and self.received:
            error.exit_code = 128 + self.received
