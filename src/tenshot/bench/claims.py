"""A claim on a run: held by one process at a time, and gone with it, however it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tenshot.errors import TenshotError
from tenshot.files import make_folder, told_as_sentence


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process now holds the lock on a file, which is made if missing and stays.

    The operating system lets go of it when the process ends, killed or not, so no claim outlives who made it. It holds
    between all processes that see the same folder. Raises TenshotError where there are no such locks.
    """
    try:
        import fcntl
    except ImportError as error:
        raise TenshotError("tenshot bench needs file locks as Linux and macOS have them: run it there") from error
    make_folder(path.parent)
    with told_as_sentence("write", path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = True
        except BlockingIOError:
            is_ours = False
        except OSError as error:
            raise TenshotError(
                f"{path} cannot be locked ({error.strerror}): choose a --work on a disk that has file locks"
            ) from error
        yield is_ours
    finally:
        os.close(handle)


def is_claimed(path: Path) -> bool:
    """Whether some process holds the claim just now."""
    if not path.exists():
        return False
    with claimed(path) as is_ours:
        return not is_ours
