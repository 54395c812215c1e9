"""What a report is about: a finished run, read from its folder. What is missing leaves a note, not an error."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tenshot.config import RunConfig, read_config
from tenshot.data import load_images
from tenshot.errors import TenshotError
from tenshot.files import check_reachable
from tenshot.models import Model, load_model, source_digest
from tenshot.output import printable
from tenshot.report.journal import History, entries_in_order, failures, histories, is_number, metric_entries
from tenshot.report.likeness import Eye, Likeness, compare
from tenshot.report.pictures import first_tiles
from tenshot.runs import RunDir
from tenshot.sampling import generate_images

SAMPLES = 50
"""Images of seeds 0, 1, ... that are shown and measured."""
PAIRS = 12
"""Of these, shown beside the source's image from the same latent."""
FILM_STEPS, FILM_SEEDS = 7, 5
_SHEET_COLUMNS, _SHEET_GAP = 6, 2  # of the sheets in a run's samples/


@dataclass(frozen=True)
class Subject:
    """A finished run and what its folder tells."""

    name: str
    """Of its folder, fit to be shown."""
    run: RunDir
    config: RunConfig
    model: Model
    samples: Tensor
    """`uint8 [SAMPLES 3 r r]` of seeds 0, 1, ..."""
    shots: Tensor | None
    """`uint8 [n 3 r r]` as training saw them."""
    shots_digest: str | None
    likeness: Likeness | None
    stats: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    histories: list[History]
    notes: list[str] = field(default_factory=list)
    """Sentences on what could not be read."""

    @property
    def card(self) -> dict[str, Any]:
        return self.model.card

    @property
    def steps(self) -> int:
        """How many steps the model has behind it: fewer than set where the run was ended early."""
        told = self.card.get("steps")
        return told if isinstance(told, int) else self.config.steps

    @property
    def seconds(self) -> float | None:
        """Of all steps together; None without a journal that says so."""
        told = [entry["seconds"] for entry in self.stats if is_number(entry.get("seconds"))]
        return sum(told) if told else None


def read_run(path: Path, eye: Eye, unfinished: Model | None = None) -> Subject:
    """Read a finished run's folder and draw its samples. Raises TenshotError if it is not one.

    unfinished: takes the place of the result where there is none.
    """
    run = RunDir(path)
    check_reachable(run.config)
    if not os.path.isdir(path):
        raise TenshotError(f"there is no run {path}: give the folder that `tenshot adapt` wrote")
    if not os.path.isfile(run.config):
        raise TenshotError(f"{path} is not a run's folder: it has no config.json")
    config = read_config(run.config)
    if unfinished is None and not os.path.isfile(run.model):
        raise TenshotError(f"{path} has no model.safetensors, so the run has not finished: go on with {run.way_on}")
    model = unfinished or load_model(path)
    samples = generate_images(model, range(SAMPLES))
    notes: list[str] = []
    shots = digest = likeness = None
    try:
        if run.kept_shots is None and os.path.isdir(run.shots):
            raise TenshotError(
                f"{run.shots} has none, since the run was given more than it keeps, or they were deleted"
            )
        found = load_images(run.shots, model.resolution)
        shots, digest = found.images, found.digest
        likeness = compare(samples, shots, eye)
    except TenshotError as error:
        notes.append(f"The shots could not be read: {error}.")
    stats, metrics, decisions = (_journal(run, name, notes) for name in ("stats", "metrics", "decisions"))
    if skipped := sum("skipped" in entry for entry in decisions):
        notes.append(f"Estimates of importance that were passed over, because they were not finite: {skipped}.")
    notes += _faults(stats, _journal(run, "recovery", notes))
    notes += [f"The metric {name} failed: {reason}." for name, reason in failures(metrics)]
    return Subject(
        name=printable(path.resolve().name) or "run",
        run=run,
        config=config,
        model=model,
        samples=samples,
        shots=shots,
        shots_digest=digest,
        likeness=likeness,
        stats=stats,
        metrics=metric_entries(metrics),
        histories=histories(decisions),
        notes=notes,
    )


def _faults(stats: list[dict[str, Any]], returns: list[dict[str, Any]]) -> list[str]:
    """What the run's journals tell of numbers that were not finite."""
    told = [f"Back to step {entry['step']}, because {entry.get('why')}." for entry in returns]
    if skipped := sum(1 for entry in stats if entry.get("skipped")):
        told.append(f"Steps in which an update was left out, because its numbers were not finite: {skipped}.")
    return told


def _journal(run: RunDir, name: str, notes: list[str]) -> list[dict[str, Any]]:
    try:
        return entries_in_order(run.read(name))
    except (TenshotError, UnicodeDecodeError) as error:
        notes.append(f"A journal was left out: {error}.")
        return []


def source_images(subject: Subject) -> Tensor | None:
    """The source's images of the first `PAIRS` seeds, or None with a note if it is gone or no longer the same."""
    wanted = subject.card.get("source")
    wanted = wanted.get("sha256") if isinstance(wanted, dict) else None
    try:
        if source_digest(subject.config.source) != wanted:
            subject.notes.append(f"The source {subject.config.source} is not the file the run started from.")
            return None
        return generate_images(load_model(subject.config.source), range(PAIRS))
    except TenshotError as error:
        subject.notes.append(f"The source's images are missing: {error}.")
        return None


def film(subject: Subject) -> list[tuple[int, list[Image.Image]]]:
    """(step, images of the first `FILM_SEEDS` seeds) for up to `FILM_STEPS` of the run's sheets, first to last."""
    sheets = {int(path.stem): path for path in subject.run.samples.glob("*.png") if path.stem.isdecimal()}
    steps = sorted(sheets)
    if len(steps) > FILM_STEPS:
        chosen = torch.linspace(0, len(steps) - 1, FILM_STEPS).round().int().tolist()
        steps = [steps[i] for i in chosen]
    frames = [(step, first_tiles(sheets[step], _SHEET_COLUMNS, _SHEET_GAP, FILM_SEEDS)) for step in steps]
    return [(step, tiles) for step, tiles in frames if tiles]
