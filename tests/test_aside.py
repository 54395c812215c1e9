"""A run that is replaced is lost only to a run that has a checkpoint."""

import shutil

import pytest
import torch

from killing import KILLED, die_at, live
from tenshot import loop
from tenshot.config import RunConfig
from tenshot.doctor.run_folder import check_run
from tenshot.errors import TenshotError
from tenshot.methods import Finetune
from tenshot.runs import RunDir


def config(shots, tiny_source, **settings):
    fixed = {"steps": 3, "batch": 2, "checkpoint_every": 2, "sample_every": 0}
    return RunConfig(str(shots), str(tiny_source), Finetune(), **{**fixed, **settings})


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def before(tmp_path):
    """The folder of a run before, with a file that is not of it, and what is in it."""
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    (out / "shots").mkdir()
    for name in ("model.safetensors", "report.html", "checkpoints/000004.safetensors", "shots/000.png", "notes.txt"):
        (out / name).write_text(f"old {name}")
    (out / "config.json").write_text('{"shots": "", "source": "", "method": {}}')
    return out, contents(out)


@pytest.mark.parametrize("where", ["setting aside", "beginning", "first step"])
def test_a_run_that_fails_before_its_first_step_is_done_puts_the_one_before_back(
    before, shots, tiny_source, monkeypatch, where
):
    def fail(*_):
        raise TenshotError("no more")

    out, files = before
    if where == "setting aside":
        (out / ".replaced").write_text("in the way")  # a file cannot become the folder
        files = contents(out)
    elif where == "beginning":
        monkeypatch.setattr(RunDir, "write_config", fail)
    else:
        monkeypatch.setattr(loop, "run_step", fail)
    with pytest.raises(TenshotError, match=r"no more|set aside the run in"):
        loop.start(config(shots, tiny_source), out=out, overwrite=True)
    assert contents(out) == files and not RunDir(out).lock.path.exists()


def test_the_run_before_is_there_until_the_first_checkpoint_and_then_no_more(before, shots, tiny_source):
    out, files = before
    seen = []
    loop.start(
        config(shots, tiny_source, steps=4),
        out=out,
        overwrite=True,
        watch=lambda now: seen.append(contents(out / ".replaced")),
    )
    del files["notes.txt"]
    assert seen == [files, files, {}, {}]
    assert (out / "notes.txt").is_file() and not (out / ".dropped").exists() and RunDir(out).saved.steps() == [2, 4]


def replace(out):
    """The life of a run that begins in the place of another, up to its first checkpoint."""
    run = RunDir.create(out, overwrite=True)
    run.write_config('{"shots": "", "source": "", "method": {}, "new": 1}')
    run.save_checkpoint(2, {"x": torch.zeros(1)}, {})
    run.lock.release()
    return 0


def test_killed_at_any_operation_it_leaves_the_run_before_or_a_new_one_with_a_checkpoint(before, tmp_path):
    out, files = before
    shutil.copytree(out, tmp_path / "new")
    replace(tmp_path / "new")
    new, kept = contents(tmp_path / "new"), []

    for number in range(1, 100):
        place = shutil.copytree(out, tmp_path / f"killed{number}" / "run")

        def life(number=number, place=place):
            die_at(number, place)
            return replace(place)

        code, _ = live(life, tmp_path / "log.txt")
        RunDir.create(place, overwrite=True).discard()
        left = contents(place)
        assert left in (files, new), number
        kept.append(left == new)
        if code != KILLED:
            break
    assert code == 0 and number > 25 and kept == sorted(kept) and not kept[0] and kept[-1]


def test_killed_while_it_is_set_aside_it_is_refused_as_before(before):
    out, files = before
    (out / "run.lock").touch()
    (out / ".moving").mkdir()
    for name in ("config.json", "model.safetensors"):
        (out / name).rename(out / ".moving" / name)
    with pytest.raises(TenshotError, match="holds a run already"):
        RunDir.create(out)
    assert contents(out) == files


def test_a_run_killed_before_its_checkpoint_is_resumed_and_then_the_one_before_goes(before, shots, tiny_source):
    out, _ = before
    loop.start(config(shots, tiny_source), out=out / "other")
    run = RunDir.create(out, overwrite=True)
    shutil.copy(out / "other" / "config.json", run.config)
    run.lock.release()
    assert run.aside.is_there and "replaced" in {finding.check for finding in check_run(out)}
    with pytest.raises(TenshotError, match="holds a run already"):
        RunDir.create(out)
    loop.resume(out)
    assert run.model.is_file() and not run.aside.is_there
