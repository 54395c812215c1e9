"""Any domain as pixel art: every image in squares of one colour, each the mean of what was there.

    python make_squares.py data/bottts.zip squares/bottts        --side 8

Reads <domain>.zip with shots/ and heldout/, writes both as PNG under the same names. Squares begin at the corner.
"""

import argparse
import zipfile
from pathlib import Path

from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=8, help="pixels; images must be whole multiples of it")
    options = parser.parse_args()
    with zipfile.ZipFile(options.domain) as archive:
        for name in archive.namelist():
            with archive.open(name) as stream:
                image = in_squares(Image.open(stream).convert("RGB"), options.side)
            path = (options.out / name).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)


def in_squares(image: Image.Image, side: int) -> Image.Image:
    if image.width % side or image.height % side:
        raise SystemExit(f"{image.width}x{image.height} pixels are not whole squares of {side}")
    return image.reduce(side).resize(image.size, Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
