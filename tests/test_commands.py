"""Commands to copy: a shell and the command line take a path in them for what it is."""

import os
import shlex
from pathlib import Path

import pytest

from tenshot.__main__ import main
from tenshot.commands import argument
from tenshot.errors import TenshotError
from tenshot.runs import RunDir


@pytest.mark.parametrize("name", ["-x", "--out", "-", "-my art; $1", "a", "runs/-x", "/-x", "../-x", "it's"])
def test_a_path_in_a_command_is_one_word_that_is_no_option_and_the_same_path(name):
    (word,) = shlex.split(argument(name))
    assert not word.startswith("-")
    assert os.path.normpath(word) == os.path.normpath(name)


def test_a_name_without_surprises_stands_as_it_is():
    assert argument("runs/robots") == "runs/robots"


def test_the_commands_of_a_run_whose_name_begins_with_a_hyphen_work(tmp_path, tiny_source, shots, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ["--steps", "1", "--batch", "2", "--sample-every", "0", "--method", "finetune"]
    assert main(["adapt", str(shots), "--source", str(tiny_source), "--out=-x", *settings]) == 0
    _, _, *command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command == ["generate", "./-x", "--seeds", "0-99", "--out", "./-x-images"]
    command[command.index("0-99")] = "0-1"
    assert main(command) == 0
    assert len(list((tmp_path / "-x-images").iterdir())) == 2
    run = RunDir(Path("-x"))
    assert shlex.split(run.way_on.strip("`"))[1:] == ["adapt", "--resume", "./-x"]
    with pytest.raises(TenshotError, match=r"resume it \(--resume \./-x\)"):
        run.check(overwrite=False)
