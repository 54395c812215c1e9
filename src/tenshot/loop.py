"""A run from shots to result: prepare, loop over steps, keep journals, sheets and checkpoints, resume exactly.

images ----> data ----> adapt <---- methods/X   (what trains, which filters)
                       [step]  <---- pruning     <- fisher <- filters <- nets
                         |  ^------- losses
                         v
                        runs ----> sampling ----> sheets
"""

import hashlib
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenshot import __version__
from tenshot.checkpoint import is_finite, restore, snapshot
from tenshot.config import RunConfig, read_config
from tenshot.data import ImageSet, load_images
from tenshot.errors import TenshotError
from tenshot.methods import Dap, Method
from tenshot.models import Model, load_model, save_model, source_digest
from tenshot.presets import DEFAULT, preset_config
from tenshot.report import write_report
from tenshot.rules import parse_rule
from tenshot.runs import RunDir
from tenshot.sampling import generate, measure_latent_avg_
from tenshot.scoring import Scoring, main_values
from tenshot.sheets import grid, save_png, sheet
from tenshot.step import Adaptation, Stats, begin, run_step

SHEET_SEEDS = range(30)
"""Latents of the sample sheets."""
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


Watch = Callable[[Progress], bool | None]
"""Called after each step; returning True stops the run at a checkpoint."""


class Stopped(TenshotError):
    """The run was stopped before its last step; with a folder it can be resumed."""

    exit_code = 130
    """As shells report Ctrl-C; 143 after SIGTERM."""


class Diverged(TenshotError):
    """Losses are no longer numbers. Checkpoints from before are kept."""


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
    its `preset`, or an instance with settings. settings: any field of `RunConfig` (steps, batch, seed, ...). Raises
    TenshotError.
    """
    settings |= {"source": str(source)}
    if isinstance(method, str):
        config = preset_config(str(shots), method, preset, **settings)
    else:
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
) -> Model:
    """Run a configuration from its first step. intake: the shots, if they have been loaded already."""
    source = load_model(config.source)
    shots = intake or load_images(config.shots, source.resolution)
    adaptation = begin(config, source, shots.images)
    run = RunDir.create(out, overwrite=overwrite) if out is not None else None
    try:
        if run:
            for i, image in enumerate(shots.images if len(shots) <= KEPT_SHOTS else ()):
                save_png(grid(image[None], 1), run.shots / f"{i:06d}.png")
            run.write_config(config.to_json())
        return _loop(adaptation, 0, source, run, watch)
    except BaseException:
        if run:
            run.discard()
        raise


def resume(out: Path, *, watch: Watch | None = None) -> Model:
    """Continue a run from its newest checkpoint.

    On a CPU with as many threads the result equals the unbroken run's, bit for bit. Raises TenshotError if there is
    no checkpoint, or if source, settings or shots are not those the run began with.
    """
    run = RunDir(out)
    if not os.path.isfile(run.config):
        raise TenshotError(f"{out} is not a run's folder: it has no config.json")
    config = read_config(run.config)
    if run.model.is_file():
        raise TenshotError(f"{out} has finished its {config.steps} steps: there is nothing to resume")
    tensors, header = run.load_checkpoint()
    source = load_model(config.source)
    is_kept = run.shots.is_dir() and any(run.shots.iterdir())
    shots = load_images(run.shots if is_kept else config.shots, source.resolution)
    adaptation = begin(config, source, shots.images)
    for what, now in _provenance(adaptation).items():
        if what == "threads" and now != header.get(what):
            before = header.get(what)
            warnings.warn(f"{now} threads now, {before} before: results may differ in the last bits", stacklevel=2)
        elif now != header.get(what):
            raise TenshotError(
                f"the {what} of {out} changed since the run began, so it cannot be continued as the same run; "
                "put it back, or begin a new run"
            )
    restore(adaptation, tensors)
    run.rewind(header["step"])
    return _loop(adaptation, header["step"], source, run, watch)


def _provenance(adaptation: Adaptation) -> dict[str, Any]:
    """What must not change between the parts of a run, for the checkpoint's header."""
    return {
        "source": source_digest(adaptation.config.source),
        "settings": json.loads(adaptation.config.to_json()),
        "shots": hashlib.sha256(adaptation.shots.numpy().tobytes()).hexdigest(),
        "threads": torch.get_num_threads(),
    }


def _loop(adaptation: Adaptation, first: int, source: Model, run: RunDir | None, watch: Watch | None) -> Model:
    config = adaptation.config
    provenance = _provenance(adaptation)
    scoring = Scoring(config, adaptation.shots) if config.eval_every else None
    rule = parse_rule(config.stop) if config.stop else None
    scores: dict[str, float] = {}
    done = first
    if run:
        adaptation.record = lambda entry: run.append("decisions", entry)
        if first == 0:
            _save_samples(adaptation, run, 0)
    for step in range(first, config.steps):
        started = time.perf_counter()
        stats = run_step(adaptation, step)
        if broken := [name for name, value in stats.items() if not math.isfinite(value)]:
            raise Diverged(f"{broken[0]} is not finite at step {step + 1}: try a lower --lr than {config.lr:g}")
        stats |= {"pruned": pruned_share(adaptation), "seconds": round(time.perf_counter() - started, 4)}
        done = step + 1
        if scoring and _is_due(done, config.eval_every):
            results = scoring(adaptation.nets.ema)
            scores = main_values(results)
            if run:
                run.append("metrics", {"step": done, "metrics": results})
        is_last = done == config.steps or (rule is not None and rule.holds(scores))
        stops = bool(watch(Progress(done, config.steps, stats, scores))) if watch else False

        if run:
            run.append("stats", {"step": done, **{name: float(f"{value:.6g}") for name, value in stats.items()}})
            if is_last or _is_due(done, config.sample_every):
                _save_samples(adaptation, run, done)
            if stops or is_last or _is_due(done, config.checkpoint_every):
                _check_finite(adaptation, done)
                run.save_checkpoint(done, snapshot(adaptation), provenance)
        if stops and not is_last:
            where = f"; go on with `tenshot adapt --resume {run.path}`" if run else ""
            raise Stopped(f"stopped after step {done} of {config.steps}{where}")
        if is_last:
            break
    _check_finite(adaptation, done)
    return _finish(adaptation, done, source, provenance["source"], run)


def _check_finite(adaptation: Adaptation, step: int) -> None:
    if not is_finite(adaptation):
        raise Diverged(f"weights are not finite after step {step}: try a lower --lr than {adaptation.config.lr:g}")


def _finish(adaptation: Adaptation, steps: int, source: Model, digest: str, run: RunDir | None) -> Model:
    """The averaged generator as a model with its provenance; saved with a sheet if there is a folder."""
    config = adaptation.config
    ema = config.method.merge(adaptation.nets.ema)
    measure_latent_avg_(ema)
    card = {
        "kind": "source" if config.method.keeps_discriminator else "adapted",
        "name": Path(config.shots).stem,
        "source": {"name": source.card.get("name", config.source), "sha256": digest, "card": source.card},
        "shots": len(adaptation.shots),
        "method": {"name": config.method.name, **asdict(config.method)},
        "steps": steps,
        "seed": config.seed,
        "tenshot": __version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    discriminator = adaptation.nets.discriminator if config.method.keeps_discriminator else None
    model = Model(ema.eval(), discriminator, card)
    if run:
        save_png(_sheet(adaptation.shots, source, model), run.sheet)
        save_model(run.model, model)
    return model


def _sheet(shots: Tensor, source: Model, model: Model):
    before, after = (torch.cat(list(generate(m.generator, SHEET_SEEDS))) for m in (source, model))
    return sheet(shots[: len(SHEET_SEEDS)], before, after)


def _save_samples(adaptation: Adaptation, run: RunDir, step: int) -> None:
    images = torch.cat(list(generate(adaptation.nets.ema, SHEET_SEEDS)))
    save_png(grid(images, 6, scale=max(1, 96 // images.shape[-1])), run.samples / f"{step:06d}.png")


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def pruned_share(adaptation: Adaptation) -> float:
    """Share of the generator's gated channels that are pruned."""
    gates = [buffer for name, buffer in adaptation.nets.generator.named_buffers() if name.endswith("gate")]
    return 1.0 - torch.cat(gates).mean().item()
