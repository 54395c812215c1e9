"""The memory that one file may take, how it is refused, and what stands for the objects it describes."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tenshot.errors import TenshotError

SPARE = 32 * 2**20
TIMES = 2
"""Reading a file of n bytes takes at most SPARE + TIMES * n bytes beside the n bytes themselves."""


class Reading:
    """One file being read: its name, for sentences, and the memory it may still take, in bytes."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.left = SPARE + TIMES * size
        self.unread = SPARE + TIMES * size

    def take(self, count: int) -> None:
        """Charge `count` bytes before they are allocated. Raises TenshotError if there are not so many left."""
        self.left -= count
        if self.left < 0:
            raise self.refuse("asks for far more memory than a file of its size may need, and was not opened")

    def go_through(self, count: int) -> None:
        """Count `count` bytes that are looked at once more: files within the file, which may stand in it once but be
        named often. Raises TenshotError if that goes on."""
        self.unread -= count
        if self.unread < 0:
            raise self.refuse("has the same bytes read again and again, and was not opened")

    def refuse(self, why: str) -> TenshotError:
        """The error "<name> <why>"."""
        return TenshotError(f"{self.name} {why}")

    def damaged(self, why: str) -> TenshotError:
        """The error for a file that breaks the rules of its own format."""
        return self.refuse(f"is a damaged or foreign torch file: {why}; download or save it again")


@dataclass(eq=False)
class Record:
    """What stands for an object: the name of its class and what was stored with it; it does nothing."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


def shown(value: object) -> str:
    """A text or number from a file, safe to print: ASCII, one line, at most 80 characters; of all else the type."""
    if not isinstance(value, str | int | float | None):
        return f"a {value.name if isinstance(value, Record) else type(value).__name__}"[:80]
    plain = ascii(str(value)[:81]).strip("'\"")
    return plain if len(plain) <= 80 else f"{plain[:77]}..."


def some(names: Iterable[object]) -> str:
    """The first names of many, safe to print, with commas between; "nothing" if there are none."""
    first = [shown(name) for name in itertools.islice(names, 9)]
    return ", ".join([*first[:8], *(["..."] if len(first) > 8 else [])]) or "nothing"
