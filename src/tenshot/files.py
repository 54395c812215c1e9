"""Writing files so that nothing half-written is ever left behind, and sentences for what the disk refuses."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tenshot.errors import TenshotError

_ON_WRITING = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOTDIR: "part of the path is a file, not a folder; choose another place",
    errno.ENOENT: "the folder does not exist any more; was it moved or deleted?",
    errno.EEXIST: "there is a file of that name; choose another place",
    errno.EISDIR: "there is a folder of that name; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "it is a link; remove the link, or choose another place",
    errno.EFBIG: "the file would be larger than the disk or your limits allow; choose another place",
}
_ON_CREATING = {**_ON_WRITING, errno.ENOENT: "nothing can be created there; choose another place"}
_ON_READING = {
    errno.EACCES: "permission denied; you must be allowed to read it, and to enter each folder on the way to it",
    errno.EPERM: "permission denied; you must be allowed to read it, and to enter each folder on the way to it",
    errno.ENOTDIR: "part of the path is a file, not a folder; check the spelling",
    errno.ENOENT: "it does not exist; check the spelling, or the folder you are in",
    errno.EISDIR: "it is a folder; give the name of a file",
    errno.ENAMETOOLONG: "the name is too long; check the spelling",
    errno.EIO: "the disk reports an error; take another copy of it",
}
_READING = ("read", "look into")
"""What `told_as_sentence` is told that leaves the disk as it is."""
_CREATING = "create the folder"

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.part")


@contextmanager
def told_as_sentence(what: str, path: Path) -> Iterator[None]:
    """Turn an operating-system error into a TenshotError: "cannot <what> <path>: <why>; <way out>".

    what: "read" or "look into"; anything else means that something is written there, or deleted.
    """
    ways_out = _ON_READING if what in _READING else _ON_CREATING if what == _CREATING else _ON_WRITING
    try:
        yield
    except OSError as error:
        reason = ways_out.get(error.errno or 0, error.strerror or str(error))
        raise TenshotError(f"cannot {what} {path}: {reason}") from error


def check_reachable(path: Path) -> None:
    """Raises TenshotError where a closed folder hides whether there is anything at a path.

    `os.path.isfile` and its like answer False there, as if there were nothing, and pathlib's raise PermissionError.
    """
    with told_as_sentence("read", path):
        try:
            os.stat(path)
        except PermissionError:
            raise
        except (OSError, ValueError):  # nothing is there, or can be under that name: whoever reads it says so
            pass


def make_folder(path: Path) -> None:
    """Create a folder and its parents; an existing one is left as it is. Raises TenshotError."""
    with told_as_sentence(_CREATING, path):
        path.mkdir(parents=True, exist_ok=True)


def check_writable(path: Path) -> None:
    """Before the work: raises TenshotError if no file of that name could be written there. Makes its folder."""
    make_folder(path.parent)
    with told_as_sentence("write", path):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        os.unlink(temporary)


def write_atomically(path: Path, data: bytes) -> None:
    """Write all of a file or nothing, as `written_atomically` does. Raises TenshotError."""
    with written_atomically(path) as file:
        file.write(data)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes its name when the block ends: temporary file beside it, fsync, rename.

    Raises TenshotError; the file that was there before, if any, is then unchanged.
    """
    with told_as_sentence("write", path):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def is_temporary(name: str) -> bool:
    """Whether a file of that name was being written when its writer was killed; or still is."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left in a folder; nobody may be writing there. Raises TenshotError."""
    if folder.is_dir():
        with told_as_sentence("clean", folder):
            for path in folder.iterdir():
                if is_temporary(path.name):
                    path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the rename survive a power cut. Some file systems cannot, and the file is whole either way."""
    if os.name == "posix":
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
