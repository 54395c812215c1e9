"""Seeds as text, and the images of seeds as files."""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.files import make_folder, write_atomically, written_atomically
from tenshot.randomness import LARGEST_SEED
from tenshot.sheets import png, save_grid, to_pillow

MOST = 1_000_000
"""Seeds in one call."""


def parse_seeds(text: str) -> list[int]:
    """`"7"`, `"0-99"`, `"1,5,9-12"` to a list; a seed named twice counts once. Raises TenshotError."""
    return list(dict.fromkeys(parse_way(text)))


def parse_way(text: str) -> list[int]:
    """As `parse_seeds`, but a seed named twice is there twice."""
    seeds: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"0*(\d+)(?:-0*(\d+))?", part)
        if not match:
            raise TenshotError(f"--seeds is {text!r}: write 7, or 0-99, or 1,5,9-12")
        if any(len(digits) > len(str(LARGEST_SEED)) for digits in match.groups("")):
            raise TenshotError(f"--seeds {part}: a seed must be at most {LARGEST_SEED:,}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MOST:
            raise TenshotError(f"--seeds {part}: the range must rise and hold at most {MOST:,} seeds")
        seeds.extend(range(first, last + 1))
        if len(seeds) > MOST:
            raise TenshotError(f"--seeds names more than {MOST:,} seeds: at most so many can be made in one call")
    return seeds


def write_images(
    batches: Iterable[Tensor], seeds: Sequence[int], out: str | None, picture: str | None, columns: int
) -> int:
    """Write `seed000017.png` per seed to a folder or a .zip, and all of them side by side to `picture`.

    batches: `uint8 [n 3 r r]` in the order of seeds. A zip and the picture are written whole or not at all.
    Returns how many images there were. Raises TenshotError.
    """
    kept: list[Tensor] = []
    count = 0
    for target in (Path(place).parent for place in (out, picture) if place):
        make_folder(target)
    with _target(out) as put:
        for batch in batches:
            for image in batch:
                put(f"seed{seeds[count]:06d}.png", png(to_pillow(image)))
                count += 1
            if picture:
                kept.append(batch)
    if picture:
        save_grid(torch.cat(kept), min(columns, count), Path(picture))
    return count


@contextmanager
def _target(out: str | None) -> Iterator[Callable[[str, bytes], None]]:
    """What takes (name, data): a folder, a zip, or nothing."""
    if out is None:
        yield lambda name, data: None
    elif out.lower().endswith(".zip"):
        with written_atomically(Path(out)) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
            # A date of its own would make two zips of the same images differ.
            yield lambda name, data: packed.writestr(zipfile.ZipInfo(name), data)
    else:
        make_folder(Path(out))
        yield lambda name, data: write_atomically(Path(out) / name, data)
