"""Images whose latents are known: what a generator can be distilled from.

A folder or zip with images named by a number (`img/004711.jpg`) and blocks of latents `w_000000.npy`,
`w_004096.npy`, ... of shape `[rows d]`: image n has row n - block of the last block that starts at or before n.
`w_mean.npy` is the mean latent; with it, latents that were truncated towards it are stretched back.
"""

import functools
import hashlib
import io
import math
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tenshot.data import FREE_RATIO_BYTES, MAX_RATIO, archive_in, load_images
from tenshot.errors import TenshotError
from tenshot.files import told_as_sentence

_BLOCK = re.compile(r"w_(\d+)\.npy")
MOST_BYTES = 2**30
"""Largest file of latents that is read."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """n images and their latents."""

    images: Tensor
    """uint8 `[n 3 r r]`."""
    ws: Tensor
    """float32 `[n d]`, not truncated."""

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of images and latents, as prepared."""
        digest = hashlib.sha256(self.images.contiguous().numpy().data)
        digest.update(self.ws.contiguous().numpy().data)
        return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def load_pairs(path: str, resolution: int, truncation: float = 1.0) -> Pairs:
    """Images at `resolution` with their latents. Raises TenshotError where one is without the other.

    truncation: how far the stored latents were pulled towards the mean when the images were made; 1 = not at all.
    """
    if not 0 < truncation <= 1:
        raise TenshotError(f"truncation is {truncation}: it must be above 0 and at most 1")
    found = load_images(path, resolution)
    arrays = _arrays(Path(os.path.expanduser(path)))
    blocks = {int(match[1]): name for name in arrays if (match := _BLOCK.fullmatch(name))}
    if not blocks:
        raise TenshotError(
            f"{path} holds no latents: put w_000000.npy, rows in the order of the images' numbers, beside them"
        )
    read = functools.cache(lambda name: _array(arrays[name](), f"{path}, {name}"))
    rows = [_row(name, blocks, read, path) for name in found.names]
    if len(widths := {len(row) for row in rows}) > 1:
        raise TenshotError(
            f"{path}: latents have {' and '.join(map(str, sorted(widths)))} numbers; they must have as many"
        )
    ws = torch.stack(rows)
    if truncation < 1:
        if "w_mean.npy" not in arrays:
            raise TenshotError(
                f"{path} holds no w_mean.npy: latents truncated to {truncation} need the mean they were pulled to"
            )
        mean = read("w_mean.npy").flatten()
        if len(mean) != ws.shape[1]:
            raise TenshotError(f"{path}: w_mean.npy has {len(mean)} numbers, latents have {ws.shape[1]}")
        ws = mean + (ws - mean) / truncation
    return Pairs(found.images, ws)


def _row(name: str, blocks: dict[int, str], read: Callable[[str], Tensor], path: str) -> Tensor:
    stem = Path(name).stem
    number = int(stem) if stem.isdecimal() else -1
    start = max((first for first in blocks if first <= number), default=None)
    if start is None or number - start >= len(read(blocks[start])):
        raise TenshotError(f"{path}: there is no latent for {name}; images are named by number, blocks by their first")
    return read(blocks[start])[number - start]


def _arrays(path: Path) -> dict[str, Callable[[], bytes]]:
    """Every .npy file by its name, with a way to read it."""
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        return _readers(path, [(f.name, f.stat().st_size, functools.partial(_content, f)) for f in files])
    if (archive := archive_in(path)) is None:
        raise TenshotError(f"{path} is an image: pairs are a folder or a zip of images with their latents")
    below = "".join(f"{part}/" for part in path.relative_to(archive).parts)
    with told_as_sentence("read", archive), zipfile.ZipFile(archive) as packed:
        members = [m for m in packed.infolist() if m.filename.startswith(below) and m.filename.endswith(".npy")]
    found = [(m.filename, m.file_size, functools.partial(_unpack, archive, m.filename)) for m in members]
    return _readers(path, found)


def _readers(path: Path, found: list[tuple[str, int, Callable[[], bytes]]]) -> dict[str, Callable[[], bytes]]:
    """By their last name. Raises TenshotError for a file that is too large, and for two of one name."""
    readers: dict[str, Callable[[], bytes]] = {}
    for name, size, read in found:
        if size > MOST_BYTES:
            raise TenshotError(
                f"{path}, {name} has {size:,} bytes: split it, latents are read up to {MOST_BYTES:,} a file"
            )
        if (last := Path(name).name) in readers:
            raise TenshotError(f"{path} holds two files {last}: blocks of latents are told apart by their names")
        readers[last] = read
    return readers


def _content(path: Path) -> bytes:
    with told_as_sentence("read", path):
        return path.read_bytes()


def _unpack(path: Path, member: str) -> bytes:
    with told_as_sentence("read", path), zipfile.ZipFile(path) as archive:
        found = archive.getinfo(member)
        if found.file_size > max(FREE_RATIO_BYTES, MAX_RATIO * found.compress_size):
            raise TenshotError(f"{path}, {member} unpacks to more than {MAX_RATIO} times its size, as a zip bomb does")
        try:
            return archive.read(found)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise TenshotError(f"{path}, {member} cannot be unpacked: {error}") from error


def _array(content: bytes, where: str) -> Tensor:
    try:
        _check_size(content)
        array = np.load(io.BytesIO(content), allow_pickle=False)
        latents = torch.from_numpy(np.atleast_2d(array).astype(np.float32))
    except (ValueError, EOFError, TypeError, SyntaxError, tokenize.TokenError, RecursionError) as error:
        raise TenshotError(f"{where} is no array of numbers: {error}") from error
    if latents.dim() != 2 or not torch.isfinite(latents).all():
        raise TenshotError(
            f"{where} has shape {list(array.shape)} or values that are not finite; expected [rows, latent size]"
        )
    return latents


def _check_size(content: bytes) -> None:
    """Raises ValueError, or what numpy does, unless as many bytes follow the header as it promises: numpy itself takes
    the memory first."""
    file = io.BytesIO(content)
    if (version := np.lib.format.read_magic(file)) == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"its format is {version}")
    promised, there = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if promised != there:
        raise ValueError(f"its header promises {promised:,} bytes, and {there:,} follow")
