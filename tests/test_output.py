"""Output that cannot be written ends no work: a reader that is gone, a full disk, an encoding with few letters."""

import errno
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tenshot.__main__ import main
from tenshot.cli import running
from tenshot.loop import Progress
from tenshot.output import Output, why_lost
from tenshot.progress import ProgressLine
from tenshot.runs import RunDir

SENTENCE = "the output cannot be written any more"


def adapt(tmp_path, tiny_source, shots, *more, **how):
    """A process of its own, four steps long; what it says on stderr, and its exit code."""
    settings = [
        "--steps",
        "4",
        "--batch",
        "2",
        "--sample-every",
        "0",
        "--checkpoint-every",
        "3",
        "--method",
        "finetune",
    ]
    command = [sys.executable, "-m", "tenshot", "adapt", str(shots), "--source", str(tiny_source)]
    return subprocess.run(
        [*command, "--out", str(tmp_path / "run"), *settings, *more],
        stderr=subprocess.PIPE,
        timeout=120,
        **{**how, "env": {**os.environ, "OMP_NUM_THREADS": "1", **how.get("env", {})}},
    )


@pytest.fixture
def unread():
    """A pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def full():
    """A file on a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as file:
        yield file


def test_a_run_goes_on_to_its_end_when_nobody_reads_it_any_more(tmp_path, tiny_source, shots, unread):
    done = adapt(tmp_path, tiny_source, shots, stdout=unread)
    assert done.returncode == 1
    told = done.stderr.decode()
    assert told.startswith(f"tenshot: {SENTENCE} (Broken pipe): the run goes on without it; Ctrl-C or SIGTERM")
    assert told.count("\n") == 1
    run = RunDir(tmp_path / "run")
    assert run.saved.steps() == [3, 4] and run.model.is_file() and (run.path / "report.html").is_file()


def test_a_run_goes_on_to_its_end_when_the_disk_of_its_output_is_full(tmp_path, tiny_source, shots, full):
    done = adapt(tmp_path, tiny_source, shots, stdout=full)
    assert done.returncode == 1
    why = os.strerror(errno.ENOSPC)
    first, last = done.stderr.decode().splitlines()
    assert first.startswith(f"tenshot: {SENTENCE} ({why}): ")
    assert last == f"tenshot adapt: cannot write the output: {why}"
    assert RunDir(tmp_path / "run").model.is_file()


def test_a_run_goes_on_to_its_end_when_nobody_reads_its_faults_either(tmp_path, tiny_source, shots, unread):
    command = "import os, sys; os.dup2(1, 2); from tenshot.__main__ import main; sys.exit(main(sys.argv[1:]))"
    settings = ["--steps", "2", "--batch", "2", "--sample-every", "0", "--checkpoint-every", "0"]
    given = ["adapt", str(shots), "--source", str(tiny_source), "--out", str(tmp_path / "run"), *settings]
    done = subprocess.run([sys.executable, "-c", command, *given], stdout=unread, timeout=120)
    assert done.returncode == 1 and RunDir(tmp_path / "run").model.is_file()


def test_a_short_verb_whose_reader_has_seen_enough_says_nothing(unread):
    done = subprocess.run([sys.executable, "-m", "tenshot", "--help"], stdout=unread, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"")


def test_letters_that_an_encoding_lacks_end_no_run(tmp_path, tiny_source, shots):
    shots = shots.rename(tmp_path / "rob\u00f6ter\u2026")
    out = tmp_path / "l\u00e4ufe\u2192"
    coded = {"PYTHONIOENCODING": "ascii"}
    done = adapt(tmp_path, tiny_source, shots, "--out", str(out), "--steps", "1", stdout=subprocess.PIPE, env=coded)
    assert (done.returncode, done.stderr) == (0, b"") and b"l?ufe?" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp936", "latin-1"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_letters_that_an_encoding_lacks_are_replaced(encoding, errors):
    buffer = io.BytesIO()
    output = Output(io.TextIOWrapper(buffer, encoding=encoding, errors=errors))
    print("a \u20ac\u0142\udcff z", file=output)
    output.flush()
    assert buffer.getvalue().startswith(b"a ") and buffer.getvalue().endswith(b" z\n") and output.lost is None


def test_what_is_printed_after_a_failure_is_passed_over_and_the_first_cause_kept(full):
    output = Output(full)
    for _ in range(3):
        print("word", file=output)
        output.flush()
        cause = why_lost(output)
    assert cause is why_lost(output) and cause.errno == errno.ENOSPC
    assert why_lost(full) is None


def test_a_folder_that_has_taken_steps_is_never_discarded(tmp_path, tiny_source, shots, monkeypatch):
    class Failing(ProgressLine):
        def __call__(self, now):
            raise ZeroDivisionError

    monkeypatch.setattr(running, "ProgressLine", Failing)
    out = tmp_path / "run"
    settings = ["--steps", "2", "--batch", "2", "--sample-every", "0", "--checkpoint-every", "2"]
    with pytest.raises(ZeroDivisionError):
        main(["adapt", str(shots), "--source", str(tiny_source), "--out", str(out), *settings])
    assert len(RunDir(out).read("stats")) == 1
    monkeypatch.undo()
    assert main(["adapt", "--resume", str(out)]) == 0


def test_commands_to_copy_are_quoted(tmp_path, tiny_source, shots, capsys):
    out = tmp_path / "my art; $1"
    settings = ["--steps", "1", "--batch", "2", "--sample-every", "0", "--method", "finetune"]
    assert main(["adapt", str(shots), "--source", str(tiny_source), "--out", str(out), *settings]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(told) == ["next", "tenshot", "generate", str(out), "--seeds", "0-99", "--out", f"{out}-images"]
    assert shlex.split(RunDir(out).way_on.strip("`"))[-1] == str(out)


def test_the_progress_line_speaks_of_pruning_once_something_is_pruned():
    out = io.StringIO()
    with ProgressLine(Console(file=out, width=100)) as line:
        line(Progress(1, 2, {"d": 1.0, "g": 0.5, "pruned": 0.0, "seconds": 0.1}, {}))
        line(Progress(2, 2, {"d": 1.0, "g": 0.5, "pruned": 0.025, "seconds": 0.1}, {}))
    first, second = out.getvalue().splitlines()
    assert first.startswith("step 1/2  D 1.00  G 0.50  ") and "pruned" not in first
    assert second.startswith("step 2/2  D 1.00  G 0.50  pruned 2.5%  ")
