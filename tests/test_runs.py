"""A run survives signals, damage, neighbours and disks; what it leaves equals the unbroken run, bit for bit."""

import errno
import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress

import pytest
import torch

from tenshot import looks, loop, result, scoring
from tenshot.__main__ import main
from tenshot.adaptation import begin
from tenshot.config import RunConfig
from tenshot.data import load_images
from tenshot.doctor.run_folder import check_run
from tenshot.errors import TenshotError
from tenshot.files import write_atomically
from tenshot.interrupts import Interrupts
from tenshot.lock import Lock
from tenshot.looks import Looks
from tenshot.methods import Finetune
from tenshot.models import load_model, read_tensors, save_model
from tenshot.runs import RunDir, check_shots
from tenshot.sheets import grid, save_png
from tiny import tiny_model, tiny_shots

STEPS = 6


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A source, shots, and the unbroken run."""
    folder = tmp_path_factory.mktemp("given")
    save_model(folder / "tiny.safetensors", tiny_model())
    for name, images in (("shots", tiny_shots()), ("heldout", tiny_shots(seed=1))):
        (folder / name).mkdir()
        for i, image in enumerate(images):
            save_png(grid(image[None], 1), folder / name / f"{i:06d}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "score", stand_in)
        patch.setattr(result, "SHEET_SEEDS", range(4))
        loop.start(config(folder), out=folder / "whole")
    return folder


@pytest.fixture(autouse=True)
def scored(monkeypatch):
    monkeypatch.setattr(scoring, "score", stand_in)
    monkeypatch.setattr(result, "SHEET_SEEDS", range(4))


def stand_in(fakes, reals, shots, names, device, unclamped, keep_going, known):
    value = next(iter(fakes)).double().std().item()
    return {name: {"value": value} for name in names}


def config(given, **settings):
    fixed = {"batch": 2, "checkpoint_every": 2, "sample_every": 3, "eval_every": 2, "path_every": 0}
    settings = {"steps": STEPS, "eval_real": str(given / "heldout"), **fixed, **settings}
    return RunConfig(str(given / "shots"), str(given / "tiny.safetensors"), Finetune(), **settings)


def stop_after(step):
    return lambda now: now.step == step


def stopped(given, out, step=4, **settings):
    with pytest.raises(loop.Stopped):
        loop.start(config(given, **settings), out=out, watch=stop_after(step))
    return RunDir(out)


def left_by(out):
    """By name what a run left; journals without seconds, and no manifest: it may name what was deleted."""
    found = {}
    for path in out.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            data = path.read_bytes()
            if path.suffix == ".jsonl":
                data = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in data.splitlines()]
            found[path.relative_to(out).as_posix()] = data
    return found


def assert_equals_the_unbroken_run(given, out):
    whole, other = left_by(given / "whole"), left_by(out)
    assert sorted(whole) == sorted(other)
    assert [name for name in whole if whole[name] != other[name]] == []


def bad(path):
    path.write_bytes(path.read_bytes()[:-3] + b"\0\0\1")


def test_a_damaged_newest_checkpoint_costs_its_steps_and_no_more(given, tmp_path):
    run = stopped(given, tmp_path / "run")
    bad(run.saved.path(4))
    with pytest.warns(UserWarning, match=r"000004\.safetensors is damaged"):
        loop.resume(run.path)
    assert_equals_the_unbroken_run(given, run.path)


@pytest.mark.parametrize("damage", ["none was written", "all are damaged", "their folder is gone"])
def test_a_run_without_a_whole_checkpoint_begins_again_by_itself(given, tmp_path, damage, recwarn):
    run = stopped(given, tmp_path / "run", 2)
    if damage == "all are damaged":
        bad(run.saved.path(2))
    else:
        shutil.rmtree(run.checkpoints)
    if damage == "none was written":
        run.checkpoints.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.warnings, "warn", lambda text, **_: told.append(text))
        told: list[str] = []
        loop.resume(run.path)
    assert ["000002" in text for text in told] == ([True] if damage == "all are damaged" else [])
    assert_equals_the_unbroken_run(given, run.path)


def test_what_a_killed_writer_left_is_cleared_when_the_run_is_resumed(given, tmp_path):
    run = stopped(given, tmp_path / "run")
    for folder in (run.path, run.shots, run.samples, run.checkpoints):
        (folder / ".000004.safetensors.abcd_123.part").write_bytes(b"half")
    run.lock.path.write_text("process 1\n")
    loop.resume(run.path)
    assert_equals_the_unbroken_run(given, run.path)


def test_a_temporary_file_is_recognised_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: None)
    write_atomically(tmp_path / "a.json", b"")
    (left,) = tmp_path.iterdir()
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    left.rename(run.path / left.name)
    (run.path / "notes.part").touch()
    run.config.write_text("{}")
    run.open()
    run.lock.release()
    assert {path.name for path in run.path.iterdir()} == {
        "notes.part",
        "config.json",
        "shots",
        "samples",
        "checkpoints",
    }


@pytest.mark.parametrize(
    "left", [["run.lock"], ["run.lock", "shots", "samples"], ["run.lock", "shots", ".config.json.abcdefgh.part"]]
)
def test_a_folder_that_was_killed_before_it_had_a_config_is_started_anew(given, tmp_path, left):
    out = tmp_path / "run"
    out.mkdir()
    for name in left:
        (out / name).touch() if "." in name else (out / name).mkdir()
    with pytest.raises(TenshotError, match=r"was killed before it had a config\.json: start it anew, as it"):
        loop.resume(out)
    loop.start(config(given), out=out)
    assert_equals_the_unbroken_run(given, out)


@pytest.mark.parametrize("step", [4, None])
def test_a_run_that_has_lost_its_config_is_told_so_and_never_begun_anew_over(given, tmp_path, step):
    out = tmp_path / "run 1"
    if step:
        stopped(given, out, step)
    else:
        loop.start(config(given), out=out)
    (out / "config.json").unlink()
    (out / "run.lock").touch()
    before = left_by(out)
    with pytest.raises(
        TenshotError, match=r"has lost its config\.json, without which the run cannot go on: put back a"
    ):
        loop.resume(out)
    with pytest.raises(TenshotError, match="is a folder with other things in it"):
        loop.start(config(given), out=out)
    assert left_by(out) == before


def test_a_run_goes_on_where_source_shots_and_held_out_images_have_moved(given, tmp_path):
    shutil.copy(given / "tiny.safetensors", tmp_path)
    for name in ("shots", "heldout"):
        shutil.copytree(given / name, tmp_path / name)
    run = stopped(tmp_path, tmp_path / "run")
    shutil.rmtree(run.shots)  # as of a run with more shots than it keeps
    (tmp_path / "tiny.safetensors").unlink()
    for name in ("shots", "heldout"):
        shutil.rmtree(tmp_path / name)
    with pytest.raises(
        TenshotError, match=r"there is no model .*config\.json names it, as seen from the folder you are in"
    ):
        loop.resume(run.path)
    run.config.write_text(run.config.read_text().replace(str(tmp_path), str(given)))
    loop.resume(run.path)
    whole, resumed = (read_tensors(folder / "model.safetensors")[0] for folder in (given / "whole", run.path))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_does_not_replace_the_folder_of_its_own_source(given, tmp_path):
    loop.start(config(given), out=tmp_path / "run")
    for source in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        settings = RunConfig(str(given / "shots"), str(source), Finetune(), steps=1)
        with pytest.raises(TenshotError, match=r"lies in .*run, which would be replaced: choose another --out"):
            loop.start(settings, out=tmp_path / "run", overwrite=True)
    assert_equals_the_unbroken_run(given, tmp_path / "run")


def test_a_users_own_folder_is_never_taken_for_a_leftover(given, tmp_path):
    (tmp_path / "art" / "shots").mkdir(parents=True)
    (tmp_path / "mixed").mkdir()
    for name in ("run.lock", "thesis.txt"):
        (tmp_path / "mixed" / name).touch()
    for out in (tmp_path / "art", tmp_path / "mixed"):
        with pytest.raises(TenshotError, match="is a folder with other things in it"):
            loop.start(config(given), out=out, overwrite=True)
    assert (tmp_path / "art" / "shots").is_dir() and (tmp_path / "mixed" / "thesis.txt").is_file()


@pytest.mark.parametrize("way", ["resume", "start", "overwrite", "early check"])
def test_a_second_process_in_a_runs_folder_is_refused_and_changes_nothing(given, tmp_path, way):
    run = stopped(given, tmp_path / "run")
    holder = Lock(run.lock.path)
    holder.take()
    before = left_by(run.path)
    with pytest.raises(TenshotError, match=rf"another run, process {os.getpid()}, is at work in"):
        if way == "resume":
            loop.resume(run.path)
        elif way == "early check":
            run.check(overwrite=True)
        else:
            loop.start(config(given), out=run.path, overwrite=way == "overwrite")
    assert left_by(run.path) == before
    holder.release()


PLACES = {
    "first sheet": (looks, "save_samples", 1, 0),
    "step": (loop, "run_step", 3, 3),
    "scoring": (scoring, "score", 2, 4),
    "best": (looks, "save_model", 1, 2),
    "sheet": (looks, "save_samples", 2, 3),
    "checkpoint": (RunDir, "save_checkpoint", 2, 4),
    "finish": (loop, "finish", 1, 6),
}
"""Where a signal comes: which call of which function; and the step whose checkpoint is the newest then."""


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_at_any_place_ends_in_a_checkpoint_from_which_the_run_equals_the_unbroken_one(
    given, tmp_path, monkeypatch, place
):
    interrupts = Interrupts()
    owner, name, call, step = PLACES[place]
    function, calls = getattr(owner, name), []

    def interrupted(*arguments, **named):
        calls.append(name)
        if len(calls) == call:
            interrupts.receive(signal.SIGTERM)
        return function(*arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(loop.Stopped, match=r"stopped after step \d of 6; go on with"):
        patch.setattr(owner, name, interrupted)
        loop.start(config(given), out=tmp_path / "run", interrupts=interrupts)
    run = RunDir(tmp_path / "run")
    assert not run.model.exists() and not run.lock.path.exists()
    assert run.saved.steps()[-1] == step
    loop.resume(run.path)
    assert_equals_the_unbroken_run(given, run.path)


def test_a_signal_while_loading_leaves_nothing_and_says_so(given, tmp_path, monkeypatch, capsys):
    def slow(*arguments):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("tenshot.cli.running.load_images", slow)
    out = tmp_path / "run"
    assert main(["adapt", str(given / "shots"), "--source", str(given / "tiny.safetensors"), "--out", str(out)]) == 143
    assert capsys.readouterr().err == "tenshot adapt: stopped\n"
    assert not out.exists()


def test_a_run_that_a_rule_ended_is_not_taken_further_when_it_is_resumed(given, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "finish", killed)
        loop.start(config(given, stop="copy_rate>0"), out=tmp_path / "run")
    assert loop.resume(tmp_path / "run").card["steps"] == 2


def test_a_failure_of_scoring_is_told_and_ends_nothing(given, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("no images")

    monkeypatch.setattr(scoring, "score", broken)
    with pytest.warns(
        UserWarning, match="nothing could be scored, the run goes on without: ZeroDivisionError: no images"
    ):
        loop.start(config(given), out=tmp_path / "run")
    entries = RunDir(tmp_path / "run").read("metrics")
    assert entries[0]["metrics"]["fd_efflite_500"] == {"failed": "ZeroDivisionError: no images"}
    assert load_model(tmp_path / "run").card["steps"] == STEPS and not (tmp_path / "run" / "best.safetensors").exists()


def scores(monkeypatch, values):
    waiting = iter(values)
    monkeypatch.setattr(scoring, "score", lambda *_, **__: dict(next(waiting)))


@pytest.mark.parametrize(
    ("values", "metric", "best"),
    [
        ([5, 3, 4], "", 4),
        ([float("nan"), 7, None], "", 4),
        ([1, 2, 3], "intra_dist_200", 6),
        ([2, 2, 2], "", 2),
    ],
)
def test_the_best_generator_is_kept_as_a_model_beside_the_last(given, tmp_path, monkeypatch, values, metric, best):
    names = ("fd_efflite_500", "intra_dist_200")
    scores(monkeypatch, ({name: {"value": value} for name in names} for value in values))
    settings = {"eval_metrics": ",".join(names), "keep_best": metric, "keep_last": 9}
    loop.start(config(given, **settings), out=tmp_path / "run")
    run = RunDir(tmp_path / "run")
    model = load_model(run.best)
    assert model.card["steps"] == best
    assert model.card["best"] == {"metric": metric or names[0], "value": values[best // 2 - 1]}
    averaged = read_tensors(run.saved.path(best))[0]
    for name, parameter in model.generator.named_parameters():
        assert torch.equal(parameter, averaged[f"ema/{name}"])


def test_the_best_before_a_stop_is_not_forgotten_after_it(given, tmp_path, monkeypatch):
    scores(monkeypatch, ({"fd_efflite_500": {"value": value}} for value in (1, 2, 3)))
    run = stopped(given, tmp_path / "run")
    loop.resume(run.path)
    assert load_model(run.best).card["steps"] == 2


def test_after_a_best_was_undone_a_resumed_run_goes_on_from_the_best_that_is_left(given, tmp_path, monkeypatch):
    """Steps 2 and 4 are scored 60 and 50; back to 2, and 70 at 4: then 90 at 6 is none, stopped between or not."""
    bests = []
    for stops in (False, True):
        run = RunDir.create(tmp_path / f"run{stops}")
        look = looks_of(given, run)
        scores(monkeypatch, ({"fd_efflite_500": {"value": value}} for value in (60, 50, 70, 90)))
        look(2)
        look(4)
        run.rewind(2)
        look.begin_again()
        look(4)
        look = looks_of(given, run) if stops else look
        look(6)
        bests.append((load_model(run.best).card["best"]["value"], load_model(run.best).card["steps"]))
        run.lock.release()
    assert bests == [(70, 4), (70, 4)]


def looks_of(given, run):
    settings = config(given)
    source = load_model(settings.source)
    adaptation = begin(settings, source, load_images(settings.shots, source.resolution).images)
    return Looks(adaptation, source, "digest", run)


def test_a_best_by_what_is_not_scored_is_refused(given):
    with pytest.raises(TenshotError, match="--keep-best names 'fid_5k'; scored are fd_efflite_500"):
        loop.start(config(given, keep_best="fid_5k"), out=None)
    with pytest.raises(TenshotError, match="--keep-best is 'x': it must be left out, or --eval-every"):
        RunConfig("shots", keep_best="x")


def test_settings_that_are_newer_than_a_checkpoint_do_not_make_it_another_run(given, tmp_path):
    run = stopped(given, tmp_path / "run")
    tensors, header = run.load_checkpoint()
    del header["settings"]["keep_last"], header["settings"]["keep_best"]
    run.save_checkpoint(header["step"], tensors, header)
    loop.resume(run.path)


def test_a_damaged_line_of_a_journal_is_dropped_with_a_warning(given, tmp_path):
    run = stopped(given, tmp_path / "run")
    path = run.path / "stats.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\xff\xfe{]\n" + b"".join(lines[2:]))
    with pytest.raises(TenshotError, match=r"stats\.jsonl is damaged .*delete it, it only keeps a record"):
        run.read("stats")
    with pytest.warns(UserWarning, match=r"stats\.jsonl: 1 damaged lines are left out"):
        loop.resume(run.path)
    assert [entry["step"] for entry in run.read("stats")] == [1, 3, 4, 5, 6]


def test_a_folder_that_is_moved_while_the_run_goes_on_keeps_its_state_and_is_resumed_there(given, tmp_path):
    out, moved = tmp_path / "run", tmp_path / "moved"

    def move(now):
        if now.step == 3:
            shutil.move(out, moved)
            out.mkdir()  # somebody else begins there
            (out / "config.json").write_text("theirs")

    with pytest.raises(TenshotError, match=r"does not exist any more.*if it was moved, go on there with"):
        loop.start(config(given), out=out, watch=move)
    assert [path.name for path in out.iterdir()] == ["config.json"]
    loop.resume(moved)
    assert_equals_the_unbroken_run(given, moved)


def mounted(*arguments):
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None or not mounted("-t", "tmpfs", "-o", "size=16m", "tmpfs", place):
        pytest.skip("only root can mount a file system")
    yield place
    while os.path.ismount(place):  # also what a test put on top
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_keeps_the_last_good_state_and_says_how_to_go_on(given, disk):
    def fail(now):
        if now.step == 3:
            fill(disk / "ballast")

    with pytest.raises(
        TenshotError, match=r"cannot write .*the disk is full.*is kept as after step 2: then go on with"
    ):
        loop.start(config(given), out=disk / "run", watch=fail)
    (disk / "ballast").unlink()
    loop.resume(disk / "run")
    assert_equals_the_unbroken_run(given, disk / "run")


def test_a_disk_that_becomes_read_only_keeps_the_last_good_state_and_says_how_to_go_on(given, disk):
    def fail(now):
        if now.step == 3:
            assert mounted("--bind", disk, disk) and mounted("-o", "remount,bind,ro", disk)

    with pytest.raises(TenshotError, match=r"cannot write .*the file system is read-only.*as after step 2: then go on"):
        loop.start(config(given), out=disk / "run", watch=fail)
    with pytest.raises(TenshotError, match=r"cannot lock .*: the file system is read-only"):
        loop.resume(disk / "run")
    subprocess.run(["umount", str(disk)], check=True)  # the read-only view of it
    loop.resume(disk / "run")
    assert_equals_the_unbroken_run(given, disk / "run")


def fill(path):
    """To the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC


def test_a_run_is_not_scored_against_other_images_after_a_stop(given, tmp_path):
    run = stopped(given, tmp_path / "run")
    others = tmp_path / "others"
    others.mkdir()
    for i, image in enumerate(tiny_shots(seed=5)):
        save_png(grid(image[None], 1), others / f"{i}.png")
    run.config.write_text(run.config.read_text().replace(str(given / "heldout"), str(others)))
    with pytest.raises(TenshotError, match=r"held-out images .*others are not those that the run's scores so far"):
        loop.resume(run.path)


def test_the_last_generator_is_scored_whatever_the_distance_between_looks(given, tmp_path):
    loop.start(config(given, eval_every=4), out=tmp_path / "run")
    assert [look["step"] for look in RunDir(tmp_path / "run").read("metrics")] == [4, STEPS]


@pytest.mark.parametrize("part", ["checkpoints", "samples", "stats.jsonl", "run.lock"])
def test_a_link_in_a_runs_folder_is_refused_and_nothing_is_touched_where_it_leads(given, tmp_path, part):
    run, elsewhere = stopped(given, tmp_path / "run"), tmp_path / "elsewhere"
    if part == "run.lock":
        elsewhere.write_text("mine")
    else:
        (run.path / part).rename(elsewhere)
    (run.path / part).symlink_to(elsewhere)
    before = left_by(tmp_path)
    with pytest.raises(TenshotError, match="is a link"):
        loop.resume(run.path)
    with pytest.raises(TenshotError, match="is a link"):
        loop.start(config(given), out=run.path, overwrite=True)
    if part != "run.lock":
        assert [f.text for f in check_run(run.path) if f.check == "folder" and "is a link" in f.text]
    assert left_by(tmp_path) == before


@pytest.mark.parametrize("part", ["run.lock", "checkpoints/manifest.json", "checkpoints/000004.safetensors"])
def test_a_pipe_in_a_runs_folder_hangs_nobody(given, tmp_path, part, recwarn):
    run = stopped(given, tmp_path / "run")
    (run.path / part).unlink(missing_ok=True)
    os.mkfifo(run.path / part)
    signal.alarm(60)  # a hang ends the suite, not the day
    try:
        assert check_run(run.path)[-1].check == "next"
        with suppress(TenshotError):
            loop.resume(run.path)
    finally:
        signal.alarm(0)


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq", "step"])
@pytest.mark.parametrize("how", ["shorter", "missing", "of whole numbers"])
def test_moments_that_do_not_fit_their_parameter_are_refused(given, tmp_path, key, how):
    run = stopped(given, tmp_path / "run")
    tensors, header = run.load_checkpoint()
    name = next(name for name in tensors if name.startswith("adam/") and name.endswith(f"/{key}"))
    if how == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(2) if how == "shorter" else tensors[name].int()
    run.save_checkpoint(4, tensors, header)
    with pytest.raises(TenshotError, match=r"the checkpoint's moments of .* do not belong to this parameter"):
        loop.resume(run.path)


def test_a_journal_of_returns_that_says_nonsense_is_no_traceback(given, tmp_path):
    run = stopped(given, tmp_path / "run")
    (run.path / "recovery.jsonl").write_text('{"step": 2, "returns": null}\n{"step": 2, "returns": "x"}\n')
    assert loop.resume(run.path).card["steps"] == STEPS


def test_images_that_may_not_be_looked_at_are_told_as_a_sentence(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr("pathlib.Path.iterdir", denied)
    with pytest.raises(TenshotError, match=r"cannot look into .*: permission denied"):
        check_shots(str(tmp_path))
