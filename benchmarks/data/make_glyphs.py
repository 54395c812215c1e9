"""Letters and digits of open fonts in random colours: the images that the embedded source `glyphs32` was trained on.

    python benchmarks/data/make_glyphs.py glyphs.zip [--fonts /usr/share/fonts] [--side 32] [--variants 2]

Renders every character of every font below --fonts that has all of them, `variants` times in other colours, sizes and
places, with Pillow, and prints the fonts and the sha256 of all pixels. The fonts that were used, their Debian packages
and licences are listed in src/tenshot/sources/glyphs32.md.
"""

import argparse
import colorsys
import hashlib
import io
import random
import string
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CHARACTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "&?!"
OVERSAMPLING = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--variants", type=int, default=2)
    options = parser.parse_args()
    files = sorted(path for path in options.fonts.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
    digest, used, count = hashlib.sha256(), [], 0
    with zipfile.ZipFile(options.out, "w") as archive:
        for path in files:
            if not has_all(path):
                continue
            used.append(path.relative_to(options.fonts).as_posix())
            for character in CHARACTERS:
                for variant in range(options.variants):
                    rng = random.Random(f"{path.name} {character} {variant}")
                    image = render(path, character, options.side, rng)
                    digest.update(image.tobytes())
                    buffer = io.BytesIO()
                    image.save(buffer, "PNG", optimize=True)
                    archive.writestr(f"{count:06d}.png", buffer.getvalue())
                    count += 1
    print("\n".join(used))
    print(f"{count} images of {len(used)} fonts, sha256 of their pixels {digest.hexdigest()}")


def has_all(path: Path) -> bool:
    """Whether a font draws every character, and no two of a sample alike: symbol fonts and empty faces do not."""
    try:
        font = ImageFont.truetype(str(path), 40)
    except OSError:
        return False
    masks = {bytes(font.getmask(character)) for character in CHARACTERS}
    return len(masks) > 0.8 * len(CHARACTERS)


def render(path: Path, character: str, side: int, rng: random.Random) -> Image.Image:
    """One character, its ink between half and nearly all of the image's height or width, on a plain ground."""
    big = side * OVERSAMPLING
    paper, ink = colours(rng)
    image = Image.new("RGB", (big, big), paper)
    font = ImageFont.truetype(str(path), big)
    left, top, right, bottom = font.getbbox(character)
    scale = rng.uniform(0.6, 0.88) * big / max(right - left, bottom - top, 1)
    font = ImageFont.truetype(str(path), max(1, round(big * scale)))
    left, top, right, bottom = font.getbbox(character)
    place = tuple(
        (big - size) / 2 - start + rng.uniform(-0.04, 0.04) * big
        for start, size in ((left, right - left), (top, bottom - top))
    )
    ImageDraw.Draw(image).text(place, character, font=font, fill=ink)
    return image.resize((side, side), Image.Resampling.BOX)


def colours(rng: random.Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Ground and ink of clearly different lightness."""
    dark, light = rng.uniform(0.05, 0.35), rng.uniform(0.65, 0.97)
    pair = [as_rgb(rng.random(), lightness, rng.uniform(0.1, 0.9)) for lightness in (dark, light)]
    rng.shuffle(pair)
    return pair[0], pair[1]


def as_rgb(hue: float, lightness: float, saturation: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 * value) for value in colorsys.hls_to_rgb(hue, lightness, saturation))
    return red, green, blue


if __name__ == "__main__":
    main()
