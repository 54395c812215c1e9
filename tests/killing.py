"""Processes that are killed at a chosen file operation, or at any moment."""

import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
"""Audit events of operations that change a folder, besides opening a file for writing."""
KILLED = -signal.SIGKILL


def live(
    life: Callable[[], int], log: Path, *, after: float | None = None, by: int = signal.SIGKILL
) -> tuple[int, float]:
    """Run `life` in a process of its own, what it prints in `log`; with `after`, signal it after so many seconds.

    Returns its exit code (`KILLED`, or what `life` returned; 70 for an error it did not catch), and the seconds from
    the signal, if there was one, or the beginning to its end.
    """
    started = time.monotonic()
    process = os.fork()
    if not process:
        code = 70
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = life()
        except BaseException:
            with suppress(BaseException):
                traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    if after is not None:
        time.sleep(after)
        started = time.monotonic()
        os.kill(process, by)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - started


def die_at(number: int, folder: Path) -> Callable[[], int]:
    """Kill this process just before its file operation of that number (from 1) in a folder. Returns their counter.

    Operations: opening for writing, the first half of what is written to a file of `files.written_atomically`, the
    other half, fsync, chmod, rename, delete, making and removing folders, truncating, locking.
    """
    count, inside = 0, f"{folder}{os.sep}"

    def operation() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            if str(path).startswith(inside) and (flags & (os.O_WRONLY | os.O_RDWR) or set(mode or "") & set("wax+")):
                operation()
        elif event == "fcntl.flock" or (event in CHANGES and str(arguments[0]).startswith(str(folder))):
            operation()

    class Halved:
        """A file whose writes are two operations."""

        def __init__(self, handle: int, mode: str) -> None:
            self.file = io.FileIO(handle, mode)

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                operation()
                self.file.write(half)

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    fsync = os.fsync

    def counted_fsync(descriptor: int) -> None:
        operation()
        fsync(descriptor)

    os.fdopen, os.fsync = Halved, counted_fsync
    sys.addaudithook(hook)
    return lambda: count
