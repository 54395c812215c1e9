"""What a run leaves: its averaged generator as a model with its provenance, and sheets to see it by."""

import copy
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenshot import __version__
from tenshot.adaptation import Adaptation
from tenshot.models import Model, save_model
from tenshot.nets import Generator
from tenshot.runs import RunDir
from tenshot.sampling import generate, measure_latent_avg_
from tenshot.sheets import grid, save_png, sheet

SHEET_SEEDS = range(30)
"""Latents of the sample sheets."""


def averaged_model(adaptation: Adaptation, steps: int, source: Model, digest: str) -> Model:
    """A copy, on the CPU, of the averaged generator after `steps` steps, with a card that says where it comes from.

    source: what the run began with; digest: its file's sha256.
    """
    config = adaptation.config
    averaged = config.method.averaged(adaptation.nets, adaptation.state)
    ema = config.method.merge(copy.deepcopy(averaged)).cpu()
    measure_latent_avg_(ema)
    card: dict[str, Any] = {
        "kind": "source" if config.method.keeps_discriminator else "adapted",
        "name": Path(config.shots).stem,
        "source": {"name": source.card.get("name", config.source), "sha256": digest, "card": source.card},
        "shots": len(adaptation.shots),
        "method": {"name": config.method.name, **asdict(config.method)},
        **config.method.card(adaptation.state),
        "steps": steps,
        "seed": config.seed,
        "tenshot": __version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    discriminator = None
    if config.method.keeps_discriminator:
        discriminator = copy.deepcopy(adaptation.nets.discriminator).cpu()
        discriminator.compute = None  # as in its file
    return Model(ema.eval(), discriminator, card)


def finish(adaptation: Adaptation, steps: int, source: Model, digest: str, run: RunDir | None) -> Model:
    """The adapted model; saved, with a sheet, if there is a folder. The model comes last: with it the run is done."""
    model = averaged_model(adaptation, steps, source, digest)
    if run:
        run.lock.check_place()
        save_png(_comparison(adaptation.shots, source, model), run.sheet)
        save_model(run.model, model)
    return model


def save_shots(shots: Tensor, run: RunDir) -> None:
    """shots: uint8 `[n 3 r r]`, as `shots/000000.png` and so on."""
    for i, image in enumerate(shots):
        save_png(grid(image[None], 1), run.shots / f"{i:06d}.png")


def save_samples(adaptation: Adaptation, run: RunDir, step: int) -> None:
    """The sheet of the averaged generator after a step."""
    images = _images(adaptation.method.averaged(adaptation.nets, adaptation.state))
    save_png(grid(images, 6, scale=max(1, 96 // images.shape[-1])), run.sample(step))


def _comparison(shots: Tensor, source: Model, model: Model):
    return sheet(shots[: len(SHEET_SEEDS)], _images(source.generator), _images(model.generator))


def _images(generator: Generator) -> Tensor:
    return torch.cat(list(generate(generator, SHEET_SEEDS)))
