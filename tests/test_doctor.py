"""tenshot doctor finds each kind of damage, says what to do, changes nothing, and its commands work."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tenshot import lock, loop, result
from tenshot.__main__ import main
from tenshot.config import RunConfig
from tenshot.doctor import inspection, machine, packages
from tenshot.doctor.inspection import inspect
from tenshot.doctor.journals import check_journal
from tenshot.doctor.run_folder import check_run
from tenshot.lacking import gamut_of
from tenshot.lock import Lock
from tenshot.methods import Finetune
from tenshot.models import EMBEDDED, Model, load_model, read_tensors, save_model, write_tensors
from tenshot.result import save_shots
from tenshot.runs import RunDir
from test_hostile import CORPUS, GOOD
from tiny import tiny_model, tiny_shots

ROOT = Path(__file__).parents[1]
SETTINGS = {"steps": 6, "batch": 2, "checkpoint_every": 2, "sample_every": 0, "path_every": 0, "r1_every": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source, shots, a run that is done, and one that was stopped after step 4 of 6."""
    folder = tmp_path_factory.mktemp("made")
    save_model(folder / "tiny.safetensors", tiny_model())
    given = RunDir(folder)
    given.shots.mkdir()
    save_shots(tiny_shots(), given)
    config = RunConfig(str(folder / "shots"), str(folder / "tiny.safetensors"), Finetune(), **SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(result, "SHEET_SEEDS", range(2))
        loop.start(config, out=folder / "whole")
        with pytest.raises(loop.Stopped):
            loop.start(config, out=folder / "stopped", watch=lambda progress: progress.step == 4)
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of the stopped run, to be damaged."""
    return RunDir(shutil.copytree(made / "stopped", tmp_path / "run"))


def by_check(findings):
    return {finding.check: finding for finding in findings}


def worst(findings):
    """(check, level) of all that is not in order."""
    return {(finding.check, finding.level) for finding in findings if finding.level != "ok"}


def flip(path, at=-1):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def command_in(text):
    return shlex.split(re.search(r"`tenshot ([^`]+)`", text)[1])


# the installation


def test_the_versions_that_are_asked_for_are_those_of_pyproject():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def listed(lines):
        return dict(re.fullmatch(r"([\w-]+)[>=]=([\d.]+)", line).groups() for line in lines)

    assert project["requires-python"] == ">=" + ".".join(map(str, packages.PYTHON))
    assert listed(project["dependencies"]) == dict(packages.NEEDED)
    optional = project["optional-dependencies"]
    assert {name: listed(lines) for name, lines in optional.items()} == {
        name: dict(extra.packages) for name, extra in packages.EXTRAS.items()
    }


@pytest.mark.parametrize(
    ("versions", "level", "words"),
    [
        ({"torch": "2.9.1+cpu"}, "fault", '2.9.1+cpu is older than 2.10; older ones have known faults.*"torch>=2.10"'),
        ({"torch": "2.10.0+cpu"}, "ok", "2.10.0.cpu, at least 2.10 is needed"),
        ({"torch": "2.9.0a0+git1"}, "fault", "older than"),
        ({"torch": "3.0"}, "ok", "at least"),
        ({"torch": None}, "fault", 'it is not installed: pip install "torch>=2.10"'),
    ],
)
def test_torch_is_checked_against_its_floor(monkeypatch, versions, level, words):
    genuine = packages._version
    monkeypatch.setattr(packages, "_version", lambda name: versions.get(name, genuine(name)))
    found = by_check(packages.check_packages())["torch"]
    assert found.level == level and re.search(words.replace("+", r"\+"), found.text)


@pytest.mark.parametrize(
    ("versions", "level", "words"),
    [
        ({}, "ok", r"av 99; for \.mp4"),
        ({"av": None}, "ok", r'not installed; for \.mp4 .*: pip install "tenshot\[video\]"'),
        ({"av": "14.2"}, "warning", r"av 14\.2: too old for \.mp4"),
    ],
)
def test_an_extra_is_there_or_not_or_too_old(monkeypatch, versions, level, words):
    monkeypatch.setattr(packages, "_version", lambda name: versions.get(name, "99"))
    found = by_check(packages.check_packages())["[video]"]
    assert found.level == level and re.search(words, found.text)


def test_an_extra_that_is_there_in_part_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(packages, "_version", lambda name: None if name == "lpips" else "99")
    assert (
        "not installed, lpips missing; for published metrics" in by_check(packages.check_packages())["[metrics]"].text
    )


def test_without_torch_the_command_says_so_instead_of_failing():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from tenshot.doctor import packages; genuine = packages._version\n"
        "packages._version = lambda name: {fake}\n"
        "from tenshot.__main__ import main; sys.exit(main(['doctor']))"
    )
    for fake, words in (
        ("None if name == 'torch' else genuine(name)", r"fault +torch +it is not installed: pip install"),
        ("genuine(name)", r"fault +imports +.*torch.*install tenshot again"),
    ):
        told = subprocess.run(
            [sys.executable, "-c", code.replace("{fake}", fake)], capture_output=True, text=True, timeout=120
        )
        assert told.returncode == 1 and told.stderr == "" and re.search(words, told.stdout), told.stdout + told.stderr


def test_this_installation_has_no_fault(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert all(re.match(r"(ok|warning)  +\S", line) for line in lines[:-1])
    assert re.fullmatch(r"\d+ checks, no faults, (no|\d+) warnings?", lines[-1])
    for what in ("Python", "torch", "[onnx]", "threads", "memory", "bfloat16", "source faces64", "source glyphs32"):
        assert re.search(rf"^ok +{re.escape(what)} ", said, re.MULTILINE) or f"warning  {what}" in said


def test_more_threads_than_processors_are_warned_of(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    found = machine._threads()
    assert found.level == "warning" and "torch uses 4096 threads" in found.text and "OMP_NUM_THREADS=" in found.text


def test_memory_is_what_the_system_tells_or_the_container_allows(monkeypatch, tmp_path):
    told, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_MEMORY", told)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.free_memory() is None and machine._memory().level == "ok"
    told.write_text("MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n")
    limit.write_text("max\n")
    assert machine.free_memory() == 8_000_000 * 1024 and machine._memory().text == "7.6 GiB are free"
    limit.write_text(f"{2**30}\n")
    assert machine.free_memory() == 2**30
    assert machine._memory().level == "warning" and "1.0 GiB are free" in machine._memory().text
    (tmp_path / "memory.current").write_text(f"{2**29}\n")
    assert machine.free_memory() == 2**29


def test_bfloat16_is_tried_and_amx_is_looked_up(monkeypatch, tmp_path):
    processor = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_PROCESSOR", processor)
    for flags, words in (("fpu amx_bf16", "has AMX"), ("fpu avx512_bf16", "no AMX"), ("fpu", "nothing says")):
        processor.write_text(f"flags : {flags}\n")
        assert machine._bfloat16().level == "ok" and words in machine._bfloat16().text
    genuine = machine.F.conv2d

    def wrong(x, weight):
        y = genuine(x, weight)
        return y * float("nan") if x.dtype == torch.bfloat16 else y

    monkeypatch.setattr(machine.F, "conv2d", wrong)
    assert machine._bfloat16().level == "warning" and "wrong by more" in machine._bfloat16().text


def test_decoders_and_locks_that_are_missing_are_told(monkeypatch):
    monkeypatch.setattr(machine.features, "check", lambda name: name != "webp")
    assert machine._decoders().level == "fault" and "without WebP" in machine._decoders().text
    monkeypatch.setattr(lock, "fcntl", None)
    assert machine._locks().level == "warning"


def test_the_kept_hashes_are_those_of_the_embedded_sources():
    """If it fails: cd src/tenshot/sources && sha256sum *.safetensors > SHA256SUMS."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in EMBEDDED.glob("*.safetensors")}
    lines = machine.HASHES.read_text().splitlines()
    assert {name: digest for digest, name in (line.split("  ") for line in lines)} == found and len(found) >= 2


def nan_in(path):
    tensors, header = read_tensors(path)
    tensors["generator.input.input"][0, 0] = float("nan")
    write_tensors(path, tensors, header)


def silent(path):
    tensors, header = read_tensors(path)
    write_tensors(path, {name: tensor * 0 for name, tensor in tensors.items()}, header)


@pytest.mark.parametrize(
    ("damage", "publish_after", "words"),
    [
        (lambda path: None, False, None),
        (flip, False, "the sha256 of .* is .*, the published one is .*: install tenshot again"),
        (lambda path: path.unlink(), False, "is missing: install tenshot again"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), False, "is damaged .*; install tenshot again"),
        (lambda path: path.rename(path.with_stem("other")), False, "none was published|is missing"),
        (nan_in, True, "holds values that are not finite"),
        (silent, True, "is not finite, or empty"),
    ],
    ids=["whole", "flipped", "missing", "cut", "foreign", "nan", "silent"],
)
def test_an_embedded_source_is_checked(tmp_path, damage, publish_after, words):
    path, hashes = tmp_path / "tiny.safetensors", tmp_path / "SHA256SUMS"
    save_model(path, tiny_model())
    if publish_after:
        damage(path)
    hashes.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    if not publish_after:
        damage(path)
    findings = machine.check_sources(tmp_path, hashes)
    if words is None:
        assert [f.level for f in findings] == ["ok"] and "16 px" in findings[0].text
    else:
        assert all(f.level == "fault" and re.search(words, f.text) for f in findings)
    hashes.unlink()
    assert "SHA256SUMS is missing or damaged" in machine.check_sources(tmp_path, hashes)[0].text


# a run's folder


def test_a_whole_run_has_no_fault_and_is_done(made):
    found = inspect(str(made / "whole"))
    assert found.what == "a run's folder" and worst(found.findings) == set()
    checks = by_check(found.findings)
    assert checks["config.json"].text.startswith("finetune, 6 steps from ")
    assert checks["stats.jsonl"].text == "steps 1 to 6 without a gap"
    assert "16 px, after step 6" in checks["model.safetensors"].text
    assert "the run is done; `tenshot generate " in checks["next"].text


def test_a_stopped_run_is_resumed_by_the_command_that_is_told(made, run, monkeypatch):
    found = check_run(run.path)
    assert worst(found) == set()
    checks = by_check(found)
    assert {"step 2", "step 4"} <= checks.keys() and checks["shots"].text == "6 images, kept in the folder"
    assert checks["next"].text.startswith("it can be resumed, from step 4 of 6: `tenshot adapt --resume ")
    monkeypatch.setattr(result, "SHEET_SEEDS", range(2))
    assert main(command_in(checks["next"].text)) == 0
    assert run.model.read_bytes() == (made / "whole" / "model.safetensors").read_bytes()


def no_hashes(run):
    run.saved.manifest.unlink()


def foreign_settings(run):
    run.config.write_text(run.config.read_text().replace('"batch": 2', '"batch": 3'))


def other_source(run):
    other = run.path / "other.safetensors"
    save_model(other, tiny_model(seed=1))
    source = json.loads(run.config.read_text())["source"]
    run.config.write_text(run.config.read_text().replace(source, str(other)))


def lost_source(run):
    source = json.loads(run.config.read_text())["source"]
    run.config.write_text(run.config.read_text().replace(source, "nowhere.safetensors"))


def lines(change):
    """Damage that changes the lines of stats.jsonl."""

    def damage(run):
        path = run.path / "stats.jsonl"
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return damage


def other_shot(run):
    Image.new("RGB", (16, 16), (1, 2, 3)).save(run.shots / "000000.png")


def no_shots(run):
    for path in run.shots.iterdir():
        path.write_bytes(b"")


DAMAGE = {
    "checkpoint flipped": (lambda run: flip(run.saved.path(4)), "step 4", "fault", "its bytes changed .*after step 2"),
    "checkpoint cut": (lambda run: os.truncate(run.saved.path(4), 99), "step 4", "fault", "it has 99 of .* bytes"),
    "checkpoint gone": (lambda run: run.saved.path(4).unlink(), "step 4", "warning", "is not there: .*after step 2"),
    "manifest gone": (no_hashes, "manifest", "warning", "has no hash of 2, 4"),
    "manifest damaged": (lambda run: run.saved.manifest.write_text("{"), "manifest", "warning", "has no hash of 2, 4"),
    "no config": (lambda run: run.config.unlink(), "config.json", "fault", "has lost its config.json.*put back a copy"),
    "config no json": (lambda run: run.config.write_text("{"), "config.json", "fault", "is not JSON"),
    "config of nonsense": (lambda run: run.config.write_text('{"steps": -1}'), "config.json", "fault", "steps|shots"),
    "other settings": (foreign_settings, "next", "fault", r"settings changed .* began \(batch: 3 now, 2 before\)"),
    "other source": (other_source, "next", "fault", "the source changed since the run began: put back"),
    "source gone": (lost_source, "source", "fault", "there is no model 'nowhere.safetensors'.*put it back"),
    "shot changed": (other_shot, "next", "fault", "the shots changed since the run began"),
    "shots gone": (no_shots, "shots", "fault", r"empty file \(0 bytes\).*put them back"),
    "line damaged": (lines(lambda ls: [ls[0], "{\n", *ls[2:]]), "stats.jsonl", "fault", "line 2 of"),
    "line lost": (lines(lambda ls: [ls[0], *ls[2:]]), "stats.jsonl", "warning", "from step 1 to step 3"),
    "line twice": (lines(lambda ls: [*ls, ls[1]]), "stats.jsonl", "warning", "from step 4 to step 2"),
    "end lost": (lines(lambda ls: ls[:3]), "stats.jsonl", "warning", "ends at step 3.* after step 4"),
    "stats gone": (lambda run: (run.path / "stats.jsonl").unlink(), "stats.jsonl", "warning", "is missing"),
    "best cut": (lambda run: run.best.write_bytes(b"{}"), "best.safetensors", "fault", "is damaged"),
    "model cut": (lambda run: run.model.write_bytes(b""), "model.safetensors", "fault", "--resume` makes it again"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "check", "level", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damage_to_a_run_is_found_where_it_is(run, damage, check, level, words):
    damage(run)
    found = by_check(check_run(run.path))
    assert found[check].level == level and re.search(words, found[check].text), found[check]
    others = {name for name, finding in found.items() if finding.level != "ok"} - {check}
    assert others <= {"next"} and ("next" not in others or found["next"].level == "fault")


def test_what_is_left_after_a_damaged_checkpoint_is_what_resuming_takes(run):
    flip(run.saved.path(4))
    assert "from step 2 of 6" in by_check(check_run(run.path))["next"].text
    flip(run.saved.path(2))
    found = by_check(check_run(run.path))
    assert "resuming begins the run again" in found["step 2"].text
    assert "it can be resumed, from the beginning: `tenshot adapt --resume" in found["next"].text


def test_a_damaged_model_of_a_whole_run_is_made_again_as_is_told(made, tmp_path, monkeypatch):
    run = RunDir(shutil.copytree(made / "whole", tmp_path / "run"))
    before = run.model.read_bytes()
    os.truncate(run.model, 999)
    found = check_run(run.path)
    assert worst(found) == {("model.safetensors", "fault"), ("next", "fault")}
    assert "the run was done, but its model.safetensors cannot be used" in by_check(found)["next"].text
    run.model.unlink()
    monkeypatch.setattr(result, "SHEET_SEEDS", range(2))
    assert main(command_in(by_check(check_run(run.path))["next"].text)) == 0
    assert run.model.read_bytes() == before


def test_a_line_that_was_cut_off_and_skipped_updates_are_told_without_blame(tmp_path):
    path = tmp_path / "stats.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "skipped": 3}\n{"step": 3, "skip')
    found = check_journal(path, is_every_step=True, least=2)
    assert found.level == "ok" and "steps 1 to 2 without a gap; a last line" in found.text and "3 updates" in found.text


def test_a_lock_is_seen_held_and_free(run):
    run.lock.path.write_text("process 1\n")
    assert by_check(check_run(run.path))["lock"].text.endswith("which is free and hinders nothing")
    held = Lock(run.lock.path)
    held.take()
    found = by_check(check_run(run.path))
    assert found["lock"].level == "warning" and f"process {os.getpid()}, is at work in" in found["lock"].text
    assert found["next"].text.startswith("wait until the process at work is done")
    held.release()


def test_a_run_that_was_killed_before_it_had_settings_is_told_so(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").write_text("process 1\n")
    found = by_check(inspect(str(tmp_path / "run")).findings)
    assert "was killed before it had a config.json: start it anew" in found["config.json"].text


def test_a_full_disk_and_a_closed_folder_are_faults_while_a_run_goes_on(run, made, monkeypatch):
    (run.path / ".model.safetensors.abcd1234.part").touch()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5 * 2**20, 5 * 2**20))
        found = by_check(check_run(run.path))
        assert found["disk"].level == "fault" and found["disk"].text.startswith("5 MiB are free, the run may need 10")
        assert "1 files were being written" in found["leftovers"].text
        assert by_check(check_run(made / "whole"))["disk"].level == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written to" in by_check(check_run(run.path))["disk"].text


# model files


def test_a_model_file_tells_what_it_is_whatever_its_name(tmp_path, capsys):
    model = tiny_model()
    dict(model.generator.named_buffers())["convs.0.gate"][:5] = 0
    gamut = gamut_of(torch.full((1, 3, 8, 8), 128, dtype=torch.uint8))
    model.generator.spec = replace(model.generator.spec, mosaic=4, gamut=gamut)
    save_model(tmp_path / "a.png", model)
    found = by_check(inspect(str(tmp_path / "a.png")).findings)
    assert "a model file of tenshot, source, name tiny" in found["file"].text
    gates = torch.cat([b for name, b in model.generator.named_buffers() if name.endswith("gate")])
    share = f"{5 / len(gates):.1%} of its channels are pruned, images in squares of 4 px, colours within 0.0% of all"
    assert (
        found["generator"].text.startswith("16 px, RGB, channels 12, 10, 8 from 4 px up")
        and share in found["generator"].text
    )
    assert found["discriminator"].text.startswith("included") and "tenshot adapt IMAGES --source" in found["next"].text
    assert main(["doctor", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().out.startswith("ok       path ")


def test_a_model_without_discriminator_or_cut_cannot_be_adapted(tmp_path):
    path = tmp_path / "a.safetensors"
    save_model(path, Model(tiny_model().generator, None, {}))
    found = by_check(inspect(str(path)).findings)
    assert found["discriminator"].text == "not included" and found["next"].level == "warning"
    assert "no discriminator, so it cannot be adapted" in found["next"].text


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (nan_in, "holds values that are not finite"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), "is damaged or not a .safetensors file"),
    ],
    ids=["nan", "cut"],
)
def test_a_damaged_model_file_is_a_fault(made, tmp_path, capsys, damage, words):
    path = Path(shutil.copy(made / "tiny.safetensors", tmp_path))
    damage(path)
    assert main(["doctor", str(path)]) == 1
    said = capsys.readouterr()
    assert re.search(rf"^fault +file +{path} ?.*{words}", said.out, re.MULTILINE) and said.err == ""


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_another_programs_checkpoint_is_known_by_content_and_converted_by_the_command_told(
    tmp_path, monkeypatch, name, suffix
):
    path = tmp_path / f"in{suffix}"
    path.write_bytes(GOOD[name])
    findings = inspect(str(path)).findings
    found = by_check(findings)
    assert ("NVIDIA" in found["file"].text) == name.startswith("nvidia") and not any(
        f.level == "fault" for f in findings
    )
    assert ("zip" in found["file"].text) == (name == "new.pt")
    monkeypatch.chdir(tmp_path)
    command = command_in(found["next"].text)
    assert command == ["convert", str(path), "in.safetensors"]
    if suffix == ".pt":
        assert main(command) == 0 and load_model("in.safetensors").resolution == 16


def test_a_checkpoint_of_a_run_is_told_from_a_model(run):
    found = by_check(inspect(str(run.saved.path(4))).findings)
    assert "the checkpoint of a run after step 4" in found["file"].text and found["next"].level == "warning"


def test_an_embedded_source_is_known_by_its_name():
    found = inspect("glyphs32")
    assert found.what == "an embedded source" and worst(found.findings) == set()
    assert "--source glyphs32 " in by_check(found.findings)["next"].text


# images, and what is nothing of all this


def test_the_next_command_names_the_source_that_was_asked_for_and_one_that_cannot_be_adapted_is_told(tmp_path, shots):
    found = by_check(inspect(str(shots), "glyphs32").findings)
    assert found["next"].text.startswith(f"`tenshot adapt {shots} --source glyphs32 --out RUN`")
    assert by_check(inspect(str(shots)).findings)["next"].text.startswith(f"`tenshot adapt {shots} --out RUN`")
    drawn = tmp_path / "result.safetensors"
    save_model(drawn, Model(tiny_model().generator, None, {}))
    found = by_check(inspect(str(shots), str(drawn)).findings)
    assert "next" not in found
    assert found["source"].level == "fault" and "has no discriminator, so it cannot be adapted" in found["source"].text


def test_images_are_counted_and_the_refused_are_named(shots, capsys):
    (shots / "broken.png").write_bytes(b"no")
    assert main(["doctor", str(shots), "--source", "nowhere"]) == 1
    assert re.search(r"^fault +source +there is no model 'nowhere'", capsys.readouterr().out, re.MULTILINE)
    found = by_check(inspect(str(shots), "scratch-16").findings)
    assert found["images"].text == "10 of 11 can be used, as squares of 16 px"
    assert found["refused"].level == "warning" and "broken.png: content is not PNG" in found["refused"].text
    shutil.make_archive(str(shots), "zip", shots)
    for path in (f"{shots}.zip", str(shots / "0.png")):
        assert inspect(path, "scratch-16").what == "images" and "images" in by_check(
            inspect(path, "scratch-16").findings
        )
    assert main(["doctor", str(shots)]) == 0
    said = capsys.readouterr().out
    assert "10 used, 1 refused" in said and re.search(r"^warning +look at ", said, re.MULTILINE)  # 64 px is larger


@pytest.mark.parametrize("name", ["report.html", "notes", "model.safetensors"])
@pytest.mark.parametrize(("content", "what"), [("<p>words", "no file that tenshot knows"), ("", "an empty file")])
def test_a_file_that_is_no_model_and_no_image_is_told_as_that_with_what_is_taken(tmp_path, capsys, name, content, what):
    path = tmp_path / name
    path.write_text(content)
    assert main(["doctor", str(path)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"fault +path +{path} is {what}: give a run's folder, a model .* or images \(.*\)", first)
    assert second == "1 check, 1 fault, no warnings"


def test_a_picture_of_a_kind_that_is_not_read_is_told_as_a_picture(tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>")
    (found,) = inspect(str(tmp_path / "a.svg")).findings
    assert found.level == "fault" and "SVG is not read: save it as PNG" in found.text


def test_where_the_source_is_wrong_the_images_are_still_counted(shots):
    found = inspect(str(shots), "nowhere")
    findings = by_check(found.findings)
    assert found.what == "images" and findings["images"].text.startswith("10 of 10 can be used")
    assert findings["source"].level == "fault" and "next" not in findings


@pytest.mark.parametrize(("different", "copies", "told"), [(1, 0, "is 1"), (1, 4, "is 1"), (4, 2, "are 4"), (5, 0, "")])
def test_few_different_images_are_a_warning_however_often_they_are_copied(tmp_path, different, copies, told):
    for seed in range(different):
        save_noise(tmp_path / f"{seed}.png", seed)
    for copy in range(copies):
        save_noise(tmp_path / f"copy{copy}.png", 0)
    found = by_check(inspect(str(tmp_path), "scratch-16").findings)
    if told:
        assert found["few"].level == "warning"
        assert found["few"].text.startswith(f"about ten different images are wanted, and there {told}: add others")
    else:
        assert "few" not in found


def save_noise(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_what_is_nothing_of_all_this_is_a_fault_with_a_way_out(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 and no more")
    for name, words in {
        "pipe": "is no folder, zip or image",
        "nowhere": "does not exist",
        "empty": "is empty: put PNG",
        "bad.zip": "is no sound zip",
    }.items():
        (found,) = inspect(str(tmp_path / name)).findings
        assert found.level == "fault" and words in found.text


@pytest.mark.parametrize("name", ["nowhere", "art.zip/nowhere"])
def test_a_path_that_leads_nowhere_is_taken_for_nothing(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("art.zip", "w") as archive:
        archive.writestr("cats/note.txt", "none")
    assert main(["doctor", name]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert re.match(r"fault +path +.*nowhere", first) and second == "1 check, 1 fault, no warnings"


def test_what_a_file_says_of_itself_cannot_steer_the_terminal(tmp_path, capsys):
    model = tiny_model()
    model.card["name"] = "\x1b[2Jcleared\nok       all is well"
    save_model(tmp_path / "a.safetensors", model)
    main(["doctor", str(tmp_path / "a.safetensors")])
    said = capsys.readouterr().out
    assert "\x1b" not in said and r"\x1b[2Jcleared\nok" in said


WATCH = """
import os, sys
from tenshot.doctor.inspection import inspect
paths = sys.argv[1:]
for path in paths:
    inspect(path)  # so that whatever is imported late is there
CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.chown", "os.truncate", "os.link",
           "os.symlink", "os.utime", "os.setxattr", "os.system", "os.exec", "os.fork", "os.posix_spawn",
           "subprocess.Popen", "exec", "compile", "import", "pickle.find_class", "ctypes.dlopen"}
seen = set()
def watch(event, arguments):
    writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    if writes or event in CHANGES or event.startswith(("socket.", "shutil.", "tempfile.")):
        seen.add(f"{event} {arguments}")
sys.addaudithook(watch)
levels = [{f.level for f in inspect(path).findings} for path in paths]
assert not seen, seen
print(sum("fault" in level for level in levels))
"""


def test_nothing_is_written_or_executed_also_of_hostile_files(run, made, tmp_path):
    flip(run.saved.path(4))
    hostile = []
    for i, (data, _) in enumerate(list(CORPUS.values())[::8]):
        hostile.append(tmp_path / f"{i}.pt")
        hostile[-1].write_bytes(data)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    folders = {p: p.stat().st_mtime_ns for p in (run.path, run.checkpoints, made / "whole")}
    sound = [run.path, made / "whole", made / "tiny.safetensors", made / "shots"]
    told = subprocess.run(
        [sys.executable, "-c", WATCH, *map(str, [*sound, *hostile])], capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stderr[-2000:]
    assert int(told.stdout) == len(hostile) + 1 > 30
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    assert folders == {p: p.stat().st_mtime_ns for p in folders}


def test_a_picture_named_as_a_model_and_a_model_in_a_zip_are_taken_for_what_they_are(tmp_path):
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.safetensors")
    (found,) = inspect(str(tmp_path / "a.safetensors")).findings
    assert found.level == "fault" and "is no file that tenshot knows" in found.text
    (tmp_path / "b.zip").write_bytes(GOOD["new.pt"])
    assert inspect(str(tmp_path / "b.zip")).what == "a model file"
    assert inspection._is_model(tmp_path / "b.zip")


def test_a_model_that_only_a_later_tenshot_reads_is_not_to_be_deleted(made, tmp_path):
    run = RunDir(shutil.copytree(made / "whole", tmp_path / "run"))
    tensors, header = read_tensors(run.model)
    for path in (run.model, run.best):
        write_tensors(path, tensors, {**header, "format": 99})
    found = by_check(check_run(run.path))
    for path in (run.model, run.best):
        assert found[path.name].text.endswith("newer than this tenshot: upgrade tenshot")


def test_a_damaged_best_cannot_be_made_again_so_nobody_is_told_to_delete_it(made, tmp_path):
    run = RunDir(shutil.copytree(made / "whole", tmp_path / "run"))
    run.best.write_bytes(b"x" * 99)
    assert "delete" not in by_check(check_run(run.path))["best.safetensors"].text


def test_an_old_checkpoint_of_a_run_that_is_done_hinders_nothing(made, tmp_path):
    run = RunDir(shutil.copytree(made / "whole", tmp_path / "run"))
    flip(run.saved.path(4))
    found = by_check(check_run(run.path))
    assert found["step 4"].level == "warning" and found["step 4"].text.endswith("the run is done and does not need it")


@pytest.mark.parametrize("value", ["1" + "0" * 400, "-5", "1e999", "null"])
def test_a_count_that_cannot_be_counts_as_none(tmp_path, value):
    (tmp_path / "stats.jsonl").write_text(f'{{"step": 1, "skipped": {value}}}\n')
    assert check_journal(tmp_path / "stats.jsonl", is_every_step=True).text == "steps 1 to 1 without a gap"
