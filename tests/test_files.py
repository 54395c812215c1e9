"""Writing all or nothing, whatever the disk says."""

import errno
import io
import os
import resource
import tempfile
from pathlib import Path

import pytest

from tenshot import files
from tenshot.errors import TenshotError
from tenshot.files import check_reachable, make_folder, told_as_sentence, write_atomically, written_atomically


def raising(number, after=0):
    """A function that raises an operating-system error from its call number `after` on."""
    calls = []

    def function(*arguments, **named):
        calls.append(arguments)
        if len(calls) > after:
            raise OSError(number, os.strerror(number))

    return function


@pytest.fixture
def old(tmp_path):
    """A file that was there before, alone in its folder."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file.bin").write_bytes(b"old")
    return folder / "file.bin"


def is_untouched(old):
    return old.read_bytes() == b"old" and os.listdir(old.parent) == ["file.bin"]


def test_a_written_file_holds_the_bytes_and_nothing_else_is_left(tmp_path):
    write_atomically(tmp_path / "a.bin", b"\x00new")
    write_atomically(tmp_path / "a.bin", b"newer")
    assert (tmp_path / "a.bin").read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "permission denied; choose a folder"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
@pytest.mark.parametrize("place", ["mkstemp", "fsync", "chmod", "replace"])
def test_a_failure_at_any_place_leaves_the_old_file_and_no_other(old, monkeypatch, place, number, way_out):
    owner = tempfile if place == "mkstemp" else os
    monkeypatch.setattr(owner, place, raising(number))
    with pytest.raises(TenshotError, match=f"cannot write {old}: {way_out}"):
        write_atomically(old, b"new")
    monkeypatch.undo()
    assert is_untouched(old)


def test_a_disk_that_fills_while_writing_leaves_the_old_file_and_no_other(old, monkeypatch):
    class Full:
        """A file that takes ten bytes."""

        def __init__(self, handle, mode):
            self.file = io.FileIO(handle, mode)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fdopen", Full)
    with pytest.raises(TenshotError, match="the disk is full"):
        write_atomically(old, b"new" * 100)
    assert is_untouched(old)


def test_a_real_limit_of_the_system_leaves_the_old_file_and_no_other(old):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(TenshotError, match="larger than the disk or your limits allow"):
            write_atomically(old, bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_untouched(old)


def test_an_interrupted_block_leaves_the_old_file_and_no_other(old):
    with pytest.raises(KeyboardInterrupt), written_atomically(old) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert is_untouched(old)


def test_a_folder_that_cannot_be_synced_still_holds_the_whole_new_file(old, monkeypatch):
    monkeypatch.setattr(os, "fsync", raising(errno.EINVAL, after=1))  # the second is the folder's
    write_atomically(old, b"new")
    assert old.read_bytes() == b"new"


def test_a_vanished_folder_is_told(tmp_path):
    with pytest.raises(TenshotError, match="the folder does not exist any more; was it moved or deleted"):
        write_atomically(tmp_path / "gone" / "file.bin", b"new")


def test_a_folder_in_the_files_place_is_told_and_stays(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(TenshotError, match="there is a folder of that name"):
        write_atomically(tmp_path / "taken", b"new")
    assert os.listdir(tmp_path) == ["taken"]


def test_a_name_too_long_is_told(tmp_path):
    with pytest.raises(TenshotError, match="the name is too long"):
        write_atomically(tmp_path / ("a" * 300), b"new")


def test_make_folder_makes_parents_and_keeps_what_is_there(tmp_path):
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "kept").write_text("")
    make_folder(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == ["kept"]


def test_make_folder_tells_that_a_file_is_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TenshotError, match="there is a file of that name"):
        make_folder(tmp_path / "file")
    with pytest.raises(TenshotError, match="part of the path is a file"):
        make_folder(tmp_path / "file" / "below")


def test_make_folder_tells_that_it_may_not(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "mkdir", raising(errno.EACCES))
    with pytest.raises(TenshotError, match=f"cannot create the folder {tmp_path / 'a'}: permission denied"):
        make_folder(tmp_path / "a")


def test_make_folder_tells_of_a_place_that_takes_no_folders_and_not_of_one_that_was_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "mkdir", raising(errno.ENOENT))  # what /proc answers
    with pytest.raises(
        TenshotError, match=r"cannot create the folder .*: nothing can be created there; choose another"
    ):
        make_folder(tmp_path / "a")


@pytest.mark.parametrize(
    ("number", "on_reading", "on_writing"),
    [
        (errno.EACCES, "you must be allowed to read it", "choose a folder that you may write to"),
        (errno.ENOENT, "it does not exist; check the spelling", "the folder does not exist any more"),
        (errno.ENOTDIR, "not a folder; check the spelling", "not a folder; choose another place"),
        (errno.EISDIR, "it is a folder; give the name of a file", "there is a folder of that name"),
    ],
)
def test_reading_and_writing_have_ways_out_of_their_own(number, on_reading, on_writing):
    for what, way_out in (("read", on_reading), ("look into", on_reading), ("write", on_writing), ("lock", on_writing)):
        with pytest.raises(TenshotError, match=f"cannot {what} x: .*{way_out}"), told_as_sentence(what, Path("x")):
            raise OSError(number, os.strerror(number))


def test_a_path_behind_a_closed_folder_is_told_and_no_other(tmp_path, monkeypatch):
    for path in (tmp_path, tmp_path / "none", tmp_path / ("a" * 300), Path("a\0b")):
        check_reachable(path)
    monkeypatch.setattr(os, "stat", raising(errno.EACCES))
    with pytest.raises(TenshotError, match=r"cannot read closed/x: permission denied; .*enter each folder on the way"):
        check_reachable(Path("closed/x"))


def test_a_sentence_keeps_its_cause_and_lets_other_faults_pass():
    with pytest.raises(TenshotError) as told, told_as_sentence("read", Path("x")):
        raise OSError(errno.ENOENT, "No such file or directory")
    assert isinstance(told.value.__cause__, OSError)
    with pytest.raises(ZeroDivisionError), told_as_sentence("read", Path("x")):
        raise ZeroDivisionError
