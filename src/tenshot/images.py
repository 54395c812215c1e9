"""One picture of any kind in, one square RGB picture out, with a record of everything that was done to it.

Files are strangers: only six decoders are tried, the pixel count is read from the header before anything is
decoded, and whatever a decoder raises becomes a reason in the record. Pillow's global switches stay as found.
"""

import functools
import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from tenshot.output import printable

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""The decoders that may see a file, by Pillow's names."""
READABLE = "PNG, JPEG, WebP, BMP, TIFF or GIF"
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"))
OTHER_SUFFIXES = frozenset(
    (".avif", ".heic", ".heif", ".jp2", ".jxl", ".svg", ".psd", ".ico", ".tga", ".exr", ".ppm", ".dng")
)
"""Names that promise a picture which is not read: refused aloud, where other names are passed over."""
ARCHIVE_SUFFIXES = frozenset((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar"))
MAX_PIXELS = 80_000_000
"""Below Pillow's own warning at 89 million, so that our sentence comes first."""
MIN_SIDE = 8
"""Pixels on the short side."""
NEAR_LEVELS = 1
"""Mean absolute difference, of 255 levels at 16x16 pixels, below which two pictures are nearly the same."""
NEARLY_ONE_COLOUR = 20
"""Levels, of 255: one that spans fewer in every channel is told. 12 bits stored as 16 span 16, faint pencil 50."""
REPEATED = "same picture as"
"""In the warning on a picture that repeats an earlier one, or nearly."""

_PHOTOMETRIC = 262  # the TIFF tag that says what zero means: 0 white, 1 black
_BITS = 258  # the TIFF tag of how many a number has
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Refused(Exception):
    """One file cannot be used; the text is the reason, and the other files go on."""


@dataclass(frozen=True)
class ImageRecord:
    """What happened to one file on its way in. All texts are printable: control characters are escaped."""

    name: str
    """Path below what was given, with forward slashes."""
    size: tuple[int, int] | None = None
    """Width and height as stored, in pixels; None if the header could not be read."""
    mode: str | None = None
    """Pillow's name of the stored pixel kind, such as "RGBA" or "I;16"."""
    steps: tuple[str, ...] = ()
    """What was done, in order, such as "alpha on white" or "resized 480 to 64"."""
    refused: str | None = None
    """Why the file is not used; None if nothing is wrong with it."""
    warnings: tuple[str, ...] = ()
    """What to look at, though the picture is used."""


def claims_image(name: str) -> bool:
    """Whether the suffix promises a picture, or an archive that may be taken for a set of them."""
    return PurePath(name).suffix.lower() in SUFFIXES | OTHER_SUFFIXES | ARCHIVE_SUFFIXES


def suffix_refusal(name: str) -> str | None:
    """Why a file of this name need not be opened, or None."""
    suffix = PurePath(name).suffix.lower()
    if suffix in ARCHIVE_SUFFIXES:
        return "an archive inside: unpack it, or give its own path"
    if suffix in OTHER_SUFFIXES:
        return f"{suffix[1:].upper()} is not read: save it as {READABLE}"
    return None


def prepare(stream: BinaryIO, name: str, resolution: int) -> tuple[Image.Image | None, ImageRecord]:
    """The picture in `stream` as RGB of `resolution` by `resolution` pixels, or None when it is refused.

    Upright by its EXIF tag, cropped to the centre square, in sRGB, alpha on white, resized with Lanczos.
    Never raises for what the stream holds.
    """
    size = mode = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _opened(stream) as picture:
                size, mode = picture.size, picture.mode
                _check_size(*size)
                upright, steps = _upright_first_frame(picture)
                square, cropped = _centre_square(upright)
                rgb, coloured = to_rgb(square)
                plain = _plain(rgb)
                fitted, resized, cautions = _resized(rgb, resolution)
    except Refused as reason:
        return None, ImageRecord(name, size, mode, refused=str(reason))
    except Exception as fault:  # decoders raise nearly every type there is when the bytes are wrong
        return None, ImageRecord(name, size, mode, refused=f"cannot be decoded: {_first_line(fault)}")
    return fitted, ImageRecord(name, size, mode, (*steps, *cropped, *coloured, *resized), warnings=(*cautions, *plain))


def to_rgb(picture: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """`picture` of any mode in sRGB, mode "RGB", and the steps taken. Transparent parts become white."""
    profile = picture.info.get("icc_profile")
    steps: list[str] = []
    if picture.mode.startswith(("I", "F")):
        picture, step = _eight_bit_grey(picture)
        steps.append(step)
    alpha = None
    if picture.has_transparency_data:
        is_grey = picture.mode in ("1", "L", "LA")
        rgba = picture.convert("RGBA")
        alpha = rgba.getchannel("A")
        picture = rgba.convert("L" if is_grey else "RGB")
    elif picture.mode in ("1", "P"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    if profile:
        picture, managed = _to_srgb(picture, profile)
        steps.extend(managed)
    picture = picture.convert("RGB")
    if alpha is not None and cast(tuple[int, int], alpha.getextrema())[0] < 255:
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=alpha)
        picture = white
        steps.append("alpha on white")
    return picture, tuple(steps)


def repeats(images: np.ndarray, thumbnails: np.ndarray, names: tuple[str, ...]) -> dict[int, str]:
    """A warning for every picture that repeats, or nearly repeats, an earlier one.

    `images` are uint8 [n 3 r r], `thumbnails` the same at 16x16 as uint8 of n * 768 values.
    """
    firsts: dict[bytes, int] = {}
    same = {
        n: first
        for n, image in enumerate(images)
        if (first := firsts.setdefault(hashlib.sha256(image.tobytes()).digest(), n)) != n
    }
    different = np.array(list(firsts.values()))
    near = _near_repeats(thumbnails.reshape(-1, 16, 16, 3)[different])
    cautions = {n: f"{REPEATED} {names[first]}" for n, first in same.items()}
    for n, first in near.items():
        cautions[int(different[n])] = f"nearly the {REPEATED} {names[different[first]]}"
    return cautions


def _near_repeats(thumbnails: np.ndarray) -> dict[int, int]:
    """For each picture whose mean absolute difference to an earlier one is below `NEAR_LEVELS`: the earliest such.

    `thumbnails` are uint8 [n 16 16 3]. The total, and the sums over quarters, cannot differ by more than the
    pixels do, so they rule out nearly all pairs without a loss.
    """
    n = len(thumbnails)
    pixels = thumbnails.reshape(n, -1).astype(np.int16)
    quarters = thumbnails.reshape(n, 2, 8, 2, 8, 3).sum((2, 4), dtype=np.int32).reshape(n, -1)
    total = quarters.sum(1)
    bound = NEAR_LEVELS * pixels.shape[1]
    order = np.argsort(total, kind="stable")
    ends = np.searchsorted(total[order], total[order] + bound)
    earliest: dict[int, int] = {}
    for place, end in enumerate(ends):
        one, others = order[place], order[place + 1 : end]
        others = others[np.abs(quarters[others] - quarters[one]).sum(1) < bound]
        others = others[np.abs(pixels[others] - pixels[one]).sum(1, dtype=np.int32) < bound]
        for other in others:
            first, later = sorted((int(one), int(other)))
            earliest[later] = min(first, earliest.get(later, first))
    return earliest


def _opened(stream: BinaryIO) -> Image.Image:
    """The picture with only its header read. Raises `Refused` for an empty or unknown content."""
    start = stream.read(12)
    if not start:
        raise Refused("empty file (0 bytes)")
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        if start[4:8] == b"ftyp":
            raise Refused(f"content is HEIC, AVIF or a film: save it as {READABLE}") from None
        if start[:4] in (b"II*\0", b"MM\0*"):
            raise Refused("TIFF of a kind that is not read: save it with 8 or 16 bits a channel, or as PNG") from None
        raise Refused(f"content is not {READABLE}, or damaged from the start") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refused(f"more pixels than the limit of {MAX_PIXELS // 1_000_000} million: save it smaller") from None


def _check_size(width: int, height: int) -> None:
    """Raises `Refused` when the header promises too many pixels or too few."""
    if width * height > MAX_PIXELS:
        raise Refused(f"{width}x{height} pixels: over the limit of {MAX_PIXELS // 1_000_000} million; save it smaller")
    if width == height == 1:
        raise Refused("1x1 pixels: nothing to learn from")
    if min(width, height) < MIN_SIDE:
        raise Refused(f"{width}x{height} pixels: the short side must have at least {MIN_SIDE}")


def _upright_first_frame(picture: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """The decoded first frame, turned as its EXIF orientation says."""
    steps = []
    if getattr(picture, "is_animated", False):
        steps.append("first of several frames")
    stored = _orientation(picture)
    picture.load()
    left = _orientation(picture)  # TIFF is turned by Pillow while it loads, and nothing is left to do
    picture = _full_range(picture)
    if left in _TURNS:
        picture = picture.transpose(_TURNS[left])
    if stored in _TURNS:
        steps.append("EXIF-rotated")
    return picture, tuple(steps)


def _full_range(picture: Image.Image) -> Image.Image:
    """A TIFF of 16-bit numbers whose zero means white turned over, which Pillow does for 8 bits alone, and one that
    uses 12 of the bits spread over all of them."""
    if not picture.mode.startswith("I;16"):
        return picture
    tags = getattr(picture, "tag_v2", {})
    is_white, is_twelve = tags.get(_PHOTOMETRIC) == 0, tags.get(_BITS) == (12,)
    if not (is_white or is_twelve):
        return picture
    values = np.asarray(picture).astype(np.uint16)
    values = values << 4 | values >> 8 if is_twelve else values
    changed = Image.fromarray(np.uint16(65535) - values if is_white else values)
    changed.info = picture.info
    return changed


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) when there is none or the EXIF block is damaged."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block is common in sound pictures, and breaks in many ways
        return 1
    return value if isinstance(value, int) else 1


def _centre_square(picture: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    width, height = picture.size
    side = min(width, height)
    if width == height:
        return picture, ()
    left, top = (width - side) // 2, (height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return square, (f"cropped {width}x{height} to {side}x{side}",)


def _plain(picture: Image.Image) -> tuple[str, ...]:
    """A warning if there is next to nothing to see on an RGB picture, such as a blank page or one far too dark."""
    spans = (high - low for low, high in cast(tuple[tuple[int, int], ...], picture.getextrema()))
    return () if max(spans) >= NEARLY_ONE_COLOUR else ("nearly one colour: is that meant?",)


def _resized(picture: Image.Image, resolution: int) -> tuple[Image.Image, tuple[str, ...], tuple[str, ...]]:
    """The square picture at `resolution`, the step taken, and a warning if detail had to be made up."""
    side = picture.width
    if side == resolution:
        return picture, (), ()
    fitted = picture.resize((resolution, resolution), Image.Resampling.LANCZOS)
    if side > resolution:
        return fitted, (f"resized {side} to {resolution}",), ()
    if 4 * side < resolution:
        caution = f"far too small: {side} px is less than a quarter of {resolution}; a blur will be learned"
    else:
        caution = f"small: {side} px enlarged to {resolution}, so its finest detail is missing"
    if resolution % side == 0:
        caution += f"; pixel art stays sharp if it is enlarged {resolution // side} times without smoothing first"
    return fitted, (f"enlarged {side} to {resolution}",), (caution,)


def _eight_bit_grey(picture: Image.Image) -> tuple[Image.Image, str]:
    """Grey of 16 or 32 bits, whole or floating, as 8 bits, and the step that says which range was taken.

    16-bit kinds always map 0..65535 to 0..255. The 32-bit kinds carry no range of their own: the smallest
    usual one that holds all values is taken (0..1 for floats, 0..255, 0..65535), else their own extremes.
    """
    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise Refused("holds infinite or undefined (NaN) grey values")
    usual = {"F": (1, 255, 65535), "I": (255, 65535)}.get(picture.mode, (65535,))
    top = next((top for top in usual if low >= 0 and high <= top), None)
    bottom, top = (0.0, float(top)) if top is not None else (low, high)
    shades = (values.astype(np.float32) - np.float32(bottom)) * np.float32(255 / ((top - bottom) or 1))
    grey = Image.fromarray(np.rint(shades).clip(0, 255).astype(np.uint8))
    key = picture.info.get("transparency")  # PNG: the one grey value that means transparent
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey, f"grey {bottom:g}..{top:g} scaled to 8 bits"


def _to_srgb(picture: Image.Image, profile: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """`picture` (L, RGB or CMYK) from its colour profile to sRGB; untouched when that cannot be done."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        described = ImageCms.getProfileDescription(source) or ""
        if "sRGB" in described and "linear" not in described.lower():  # GIMP has a linear one of nearly that name
            return picture, ()
        kinds = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
        if kinds.get(picture.mode) != getattr(source.profile, "xcolor_space", "").strip():
            return picture, ("colour profile of another kind ignored",)
        managed = ImageCms.profileToProfile(picture, source, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        return picture, ("colour profile unusable, ignored",)
    return managed or picture, ("colour profile to sRGB",)


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _first_line(fault: Exception) -> str:
    lines = str(fault).splitlines()
    return printable(lines[0]) if lines else type(fault).__name__
