"""What a path leads to, and the checks for it. A file's content decides, as far as it can."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tenshot.config import RunConfig
from tenshot.data import ImageSet
from tenshot.doctor.finding import Finding, fault
from tenshot.doctor.model_file import check_model_file
from tenshot.doctor.pictures import check_pictures
from tenshot.doctor.run_folder import check_run, is_run
from tenshot.errors import TenshotError
from tenshot.files import told_as_sentence
from tenshot.headers import is_safetensors
from tenshot.images import READABLE, claims_image
from tenshot.models import embedded_sources, find_model


@dataclass(frozen=True)
class Inspection:
    """What was found at a path."""

    what: str
    """What it was taken for; empty where there is nothing, or nothing that tenshot knows."""
    findings: tuple[Finding, ...]
    intake: ImageSet | None = None
    """Of images: the story of every file."""


def inspect(given: str, source: str = RunConfig.source) -> Inspection:
    """Check a run's folder, a model file, another program's checkpoint, or images, which are to adapt `source`: its
    resolution decides whether they are large enough. Never raises for what is there."""
    path = Path(os.path.expanduser(given))
    try:
        if os.path.isdir(path) and is_run(path):
            return Inspection("a run's folder", tuple(check_run(path)))
        if os.path.isfile(path) and _is_model(path):
            return Inspection("a model file", tuple(check_model_file(path)))
        if os.path.isfile(path) and not claims_image(path.name):
            return Inspection("", (fault("path", _unknown(path)),))
        if given in embedded_sources() and not os.path.lexists(path):
            return Inspection("an embedded source", tuple(check_model_file(find_model(given), given)))
        findings, intake = check_pictures(path, source)
        return Inspection("images" if intake else "", tuple(findings), intake)
    except (TenshotError, OSError) as error:
        return Inspection("", (fault("file", error),))


def _is_model(path: Path) -> bool:
    """Whether a file begins as a model or a checkpoint does. A torch file is a zip that has a data.pkl."""
    with told_as_sentence("read", path), path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/data.pkl") for name in archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
            return path.suffix.lower() != ".zip"
    return start[:1] == b"\x80" or is_safetensors(path)


def _unknown(path: Path) -> str:
    what = "no file that tenshot knows" if path.stat().st_size else "an empty file"
    return (
        f"{path} is {what}: give a run's folder, a model (.safetensors), another program's checkpoint (.pt, .pkl), or "
        f"images ({READABLE}, a folder or a zip of them)"
    )
