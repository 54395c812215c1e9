"""The command line as a user meets it: words, files and exit codes."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

import tenshot
from tenshot import __version__, loop
from tenshot.__main__ import VERBS, main
from tenshot.cli import adapt as adapt_verb
from tenshot.cli import running
from tenshot.cli.running import peek
from tenshot.config import RunConfig, read_config
from tenshot.errors import TenshotError
from tenshot.methods import Rick
from tenshot.models import Model, load_model, save_model, write_tensors
from tenshot.presets import preset_config
from tenshot.progress import ProgressLine
from tenshot.sampling import generate_images


@pytest.fixture
def adapt(tmp_path, tiny_source, shots):
    """`tenshot adapt` of the ten images from the tiny source, four steps long."""

    def run(*arguments, out="run", given=shots, source=tiny_source, steps=4):
        fixed = f"--steps {steps} --batch 2 --sample-every 2 --checkpoint-every 2".split()
        return main(["adapt", str(given), "--source", str(source), "--out", str(tmp_path / out), *fixed, *arguments])

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one_sentence(capsys, verb="adapt"):
    """What was said on stderr: one line that begins with the verb."""
    said = capsys.readouterr().err
    assert said.startswith(f"tenshot {verb}: ") and said.count("\n") == 1
    return said


def raising(number, *, where=lambda *a: True, otherwise=lambda *a, **k: None):
    def function(*arguments, **named):
        if where(*arguments):
            raise OSError(number, os.strerror(number))
        return otherwise(*arguments, **named)

    return function


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_help_lists_every_verb_and_imports_nothing_heavy():
    code = (
        "import sys; from tenshot.__main__ import main; code = main(['--help']);"
        "print([name for name in ('torch', 'tyro', 'rich', 'numpy', 'PIL') if name in sys.modules], code)"
    )
    ran = python(code)
    assert ran.stdout.endswith("\n[] 0\n") and ran.stderr == ""
    assert all(re.search(rf"^  {verb} +\w", ran.stdout, re.MULTILINE) for verb in ("adapt", "generate", "convert"))


def test_the_module_can_be_run_and_its_exit_code_is_the_commands():
    ran = subprocess.run([sys.executable, "-m", "tenshot", "adpat"], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "tenshot: there is no verb 'adpat'; did you mean adapt?\n"


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_help_is_given_when_nothing_else_is_asked(arguments, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("usage: tenshot VERB")


@pytest.mark.parametrize("flag", ["--version", "-V", "version"])
def test_the_version_is_told(flag, capsys):
    assert main([flag]) == 0
    assert capsys.readouterr().out == f"tenshot {__version__}\n"


@pytest.mark.parametrize(
    ("verb", "hint"), [("genrate", "did you mean generate?"), ("xyz", f"there are {', '.join(VERBS)}")]
)
def test_a_misspelt_verb_suggests_one_and_exits_with_2(verb, hint, capsys):
    assert main([verb]) == 2
    assert f"there is no verb '{verb}'; {hint}" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_has_a_command_to_copy(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"For example: tenshot {verb}" in said
    assert "RunConfig" not in said and "{None}" not in said


@pytest.mark.parametrize(
    ("arguments", "owner"),
    [
        (["adapt", "x", "--method", "cdc", "--dap.reach", "3"], "--dap.reach belongs to `tenshot adapt --method dap`"),
        (
            ["adapt", "x", "--cdc.weight=3"],
            "--cdc.weight belongs to `tenshot adapt --method cdc`, and the method is dap",
        ),
        (["adapt", "x", "--pretrain.pairs", "p"], "--pretrain.pairs belongs to `tenshot pretrain`, and"),
        (["pretrain", "x", "--dap.every", "3"], "belongs to `tenshot adapt --method dap`, and the method is pretrain"),
    ],
)
def test_a_setting_of_another_method_says_whose_it_is(arguments, owner, capsys):
    assert main(arguments) == 1
    assert owner in one_sentence(capsys, arguments[0])


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["adapt", "x", "--stepps", "3"], "--steps"),
        (["adapt", "x", "--dap.prune-mas", "3"], "--dap.prune-mass"),
        (["adapt", "x", "--steps", "many"], "many"),
        (["adapt", "x", "--augment", "mirror"], "diffaug"),
        (["generate", "faces64", "--sedes", "3"], "--seeds"),
        (["generate"], "MODEL"),
        (["convert", "in.pt"], "OUT.safetensors"),
    ],
)
def test_a_misspelt_option_exits_with_2_and_names_the_right_one(arguments, hint, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert hint in capsys.readouterr().err


def test_of_a_flag_that_is_given_twice_the_last_one_counts():
    assert peek(["x", "--method", "cdc", "--method=ewc"], "--method") == "ewc"
    assert peek(["x", "--method=cdc", "--method", "ewc"], "--method") == "ewc"
    assert peek(["x"], "--method") is None


def test_adapt_makes_a_run(tmp_path, adapt, capsys):
    assert adapt("--method", "finetune") == 0
    run = tmp_path / "run"
    assert {p.name for p in run.iterdir()} == {
        *(
            "config.json",
            "shots",
            "stats.jsonl",
            "samples",
            "checkpoints",
            "model.safetensors",
            "sheet.png",
            "report.html",
        )
    }
    assert [p.name for p in sorted((run / "samples").iterdir())] == ["000000.png", "000002.png", "000004.png"]
    assert [p.stem for p in sorted((run / "checkpoints").iterdir())] == ["000002", "000004", "manifest"]
    assert len(list((run / "shots").iterdir())) == 10
    steps = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4]
    assert all({"d", "g", "pruned", "seconds"} <= entry.keys() for entry in steps)
    model = load_model(run)
    assert model.card["kind"] == "adapted" and model.card["steps"] == 4 and model.card["shots"] == 10
    said = capsys.readouterr().out
    assert "10 used" in said and "step 4/4" in said
    assert f"{'report':<16}{run / 'report.html'}" in said and f"{'sheet':<16}{run / 'sheet.png'}" in said
    assert f"tenshot generate {run} --seeds" in said
    with Image.open(run / "sheet.png") as sheet:
        assert sheet.width == 10 * 130 - 2 + 28


def test_a_folder_that_holds_a_run_is_refused_unless_it_may_be_overwritten(tmp_path, adapt, capsys):
    adapt()
    before = contents(tmp_path / "run")
    capsys.readouterr()
    assert adapt("--seed", "1") == 1
    assert "holds a run already: resume it (--resume" in one_sentence(capsys)
    assert contents(tmp_path / "run") == before
    assert adapt("--seed", "1", "--overwrite", steps=3) == 0
    after = contents(tmp_path / "run")
    assert json.loads(after["config.json"])["seed"] == 1
    assert "samples/000004.png" not in after and after["stats.jsonl"].count(b"\n") == 3


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path, adapt, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    for more in ([], ["--overwrite"]):
        assert adapt(*more) == 1
        assert "is a folder with other things in it: choose another --out" in one_sentence(capsys)
    assert contents(tmp_path / "run") == {"thesis.txt": b"years of work"}


def test_a_runs_config_repeats_the_run_bit_for_bit(tmp_path, adapt):
    adapt("--seed", "5", "--method", "dap", "--dap.every", "1", "--dap.warmup", "0", "--dap.prune-mass", "0.1")
    config = tmp_path / "run" / "config.json"
    assert main(["adapt", "--config", str(config), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "config.json").read_bytes() == config.read_bytes()
    for name in ("model.safetensors", "sheet.png", "checkpoints/000004.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_flags_go_before_the_settings_of_a_config(tmp_path, adapt):
    adapt("--seed", "5")
    config, out = tmp_path / "run" / "config.json", tmp_path / "again"
    assert main(["adapt", f"--config={config}", "--out", str(out), "--steps", "2", "--method", "finetune"]) == 0
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "run", out))
    assert second.pop("method") == "finetune" and second.pop("finetune") == {} and second.pop("steps") == 2
    assert second.pop("ema_half_life") == RunConfig("").ema_half_life  # dap's preset has another
    assert second == {name: first[name] for name in second}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"shots": "x", "stepps": 3}', "unknown setting stepps; known are shots, source"),
        ('{"shots": "x", "dap": {"evry": 3}}', "unknown setting evry; known are estimator"),
        ('{"shots": "x", "steps": "3"}', "--steps is '3': it must be a whole number"),
        ('{"shots": "x", "steps": 0}', "--steps is 0: it must be at least 1"),
        ('{"shots": "x", "method": "nope"}', "there is no method 'nope'; known are finetune, ada"),
        ("[]", "holds no JSON object"),
        ("{", "is not JSON"),
    ],
)
def test_a_config_with_a_fault_is_refused(tmp_path, capsys, text, sentence):
    (tmp_path / "c.json").write_text(text)
    assert main(["adapt", "--config", str(tmp_path / "c.json")]) == 1
    assert sentence in one_sentence(capsys)


def test_a_config_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["adapt", "--config", str(tmp_path / "none.json")]) == 1
    assert "none.json: it does not exist; check the spelling" in one_sentence(capsys)
    assert main(["bench", str(tmp_path / "none.json")]) == 1
    assert one_sentence(capsys, "bench").count("none.json: it does not exist; check the spelling") == 1


def test_a_dry_run_tells_what_would_happen_and_writes_nothing(tmp_path, adapt, capsys):
    before = contents(tmp_path)
    assert adapt("--dry-run", "--method", "dap") == 0
    said = capsys.readouterr().out
    assert contents(tmp_path) == before and not (tmp_path / "run").exists()
    assert '"steps": 4' in said and "to_rgbs.1" in said and "final_linear" in said
    assert re.search(
        r"about \d+ seconds: 4 steps of \d+\.\d\d s, measured on 8 steps here\npeak memory \d+\.\d GiB", said
    )


def folder_of(tmp_path, name, content):
    folder = tmp_path / "given"
    folder.mkdir()
    if content is not None:
        (folder / name).write_bytes(content)
    return folder


def encoded(tmp_path, size, kind):
    path = tmp_path / f"image.{kind}"
    Image.effect_noise(size, 50).convert("RGB").save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("", lambda tmp_path: None, "is empty: put PNG"),
        ("a.png", lambda tmp_path: b"hello, I am text", "looked at 1 file, none usable (a.png: "),
        ("a.jpg", lambda tmp_path: encoded(tmp_path, (64, 64), "jpg")[:900], "none usable (a.jpg: "),
        ("a.png", lambda tmp_path: encoded(tmp_path, (1, 1), "png"), "none usable (a.png: 1x1 pixels"),
    ],
    ids=["empty folder", "text", "truncated", "1x1"],
)
def test_images_that_are_none_end_in_a_sentence(tmp_path, adapt, capsys, name, content, sentence):
    assert adapt(given=folder_of(tmp_path, name, content(tmp_path))) == 1
    assert sentence in one_sentence(capsys)
    assert not (tmp_path / "run").exists()


def test_missing_images_and_none_at_all_end_in_a_sentence(tmp_path, adapt, capsys):
    assert adapt(given=tmp_path / "nowhere") == 1
    assert "does not exist: check the spelling" in one_sentence(capsys)
    assert main(["adapt"]) == 1
    assert "no images were given" in one_sentence(capsys)


def test_a_source_without_discriminator_is_refused(tmp_path, adapt, tiny_model, capsys):
    save_model(tmp_path / "g.safetensors", Model(tiny_model.generator, None, {}))
    assert adapt(source=tmp_path / "g.safetensors") == 1
    assert "has no discriminator: adaptation needs the one it was trained with; give the source" in one_sentence(capsys)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def closed(monkeypatch):
    """A folder that may not be entered, also where tests run as root."""
    stat = os.stat

    def refusing(path, *rest, **named):
        if not isinstance(path, int) and "closed" in Path(os.fsdecode(path)).parts[:-1]:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return stat(path, *rest, **named)

    monkeypatch.setattr(os, "stat", refusing)
    return "closed"


@pytest.mark.parametrize(
    "words",
    [
        ["adapt", "closed/x", "--out", "run"],
        ["adapt", "closed/x"],
        ["adapt", "closed/x.zip/heldout"],
        ["adapt", "closed/x", "--dry-run"],
        ["evaluate", "faces64", "--real", "closed/x"],
        ["generate", "closed/x", "--out", "images"],
        ["convert", "closed/x.pt", "m.safetensors"],
        ["doctor", "closed/x"],
    ],
)
def test_what_lies_behind_a_closed_folder_is_not_said_to_be_missing(tmp_path, monkeypatch, capsys, closed, words):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    told = capsys.readouterr()
    told = " ".join((told.out + told.err).split())
    assert "permission denied; you must be allowed to read it, and to enter each folder on the way" in told
    assert "does not exist" not in told and "there is no" not in told
    assert not list(tmp_path.iterdir())


def test_an_unknown_source_and_an_unknown_method_name_the_known(adapt, capsys):
    assert adapt(source="face64") == 1
    assert "there is no model 'face64'" in (said := one_sentence(capsys)) and "faces64" in said
    assert adapt("--method", "rikc") == 1
    assert "there is no method 'rikc'; known are finetune, ada" in one_sentence(capsys)


def test_an_output_that_may_not_be_written_ends_in_a_sentence(tmp_path, adapt, monkeypatch, capsys):
    monkeypatch.setattr(os, "mkdir", raising(errno.EACCES))
    assert adapt() == 1
    assert "permission denied; choose a folder that you may write to" in one_sentence(capsys)
    assert not (tmp_path / "run").exists()


def test_an_output_below_a_file_ends_in_a_sentence(tmp_path, adapt, capsys):
    (tmp_path / "file").write_text("mine")
    for out, sentence in (("file", "there is a file of that name"), ("file/run", "part of the path is a file")):
        assert adapt(out=out) == 1
        assert sentence in one_sentence(capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_is_full_of_folders_leaves_none(tmp_path, adapt, monkeypatch, capsys):
    full = raising(errno.ENOSPC, where=lambda path, *_: "checkpoints" in str(path), otherwise=os.mkdir)
    monkeypatch.setattr(os, "mkdir", full)
    assert adapt(out="new/run") == 1
    assert "the disk is full" in one_sentence(capsys)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("written", [0, 4, 10, 11])
@pytest.mark.parametrize("is_there_before", [False, True])
def test_a_disk_that_fills_up_before_the_first_checkpoint_leaves_nothing(
    tmp_path, adapt, monkeypatch, capsys, written, is_there_before
):
    if is_there_before:
        (tmp_path / "run").mkdir()
    before, files = os.replace, []

    def replace(source, target):  # ten shots, config.json, samples
        files.append(target)
        if len(files) > written:
            raise OSError(errno.ENOSPC, "No space left on device")
        before(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert adapt() == 1
    assert len(files) == written + 1
    assert "the disk is full; free some space" in one_sentence(capsys)
    assert (tmp_path / "run").exists() == is_there_before
    assert not is_there_before or list((tmp_path / "run").iterdir()) == []


def test_a_journal_that_cannot_grow_leaves_nothing(tmp_path, adapt, monkeypatch, capsys):
    full = raising(errno.ENOSPC, where=lambda path, mode="r", *_, **__: mode == "a", otherwise=Path.open)
    monkeypatch.setattr(Path, "open", full)
    assert adapt("--method", "finetune") == 1
    assert "stats.jsonl: the disk is full" in one_sentence(capsys)
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_later_keeps_a_run_that_resumes_to_the_same_model(tmp_path, adapt, monkeypatch, capsys):
    adapt(out="whole")
    capsys.readouterr()
    full = raising(errno.ENOSPC, where=lambda _, target: "000004.safetensors" in str(target), otherwise=os.replace)
    monkeypatch.setattr(os, "replace", full)
    assert adapt() == 1
    assert "the disk is full" in one_sentence(capsys)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").glob("*.safetensors")] == ["000002.safetensors"]
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["adapt", "--resume", str(tmp_path / "run")]) == 0
    missing = tmp_path / "run" / "checkpoints" / "000004.safetensors"
    said = capsys.readouterr().err
    assert said.startswith(f"tenshot: {missing} is not there: ") and said.count("\n") == 1
    whole, resumed = contents(tmp_path / "whole"), contents(tmp_path / "run")
    assert resumed.keys() == whole.keys()
    assert resumed["model.safetensors"] == whole["model.safetensors"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_run_at_a_checkpoint_from_which_it_resumes(
    tmp_path, adapt, monkeypatch, capsys, number, code
):
    adapt(out="whole")
    capsys.readouterr()

    class Interrupted(ProgressLine):
        def __call__(self, now):
            if now.step == 3:
                signal.raise_signal(number)
            return super().__call__(now)

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(running, "ProgressLine", Interrupted)
        assert adapt() == code
    run = tmp_path / "run"
    assert f"stopped after step 3 of 4; go on with `tenshot adapt --resume {run}`" in one_sentence(capsys)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (run / "checkpoints" / "000003.safetensors").is_file() and not (run / "model.safetensors").exists()
    assert main(["adapt", "--resume", str(run)]) == 0
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert main(["adapt", "--resume", str(run)]) == 1
    assert "has finished, its result is model.safetensors: there is nothing to resume" in capsys.readouterr().err


def test_ctrl_c_while_loading_is_not_a_traceback(adapt, monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "load_model", interrupted)
    assert adapt() == 130
    assert one_sentence(capsys) == "tenshot adapt: stopped\n"


def test_a_stopped_run_is_told_with_the_code_of_ctrl_c():
    assert loop.Stopped("x").exit_code == 130


@pytest.mark.parametrize("more", [["--steps", "9"], ["--dry-run"], ["other_images"]])
def test_resume_takes_no_other_settings(tmp_path, adapt, capsys, more):
    run = str(tmp_path / "run")
    assert main(["adapt", "--resume", run, *more]) == 1
    assert f"leave out {' '.join(more)}, or begin a new run with --config {run}" in one_sentence(capsys)


def test_there_is_nothing_to_resume_in_a_folder_without_a_run(tmp_path, capsys):
    assert main(["adapt", f"--resume={tmp_path}"]) == 1
    assert "is not a run's folder: it has no config.json; give the folder that" in one_sentence(capsys)


def test_a_folder_to_resume_that_does_not_exist_or_is_a_file_is_told_as_that(tmp_path, capsys):
    assert main(["adapt", f"--resume={tmp_path / 'nowhere'}"]) == 1
    assert "nowhere does not exist: check the spelling" in one_sentence(capsys)
    (tmp_path / "file").write_text("")
    assert main(["adapt", f"--resume={tmp_path / 'file'}"]) == 1
    assert "file is not a run's folder but a file" in one_sentence(capsys)


@pytest.mark.parametrize(
    ("shots", "name"),
    [("shots", "shots"), (".", "here"), ("a.b", "a.b"), ("art.zip/cats", "cats"), ("x.zip", "x")],
)
def test_a_run_is_named_after_its_images(tmp_path, monkeypatch, shots, name):
    (tmp_path / "here" / "a.b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert running.default_out(shots) == Path("runs") / name


def test_generate_writes_images_of_the_seeds(tmp_path, tiny_source, tiny_model, capsys):
    out, grid = tmp_path / "images", tmp_path / "grid.png"
    assert main(["generate", str(tiny_source), "--seeds", "5,2", "--out", str(out), "--grid", str(grid)]) == 0
    assert capsys.readouterr().out == f"2 images of 16 px: {out}, {grid}\n"
    expected = generate_images(tiny_model, [5, 2])
    for i, name in enumerate(("seed000005.png", "seed000002.png")):
        with Image.open(out / name) as image:
            assert image.tobytes() == expected[i].permute(1, 2, 0).contiguous().numpy().tobytes()
    with Image.open(grid) as picture:
        assert picture.size == (2 * 18 - 2, 16)


def test_generate_takes_truncation_and_batch(tmp_path, tiny_source, tiny_model):
    out = tmp_path / "grid.png"
    how = ["--seeds", "4", "--truncation", "0.5", "--batch", "3"]
    assert main(["generate", str(tiny_source), "--grid", str(out), *how]) == 0
    with Image.open(out) as image:
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(16, 16, 3)
    assert pixels.permute(2, 0, 1).equal(generate_images(tiny_model, [4], truncation=0.5)[0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "where to? give --out DIR, --out FILE.zip or --grid FILE.png"),
        (["--out", "x", "--seeds", "9-1"], "--seeds 9-1: the range must rise"),
        (
            ["--out", "x", "--seeds", f"3,{10**15}"],
            "seeds 1000000000000000: a seed must be at most 999,999,999,999,999",
        ),
        (["--out", "x", "--seeds", f"0-{'9' * 5000}"], "a seed must be at most 999,999,999,999,999"),
        (["--out", "x", "--seeds", "some"], "--seeds is 'some': write 7, or 0-99"),
        (["--out", "x", "--batch", "0"], "--batch is 0 and --columns 8: both must be at least 1"),
        (["--grid", "x.png", "--columns", "-1"], "--columns -1"),
        (
            ["--out", "x.PNG"],
            "--out is x.PNG: it takes a folder or a .zip, for a file per image; for one picture of all",
        ),
        (["--out", "x.tar.gz"], "--out is x.tar.gz: it takes a folder or a .zip"),
        (["--out", "x.7z"], "--out is x.7z: it takes a folder or a .zip"),
        (["--out", "x.heic"], "--out is x.heic: it takes a folder or a .zip"),
        (["--grid", "x.jpg"], "--grid is x.jpg: the name must end in .png"),
        (["--out", "x", "--truncation", "nan"], "truncation is nan: 0 gives the mean image"),
        (["--out", "tiny.safetensors"], "there is a file of that name"),
    ],
)
def test_generate_refuses_what_makes_no_sense_and_writes_nothing(
    tmp_path, tiny_source, monkeypatch, capsys, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert main(["generate", str(tiny_source), *arguments]) == 1
    assert sentence in one_sentence(capsys, "generate")
    assert contents(tmp_path) == before and not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["v1.0", "robots.2024", "a.tar.d", ".gz"])
def test_generate_takes_a_folder_with_a_dot_in_its_name(tmp_path, tiny_source, name):
    assert main(["generate", str(tiny_source), "--seeds", "4", "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / name / "seed000004.png").is_file()


def test_generate_tells_an_unfinished_run(tmp_path, capsys):
    assert main(["generate", str(tmp_path), "--out", "x"]) == 1
    assert "is a folder without model.safetensors: is it a finished run?" in one_sentence(capsys, "generate")


@pytest.mark.parametrize("flag", ["--out", "--resume"])
def test_a_folder_whose_name_is_too_long_is_told_in_a_sentence(tmp_path, shots, tiny_source, capsys, flag):
    others = [str(shots), "--source", str(tiny_source), "--steps", "1"] if flag == "--out" else []
    assert main(["adapt", *others, flag, str(tmp_path / ("x" * 300))]) == 1
    assert re.search("name is too long|does not exist", one_sentence(capsys).replace("\n", " "))


@pytest.mark.parametrize("best", [False, True])
def test_a_run_that_has_not_finished_is_told_how_it_goes_on(tmp_path, capsys, best):
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "config.json").write_text("{}")
    if best:
        (tmp_path / "my run" / "best.safetensors").touch()
    assert main(["generate", str(tmp_path / "my run"), "--out", "x"]) == 1
    told = one_sentence(capsys, "generate")
    assert f"has not finished: go on with `tenshot adapt --resume '{tmp_path}/my run'`" in told
    assert ("best.safetensors" in told) == best


def test_a_path_after_an_equals_sign_may_begin_at_home_as_a_shell_would_have_it(tmp_path, tiny_source, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    shutil.copy(tiny_source, tmp_path / "home" / "tiny.safetensors")
    assert main(["generate", "~/tiny.safetensors", "--seeds", "3", "--out=~/images"]) == 0
    assert [path.name for path in (tmp_path / "home" / "images").iterdir()] == ["seed000003.png"]
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_is_told_in_a_sentence_and_other_faults_are_not_hidden(
    tmp_path, tiny_source, monkeypatch, capsys, error
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("tenshot.cli.generate.sample", fail)
    assert main(["generate", str(tiny_source), "--out", str(tmp_path / "x")]) == 1
    assert "the memory ran out: ask for fewer images at once (--batch), or end" in one_sentence(capsys, "generate")
    monkeypatch.setattr("tenshot.cli.pretrain.carry_out", fail)
    assert main(["pretrain", str(tmp_path), "--out", str(tmp_path / "run")]) == 1
    assert "the memory ran out: ask for fewer images at once (--batch), or end" in one_sentence(capsys, "pretrain")
    error = RuntimeError("sizes do not match")
    with pytest.raises(RuntimeError, match="sizes"):
        main(["generate", str(tiny_source), "--out", str(tmp_path / "x")])


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")
@pytest.mark.parametrize(
    ("no_color", "to_file", "coloured"), [("", False, True), ("1", False, False), ("", True, False)]
)
def test_faults_are_coloured_on_a_terminal_and_never_under_no_color_or_in_a_file(tmp_path, no_color, to_file, coloured):
    ours, theirs = os.openpty()
    with (tmp_path / "faults").open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "tenshot", "generate", "model", "--sedds", "1"],
            env={**os.environ, "NO_COLOR": no_color, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=file if to_file else theirs,
        )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # how Linux says that nobody holds the other end any more
        while chunk := os.read(ours, 65_536):
            said += chunk
    os.close(ours)
    assert child.wait(timeout=60) == 2
    said += (tmp_path / "faults").read_bytes()
    assert b"--sedds" in said
    assert (b"\x1b[" in said) == coloured


def test_a_config_of_another_method_gives_what_was_changed_in_it_to_the_methods_own_preset(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(preset_config("images", "dap", steps=77, source="other").to_json())
    config = adapt_verb._starting_point(["--config", str(path), "--method", "ada"])
    assert config == preset_config("images", "ada", steps=77, source="other")
    assert config.augment == "ada" and config.ema_half_life == preset_config("", "ada").ema_half_life
    assert adapt_verb._starting_point(["--config", str(path)]) == read_config(path)


def test_what_a_file_says_in_a_fault_cannot_steer_the_terminal(tmp_path, tiny_model, capsys):
    tensors = {f"generator.{name}": value for name, value in tiny_model.generator.state_dict().items()}
    header = {"format": 1, "card": {}, "generator": {"\x1b]0;pwned\x07": 1}}
    write_tensors(tmp_path / "a.safetensors", tensors, header)
    assert main(["generate", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "\x1b" not in said and r"\x1b]0;pwned\x07" in said


def test_a_preset_is_of_a_name_and_not_of_an_instance(tmp_path):
    with pytest.raises(TenshotError, match="preset 'paper' is of a method's name: with an instance, give its settings"):
        tenshot.adapt(tmp_path, method=Rick(), preset="paper")


@pytest.mark.parametrize(
    ("given", "needs"),
    [
        ("--ada-images=5", "--augment ada"),
        ("--ada-legacy", "--augment ada"),
        ("--augment flip --augment-p 0.3", "--augment diffaug or ada"),
        ("--preset paper --dap.max-reach 2", "--dap.reach above 0"),
        ("--dap.fisher-samples 4", "--dap.estimator weight"),
        ("--dap.rule layer --dap.prune-mass 0.1", "--dap.rule cumulative"),
        ("--dap.consistency-weight 2", "--dap.consistency cdc or dcl"),
        ("--path-every 0 --path-weight 1", "--path-every above 0"),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(capsys, given, needs):
    assert main(["adapt", "images", *given.split()]) == 1
    assert f"changes nothing without {needs}: leave it out, or give that too" in one_sentence(capsys)


def test_a_runs_folder_is_no_folder_of_images(tmp_path, adapt, capsys):
    assert adapt() == 0
    for place in (tmp_path / "run", tmp_path):
        capsys.readouterr()
        assert main(["adapt", str(place), "--out", str(tmp_path / "second")]) == 1
        said = one_sentence(capsys)
        assert "is a run's folder" in said and f"--resume {tmp_path / 'run'}" in said
        assert not (tmp_path / "second").exists()


def test_a_dry_run_tells_the_folder_or_why_the_run_would_be_refused(tmp_path, adapt, capsys):
    assert adapt("--dry-run") == 0
    assert f"the run's folder: {tmp_path / 'run'}" in " ".join(capsys.readouterr().out.split("\n"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("kept")
    assert adapt("--dry-run") == 0
    said = capsys.readouterr().out
    assert "as things are the run is refused" in said and "is a folder with other things in it" in said


def test_an_empty_out_is_refused_and_not_taken_for_the_default(adapt, capsys):
    assert adapt("--out", "") == 1
    assert "--out is empty: name a folder, or leave it out" in one_sentence(capsys)


def test_a_file_of_some_settings_needs_no_images_in_it(tmp_path, capsys):
    path = tmp_path / "some.json"
    path.write_text('{"steps": 3}')
    assert adapt_verb._starting_point(["--config", str(path)]).steps == 3
    path.write_text('{"steps": "x"}')
    assert main(["adapt", "images", "--config", str(path)]) == 1
    assert "--steps is 'x'" in one_sentence(capsys)


def test_what_resume_says_to_type_can_be_typed(tmp_path, capsys):
    run = tmp_path / "a & b"
    assert main(["adapt", "--resume", str(run), "--steps", "3"]) == 1
    assert f"--config '{run / 'config.json'}'" in one_sentence(capsys)


def test_a_preset_may_set_what_a_flag_then_makes_idle(capsys):
    assert main(["adapt", "nowhere", "--dap.reach", "0"]) == 1
    assert "nowhere" in one_sentence(capsys)


def test_ada_without_its_augmentation_is_refused_as_the_fine_tuning_it_would_be(capsys):
    assert main(["adapt", "nowhere", "--method", "ada", "--augment", "flip"]) == 1
    assert "--augment flip takes from --method ada all that it adds" in one_sentence(capsys)
