"""Weight files of the published metrics: which there are, where they are looked for, whether they are genuine.

A file is read only if its SHA-256 is the published one, since the name of a metric promises its weights; and it is
read as tensors only (`weights_only`), so nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.files import make_folder, told_as_sentence, written_atomically
from tenshot.models import file_digest

VARIABLE = "TENSHOT_WEIGHTS"
"""The environment variable that names a folder of weight files."""


@dataclass(frozen=True)
class WeightFile:
    """A file that the authors of a network publish."""

    name: str
    """The published file name."""
    what: str
    """The network."""
    sha256: str
    """Of the published file."""
    size: int
    """In bytes."""
    url: str
    """Where its authors, or the library that uses it, publish it."""
    licence: str
    aliases: tuple[str, ...] = ()
    """Names under which other libraries keep the same file."""
    on_first_use: bool = True
    """Whether a metric that needs it may download it."""


INCEPTION_TF = WeightFile(
    "weights-inception-2015-12-05-6726825d.pth",
    "Inception v3 of the FID, converted from TensorFlow",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    95_628_359,
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "Apache-2.0",
    aliases=("pt_inception-2015-12-05-6726825d.pth",),
)
INCEPTION_TORCHVISION = WeightFile(
    "inception_v3_google-0cc3c7bd.pth",
    "Inception v3 of torchvision",
    "0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef",
    108_949_747,
    "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
    "terms of torchvision and of ImageNet",
)
VGG16 = WeightFile(
    "vgg16-397923af.pth",
    "VGG-16 of torchvision, the trunk of LPIPS",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    553_433_881,
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "terms of torchvision and of ImageNet",
)
DINOV2 = WeightFile(
    "dinov2_vitl14_pretrain.pth",
    "DINOv2 ViT-L/14",
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    1_217_586_395,
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "Apache-2.0",
    on_first_use=False,  # 1.2 GB are not fetched unasked
)
FILES = (INCEPTION_TF, INCEPTION_TORCHVISION, VGG16, DINOV2)


@dataclass(frozen=True)
class Place:
    """Where weights are looked for.

    Attributes:
        folder: given by the user; looked into first, and downloads go there. None: the usual places.
        download: whether a file that is nowhere may be downloaded.
    """

    folder: Path | None = None
    download: bool = False

    def folders(self) -> list[Path]:
        """All folders, in order: the given one, `TENSHOT_WEIGHTS`, tenshot's cache, torch's cache."""
        named = os.environ.get(VARIABLE)
        given = [self.folder, Path(named) if named else None]
        usual = [cache_folder() / "weights", Path(torch.hub.get_dir()) / "checkpoints"]
        return [folder.expanduser() for folder in given if folder is not None] + usual


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/tenshot`, usually `~/.cache/tenshot`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tenshot"


def find(file: WeightFile, place: Place) -> Path | None:
    """The first file of that name; its content is not looked at."""
    for folder in place.folders():
        for name in (file.name, *file.aliases):
            if os.path.isfile(folder / name):
                return folder / name
    return None


def obtain(file: WeightFile, place: Place) -> Path:
    """The file, found or downloaded, and genuine. Raises TenshotError that says what to get and where to put it."""
    path = find(file, place)
    if path is None:
        if place.download and file.on_first_use:
            return fetch(file, place.folders()[0])
        raise TenshotError(f"the weights {file.name} are missing: {_way_out(file, place.folders()[0])}")
    found = file_digest(path)
    if found != file.sha256:
        raise TenshotError(
            f"{path} has SHA-256 {found[:12]}..., not {file.sha256[:12]}...: its features would not be comparable; "
            f"remove it, then {_way_out(file, path.parent)}"
        )
    return path


def fetch(file: WeightFile, folder: Path) -> Path:
    """Download a file, all of it and genuine, or nothing. Raises TenshotError."""
    make_folder(folder)
    path, digest = folder / file.name, hashlib.sha256()
    with _download(file, folder) as read, written_atomically(path) as target:
        while piece := read(2**20):
            digest.update(piece)
            target.write(piece)
        if digest.hexdigest() != file.sha256:
            raise TenshotError(
                f"what {file.url} gave has SHA-256 {digest.hexdigest()[:12]}..., not {file.sha256[:12]}...: "
                "it was thrown away; try again, or get the file in another way"
            )
    return path


@contextmanager
def _download(file: WeightFile, folder: Path) -> Iterator[Callable[[int], bytes]]:
    """What reads the next bytes of a published file. Raises TenshotError where the network fails, then or there."""

    def told(error: Exception) -> TenshotError:
        reason = getattr(error, "reason", None) or error
        return TenshotError(f"{file.name} could not be downloaded ({reason}): {_way_out(file, folder)}")

    def read(size: int) -> bytes:
        try:
            return source.read(size)
        except (OSError, http.client.HTTPException) as error:  # not the disk's, as a writer around it would take it
            raise told(error) from error

    try:
        source = urllib.request.urlopen(file.url, timeout=30)
    except (OSError, http.client.HTTPException) as error:
        raise told(error) from error
    with source:
        yield read


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth` file by name, on the CPU. Raises TenshotError for anything else."""
    try:
        with told_as_sentence("read", path):
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise TenshotError(f"{path} does not hold plain tensors: it is damaged or of another kind") from error
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise TenshotError(f"{path} is no state dict: it must hold tensors by name")
    return state


@contextmanager
def fitting(path: Path, network: str) -> Iterator[None]:
    """Turn `load_state_dict`'s refusal of what came from `path` into a TenshotError."""
    try:
        yield
    except RuntimeError as error:
        reason = next((line.strip() for line in str(error).splitlines()[1:]), str(error))
        raise TenshotError(f"{path} does not fit {network}: {reason[:300]}") from error


def needs(package: str, load: Callable[[], Any], extra: str = "metrics") -> Any:
    """What `load` imports. Raises TenshotError that names the extra to install."""
    try:
        return load()
    except ImportError as error:
        raise TenshotError(
            f'{package} is needed and could not be imported ({error}): pip install "tenshot[{extra}]"'
        ) from error


def _way_out(file: WeightFile, folder: Path) -> str:
    return f"get {file.url} ({file.size / 1e6:,.0f} MB, SHA-256 {file.sha256}) and put it into {folder}"
