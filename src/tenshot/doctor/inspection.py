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
from tenshot.headers import is_safetensors
from tenshot.images import SUFFIXES
from tenshot.models import embedded_sources, find_model


@dataclass(frozen=True)
class Inspection:
    """What was found at a path."""

    what: str
    """What it was taken for; empty where there is nothing."""
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
        if os.path.isfile(path) and not _holds_images(path):
            return Inspection("a model file", tuple(check_model_file(path)))
        if given in embedded_sources() and not os.path.lexists(path):
            return Inspection("an embedded source", tuple(check_model_file(find_model(given), given)))
        findings, intake = check_pictures(path, source)
        if intake is None and not os.path.lexists(path):
            return Inspection("", tuple(fault("path", finding.text) for finding in findings))
        return Inspection("images", tuple(findings), intake)
    except (TenshotError, OSError) as error:
        return Inspection("something that cannot be read", (fault("file", error),))


def _holds_images(path: Path) -> bool:
    """Whether a file is a picture or a zip of them, not a model. A torch file is a zip that has a data.pkl."""
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                return not any(name.endswith("/data.pkl") for name in archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
            return path.suffix.lower() == ".zip"
    is_picture = path.suffix.lower() in {*SUFFIXES, ".zip"}
    return is_picture and start[:1] != b"\x80" and not is_safetensors(path)
