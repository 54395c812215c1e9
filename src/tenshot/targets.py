"""Where a verb may write: never onto what it reads or a run keeps, and onto a file of the user only when told to."""

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tenshot.errors import TenshotError
from tenshot.files import told_as_sentence
from tenshot.images import SUFFIXES, claims_image
from tenshot.runs import owner_of
from tenshot.sheets import is_grid

_IMAGE = re.compile(r"seed\d{6,}\.png")


def check_free(targets: Iterable[Path], sources: Iterable[Path] = (), *, overwrite: bool = False) -> None:
    """Raises TenshotError where a file to be written is one of `sources`, a run's, or there and not to be replaced."""
    sources = [source for source in sources if os.path.exists(source)]
    for target in targets:
        check_foreign(target)
        if not os.path.lexists(target):
            continue
        if os.path.exists(target) and any(os.path.samefile(target, source) for source in sources):
            raise TenshotError(f"{target} is the file that is read: choose another name")
        if not overwrite:
            raise TenshotError(f"{target} is there already: replace it (--overwrite), or choose another name")


def check_foreign(target: Path) -> None:
    """Raises TenshotError where a file to be written is one that a run keeps."""
    if folder := owner_of(target):
        raise TenshotError(f"{target} is a file of the run in {folder}: choose another name, or another folder")


def check_page(target: Path, run: Path) -> None:
    """Raises TenshotError where a run's page would replace what is no such page, or another run's."""
    if os.path.realpath(target) != os.path.realpath(run / "report.html"):
        check_foreign(target)
    _check_ours(target, lambda page: b'<meta name="generator" content="tenshot">' in page, "no page of tenshot's")


def check_numbers(target: Path) -> None:
    """Raises TenshotError where numbers of `tenshot evaluate` would replace something else."""
    check_foreign(target)
    _check_ours(target, _are_numbers, "no result of tenshot evaluate")


def _are_numbers(content: bytes) -> bool:
    """Whether a file is one that `tenshot evaluate` writes: JSON of other programs may well have metrics too."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"model", "real", "shots", "seeds", "metrics"} <= found.keys()


def _check_ours(target: Path, is_ours: Callable[[bytes], bool], what: str) -> None:
    if not os.path.isfile(target):
        return
    with told_as_sentence("read", target):
        content = target.read_bytes()
    if content and not is_ours(content):
        raise TenshotError(f"--out is {target}, a file that is {what}: choose another name")


def check_images(out: str | None, picture: str | None) -> None:
    """Raises TenshotError where images of seeds, or all of them as a `picture`, would replace what is no such thing."""
    if out is not None:
        if claims_image(out) and Path(out).suffix.lower() != ".zip":
            raise TenshotError(
                f"--out is {out}: it takes a folder or a .zip, for a file per image; "
                "for one picture of all give --grid FILE.png"
            )
        is_zip = out.lower().endswith(".zip")
        check_foreign(Path(out) if is_zip else Path(out) / "seed000000.png")
        if is_zip and os.path.isfile(out) and not _is_zip_of_images(Path(out)):
            raise TenshotError(f"--out is {out}, which holds more than images of seeds: choose another name")
        if not is_zip and (other := _other_image(Path(out))):
            raise TenshotError(f"--out is {out}, a folder with other images in it ({other}): choose another folder")
    if picture is not None:
        check_foreign(Path(picture))
        if os.path.isfile(picture) and not is_grid(Path(picture)):
            raise TenshotError(f"--grid is {picture}, a file that is no grid of tenshot's: choose another name")


def earlier_images(out: str, written: int) -> int:
    """How many images of seeds a folder holds beside those `written` just now; a .zip never keeps any."""
    if not os.path.isdir(out):
        return 0
    with told_as_sentence("look into", Path(out)):
        return sum(_IMAGE.fullmatch(name) is not None for name in os.listdir(out)) - written


def _other_image(folder: Path) -> str | None:
    """A picture in a folder that is neither of a seed nor a grid of them, as in a folder of images to train on."""
    if not os.path.isdir(folder):
        return None
    with told_as_sentence("look into", folder):
        names = sorted(os.listdir(folder))
    for name in names:
        is_picture = Path(name).suffix.lower() in SUFFIXES and os.path.isfile(folder / name)
        if is_picture and not _IMAGE.fullmatch(name) and not is_grid(folder / name):
            return name
    return None


def _is_zip_of_images(path: Path) -> bool:
    """Whether a zip is one that `tenshot generate` writes."""
    try:
        with zipfile.ZipFile(path) as packed:
            return all(_IMAGE.fullmatch(name) for name in packed.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
        return False
