"""A run from shots to result: prepare, loop over steps, keep journals, sheets and checkpoints, resume exactly.

images ----> data ----> adapt <---- methods/X   (what trains, which filters)
                       [step]  <---- pruning     <- fisher <- filters <- nets
                         |  ^------- losses
                         v
                        runs ----> sampling ----> sheets
"""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tenshot.adaptation import Adaptation, begin
from tenshot.checkpoint import restore
from tenshot.config import RunConfig, read_config
from tenshot.data import ImageSet, load_images
from tenshot.errors import TenshotError
from tenshot.interrupts import Interrupted, Interrupts
from tenshot.looks import Looks, is_due
from tenshot.manifest import NoCheckpoint
from tenshot.methods import Dap, Method
from tenshot.models import Model, load_model
from tenshot.presets import DEFAULT, preset_config
from tenshot.provenance import changes, provenance
from tenshot.recovery import Diverged as Diverged
from tenshot.recovery import NotFinite
from tenshot.report import write_report
from tenshot.result import averaged_model, finish, save_shots
from tenshot.rollback import Rollback
from tenshot.runs import RunDir, check_shots
from tenshot.scoring import check_scores
from tenshot.step import Stats, run_step

KEPT_SHOTS = 200
"""A run keeps its prepared images up to so many; more are read again from where they came."""


@dataclass(frozen=True)
class Progress:
    """What a watcher hears after each step."""

    step: int
    """Steps done."""
    steps: int
    stats: Stats
    """Losses of the step, and `pruned`: the share of the generator's channels that are gone."""
    scores: dict[str, float]
    """The newest value of every metric that is scored while the run goes on (`eval_every`)."""
    skipped: int = 0
    """Updates of the whole run that were left out because their numbers were not finite."""


Watch = Callable[[Progress], bool | None]
"""Called after each step; returning True stops the run at a checkpoint."""


class Stopped(TenshotError):
    """The run was stopped before its last step; with a folder it can be resumed."""

    exit_code = 130
    """As shells report Ctrl-C; 143 after SIGTERM."""


def adapt(
    shots: str | Path,
    *,
    out: str | Path | None = None,
    source: str | Path = "faces64",
    method: str | Method = Dap.name,
    preset: str = DEFAULT,
    overwrite: bool = False,
    watch: Watch | None = None,
    **settings: Any,
) -> Model:
    """Adapt a source GAN to the images at `shots` and return the adapted generator.

    shots: a folder, zip, folder in a zip, or image. out: the run's folder; None keeps everything in memory. source: an
    embedded source's name or a model file. method: a name from `tenshot.methods.METHODS`, which brings the settings of
    its `preset`, or an instance, which brings none: `Dap()` goes without the preset's reach and spread. settings: any
    field of `RunConfig` (steps, batch, seed, ...). Raises TenshotError.
    """
    settings |= {"source": str(source)}
    if isinstance(method, str):
        config = preset_config(str(shots), method, preset, **settings)
    else:
        if preset != DEFAULT:
            raise TenshotError(f"preset {preset!r} is of a method's name: with an instance, give its settings to it")
        config = RunConfig(shots=str(shots), method=method, **settings)
    model = start(config, out=None if out is None else Path(out), overwrite=overwrite, watch=watch)
    if out is not None:
        write_report(Path(out))
    return model


def start(
    config: RunConfig,
    *,
    out: Path | None,
    overwrite: bool = False,
    watch: Watch | None = None,
    intake: ImageSet | None = None,
    interrupts: Interrupts | None = None,
) -> Model:
    """Run a configuration from its first step.

    intake: the shots, if they have been loaded already. interrupts: what signal handlers tell, if there are any; a
    signal ends the run at a checkpoint, as a watcher can.
    """
    check_scores(config)
    check_shots(config.shots)
    if out is not None:
        _check_apart(config, out)
    source = load_model(config.source)
    shots = intake or load_images(config.shots, source.resolution)
    adaptation = begin(config, source, shots.images)
    if out is None:
        return _loop(adaptation, Start(0), source, None, watch, interrupts or Interrupts())
    run = RunDir.create(out, overwrite=overwrite)
    try:
        with _survival_told(run):
            save_shots(shots.images[: len(shots) if len(shots) <= KEPT_SHOTS else 0], run)
            run.write_config(config.to_json())
            return _loop(adaptation, Start(0), source, run, watch, interrupts or Interrupts())
    except BaseException:
        run.discard()
        raise
    finally:
        run.lock.release()


def resume(
    out: Path, *, watch: Watch | None = None, intake: ImageSet | None = None, interrupts: Interrupts | None = None
) -> Model:
    """Continue a run from its newest whole checkpoint, or from the beginning if it was killed before there was one.

    intake: the shots, for a run that does not keep them, if they have been loaded already.
    On a CPU with as many threads the result equals the unbroken run's, bit for bit. Raises TenshotError if there is
    no run, if it has finished or another process is at it, or if source, settings or shots are not those it began with.
    """
    run = RunDir(out)
    run.check_begun()
    config = read_config(run.config)
    if run.model.is_file():
        raise TenshotError(f"{out} has finished, its result is {run.model.name}: there is nothing to resume")
    run.open()
    try:
        with _survival_told(run):
            kept = run.kept_shots
            with _named_in(run):
                source = load_model(config.source)
                shots = intake if intake and not kept else load_images(kept or config.shots, source.resolution)
            adaptation = begin(config, source, shots.images)
            return _loop(adaptation, _go_on(adaptation, run), source, run, watch, interrupts or Interrupts())
    finally:
        run.lock.release()


@dataclass(frozen=True)
class Start:
    """Where a loop begins."""

    step: int
    """Steps that are done."""
    is_saved: bool = False
    """Whether there is a checkpoint of that step."""
    is_last: bool = False
    """Whether no more steps follow: only the result is missing."""
    reals: str | None = None
    """Hash of the held-out images that scores so far are against; None if it is not known."""


def _go_on(adaptation: Adaptation, run: RunDir) -> Start:
    """Set a run that has just begun to its newest whole checkpoint."""
    try:
        tensors, header = run.load_checkpoint()
    except NoCheckpoint:
        run.rewind(0)
        return Start(0)
    before, now = {"device": "cpu", **header}, provenance(adaptation)
    for what in ("threads", "device"):
        if now[what] != before.get(what):
            warnings.warn(
                f"{what}: {now[what]} now, {before.get(what)} before; results may differ in the last bits", stacklevel=3
            )
    for what, told in changes(now, before).items():
        raise TenshotError(
            f"the {what} of {run.path} changed since the run began{told}, so it cannot be continued as the same "
            "run; put it back, or begin a new run"
        )
    restore(adaptation, tensors)
    step, is_last = header["step"], header.get("is_last") is True
    run.rewind(step, adaptation.health.returns)
    is_stray = not (is_last or adaptation.health.is_well) and is_due(step, adaptation.config.checkpoint_every)
    if is_stray:  # the unbroken run has none here, and must not go back further than this one
        run.saved.drop_after(step - 1)
    return Start(step, is_saved=not is_stray, is_last=is_last, reals=header.get("reals"))


@contextmanager
def _named_in(run: RunDir) -> Iterator[None]:
    """When what a run began with is not where it was: the sentence also says where that place is written."""
    try:
        yield
    except TenshotError as error:
        raise TenshotError(
            f"{error}; {run.config} names it, as seen from the folder you are in: if it was moved, put its place there"
        ) from error


def _check_apart(config: RunConfig, out: Path) -> None:
    """Raises TenshotError where a run would replace the folder of its own source."""
    folder = config.source if os.path.isdir(config.source) else os.path.dirname(config.source)
    if os.path.exists(config.source) and os.path.realpath(folder) == os.path.realpath(out):
        raise TenshotError(f"the source {config.source} lies in {out}, which would be replaced: choose another --out")


@contextmanager
def _survival_told(run: RunDir) -> Iterator[None]:
    """When a disk or folder fails: the sentence also says which state is left, and how to go on from it."""
    try:
        yield
    except TenshotError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        if run.lock.is_held and (steps := run.saved.steps()):
            way_on = f"the run is kept as after step {steps[-1]}: then go on with {run.way_on}"
        elif not run.lock.is_held:
            way_on = "if it was moved, go on there with `tenshot adapt --resume`"
        elif run.has_steps():
            way_on = f"there is no checkpoint yet: begin again with {run.way_on}"
        else:
            raise
        raise TenshotError(f"{error}; {way_on}") from error.__cause__


def _loop(
    adaptation: Adaptation, first: Start, source: Model, run: RunDir | None, watch: Watch | None, interrupts: Interrupts
) -> Model:
    """Look, tell the watcher, save, take a step, or go back where numbers went bad; signals break in between these,
    and while looking and finishing."""
    config = adaptation.config
    origin = provenance(adaptation)
    looks = Looks(adaptation, source, origin["source"], run)
    if first.reals not in (None, looks.reals):
        raise TenshotError(
            f"the held-out images {config.eval_real} are not those that the run's scores so far are against, so they "
            "could not be compared; put these back, or begin a new run"
        )
    origin |= {"reals": looks.reals} if looks.reals else {}
    rollback = Rollback(adaptation, source, origin, run)
    done, is_last, stops, stats = first.step, first.is_last, False, None
    saved = first.step if first.is_saved else None

    if run:
        adaptation.record = lambda entry: run.append("decisions", entry)
    if is_last:
        rollback.tidy(done)
    try:
        while not is_last:
            try:
                if is_due(done, config.eval_every) or is_due(done, config.sample_every) or done == config.steps:
                    rollback.check(done)
                is_last = looks(done)
                with interrupts.held():
                    if watch and stats:
                        skipped = adaptation.health.skipped
                        stops = bool(watch(Progress(done, config.steps, stats, looks.scores, skipped)))
                    is_good = is_due(done, config.checkpoint_every) and adaptation.health.is_well
                    if is_last or (stats and (stops or is_good)):
                        rollback.save(done, is_last=is_last)
                        saved = done
                if is_last or stops:
                    break
                with interrupts.held():
                    stats = _step(adaptation, done, run)
                    done += 1
            except NotFinite as fault:
                with interrupts.held():
                    saved = done = rollback.go_back(fault)
                    looks.begin_again()
                    stats, is_last = None, False
        if is_last:
            return finish(adaptation, done, source, origin["source"], run)
    except Interrupted:
        with interrupts.held(), suppress(NotFinite):  # then the checkpoint before is what is kept
            if saved != done:
                rollback.save(done)
    except Diverged as end:
        if run:
            _report_end(averaged_model(adaptation, end.step, source, origin["source"]), str(end), run)
        raise
    where = f"; go on with {run.way_on}" if run else ""
    if run and run.model.is_file():  # the signal came just then
        where = f"; {run.model} is complete"
    raise Stopped(f"stopped after step {done} of {config.steps}{where}")


def _step(adaptation: Adaptation, step: int, run: RunDir | None) -> Stats:
    """A step (from 0), and its line in the journal."""
    started = time.perf_counter()
    stats = run_step(adaptation, step)
    stats |= {"pruned": pruned_share(adaptation), "seconds": round(time.perf_counter() - started, 4)}
    if run:
        run.append("stats", {"step": step + 1, **{name: float(f"{value:.6g}") for name, value in stats.items()}})
    return stats


def _report_end(model: Model, why: str, run: RunDir) -> None:
    """The report of a run that ended without a result: its journals, and what its last good state draws."""
    if run.read("stats"):
        with suppress(TenshotError):  # why the run ended matters more
            write_report(run.path, unfinished=model, note=f"The run has no result: {why}.")


def pruned_share(adaptation: Adaptation) -> float:
    """Share of the generator's gated channels that are pruned."""
    gates = [buffer for name, buffer in adaptation.nets.generator.named_buffers() if name.endswith("gate")]
    return 1.0 - torch.cat(gates).mean().item()
