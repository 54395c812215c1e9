"""Seeds as text, and the images of seeds as files."""

import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.files import make_folder, write_atomically
from tenshot.sheets import grid, png, save_png, to_pillow

MOST = 1_000_000
"""Seeds in one call."""


def parse_seeds(text: str) -> list[int]:
    """`"7"`, `"0-99"`, `"1,5,9-12"` to a list. Raises TenshotError."""
    seeds: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d{1,15})(?:-(\d{1,15}))?", part)
        if not match:
            raise TenshotError(f"--seeds is {text!r}: write 7, or 0-99, or 1,5,9-12")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MOST:
            raise TenshotError(f"--seeds {part}: the range must rise and hold at most {MOST:,} seeds")
        seeds.extend(range(first, last + 1))
    return seeds


def write_images(
    batches: Iterable[Tensor], seeds: Sequence[int], out: str | None, picture: str | None, columns: int
) -> int:
    """Write `seed000017.png` per seed to a folder or a .zip, and all of them side by side to `picture`; returns how many.

    batches: `uint8 [n 3 r r]` in the order of seeds. A zip and the picture are written whole or not at all.
    """
    archive, kept, count = io.BytesIO(), [], 0
    as_zip = out is not None and out.endswith(".zip")
    folder = Path(out) if out and not as_zip else None
    if folder:
        make_folder(folder)
    for target in (Path(p) for p in (out if as_zip else None, picture) if p):
        make_folder(target.parent)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for batch in batches:
            for image in batch:
                name, data = f"seed{seeds[count]:06d}.png", png(to_pillow(image))
                if folder:
                    write_atomically(folder / name, data)
                elif as_zip:
                    packed.writestr(zipfile.ZipInfo(name), data)
                count += 1
            if picture:
                kept.append(batch)
    if as_zip and out:
        write_atomically(Path(out), archive.getvalue())
    if picture:
        save_png(grid(torch.cat(kept), columns), Path(picture))
    return count
