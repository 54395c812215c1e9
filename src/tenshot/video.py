"""Walks as files: .mp4, .gif and .webp move, one frame in memory at a time; a .png is a strip.

Memory does not grow with the number of frames. Pillow's own writers of animations collect every frame first, so
here Pillow encodes one still at a time and its compressed data goes straight into the container around it: the
blocks of GIF89a (W3C, graphics/GIF/spec-gif89a) or the chunks of WebP (RFC 9649). H.264 is written by PyAV, whose
wheels bring FFmpeg: it takes any open file, and what goes wrong is an exception.
"""

import io
import itertools
import struct
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import torch
from PIL import Image
from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.files import make_folder, written_atomically
from tenshot.sheets import grid, save_png, to_pillow

_MOST_PIXELS = 16383  # a side of WebP; H.264 ends at 16384 in x264, GIF at 65535
_WIDEST_STRIP = 32767  # px; more than most programs show
_H264 = "libx264"
_PYAV = 'an .mp4 needs PyAV, which is not installed: pip install "tenshot[video]", or write a .webp or a .gif'


def check_video(path: Path, fps: int, width: int, height: int) -> None:
    """Whether such a file can be written, before anything is computed for it. Raises TenshotError."""
    kind = path.suffix.lower()
    if kind not in _WRITERS:
        raise TenshotError(f"{path.name} must end in .mp4, .gif or .webp, or for a strip of frames in .png")
    most = 50 if kind == ".gif" else 120  # viewers play what a GIF shows for less than 0.02 s at 10 a second
    if not 1 <= fps <= most:
        raise TenshotError(f"fps is {fps}: in a file of the kind {kind} it must be from 1 to {most}")
    if max(width, height) > _MOST_PIXELS:
        raise TenshotError(f"frames of {width} x {height} px are too large: at most {_MOST_PIXELS:,} px a side")
    if kind == ".mp4" and (width % 2 or height % 2):
        raise TenshotError(f"frames are {width} x {height} px: an .mp4 needs even numbers, one pixel more or less")
    if kind == ".mp4" and find_spec("av") is None:
        raise TenshotError(_PYAV)


def write_video(path: Path, batches: Iterable[Tensor], fps: int, *, forever: bool = True) -> int:
    """Write frames as .mp4, .gif or .webp after the name; all of the file or nothing. Returns how many there were.

    batches: `uint8 [n 3 h w]`, at least one frame. forever: a .gif or .webp starts again at its end; else it stops
    at the last frame. Frames last 1 / fps seconds, in a .gif rounded to hundredths and in a .webp to thousandths so
    that no frame begins off by more than half of one. An .mp4 has BT.709 colours. Raises TenshotError.
    """
    images = (to_pillow(frame) for batch in batches for frame in batch)
    first = next(images)
    check_video(path, fps, *first.size)
    make_folder(path.parent)
    with written_atomically(path) as file:
        return _WRITERS[path.suffix.lower()](file, itertools.chain([first], images), first.size, fps, forever)


def check_strip(path: Path, count: int, side: int) -> None:
    """Whether so many images fit side by side into a .png. Raises TenshotError."""
    if path.suffix.lower() != ".png":
        raise TenshotError(f"{path.name} is not the name of a strip: it must end in .png")
    if count * side > _WIDEST_STRIP:
        raise TenshotError(
            f"{count} images of {side} px side by side are too wide: at most {_WIDEST_STRIP:,} px; "
            "give fewer seeds, fewer frames or a smaller size"
        )


def write_strip(path: Path, panels: Iterable[Tensor]) -> int:
    """Write all frames side by side as a .png, a row per model; returns how many frames there were.

    panels: `uint8 [n models 3 side side]`. All of the file or nothing. Raises TenshotError.
    """
    make_folder(path.parent)
    rows = torch.cat(list(panels)).transpose(0, 1)  # [models n 3 side side]
    check_strip(path, rows.shape[1], rows.shape[-1])
    save_png(grid(rows.flatten(0, 1), rows.shape[1]), path)
    return rows.shape[1]


def _write_mp4(file: BinaryIO, images: Iterator[Image.Image], size: tuple[int, int], fps: int, forever: bool) -> int:
    try:
        import av
    except ImportError as error:
        raise TenshotError(_PYAV) from error
    try:
        with av.open(file, "w", format="mp4") as container:
            return _encode(container, images, size, fps)
    except av.FFmpegError as error:
        if isinstance(error.__context__, OSError):  # what the file itself said, a full disk perhaps
            raise error.__context__ from error
        raise TenshotError(f"FFmpeg cannot make an .mp4 of it ({error}): write a .webp or a .gif") from error


def _encode(container: Any, images: Iterator[Image.Image], size: tuple[int, int], fps: int) -> int:
    """Fill PyAV's open container."""
    from av import VideoFrame

    try:
        stream = container.add_stream(_H264, rate=fps, options={"crf": "18"})  # no loss that an eye finds
    except ValueError as error:
        raise TenshotError(f"this PyAV has no {_H264}: reinstall it from its wheel, or write a .webp") from error
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    # Said in the file, since players guess from the height where it is not: 1 is BT.709, and limited range.
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = context.color_range = 1
    count = 0
    for image in images:
        count += 1
        frame = VideoFrame.from_image(image)
        container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")))
    container.mux(stream.encode())
    return count


def _write_gif(file: BinaryIO, images: Iterator[Image.Image], size: tuple[int, int], fps: int, forever: bool) -> int:
    count = 0
    file.write(b"GIF89a" + struct.pack("<HHBBB", *size, 0x70, 0, 0))  # no palette of its own: each frame has one
    if forever:
        file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
    for count, image in enumerate(images, 1):
        file.write(b"\x21\xf9\x04\x00" + struct.pack("<H", _duration(count, fps, 100)) + b"\x00\x00")
        file.write(_gif_image(image))
    file.write(b"\x3b")
    return count


def _gif_image(image: Image.Image) -> bytes:
    """A frame's image block with a palette of its own: image descriptor, up to 256 colours, compressed pixels.

    Colours are not dithered: each frame would be dithered anew, which nearly doubles the flicker of faces.
    """
    buffer = io.BytesIO()
    image.quantize(256, Image.Quantize.MEDIANCUT).save(buffer, format="GIF", interlace=False)
    still = buffer.getvalue()
    colours = 3 * 2 << (still[10] & 7)  # bytes
    palette, at = still[13 : 13 + colours], 13 + colours
    while still[at] == 0x21:  # extensions: a label, then blocks that begin with their length, the last of length 0
        at += 2
        while still[at]:
            at += 1 + still[at]
        at += 1
    flags = 0x80 | (still[10] & 7)
    return still[at : at + 9] + bytes([flags]) + palette + still[at + 10 : -1]


def _write_webp(file: BinaryIO, images: Iterator[Image.Image], size: tuple[int, int], fps: int, forever: bool) -> int:
    count, canvas = 0, _uint24(size[0] - 1) + _uint24(size[1] - 1)
    file.write(b"RIFF\x00\x00\x00\x00WEBP" + _chunk(b"VP8X", b"\x02\x00\x00\x00" + canvas))
    file.write(_chunk(b"ANIM", b"\xff\xff\xff\xff" + struct.pack("<H", 0 if forever else 1)))
    for count, image in enumerate(images, 1):
        buffer = io.BytesIO()
        image.save(buffer, format="WEBP", quality=90)
        place = bytes(6) + canvas + _uint24(_duration(count, fps, 1000)) + b"\x02"  # from the corner, not blended
        file.write(_chunk(b"ANMF", place + buffer.getvalue()[12:]))
    length = file.tell() - 8
    file.seek(4)
    file.write(struct.pack("<I", length))
    return count


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _uint24(number: int) -> bytes:
    return number.to_bytes(3, "little")


def _duration(number: int, fps: int, units: int) -> int:
    """Of frame 1, 2, ...: whole units of 1 / units seconds whose sum stays within half a unit of the true time."""
    return round(number * units / fps) - round((number - 1) * units / fps)


_WRITERS: dict[str, Callable[[BinaryIO, Iterator[Image.Image], tuple[int, int], int, bool], int]] = {
    ".mp4": _write_mp4,
    ".gif": _write_gif,
    ".webp": _write_webp,
}
