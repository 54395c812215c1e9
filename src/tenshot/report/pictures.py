"""Pictures for a page: tensors to data URIs, and the tiles of a run's sample sheets."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, features
from torch import Tensor

from tenshot.sheets import png, to_pillow

LARGEST = 256
"""Pixels: no page shows an image larger, and a report can be mailed."""
_SMALL = 64


@dataclass(frozen=True)
class Picture:
    """An image as the page holds it."""

    uri: str
    alt: str
    """What it shows, for those who do not see it."""
    side: int
    """Pixels."""


def picture(image: Tensor | Image.Image, alt: str) -> Picture:
    """`uint8 [3 h w]` or a Pillow image as a data URI.

    Up to 64 px each pixel is kept (WebP without loss, or PNG where Pillow lacks WebP); larger ones are reduced to at
    most `LARGEST` and packed with little loss.
    """
    shown = to_pillow(image) if isinstance(image, Tensor) else image.convert("RGB")
    side = max(shown.size)
    if side > LARGEST:
        shown = shown.resize((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    if not features.check("webp"):
        return Picture(_uri("png", png(shown)), alt, side)
    buffer = io.BytesIO()
    if side <= _SMALL:
        shown.save(buffer, format="WEBP", lossless=True, method=4, exact=True)
    else:
        shown.save(buffer, format="WEBP", quality=88, method=4)
    return Picture(_uri("webp", buffer.getvalue()), alt, side)


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def first_tiles(sheet: Path, columns: int, gap: int, count: int) -> list[Image.Image]:
    """The first `count` tiles of a sheet's first row; none if the file is no such sheet."""
    try:
        with Image.open(sheet) as opened:
            opened.load()
            side, rest = divmod(opened.width + gap, columns)
            if rest or not gap < side <= opened.height + gap:
                return []
            return [opened.crop((i * side, 0, (i + 1) * side - gap, side - gap)) for i in range(count)]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow: "broken PNG file"
        return []
