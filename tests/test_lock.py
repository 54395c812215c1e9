"""One process at a time in a folder, whatever happens to it."""

import errno
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tenshot import lock
from tenshot.errors import TenshotError
from tenshot.lock import Lock


@pytest.fixture
def path(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "run.lock"


def test_a_lock_is_held_by_one_and_its_refusal_names_the_process(path):
    one, other = Lock(path), Lock(path)
    one.take()
    assert one.is_held and not other.is_held
    for attempt in (other.take, other.check_free):
        with pytest.raises(
            TenshotError, match=rf"process {os.getpid()}, is at work in {path.parent}: wait until it ends"
        ):
            attempt()
    one.release()
    assert not path.exists()
    other.take()
    other.release()


def test_the_kernel_frees_the_lock_of_a_process_that_is_killed(path):
    code = "import sys; from pathlib import Path; from tenshot.lock import Lock; lock = Lock(Path(sys.argv[1]));"
    code += "lock.take(); print('taken', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "taken\n"
        with pytest.raises(TenshotError, match=f"another run, process {process.pid}, is at work"):
            Lock(path).take()
        process.send_signal(signal.SIGKILL)
    assert path.exists()
    Lock(path).check_free()
    ours = Lock(path)
    ours.take()
    assert ours.is_held and path.read_text() == f"process {os.getpid()}\n"
    ours.release()


def test_looking_at_a_lock_creates_nothing_and_holds_nothing(path):
    Lock(path).check_free()
    assert not path.exists()
    path.touch()
    Lock(path).check_free()
    ours = Lock(path)
    ours.take()
    ours.release()


def test_a_lock_on_a_file_that_its_holder_has_just_deleted_is_no_lock(path, monkeypatch):
    """Between opening the file and locking it, the one before releases it, which deletes it."""
    before, ours = Lock(path), Lock(path)
    before.take()
    flock = lock.fcntl.flock

    def late(*arguments):
        before.release()
        flock(*arguments)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    ours.take()
    monkeypatch.undo()
    assert ours.is_held and path.exists()
    with pytest.raises(TenshotError, match="is at work"):
        Lock(path).take()
    ours.release()


@pytest.mark.parametrize("follows", ["nothing", "another run"])
def test_a_lock_whose_folder_is_gone_says_so_and_takes_nothing_of_anothers(path, follows):
    ours = Lock(path)
    ours.take()
    ours.check_place()
    shutil.move(path.parent, path.parent.with_name("moved"))
    if follows == "another run":
        path.parent.mkdir()
        theirs = Lock(path)
        theirs.take()
    assert not ours.is_held
    with pytest.raises(TenshotError, match=f"cannot go on in {path.parent}: the folder does not exist any more"):
        ours.check_place()
    ours.release()
    assert path.exists() == (follows == "another run")
    if follows == "another run":
        theirs.release()


def test_a_file_system_without_locks_is_told_and_used(path, monkeypatch):
    def none(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    ours = Lock(path)
    with pytest.warns(UserWarning, match="is on a file system without locks: run one at a time"):
        ours.take()
    assert ours.is_held
    ours.release()


def test_a_lock_that_may_not_be_written_ends_in_a_sentence(tmp_path):
    with pytest.raises(TenshotError, match=r"cannot lock .*the folder does not exist any more"):
        Lock(tmp_path / "gone" / "run.lock").take()
