"""The README's commands and Python run as they are printed, on the settings that make them quick."""

import re
import shlex
from pathlib import Path

import pytest

from tenshot.__main__ import VERBS, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = ["--steps", "2", "--sample-every", "0"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.startswith("tenshot ")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)


def test_the_commands_run_in_the_order_they_are_printed(here, capsys):
    given = commands()
    assert len(given) >= 4
    for command in given:
        verb, *arguments = shlex.split(command)[1:]
        quick = QUICK if verb == "adapt" and "--resume" not in arguments else []
        if verb in ("convert", "pretrain", "evaluate") or "--resume" in arguments:
            assert verb in VERBS  # needs files of yours, or a run that was stopped; tested elsewhere
            continue
        if verb == "interpolate":
            quick = ["--frames", "2"]
        assert main([verb, *arguments, *quick]) == 0, command


def test_the_python_runs(here, monkeypatch):
    (code,) = blocks("python")
    assert len(code.strip().splitlines()) <= 12
    exec(code.replace("steps=600", "steps=2"), {})


def test_every_verb_of_the_help_is_in_the_readme():
    assert all(f"tenshot {verb}" in README for verb in VERBS)


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README):
        path = target[0] or target[1]
        if "://" not in path:
            assert (ROOT / path).exists(), path


def test_no_placeholder_is_left_in_what_people_read():
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("benchmarks/**/*.md")):
        assert "{{" not in path.read_text(encoding="utf-8"), path
