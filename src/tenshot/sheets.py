"""Pictures of pictures: grids of images and the sheet that ends a run."""

import io
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from tenshot.files import told_as_sentence, write_atomically
from tenshot.lacking import mosaic_of

_GAP = 2
_MARK = "tenshot grid"  # in the PNG's text
_PAPER, _INK = (255, 255, 255), (60, 60, 60)


def grid(images: Tensor, columns: int, *, scale: int = 1) -> Image.Image:
    """Images `uint8 [n 3 h w]` row by row, each pixel `scale` times as large, thin white lines between.

    Enlarged with Lanczos, pixel art without smoothing.
    """
    n, _, height, width = images.shape
    rows = -(-n // columns)
    step_x, step_y = width * scale + _GAP, height * scale + _GAP
    paper = Image.new("RGB", (columns * step_x - _GAP, rows * step_y - _GAP), _PAPER)
    for i, image in enumerate(images):
        tile = to_pillow(image)
        if scale > 1:
            is_sharp = height == width and mosaic_of(image[None].cpu()) > 1
            how = Image.Resampling.NEAREST if is_sharp else Image.Resampling.LANCZOS
            tile = tile.resize((width * scale, height * scale), how)
        paper.paste(tile, (i % columns * step_x, i // columns * step_y))
    return paper


def save_grid(images: Tensor, columns: int, path: Path) -> None:
    """Write a grid as a PNG that says that it is one (`is_grid`). Raises TenshotError."""
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", _MARK)
    write_atomically(path, png(grid(images, columns), mark))


def is_grid(path: Path) -> bool:
    """Whether a file is a PNG that `save_grid` wrote."""
    with told_as_sentence("read", path), path.open("rb") as file:
        start = file.read(200)
    return start.startswith(b"\x89PNG") and _MARK.encode() in start


def sheet(shots: Tensor, source: Tensor, result: Tensor, *, columns: int = 10) -> Image.Image:
    """The shots, then pairs of rows: the source's images above the result's from the same latents.

    All `uint8 [n 3 r r]`; source and result of one length, a multiple of `columns`. At most 2 rows of shots.
    """
    scale = max(1, 128 // shots.shape[-1])
    more = f" (first {2 * columns})" if len(shots) > 2 * columns else ""
    plural = "image" if len(shots) == 1 else "images"
    parts = [(f"{len(shots)} {plural} given{more}", grid(shots[: 2 * columns], columns, scale=scale))]
    for start in range(0, len(source), columns):
        rows = torch.cat([source[start : start + columns], result[start : start + columns]])
        title = "source, and below it the result from the same latents" if start == 0 else ""
        parts.append((title, grid(rows, columns, scale=scale)))
    return _stack(parts)


def _stack(parts: list[tuple[str, Image.Image]]) -> Image.Image:
    font, line, gap, margin = ImageFont.load_default(size=15), 24, 10, 14
    width = max(picture.width for _, picture in parts) + 2 * margin
    height = sum(picture.height + (line if title else 0) + gap for title, picture in parts) - gap + 2 * margin
    paper = Image.new("RGB", (width, height), _PAPER)
    draw, y = ImageDraw.Draw(paper), margin
    for title, picture in parts:
        if title:
            draw.text((margin, y), title, fill=_INK, font=font)
            y += line
        paper.paste(picture, (margin, y))
        y += picture.height + gap
    return paper


def to_pillow(image: Tensor) -> Image.Image:
    """`uint8 [3 h w]` to a Pillow image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def png(image: Image.Image, text: PngImagePlugin.PngInfo | None = None) -> bytes:
    """An image as a PNG file's bytes, perhaps with text in it."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=4, pnginfo=text)  # 9 is 5 % smaller and ten times slower
    return buffer.getvalue()


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG, all of it or nothing. Raises TenshotError."""
    write_atomically(path, png(image))
