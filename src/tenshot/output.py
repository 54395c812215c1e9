"""What is printed: when it cannot be written any more, or not in the terminal's encoding, the work goes on."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class Output:
    """A text stream that falls silent with the first write that fails: its reader is gone, its disk is full."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None
        """Why nothing is written any more."""
        if getattr(stream, "errors", None) in ("strict", "surrogateescape"):  # the two that can fail
            cast(Any, stream).reconfigure(errors="replace")

    def write(self, text: str) -> int:
        with self._silenced():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._silenced():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _silenced(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = self.lost or error
            with suppress(OSError):  # what is still buffered goes nowhere; a stream in memory has no descriptor
                nowhere = os.open(os.devnull, os.O_WRONLY)
                try:
                    os.dup2(nowhere, self._stream.fileno())
                finally:
                    os.close(nowhere)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Both standard streams as `Output`, as long as the block lasts."""
    before = sys.stdout, sys.stderr
    there = [None if stream is None else Output(stream) for stream in before]
    sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], tuple(there))
    try:
        yield
    finally:
        for stream in there:
            if stream:
                stream.flush()
        sys.stdout, sys.stderr = before


def why_lost(stream: Any) -> OSError | None:
    """What ended the writing to a stream, if it is an `Output` and something has."""
    return getattr(stream, "lost", None)


def printable(text: str) -> str:
    r"""`text` with control, invisible and undecodable characters written out, as in `\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
