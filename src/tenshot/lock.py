"""A lock on a folder: a file that the kernel frees whatever happens to the process that holds it."""

import errno
import os
import re
import time
import warnings
from contextlib import suppress
from pathlib import Path

from tenshot.errors import TenshotError
from tenshot.files import told_as_sentence

try:
    import fcntl
except ImportError:  # there is none on Windows, where runs are not locked
    fcntl = None

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what file systems without locks answer
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a link or a pipe is no lock of ours
_TRIES, _PAUSE = 5, 0.05  # somebody who only looks holds the lock for a moment


class Lock:
    """A file that one process at a time may hold. It names the process, and is deleted when it is released."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self) -> None:
        """Raises TenshotError, with the process if it is known, where another one holds the lock."""
        with told_as_sentence("lock", self.path):
            for attempt in range(_TRIES):
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
                try:
                    if self._locks(descriptor) and self._is_at(descriptor):
                        os.ftruncate(descriptor, 0)
                        os.write(descriptor, f"process {os.getpid()}\n".encode())
                        self._descriptor = descriptor
                        return
                finally:
                    if self._descriptor is None:
                        os.close(descriptor)
                time.sleep(_PAUSE if attempt else 0)
        raise TenshotError(self._refusal())

    def check_free(self) -> None:
        """Raises TenshotError where another process holds the lock; creates nothing."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | _FLAGS)
        except OSError:
            return
        try:
            if not self._locks(descriptor, shared=True):
                raise TenshotError(self._refusal())
        finally:
            os.close(descriptor)

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock and its file is in its place: the folder was not moved or deleted."""
        return self._descriptor is not None and self._is_at(self._descriptor)

    def check_place(self) -> None:
        """Raises TenshotError if the lock is held and its folder is gone, or another one has taken its place."""
        if self._descriptor is not None and not self._is_at(self._descriptor):
            with told_as_sentence("go on in", self.path.parent):
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def release(self) -> None:
        """Free the lock and delete its file, if the disk lets us; nothing happens if it is not held."""
        if self._descriptor is not None:
            if self._is_at(self._descriptor):
                with suppress(OSError):
                    self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def _locks(self, descriptor: int, *, shared: bool = False) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(f"{self.path.parent} is on a file system without locks: run one at a time", stacklevel=3)
        return True

    def _is_at(self, descriptor: int) -> bool:
        """Whether an open file is the one at the lock's path: its holder may have deleted it in the meantime."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self.path))
        except OSError:
            return False

    def _refusal(self) -> str:
        try:
            holder = re.search(r"process \d+", self.path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            holder = None
        who = f"another run, {holder[0]}, is" if holder else "another run is"
        return f"{who} at work in {self.path.parent}: wait until it ends, stop it, or choose another folder"
