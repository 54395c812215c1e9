"""A handful of pictures in: a folder, a zip, a folder in a zip or one file, as one uint8 tensor.

`load_images` never stops at a bad file: each leaves a record of what was done to it or why it was refused.
`intake_table` shows the records; `batch_indices` is the order in which training sees the pictures.
"""

import functools
import hashlib
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.files import check_reachable
from tenshot.images import (
    MIN_SIDE,
    READABLE,
    ImageRecord,
    Refused,
    claims_image,
    prepare,
    repeats,
    suffix_refusal,
)
from tenshot.output import printable

if TYPE_CHECKING:
    from rich.table import Table

MAX_MEMBER_BYTES = 64 * 2**20
"""Largest file taken from a zip, packed or unpacked."""
MAX_RATIO = 200
"""Unpacked over packed size from which a member of more than `FREE_RATIO_BYTES` counts as a bomb."""
FREE_RATIO_BYTES = 8 * 2**20
MAX_ROWS = 50
"""Records from which `intake_table` folds neighbours with the same story into one row."""


_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, struct.error)
"""What `zipfile` raises for a file that is cut, altered, encrypted or not a zip."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The pictures that are used, and the story of every file that was looked at."""

    images: Tensor
    """uint8 RGB, 0 to 255, [n 3 resolution resolution]."""
    names: tuple[str, ...]
    """Of the n pictures, in order."""
    records: tuple[ImageRecord, ...]
    """Of all files, in order of name: used, refused and unused ones."""
    digest: str
    """SHA-256, in hex, of the shape written as "n,3,r,r" followed by the bytes of `images`."""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class _Found:
    """A file that claims to be an image: how to open it, or why not to."""

    name: str
    open: Callable[[], BinaryIO] | None
    refused: str | None = None


def load_images(path: str | os.PathLike[str], resolution: int, *, limit: int | None = None) -> ImageSet:
    """All pictures at `path`, sorted by name, as squares of `resolution` pixels, the size of the source GAN.

    `path` is a folder (searched to the bottom), a zip, a folder in a zip (`faces.zip/train`) or one image.
    With `limit`, the first `limit` usable pictures are taken and the others recorded as unused.
    Raises `TenshotError` if there is no such path, if the zip is damaged, or if not one picture is usable.
    """
    if resolution < 1:
        raise TenshotError(f"resolution is {resolution}: give the size of the source's images, such as 64")
    if limit is not None and limit < 1:
        raise TenshotError(f"limit is {limit}: take at least 1 image, or leave it out to take all")
    path = Path(os.path.expanduser(path))
    pixels = bytearray()  # grows in place: a list and a stack would need the memory twice
    thumbnails = bytearray()
    records: list[ImageRecord] = []
    used: list[int] = []  # places in `records`; a zip may hold one name twice
    with _files_at(path) as files:
        for file in files:
            picture, record = _intake(file, resolution, is_enough=len(used) == limit)
            if picture is not None:
                used.append(len(records))
                pixels += np.asarray(picture).transpose(2, 0, 1).tobytes()
                thumbnails += picture.resize((16, 16), Image.Resampling.BOX).tobytes()
            records.append(record)
    if not used:
        raise TenshotError(_nothing_usable(path, records))
    shape = (len(used), 3, resolution, resolution)
    images = torch.frombuffer(pixels, dtype=torch.uint8).view(shape)
    names = tuple(records[place].name for place in used)
    for n, caution in repeats(images.numpy(), np.frombuffer(thumbnails, np.uint8), names).items():
        record = records[used[n]]
        records[used[n]] = replace(record, warnings=(*record.warnings, caution))
    digest = hashlib.sha256(",".join(map(str, shape)).encode())
    digest.update(pixels)
    return ImageSet(images, names, tuple(records), digest.hexdigest())


def intake_table(image_set: ImageSet) -> "Table":
    """One row a file: what was done to it, why it was refused, what to look at. Safe for any file name.

    Of more than 50 files, neighbours with the same story share a row.
    """
    from rich.table import Table
    from rich.text import Text

    def cell(text: str, style: str = "") -> Text:  # Text, not str: a name such as "[red]" is not markup
        return Text(printable(text), style)

    records = image_set.records
    refused = sum(record.refused is not None for record in records)
    counts = (
        (len(image_set), "used"),
        (refused, "refused"),
        (len(records) - len(image_set) - refused, "unused"),
        (sum(bool(record.warnings) for record in records), "with a warning"),
    )
    title = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    table = Table(title=cell(title), caption=cell(f"content {image_set.digest[:12]}"))
    for heading in ("file", "size", "mode", "what was done", "refused or to look at"):
        table.add_column(heading, overflow="fold")
    for alike in _stories(records):
        first, last = alike[0], alike[-1]
        name = first.name if len(alike) == 1 else f"{first.name} to {last.name} ({len(alike):,} files)"
        table.add_row(
            cell(name),
            cell("x".join(map(str, first.size)) if first.size else ""),
            cell(first.mode or ""),
            cell(", ".join(first.steps)),
            cell(first.refused, "red") if first.refused else cell("; ".join(first.warnings), "yellow"),
        )
    return table


def batch_indices(n_images: int, batch: int, step: int, seed: int) -> list[int]:
    """The images of one training step: `batch` numbers from 0 to n_images - 1.

    The steps cut one endless row of shuffled epochs, each with every image once, into pieces of `batch`; none
    is dropped, whatever `batch` is. A pure function of its arguments: a resumed run needs no saved sampler.
    Raises `ValueError` for n_images or batch below 1, or step below 0.
    """
    if n_images < 1 or batch < 1 or step < 0:
        raise ValueError(f"n_images {n_images} and batch {batch} must be at least 1, step {step} at least 0")
    places = range(step * batch, (step + 1) * batch)
    return [_epoch_order(n_images, seed, place // n_images)[place % n_images] for place in places]


@functools.lru_cache(maxsize=4)
def _epoch_order(n_images: int, seed: int, epoch: int) -> list[int]:
    stable = hashlib.sha256(f"{seed},{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(stable[:4], "big"))  # it uses 32 bits of a seed
    return torch.randperm(n_images, generator=generator).tolist()


@contextmanager
def _files_at(path: Path) -> Iterator[list[_Found]]:
    """The files at `path` that claim to be images, sorted by name, readable while the context is open."""
    check_reachable(path)
    if os.path.isdir(path):
        found, looked_at = _in_folder(path)
        yield _some(found, looked_at, path)
    elif (archive := archive_in(path)) is not None:
        inner = path.relative_to(archive).parts
        try:
            opened = zipfile.ZipFile(archive)
        except _DAMAGE as fault:
            raise TenshotError(f"{_shown(archive)} is no sound zip ({_shown(fault)}): make it again") from None
        with opened:
            found, looked_at = _in_zip(opened, inner)
            if inner and not looked_at:
                raise TenshotError(f"{_shown(archive)} holds no {_shown('/'.join(inner))}; {_top_of(opened)}")
            yield _some(found, looked_at, path)
    elif os.path.isfile(path) and claims_image(path.name):
        yield [_file(path, path.name)]
    elif os.path.lexists(path):
        raise TenshotError(f"{_shown(path)} is no folder, zip or image: give one of these ({READABLE})")
    else:
        raise TenshotError(f"{_shown(path)} does not exist: check the spelling, or the folder you are in")


def _some(found: list[_Found], looked_at: int, path: Path) -> list[_Found]:
    if not found:
        looked = f"holds {looked_at:,} other file{'s' * (looked_at != 1)} and no images" if looked_at else "is empty"
        raise TenshotError(f"{_shown(path)} {looked}: put {READABLE} files there")
    return sorted(found, key=lambda file: file.name)


def _in_folder(root: Path) -> tuple[list[_Found], int]:
    """The claimed images below `root`, and how many files there are that are not hidden."""
    found: list[_Found] = []
    looked_at = 0

    def unreadable(fault: OSError) -> None:
        folder = os.path.relpath(fault.filename, root)
        found.append(_Found(folder, None, f"folder cannot be listed: {fault.strerror}"))

    for folder, subfolders, files in os.walk(root, onerror=unreadable):
        subfolders[:] = [name for name in subfolders if not _is_hidden(name)]
        for name in subfolders:
            link = Path(folder, name)
            if link.is_symlink():  # os.walk lists it but stays out
                name = link.relative_to(root).as_posix()
                found.append(_Found(name, None, "a link to a folder is not followed"))
        visible = [Path(folder, name) for name in files if not _is_hidden(name)]
        looked_at += len(visible)
        for path in visible:
            if claims_image(path.name):
                found.append(_file(path, path.relative_to(root).as_posix(), root))
    return found, looked_at


def _file(path: Path, name: str, root: Path | None = None) -> _Found:
    """`path` as a candidate. Links must stay below `root`; a pipe or device would block whoever opens it."""
    reason = suffix_refusal(name)
    try:
        if root is not None and path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
            reason = "a link out of the folder: copy the file itself here"
        elif not stat.S_ISREG(path.stat().st_mode):
            reason = "not an ordinary file"
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        reason = "a link to nothing, or not accessible"
    return _Found(name, functools.partial(path.open, "rb"), reason)


def _in_zip(archive: zipfile.ZipFile, inner: tuple[str, ...]) -> tuple[list[_Found], int]:
    """The claimed images at or below `inner`, and how many files there are that are not hidden."""
    found: list[_Found] = []
    looked_at = 0
    for member in archive.infolist():
        parts = tuple(member.filename.replace("\\", "/").split("/"))  # old Windows tools wrote backslashes
        below = parts[len(inner) :] or parts[-1:]
        if parts[: len(inner)] != inner or parts[-1] == "":
            continue
        name = "/".join(below)
        reason = _member_refusal(member, parts)
        if reason is None and any(map(_is_hidden, below)):
            continue
        looked_at += 1
        if reason or claims_image(name):
            reason = reason or suffix_refusal(name) or _content_refusal(member)
            found.append(_Found(name, functools.partial(_unpacked, archive, member), reason))
    return found, looked_at


def _member_refusal(member: zipfile.ZipInfo, parts: tuple[str, ...]) -> str | None:
    """Why the place of a zip member is suspicious, or None."""
    if ".." in parts or parts[0] == "" or re.match("[A-Za-z]:", parts[0]):
        return "its name leads out of the zip"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link, not a file"
    return None


def _content_refusal(member: zipfile.ZipInfo) -> str | None:
    """Why a zip member is not to be unpacked, from its header alone, or None."""
    if member.flag_bits & 1:
        return "encrypted: unpack the zip with its password first"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "packed in a rare way: make the zip again with the usual deflate"
    if max(member.file_size, member.compress_size) > MAX_MEMBER_BYTES:
        return f"over {MAX_MEMBER_BYTES // 2**20} MiB: too large for one image in a zip"
    if member.file_size > max(FREE_RATIO_BYTES, MAX_RATIO * member.compress_size):
        return f"unpacks to more than {MAX_RATIO} times its size, as a zip bomb does"
    return None


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    """The content of a zip member, in memory. Raises `Refused` if it is damaged or more than was declared."""
    try:
        with archive.open(member) as packed:
            content = packed.read(MAX_MEMBER_BYTES + 1)
    except _DAMAGE as fault:
        raise Refused(f"cannot be unpacked: {_shown(fault)}") from None
    if len(content) > MAX_MEMBER_BYTES:
        raise Refused(f"over {MAX_MEMBER_BYTES // 2**20} MiB: too large for one image in a zip")
    return io.BytesIO(content)


def _intake(file: _Found, resolution: int, is_enough: bool) -> tuple[Image.Image | None, ImageRecord]:
    """The picture of one file, or None when it is refused or no more are wanted."""
    name = printable(file.name)
    if file.refused or file.open is None:
        return None, ImageRecord(name, refused=file.refused)
    if is_enough:
        return None, ImageRecord(name, steps=("unused: the limit was reached before it",))
    try:
        with file.open() as stream:
            return prepare(stream, name, resolution)
    except Refused as reason:
        return None, ImageRecord(name, refused=str(reason))
    except OSError as fault:
        return None, ImageRecord(name, refused=f"cannot be opened: {fault.strerror or fault}")


def _stories(records: tuple[ImageRecord, ...]) -> list[list[ImageRecord]]:
    """Rows of the table: single records, or runs of the same story when there are many records."""
    if len(records) <= MAX_ROWS:
        return [[record] for record in records]
    return [list(run) for _, run in groupby(records, key=lambda record: replace(record, name=""))]


def archive_in(path: Path) -> Path | None:
    """The zip file that `path` is, or leads through."""
    parents = (path, *path.parents)
    return next((part for part in parents if part.suffix.lower() == ".zip" and os.path.isfile(part)), None)


def _top_of(archive: zipfile.ZipFile) -> str:
    tops = sorted({_shown(name.split("/")[0]) for name in archive.namelist()})
    return f"at its top: {', '.join(tops[:5])}{' ...' * (len(tops) > 5)}" if tops else "it is empty"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _shown(what: object) -> str:
    return printable(str(what))


def _nothing_usable(path: Path, records: list[ImageRecord]) -> str:
    reasons = "; ".join(f"{record.name}: {record.refused}" for record in records[:3])
    more = f"; and {len(records) - 3:,} more" if len(records) > 3 else ""
    files = "1 file" if len(records) == 1 else f"{len(records):,} files"
    way_out = f"give {READABLE} with at least {MIN_SIDE} pixels on the short side"
    return f"{_shown(path)}: looked at {files}, none usable ({reasons}{more}); {way_out}"
