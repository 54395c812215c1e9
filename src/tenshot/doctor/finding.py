"""What a check found: one line of `tenshot doctor`."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """What, in a word or two."""
    level: Level
    """ok; warning: all works, and yet there is something to know; fault: something is broken or lost."""
    text: str
    """The value; of a warning or a fault the cause, the value and the way out. May hold what a file says of itself."""


def ok(check: str, text: str) -> Finding:
    return Finding(check, "ok", text)


def warning(check: str, text: str) -> Finding:
    return Finding(check, "warning", text)


def fault(check: str, text: object) -> Finding:
    return Finding(check, "fault", str(text))
