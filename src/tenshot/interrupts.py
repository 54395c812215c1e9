"""Signals that wait while a state is being changed, and break in where nothing would be lost."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

ECHO = 0.25
"""Seconds in which a signal that comes twice is one: a terminal and a launcher may both pass it on."""


class Interrupted(BaseException):
    """A signal asked for the end. No Exception, so that nobody who mends faults takes it for one."""


class Interrupts:
    """What a run and its signal handlers share. A first signal is raised as `Interrupted`: at once, or when what is
    `held` is done. A second one ends at once, as KeyboardInterrupt with the `exit_code` of its signal."""

    def __init__(self) -> None:
        self.received = 0
        """Number of the first signal."""
        self._at = 0.0
        self._depth = 0
        self._is_waiting = False

    def receive(self, number: int) -> None:
        """To be called by a signal handler."""
        now = time.monotonic()
        if self.received:
            if now - self._at > ECHO:
                second = KeyboardInterrupt()
                second.exit_code = 128 + number  # pyright: ignore[reportAttributeAccessIssue]
                raise second
            return
        self.received, self._at = number, now
        if self._depth:
            self._is_waiting = True
        else:
            raise Interrupted

    @contextmanager
    def held(self) -> Iterator[None]:
        """A first signal waits until the block is done."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._is_waiting and not self._depth:
            self._is_waiting = False
            raise Interrupted
