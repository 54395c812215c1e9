"""Pictures of any mode, size, container and orientation arrive as arithmetic on their pixels says they must."""

import io
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from tenshot import adapt
from tenshot.data import load_images
from tenshot.images import MIN_SIDE, prepare

CONTAINERS = {
    "1": ("PNG", "TIFF", "BMP"),
    "L": ("PNG", "TIFF", "BMP", "GIF"),
    "P": ("PNG", "GIF", "BMP", "TIFF"),
    "RGB": ("PNG", "TIFF", "BMP", "WEBP"),
    "LA": ("PNG", "TIFF"),
    "RGBA": ("PNG", "TIFF", "WEBP"),
    "CMYK": ("TIFF",),
    "I;16": ("PNG", "TIFF"),
    "I": ("TIFF",),
    "F": ("TIFF",),
}
TURNED = {  # EXIF orientation -> stored pixels to upright ones
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: np.rot90,
}
cases = [(mode, kind) for mode, kinds in CONTAINERS.items() for kind in kinds]
sides = st.integers(MIN_SIDE, 24)


def drawn(mode, width, height, seed):
    """A random picture of a mode, and what each pixel is in sRGB, float `[h w 3]`, by the mode's definition."""
    rng = np.random.default_rng(seed)

    def levels(channels=1, top=256, kind=np.uint8):
        return rng.integers(0, top, (height, width, channels), dtype=kind)

    def grey(values):
        return np.repeat(values.reshape(height, width, 1).astype(float), 3, axis=2)

    if mode == "1":
        values = levels(top=2).astype(bool)[..., 0]
        return Image.fromarray(values), grey(values * 255.0)
    if mode == "P":
        palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
        values = levels()[..., 0]
        picture = Image.new("P", (width, height))
        picture.putpalette(palette.tobytes())
        picture.putdata(values.ravel().tolist())
        return picture, palette[values].astype(float)
    if mode == "CMYK":
        values = levels(4)
        inks = values.astype(float)
        return Image.fromarray(values, "CMYK"), (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    if mode in ("LA", "RGBA"):
        values = levels(len(mode))
        colour, alpha = values[..., :-1].astype(float), values[..., -1:] / 255.0
        return Image.fromarray(values, mode), np.broadcast_to(colour * alpha + 255 * (1 - alpha), (height, width, 3))
    if mode == "I;16":
        values = levels(top=65536, kind=np.uint16)[..., 0]
        return Image.fromarray(values), grey(values / 257.0)
    if mode in ("I", "F"):
        top = rng.choice([1, 255, 65535] if mode == "F" else [255, 65535])
        values = rng.uniform(0, top, (height, width)).astype(np.float32) if mode == "F" else None
        values = rng.integers(0, top + 1, (height, width), dtype=np.int32) if values is None else values
        values.flat[0] = top  # else a smaller range might hold them all
        return Image.fromarray(values), grey(values * (255.0 / top))
    values = levels(len(mode))
    return Image.fromarray(values.squeeze()), np.broadcast_to(values, (height, width, 3)).astype(float)


def stored(picture, kind, orientation=1):
    stream, options = io.BytesIO(), {"lossless": True, "exact": True} if kind == "WEBP" else {}
    if orientation != 1:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options["exif"] = exif
    picture.save(stream, kind, **options)
    stream.seek(0)
    return stream


def middle(pixels):
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


@pytest.mark.parametrize(("mode", "kind"), cases)
@settings(max_examples=12, deadline=None)
@given(width=sides, height=sides, seed=st.integers(0, 2**20))
def test_every_pixel_is_what_its_modes_definition_says(mode, kind, width, height, seed):
    picture, colours = drawn(mode, width, height, seed)
    side = min(width, height)
    found, record = prepare(stored(picture, kind), "a", side)
    assert found is not None, record.refused
    assert found.mode == "RGB" and found.size == (side, side) and record.size == (width, height)
    assert np.abs(np.asarray(found) - middle(colours)).max() <= (1.01 if mode in ("LA", "RGBA", "CMYK") else 0.51)
    assert any(step.startswith("cropped") for step in record.steps) == (width != height)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.sampled_from(sorted(TURNED)), st.sampled_from(["PNG", "TIFF", "WEBP"]), st.integers(0, 2**20))
def test_a_picture_is_upright_before_it_is_cropped(width, height, orientation, kind, seed):
    picture, colours = drawn("RGB", width, height, seed)
    found, _ = prepare(stored(picture, kind, orientation), "a", min(width, height))
    assert np.array_equal(np.asarray(found), middle(TURNED[orientation](colours)))


def lanczos(pixels, size):
    """Rows of `[w c]`... resampled along the second axis with a window of three lobes, rounded and cut to 8 bits."""
    count = pixels.shape[1]
    scale = count / size
    stretch = max(1.0, scale)
    result = np.empty((pixels.shape[0], size, pixels.shape[2]))
    for out in range(size):
        centre = (out + 0.5) * scale
        reach = (np.arange(count) + 0.5 - centre) / stretch
        weights = np.where(np.abs(reach) < 3, np.sinc(reach) * np.sinc(reach / 3), 0.0)
        result[:, out] = np.tensordot(pixels, weights / weights.sum(), axes=(1, 0))
    return result.round().clip(0, 255)


@settings(max_examples=40, deadline=None)
@given(st.integers(MIN_SIDE, 40), st.integers(4, 40), st.integers(0, 2**20))
def test_a_picture_of_any_size_is_resampled_with_lanczos_weights_along_rows_then_columns(side, resolution, seed):
    assume(side != resolution)
    picture, colours = drawn("RGB", side, side, seed)
    found, record = prepare(stored(picture, "PNG"), "a", resolution)
    slow = lanczos(lanczos(colours, resolution).swapaxes(0, 1), resolution).swapaxes(0, 1)
    assert np.abs(np.asarray(found) - slow).max() <= 1
    assert record.steps == (f"{'resized' if side > resolution else 'enlarged'} {side} to {resolution}",)
    assert bool(record.warnings) == (side < resolution)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.sampled_from(["PNG", "GIF", "TIFF"]))
def test_what_is_too_small_is_refused_and_nothing_else(width, height, kind):
    assume(width and height)
    picture, _ = drawn("RGB", width, height, 0)
    found, record = prepare(stored(picture.quantize() if kind == "GIF" else picture, kind), "a", 16)
    assert (found is None) == (min(width, height) < MIN_SIDE) == (record.refused is not None)


def broken(content, rng):
    """Cut off, altered, blanked or lengthened somewhere."""
    content, at = bytearray(content), rng.randrange(len(content))
    how = rng.randrange(4)
    if how == 0:
        return bytes(content[:at])
    if how == 1:
        for _ in range(rng.randint(1, 20)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == 2:
        content[at : at + rng.randint(1, 200)] = bytes(rng.randint(0, 200))
    else:
        content[at:at] = rng.randbytes(rng.randint(1, 50))
    return bytes(content)


@pytest.fixture(scope="module")
def good():
    """One picture in every container, JPEG included, 40 by 30 pixels."""
    picture = drawn("RGB", 40, 30, 1)[0]
    kinds = {kind: picture for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")} | {"GIF": picture.quantize()}
    return {kind: stored(image, kind).getvalue() for kind, image in kinds.items()}


def spoiled(kind, good, rng):
    """A good picture's content made bad in one of nine ways: four of `broken`, five that leave another file's."""
    content, other = good[kind], good[rng.choice([name for name in sorted(good) if name != kind])]
    how = rng.randrange(9)
    if how < 4:
        return broken(content, rng)
    return (
        b"",
        content[: rng.randint(1, 16)],  # no more than the mark of its format
        other[:16] + content[16:],  # the header of another format
        bytes(len(content)),  # what some file systems leave after a power cut
        rng.choice([b"PK\3\4", b"\x80\2}q\0.", b"<svg></svg>", b"\xff\xd8", b"GIF89a"]) + rng.randbytes(30),
    )[how - 4]


def test_of_200_broken_pictures_none_ends_a_run_with_ten_good_ones(tmp_path, good, tiny_source):
    rng = random.Random(5)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(200):
        kind, name = rng.choice(sorted(good)), rng.choice(sorted(good))  # a name that need not be its own
        (pictures / f"broken-{i:03d}.{name.lower()}").write_bytes(spoiled(kind, good, rng))
    kinds = [*good, "PNG", "JPEG", "WEBP", "PNG"]
    for i, kind in enumerate(kinds):
        (pictures / f"good-{i}.{kind.lower()}").write_bytes(good[kind])
    found = load_images(pictures, 16)
    assert len(found.records) == 210 and {f"good-{i}.{kind.lower()}" for i, kind in enumerate(kinds)} <= set(
        found.names
    )
    refused = [record for record in found.records if record.refused]
    assert len(refused) + len(found) == 210 and len(refused) >= 120
    assert all(record.refused.strip() and "Traceback" not in record.refused for record in refused)
    assert adapt(pictures, source=tiny_source, method="finetune", steps=1, batch=2).resolution == 16


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"]),
    seed=st.integers(0, 2**32),
    raw=st.binary(max_size=80),
)
def test_whatever_a_file_holds_there_is_a_picture_or_a_reason(good, kind, seed, raw):
    content = raw if seed % 4 == 0 else broken(good[kind], random.Random(seed))
    found, record = prepare(io.BytesIO(content), "a", 16)
    assert (found is None) == (record.refused is not None)
    if found is not None:
        assert found.mode == "RGB" and found.size == (16, 16)
