"""A run's folder: whether its files are whole, whether it can be resumed, and how. It is only read."""

import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

from tenshot.commands import argument
from tenshot.config import RunConfig, read_config
from tenshot.data import load_images
from tenshot.doctor.finding import Finding, fault, ok, warning
from tenshot.doctor.journals import check_journal
from tenshot.doctor.model_file import networks
from tenshot.errors import TenshotError
from tenshot.files import is_temporary
from tenshot.methods.pretrain import Pretrain
from tenshot.models import NewerFile, file_digest, load_model, source_digest
from tenshot.provenance import changes, shots_digest
from tenshot.runs import RunDir

_SPARE = 100 * 2**20  # bytes for sheets, journals and the report


def is_run(path: Path) -> bool:
    """Whether a folder is a run's, or was one: it has some file that only runs have."""
    run = RunDir(path)
    return any(os.path.isfile(file) for file in (run.config, run.lock.path, run.saved.manifest, run.model))


@dataclass(frozen=True)
class _Begun:
    """What the run began with, as far as it is still there."""

    findings: list[Finding]
    source: str | None = None
    """The source's hash."""
    shots: str | None = None
    """The shots' hash, as checkpoints have it."""


def check_run(path: Path) -> list[Finding]:
    """Settings, lock, source, shots, checkpoints, models, journals, disk, and what to type next."""
    run = RunDir(path)
    try:
        run.check_begun()
    except TenshotError as error:
        return [fault("config.json", error), *_state(run, None)]
    try:
        config = read_config(run.config)
    except TenshotError as error:
        return [fault("config.json", f"{error}; without it the run cannot go on: put back a copy"), *_state(run, None)]
    settings = f"{config.method.name}, {config.steps} steps from {config.source}"
    begun = _Begun([]) if run.model.is_file() else _begun(run, config)
    state = _state(run, config)
    is_free = not any(f.check == "lock" and f.level == "warning" for f in state)
    if any(f.check == run.model.name and f.level == "fault" for f in state):
        way_on = fault("next", f"the run was done, but its {run.model.name} cannot be used, see above")
    else:
        way_on = _next(run, config, begun, is_free=is_free)
    return [ok("config.json", settings), *begun.findings, *state, way_on]


def _state(run: RunDir, config: RunConfig | None) -> list[Finding]:
    """What can be seen with or without settings."""
    checkpoints, whole = _checkpoints(run)
    findings = [_lock(run), *_leftovers(run), *checkpoints]
    for file in (run.best, run.model):
        if file.is_file():
            findings.append(_model(file))
    findings.append(check_journal(run.path / "stats.jsonl", is_every_step=True, least=whole or 0))
    for journal in ("decisions", "metrics", "recovery"):
        if (file := run.path / f"{journal}.jsonl").is_file():
            findings.append(check_journal(file, is_every_step=False, is_in_order=journal != "recovery"))
    return [*findings, _disk(run, is_done=run.model.is_file() or config is None)]


def _lock(run: RunDir) -> Finding:
    if not os.path.lexists(run.lock.path):
        return ok("lock", "no process is at work here")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of file systems without locks, where every lock looks free
            run.lock.check_free()
    except TenshotError as error:
        return warning("lock", f"{error}; what follows may change while it is read")
    return ok("lock", "no process is at work here; a killed one left run.lock, which is free and hinders nothing")


def _leftovers(run: RunDir) -> list[Finding]:
    folders = [folder for folder in (run.path, run.shots, run.samples, run.checkpoints) if folder.is_dir()]
    left = sorted(path.name for folder in folders for path in folder.iterdir() if is_temporary(path.name))
    findings = []
    if left:
        text = f"{len(left)} files were being written when a process ended ({left[0]}); resuming deletes them"
        findings.append(ok("leftovers", text))
    if run.aside.is_there:
        text = f"the run that this one replaces is in {run.aside.replaced} until this one has a checkpoint"
        findings.append(ok("replaced", text))
    return findings


def _checkpoints(run: RunDir) -> tuple[list[Finding], int | None]:
    """Findings, and the step of the newest whole one."""
    faults, there = run.saved.faults(), run.saved.steps()
    if not faults:
        return [ok("checkpoints", "there is none yet")], None
    whole = max((step for step, text in faults.items() if text is None), default=None)
    way_out = f"resuming takes the one after step {whole}" if whole is not None else "resuming begins the run again"
    findings = []
    if unknown := run.saved.without_hash():
        text = f"{run.saved.manifest} has no hash of {', '.join(map(str, unknown))}, so flipped bits would not be seen"
        findings.append(warning("manifest", f"{text}; the next checkpoint is noted again"))
    else:
        findings.append(ok("manifest", f"has the sha256 of all {len(there)} checkpoints"))
    for step, text in faults.items():
        check = f"step {step}"
        if text is None:
            size = run.saved.path(step).stat().st_size / 1e6
            findings.append(ok(check, f"its checkpoint is whole, {size:.1f} MB"))
        else:
            if run.model.is_file():  # it is not needed any more
                findings.append(warning(check, f"{text}; the run is done and does not need it"))
            else:
                findings.append((fault if step in there else warning)(check, f"{text}; {way_out}"))
    return findings, whole


def _model(path: Path) -> Finding:
    try:
        model = load_model(path)
        broken = [finding for finding in networks(model) if finding.level == "fault"]
    except TenshotError as error:
        is_damaged = not isinstance(error, NewerFile) and not isinstance(error.__cause__, OSError)
        again = "move it away, and `tenshot adapt --resume` makes it again from the last checkpoint, if that is whole"
        way_out = f"; {again}" if is_damaged and path.name == "model.safetensors" else ""
        return fault(path.name, f"{error}{way_out}")
    if broken:
        return fault(path.name, broken[0].text)
    step = model.card.get("steps")
    return ok(path.name, f"{model.resolution} px, after step {step}, sha256 {file_digest(path)[:12]}, all finite")


def _disk(run: RunDir, *, is_done: bool) -> Finding:
    """Whether what a run writes next would fit: a checkpoint beside the others, the model, sheets."""
    free = shutil.disk_usage(run.path).free
    steps = run.saved.steps()
    needed = _SPARE + (2 * run.saved.path(steps[-1]).stat().st_size if steps else 0)
    told = f"{free / 2**20:,.0f} MiB are free"
    if is_done:
        return ok("disk", told)
    if not os.access(run.path, os.W_OK | os.X_OK):
        return fault("disk", f"{run.path} cannot be written to: change its permissions, or copy the run elsewhere")
    if free < needed:
        text = f"{told}, the run may need {needed / 2**20:,.0f}: free some space, or move the folder to another disk"
        return fault("disk", text)
    return ok("disk", f"{told}, the run needs {needed / 2**20:,.0f} at most")


def _begun(run: RunDir, config: RunConfig) -> _Begun:
    """Whether what an unfinished run needs from its beginning is there."""
    try:
        run.check_own()
    except TenshotError as error:
        return _Begun([fault("folder", error)])
    try:
        source = load_model(config.source)
        digest = source_digest(config.source)
    except TenshotError as error:
        return _Begun([fault("source", f"{error}; put it back, the run cannot go on without it")])
    findings = [ok("source", f"{config.source}, {source.resolution} px")]
    try:
        kept = run.kept_shots
        shots = load_images(kept or config.shots, source.resolution)
    except TenshotError as error:
        return _Begun([*findings, fault("shots", f"{error}; put them back")], digest)
    findings.append(ok("shots", f"{len(shots)} images, {'kept in the folder' if kept else config.shots}"))
    return _Begun(findings, digest, shots_digest(shots.images))


def _next(run: RunDir, config: RunConfig, begun: _Begun, *, is_free: bool) -> Finding:
    """What to type: a run that is done draws, another is resumed if it can be."""
    name = argument(run.path)
    if run.model.is_file():
        draw = f"`tenshot generate {name} --seeds 0-99 --out IMAGES`"
        return ok("next", f"the run is done; {draw}, or `tenshot report {name}`")
    if not is_free:
        return ok("next", "wait until the process at work is done, or stop it; then look again")
    if missing := [f.check for f in begun.findings if f.level == "fault"]:
        return fault("next", f"it cannot be resumed before {' and '.join(missing)} can be read, see above")
    verb = "pretrain" if config.method.name == Pretrain.name else "adapt"
    command = f"`tenshot {verb} --resume {name}`"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged ones, which are told by themselves
            _, header = run.load_checkpoint()
    except TenshotError:
        return ok("next", f"it can be resumed, from the beginning: {command}")
    now = {"source": begun.source, "settings": json.loads(config.to_json()), "shots": begun.shots}
    if changed := changes(now, header):
        what = f"the {' and '.join(changed)} changed since the run began{''.join(changed.values())}"
        return fault("next", f"{what}: put back what was, or begin a new run")
    return ok("next", f"it can be resumed, from step {header['step']} of {config.steps}: {command}")
