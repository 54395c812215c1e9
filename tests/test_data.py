"""Image intake and the order of training images, against pixels and rules worked out by hand."""

import dataclasses
import hashlib
import io
import os
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageDraw, ImageFile
from rich.console import Console

from tenshot.data import ImageSet, batch_indices, intake_table, load_images
from tenshot.errors import TenshotError
from tenshot.images import ImageRecord
from tenshot.output import printable

ONE_COLOUR = "nearly one colour: is that meant?"


def noise(seed, width=16, height=16):
    shades = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(shades)


def flat(colour, size=(16, 16), mode="RGB"):
    return Image.new(mode, size, colour)


def encoded(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width, height):
    """A PNG that promises width x height pixels and brings none."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + ihdr + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def one(path, resolution=16):
    """The only picture at `path` as [h w 3], and its record."""
    image_set = load_images(path, resolution)
    assert len(image_set) == 1
    record = next(record for record in image_set.records if record.refused is None)
    return image_set.images[0].permute(1, 2, 0).numpy(), record


def saved(tmp_path, picture, name="a.png", **options):
    picture.save(tmp_path / name, **options)
    return tmp_path / name


def zip_with(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", encoded(noise(0)))
        for member, content in members:
            archive.writestr(member, content)
    return path


def refusals(image_set):
    return {record.name: record.refused for record in image_set.records if record.refused}


def warnings_of(image_set):
    return {record.name: record.warnings for record in image_set.records if record.warnings}


def shown(image_set, width=200):
    console = Console(file=io.StringIO(), width=width)
    console.print(intake_table(image_set))
    return console.file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """A folder with one good picture, so that a refused neighbour does not end the intake."""
    folder = tmp_path / "set"
    folder.mkdir()
    noise(0).save(folder / "good.png")
    return folder


def test_a_picture_of_the_right_size_arrives_pixel_for_pixel(tmp_path):
    picture = noise(1)
    pixels, record = one(saved(tmp_path, picture))
    assert np.array_equal(pixels, np.asarray(picture))
    assert (record.name, record.size, record.mode, record.steps) == ("a.png", (16, 16), "RGB", ())


def test_the_tensor_is_uint8_rgb_channels_first(folder):
    flat((1, 2, 3)).save(folder / "b.png")
    images = load_images(folder, 16).images
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 16, 16)
    assert [images[0, channel].unique().item() for channel in range(3)] == [1, 2, 3]


def test_a_wide_picture_is_cropped_to_its_middle(tmp_path):
    picture = flat("red", (32, 16))
    picture.paste("blue", (8, 0, 24, 16))
    pixels, record = one(saved(tmp_path, picture))
    assert (pixels == (0, 0, 255)).all()
    assert record.steps == ("cropped 32x16 to 16x16",)


def test_a_tall_picture_is_cropped_to_its_middle(tmp_path):
    picture = flat("red", (16, 33))
    picture.paste("blue", (0, 8, 16, 24))
    pixels, record = one(saved(tmp_path, picture))
    assert (pixels == (0, 0, 255)).all()
    assert record.steps == ("cropped 16x33 to 16x16",)


def test_a_large_picture_is_resized_with_lanczos_weights(tmp_path):
    row = np.zeros(32, np.float64)
    row[15] = 255
    pixels, record = one(saved(tmp_path, Image.fromarray(np.tile(row.astype(np.uint8), (32, 1)))))
    reach = (np.arange(32) + 0.5 - 15) / 2  # distance of each source pixel to the centre of output pixel 7
    weights = np.where(abs(reach) < 3, np.sinc(reach) * np.sinc(reach / 3), 0)
    assert pixels[8, 7, 0] == pytest.approx((weights * row).sum() / weights.sum(), abs=1)
    assert record.steps == ("resized 32 to 16",)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("LA", (0, 51), (204, 204, 204)),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),
        ("RGBA", (9, 8, 7, 255), (9, 8, 7)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("I;16", 300, (1, 1, 1)),
        ("I", 257 * 50, (50, 50, 50)),
        ("I", 200, (200, 200, 200)),
        ("F", 1.0, (255, 255, 255)),
        ("F", 0.2, (51, 51, 51)),
        ("F", 99.0, (99, 99, 99)),
    ],
)
def test_every_mode_becomes_the_colour_worked_out_by_hand(tmp_path, mode, colour, expected):
    pixels, record = one(saved(tmp_path, flat(colour, mode=mode), "a.tif"))
    assert np.abs(pixels.astype(int) - expected).max() <= (1 if mode in ("LA", "RGBA") else 0)
    assert record.mode == mode
    assert ("alpha on white" in record.steps) == (mode == "LA" or colour == (255, 0, 0, 51))


def test_wide_grey_without_a_usual_range_is_stretched_between_its_extremes(tmp_path):
    values = np.full((16, 16), -100, np.int32)
    values[:, 8:] = 900
    values[:, 15] = 400
    pixels, record = one(saved(tmp_path, Image.fromarray(values), "a.tif"))
    assert pixels[0, :, 0].tolist() == [0] * 8 + [255] * 7 + [128]
    assert record.steps == ("grey -100..900 scaled to 8 bits",)


def test_a_16_bit_png_is_scaled_by_its_full_range_and_not_by_its_content(tmp_path):
    values = np.full((16, 16), 257 * 10, np.uint16)
    values[8:] = 257 * 20
    pixels, record = one(saved(tmp_path, Image.fromarray(values)))
    assert pixels[:, 0, 0].tolist() == [10] * 8 + [20] * 8
    assert record.steps == ("grey 0..65535 scaled to 8 bits",)


@pytest.mark.parametrize("zero", [0, 1])
def test_a_16_bit_tiff_whose_zero_is_white_is_no_negative(tmp_path, zero):
    values = np.full((16, 16), 257 * 10, np.uint16)
    values[8:] = 257 * 20
    pixels, _ = one(saved(tmp_path, Image.fromarray(values), "a.tif", tiffinfo={262: zero}))
    assert pixels[:, 0, 0].tolist() == ([10] * 8 + [20] * 8 if zero else [245] * 8 + [235] * 8)


def test_a_tiff_of_another_kind_is_told_what_to_save_instead(folder):
    (folder / "floats.tif").write_bytes(b"II*\0" + bytes(60))
    assert (
        "TIFF of a kind that is not read: save it with 8 or 16 bits" in refusals(load_images(folder, 16))["floats.tif"]
    )


def test_grey_with_undefined_values_is_refused(folder):
    Image.fromarray(np.full((16, 16), np.nan, np.float32)).save(folder / "nan.tif")
    assert "NaN" in refusals(load_images(folder, 16))["nan.tif"]


def test_a_palette_colour_marked_transparent_becomes_white(tmp_path):
    picture = Image.new("P", (16, 16), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (8, 0, 16, 16))
    opaque, record = one(saved(tmp_path, picture, "opaque.png"))
    assert (opaque[:, :8] == (255, 0, 0)).all()
    assert record.mode == "P"
    clear, record = one(saved(tmp_path, picture, "clear.png", transparency=0))
    assert (clear[:, :8] == 255).all()
    assert (clear[:, 8:] == (0, 0, 255)).all()
    assert record.steps == ("alpha on white",)


def test_the_grey_a_16_bit_png_marks_transparent_becomes_white(tmp_path):
    values = np.full((16, 16), 257 * 10, np.uint16)
    values[:, 8:] = 257 * 20
    pixels, _ = one(saved(tmp_path, Image.fromarray(values), transparency=257 * 10))
    assert pixels[0, :, 0].tolist() == [255] * 8 + [20] * 8


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize(("orientation", "turns"), [(6, -1), (3, 2), (8, 1)])
def test_a_picture_is_turned_upright_by_its_exif_tag(tmp_path, name, orientation, turns):
    picture = flat("black")
    picture.paste("white", (0, 0, 8, 8))  # top left as stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if name == "a.jpg" else {"lossless": True} if name == "a.webp" else {}
    pixels, record = one(saved(tmp_path, picture, name, exif=exif, **options))
    expected = np.rot90(np.asarray(picture), turns)
    assert np.abs(pixels.astype(int) - expected).max() < 10
    assert record.steps == ("EXIF-rotated",)


def test_a_damaged_exif_block_does_not_cost_the_picture(tmp_path):
    path = saved(tmp_path, flat("red"), exif=b"Exif\0\0no TIFF header")
    pixels, record = one(path)
    assert (pixels == (255, 0, 0)).all()
    assert record.steps == ()


def test_of_an_animation_the_first_frame_is_taken_and_told(tmp_path):
    first, second = flat("red"), flat("blue")
    pixels, record = one(saved(tmp_path, first, "a.gif", save_all=True, append_images=[second]))
    assert (pixels == (255, 0, 0)).all()
    assert record.steps == ("first of several frames",)


def test_an_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels, record = one(saved(tmp_path, flat((10, 20, 30)), icc_profile=profile))
    assert (pixels == (10, 20, 30)).all()
    assert record.steps == ()


def test_another_profile_is_converted_to_srgb(tmp_path):
    """Exchanging the red and green columns of sRGB makes a profile in which red means green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile = profile.replace(b"s\0R\0G\0B", b"m\0i\0n\0e")
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    pixels, record = one(saved(tmp_path, flat((200, 0, 0)), icc_profile=bytes(profile)))
    assert np.abs(pixels.astype(int) - (0, 200, 0)).max() <= 2
    assert record.steps == ("colour profile to sRGB",)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_profile_that_does_not_fit_is_ignored_and_told(tmp_path, mode):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    pixels, record = one(saved(tmp_path, flat(0, mode=mode), icc_profile=profile))
    assert (pixels == 0).all()
    assert record.steps == ("colour profile of another kind ignored",)
    _, record = one(saved(tmp_path, flat(0, mode=mode), icc_profile=b"no profile at all"))
    assert record.steps == ("colour profile unusable, ignored",)


def test_a_folder_is_searched_to_the_bottom_and_sorted_by_name(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("z.png", "sub/b.jpg", "a.PNG"):
        noise(len(name)).save(tmp_path / name)
    assert load_images(tmp_path, 16).names == ("a.PNG", "sub/b.jpg", "z.png")


def test_hidden_and_other_files_are_passed_over_in_silence(folder):
    (folder / ".git").mkdir()
    (folder / "__MACOSX").mkdir()
    for name in ("LICENSE", "notes.txt", "README.md", ".hidden.png", ".git/x.png", "__MACOSX/y.png"):
        (folder / name).write_text("not a picture")
    assert [record.name for record in load_images(folder, 16).records] == ["good.png"]


def test_hidden_files_in_a_zip_are_passed_over_in_silence(tmp_path):
    hidden = [(name, encoded(noise(1))) for name in ("__MACOSX/._good.png", ".git/x.png", "sub/.y.png")]
    image_set = load_images(zip_with(tmp_path / "a.zip", hidden), 16)
    assert [record.name for record in image_set.records] == ["good.png"]


def test_folder_zip_folder_in_zip_and_archive_with_backslashes_give_the_same_set(tmp_path):
    (tmp_path / "set").mkdir()
    archives = {name: zipfile.ZipFile(tmp_path / name, "w") for name in ("flat.zip", "deep.ZIP", "windows.zip")}
    for name in ("b.png", "a.png"):
        content = encoded(noise(ord(name[0])))
        (tmp_path / "set" / name).write_bytes(content)
        archives["flat.zip"].writestr(name, content)
        archives["deep.ZIP"].writestr(f"x/y/{name}", content)
        archives["windows.zip"].writestr(f"x\\y\\{name}", content)
    archives["deep.ZIP"].writestr("x/c.png", encoded(noise(9)))
    for archive in archives.values():
        archive.close()
    sets = [load_images(tmp_path / path, 16) for path in ("set", "flat.zip", "deep.ZIP/x/y", "windows.zip/x/y")]
    assert {image_set.names for image_set in sets} == {("a.png", "b.png")}
    assert len({image_set.digest for image_set in sets}) == 1
    assert len(load_images(tmp_path / "deep.ZIP", 16)) == 3


def test_one_file_in_a_zip_can_be_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/a.png", encoded(flat("red")))
        archive.writestr("x/b.png", encoded(flat("blue")))
    assert load_images(tmp_path / "a.zip/x/b.png", 16).names == ("b.png",)


def test_the_digest_is_the_hash_of_shape_and_pixels(folder):
    image_set = load_images(folder, 16)
    expected = hashlib.sha256(b"1,3,16,16" + np.asarray(noise(0)).transpose(2, 0, 1).tobytes())
    assert image_set.digest == expected.hexdigest()


def test_the_digest_ignores_names_and_sees_one_pixel(folder):
    before = load_images(folder, 16).digest
    os.rename(folder / "good.png", folder / "renamed.png")
    assert load_images(folder, 16).digest == before
    picture = noise(0)
    picture.putpixel((3, 3), (1, 2, 3))
    picture.save(folder / "renamed.png")
    assert load_images(folder, 16).digest != before


def test_image_set_and_record_cannot_be_changed(folder):
    image_set = load_images(folder, 16)
    with pytest.raises(dataclasses.FrozenInstanceError):
        image_set.names = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        image_set.records[0].name = "other"


def test_a_limit_takes_the_first_usable_ones_and_tells_the_rest(folder):
    (folder / "a.png").write_text("text")
    for name in ("b.png", "c.png", "x.png", "y.png"):
        noise(ord(name[0])).save(folder / name)
    image_set = load_images(folder, 16, limit=2)
    assert image_set.names == ("b.png", "c.png")
    unused = [record.name for record in image_set.records if record.steps and "unused" in record.steps[0]]
    assert unused == ["good.png", "x.png", "y.png"]
    assert "2 used, 1 refused, 3 unused" in shown(image_set)


def test_a_limit_above_the_number_of_images_takes_all(folder):
    assert len(load_images(folder, 16, limit=10)) == 1


def test_a_copy_is_told_with_the_name_of_the_first(folder):
    noise(0).save(folder / "h.bmp")
    noise(0).save(folder / "i.webp", lossless=True)
    expected = ("same picture as good.png",)
    assert warnings_of(load_images(folder, 16)) == {"h.bmp": expected, "i.webp": expected}


@pytest.mark.parametrize(("rows", "is_near"), [(15, True), (16, False)])
def test_nearly_the_same_means_less_than_one_level_apart_on_average(tmp_path, rows, is_near):
    shades = np.random.default_rng(5).integers(10, 240, (16, 16, 3))
    signs = np.where(np.indices((16, 16, 3)).sum(0) % 2, 1, -1)  # lighter and darker in turn: same mean
    Image.fromarray(shades.astype(np.uint8)).save(tmp_path / "a.png")
    signs[rows:] = 0
    Image.fromarray((shades + signs).astype(np.uint8)).save(tmp_path / "b.png")
    expected = {"b.png": ("nearly the same picture as a.png",)} if is_near else {}
    assert warnings_of(load_images(tmp_path, 16)) == expected


def test_near_copies_are_those_of_comparing_every_pair(tmp_path):
    rng = np.random.default_rng(3)
    bases = rng.integers(20, 230, (4, 16, 16, 3))
    pictures = [bases[n % 4] + rng.integers(-(n // 8), n // 8 + 1, (16, 16, 3)) for n in range(32)]
    for n, picture in enumerate(pictures):
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / f"{n:02}.png")
    expected = {}
    for n, picture in enumerate(pictures):
        near = [m for m in range(n) if np.abs(picture - pictures[m]).mean() < 1 and (picture != pictures[m]).any()]
        if near:
            expected[f"{n:02}.png"] = (f"nearly the same picture as {near[0]:02}.png",)
    found = warnings_of(load_images(tmp_path, 16))
    assert len(expected) > 3
    assert {name: told for name, told in found.items() if told[0].startswith("nearly")} == expected


@pytest.mark.parametrize(
    ("side", "warning", "step"),
    [
        (64, None, None),
        (63, "small: 63 px", "enlarged 63 to 64"),
        (16, "small: 16 px", "enlarged 16 to 64"),
        (15, "far too small: 15 px", "enlarged 15 to 64"),
    ],
)
def test_a_picture_below_the_resolution_is_enlarged_with_a_warning(tmp_path, side, warning, step):
    pixels, record = one(saved(tmp_path, flat("red", (side, side))), 64)
    assert (pixels == (255, 0, 0)).all()
    assert record.steps == ((step,) if step else ())
    told = [text.split(" enlarged")[0].split(" is less")[0] for text in record.warnings if text != ONE_COLOUR]
    assert told == [warning] * bool(step)
    assert any("enlarged 4 times without smoothing" in text for text in record.warnings) is (side == 16)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.png", b"this is a text file", "content is not PNG"),
        ("empty.jpg", b"", "empty file"),
        ("cut.jpg", encoded(noise(1, 64, 64), "JPEG")[:-900], "truncated"),
        ("cut.png", encoded(noise(1, 64, 64))[:900], "truncated"),
        ("dot.png", encoded(flat("red", (1, 1))), "1x1 pixels: nothing to learn from"),
        ("thin.png", encoded(flat("red", (99, 7))), "99x7 pixels: the short side must have at least 8"),
        ("photo.heic", b"anything", "HEIC is not read"),
        ("phone.jpg", b"\0\0\0\x18ftypheic", "HEIC, AVIF or a film"),
        ("ppm.png", encoded(noise(1), "PPM"), "content is not PNG"),
        ("more.zip", b"anything", "an archive inside"),
        ("wide.png", png_header(9000, 9000), "9000x9000 pixels: over the limit of 80 million"),
        ("bomb.png", png_header(10_000, 10_000), "limit of 80 million"),
        ("huge.png", png_header(60_000, 60_000), "limit of 80 million"),
    ],
)
@pytest.mark.parametrize("inside_zip", [False, True])
def test_a_bad_file_is_refused_with_its_reason_and_the_others_go_on(folder, name, content, reason, inside_zip):
    (folder / name).write_bytes(content)
    path = folder
    if inside_zip:
        path = folder.parent / "set.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, file.name)
    image_set = load_images(path, 16)
    assert image_set.names == ("good.png",)
    assert list(refusals(image_set)) == [name]
    assert reason in refusals(image_set)[name]


def test_a_refused_picture_still_tells_its_size_and_mode(folder):
    flat(0, (1, 1), "L").save(folder / "dot.png")
    record = load_images(folder, 16).records[0]
    assert (record.name, record.size, record.mode) == ("dot.png", (1, 1), "L")


def test_eight_pixels_are_enough(tmp_path):
    assert one(saved(tmp_path, flat("red", (8, 40))))[1].refused is None


def test_pillow_is_left_as_it_was(folder):
    def switches():
        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:]

    (folder / "bomb.png").write_bytes(png_header(10_000, 10_000))
    before = switches()
    load_images(folder, 16)
    assert switches() == before


def test_a_lower_pixel_limit_of_pillow_is_honoured(folder, monkeypatch):
    flat("red", (18, 18)).save(folder / "warned.png")
    flat("red", (40, 40)).save(folder / "barred.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    reasons = refusals(load_images(folder, 16))
    assert sorted(reasons) == ["barred.png", "warned.png"]
    assert all("more pixels than" in reason for reason in reasons.values())


def test_links_within_the_folder_are_followed_and_links_out_of_it_are_refused(folder):
    noise(7).save(folder.parent / "secret.png")
    (folder / "inside.png").symlink_to(folder / "good.png")
    (folder / "outside.png").symlink_to(folder.parent / "secret.png")
    (folder / "nothing.png").symlink_to(folder / "gone.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "up").symlink_to(folder.parent)
    image_set = load_images(folder, 16)
    assert image_set.names == ("good.png", "inside.png")
    reasons = refusals(image_set)
    assert sorted(reasons) == ["loop.png", "nothing.png", "outside.png", "up"]
    assert "a link out of the folder" in reasons["outside.png"]
    assert "a link to nothing" in reasons["nothing.png"]
    assert "a link to a folder" in reasons["up"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_called_png_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "pipe.png")
    assert refusals(load_images(folder, 16)) == {"pipe.png": "not an ordinary file"}


@pytest.mark.parametrize("name", ["../up.png", "/root.png", "C:/disk.png", "..\\up.png", "sub/../../up.png"])
def test_a_zip_member_that_leads_outside_is_refused(tmp_path, name):
    reasons = refusals(load_images(zip_with(tmp_path / "a.zip", [(name, encoded(noise(1)))]), 16))
    assert list(reasons.values()) == ["its name leads out of the zip"]


def test_a_link_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    reasons = refusals(load_images(zip_with(tmp_path / "a.zip", [(link, "good.png")]), 16))
    assert reasons == {"link.png": "a link, not a file"}


def test_zip_members_that_unpack_to_too_much_are_refused_unread(tmp_path, monkeypatch):
    bomb = bytes(9 * 2**20)
    path = zip_with(tmp_path / "a.zip", [("bomb.png", bomb)])
    assert "zip bomb" in refusals(load_images(path, 16))["bomb.png"]
    monkeypatch.setattr("tenshot.data.MAX_MEMBER_BYTES", 2**20)
    assert "over 1 MiB" in refusals(load_images(path, 16))["bomb.png"]


def test_a_flat_picture_that_packs_well_is_no_bomb(tmp_path):
    path = zip_with(tmp_path / "a.zip", [("white.bmp", encoded(flat("white", (512, 512)), "BMP"))])
    assert len(load_images(path, 16)) == 2


def test_an_encrypted_member_and_rare_packing_are_refused(tmp_path):
    path = zip_with(tmp_path / "a.zip", [("locked.png", encoded(noise(1)))])
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("rare.png", encoded(noise(2)))
    reasons = refusals(load_images(path, 16))
    assert reasons["locked.png"] == "encrypted: unpack the zip with its password first"
    assert "packed in a rare way" in reasons["rare.png"]


def test_a_member_with_altered_bytes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:  # stored, not deflated
        archive.writestr("good.png", encoded(noise(0)))
        archive.writestr("hurt.bmp", encoded(flat("red"), "BMP"))
    content = (tmp_path / "a.zip").read_bytes()
    start = content.index(b"hurt.bmp")
    (tmp_path / "a.zip").write_bytes(content[: start + 300] + b"x" + content[start + 301 :])
    assert "CRC" in refusals(load_images(tmp_path / "a.zip", 16))["hurt.bmp"]


def test_a_member_that_holds_more_than_it_declares_is_refused(tmp_path):
    path = zip_with(tmp_path / "a.zip", [("liar.bmp", encoded(noise(1), "BMP"))])
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.rindex(b"PK\x01\x02") + 24, 100)  # its unpacked size
    path.write_bytes(content)
    assert "cannot be unpacked" in refusals(load_images(path, 16))["liar.bmp"]


@pytest.mark.parametrize("name", ["gone", "gone.zip", "gone.zip/train", "gone.png"])
def test_a_missing_path_is_told(tmp_path, name):
    with pytest.raises(TenshotError, match=rf"{name} does not exist: check the spelling"):
        load_images(tmp_path / name, 16)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(TenshotError, match=r"is empty: put PNG"):
        load_images(tmp_path, 16)


def test_a_folder_of_other_files_tells_how_many(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.md").write_text("")
    with pytest.raises(TenshotError, match=r"holds 2 other files and no images"):
        load_images(tmp_path, 16)


def test_a_path_of_another_kind_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(TenshotError, match=r"a\.txt is no folder, zip or image"):
        load_images(tmp_path / "a.txt", 16)


def test_a_damaged_zip_is_told(tmp_path):
    whole = zip_with(tmp_path / "a.zip", []).read_bytes()
    for content in (b"", b"words", whole[:-30]):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(TenshotError, match=r"a\.zip is no sound zip .*make it again"):
            load_images(tmp_path / "a.zip", 16)


def test_a_missing_folder_in_a_zip_tells_what_is_there(tmp_path):
    path = zip_with(tmp_path / "a.zip", [("train/x.png", b"")])
    with pytest.raises(TenshotError, match=r"a\.zip holds no test; at its top: good\.png, train"):
        load_images(path / "test", 16)


def test_when_nothing_is_usable_the_error_counts_and_gives_the_first_reasons(tmp_path):
    for name in "abcde":
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(TenshotError) as caught:
        load_images(tmp_path, 16)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}: looked at 5 files, none usable (a.png: empty file (0 bytes); b.png:")
    assert text.endswith(
        "; and 2 more); give PNG, JPEG, WebP, BMP, TIFF or GIF with at least 8 pixels on the short side"
    )


@pytest.mark.parametrize(("arguments", "match"), [((0,), "resolution is 0"), ((16, 0), "limit is 0")])
def test_impossible_numbers_are_told(folder, arguments, match):
    resolution, limit = (*arguments, None)[:2]
    with pytest.raises(TenshotError, match=match):
        load_images(folder, resolution, limit=limit)


def test_the_table_tells_steps_refusals_and_warnings(folder):
    flat("red", (20, 12)).save(folder / "a.png")
    (folder / "b.png").write_text("text")
    text = shown(load_images(folder, 16))
    assert "2 used, 1 refused, 1 with a warning" in text
    assert "cropped 20x12 to 12x12, enlarged 12 to 16" in text
    assert "content is not PNG" in text
    assert "small: 12 px" in text


def test_hostile_file_names_are_shown_as_plain_text():
    evil = "[red]x[/red]\x1b[2J\x07\n\u202egnp.\udcff.png"
    record = ImageRecord(evil, (16, 16), "RGB", warnings=(f"same picture as {evil}",))
    text = shown(ImageSet(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), (evil,), (record,), "0" * 64))
    plain = r"[red]x[/red]\x1b[2J\x07\n\u202egnp.\udcff.png"
    assert plain in text
    assert f"same picture as {plain}" in text
    assert not set("\x1b\x07\u202e\udcff") & set(text)


def test_names_are_made_printable_on_the_way_in(tmp_path):
    noise(1).save(tmp_path / "\x1b[31mü.png")
    assert load_images(tmp_path, 16).names == (r"\x1b[31mü.png",)
    assert printable(r"\x1b[31mü.png") == r"\x1b[31mü.png"


def test_a_long_set_with_one_story_takes_one_row():
    records = tuple(ImageRecord(f"{n:03}.png", (32, 32), "RGB", ("resized 32 to 16",)) for n in range(60))
    names = tuple(record.name for record in records)
    image_set = ImageSet(torch.zeros(60, 3, 16, 16, dtype=torch.uint8), names, records, "0" * 64)
    assert intake_table(image_set).row_count == 1
    assert "000.png to 059.png (60 files)" in shown(image_set)
    few = dataclasses.replace(image_set, records=records[:50], names=names[:50])
    assert intake_table(few).row_count == 50


@pytest.mark.parametrize(("n_images", "batch"), [(1, 4), (3, 8), (10, 4), (10, 10), (7, 1)])
def test_every_epoch_holds_every_image_once(n_images, batch):
    row = [index for step in range(3 * n_images) for index in batch_indices(n_images, batch, step, seed=5)]
    assert len(row) == 3 * n_images * batch
    for start in range(0, len(row), n_images):
        assert sorted(row[start : start + n_images]) == list(range(n_images))


def test_a_step_depends_on_nothing_but_its_arguments():
    alone = batch_indices(10, 4, 123, seed=7)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert [batch_indices(10, 4, step, seed=7) for step in range(124)][-1] == alone
    assert torch.equal(torch.get_rng_state(), before)


def test_the_order_is_the_one_the_docstring_promises():
    """Worked out apart, so that a change of the order, which would break resuming, is seen."""
    row = []
    for epoch in range(3):
        seed = int.from_bytes(hashlib.sha256(f"11,{epoch}".encode()).digest()[:4], "big")
        row += torch.randperm(6, generator=torch.Generator().manual_seed(seed)).tolist()
    assert [batch_indices(6, 4, step, seed=11) for step in range(4)] == [row[at : at + 4] for at in (0, 4, 8, 12)]


def test_epochs_and_seeds_are_shuffled_differently():
    orders = [tuple(batch_indices(20, 20, step, seed)) for step in range(3) for seed in range(3)]
    assert len(set(orders)) == 9


@pytest.mark.parametrize("arguments", [(0, 4, 0), (4, 0, 0), (4, 4, -1)])
def test_impossible_batches_are_a_value_error(arguments):
    with pytest.raises(ValueError, match="must be at least 1"):
        batch_indices(*arguments, seed=0)


def test_a_linear_profile_that_calls_itself_srgb_is_converted(tmp_path):
    """GIMP's is called so. With a gamma of 1, 55 of 255 is the light that sRGB writes as 128."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    name, linear = ("sRGB built-in".encode("utf-16-be"), "sRGB linear  ".encode("utf-16-be"))
    at = profile.index(b"para")
    curve = profile[at : at + 16]
    assert name in profile and curve[8:10] == b"\0\3"
    profile = profile.replace(name, linear).replace(curve, b"para" + bytes(8) + b"\0\1\0\0")
    pixels, record = one(saved(tmp_path, flat((55, 55, 55)), icc_profile=profile))
    assert np.abs(pixels.astype(int) - 128).max() <= 1 and record.steps == ("colour profile to sRGB",)


@pytest.mark.parametrize(
    ("values", "is_told"),
    [
        (np.full((64, 64), 255, np.uint8), True),
        (np.full((64, 64, 3), (200, 30, 90), np.uint8), True),
        (np.tile(np.arange(64, dtype=np.uint16) * 65, (64, 1)), True),  # 12 bits: 0 to 4095 of 65535
        (np.tile(np.arange(64, dtype=np.uint16) * 1040, (64, 1)), False),
        (np.tile(np.arange(64, dtype=np.uint8) % 20 + 230, (64, 1)), True),  # spans 19
        (np.tile(np.arange(64, dtype=np.uint8) % 21 + 230, (64, 1)), False),  # spans 20
    ],
    ids=["blank", "coloured", "12 bits as 16", "16 bits", "19 levels", "20 levels"],
)
def test_a_picture_of_nearly_one_colour_is_used_with_a_warning(folder, values, is_told):
    Image.fromarray(values).save(folder / "a.tif")
    image_set = load_images(folder, 16)
    assert len(image_set) == 2 and "good.png" not in warnings_of(image_set)
    assert warnings_of(image_set).get("a.tif", ()) == ((ONE_COLOUR,) if is_told else ())
    assert (ONE_COLOUR in shown(image_set)) == is_told


def test_one_thin_faint_line_on_white_is_no_picture_of_one_colour(tmp_path):
    page = Image.new("L", (1000, 1000), 255)
    ImageDraw.Draw(page).line((200, 200, 700, 600), fill=205, width=2)
    _, record = one(saved(tmp_path, page), 64)
    assert record.warnings == ()


def test_twelve_bits_of_a_tiff_are_the_whole_range_also_where_it_is_turned(tmp_path):
    side = 16
    data = np.array([[0xFF, 0xFF, 0xFF]] * (side * side // 4) + [[0x80, 0x08, 0x00]] * (side * side // 4), np.uint8)
    tags = [(256, side), (257, side), (258, 12), (259, 1), (262, 1), (273, 8), (274, 3), (277, 1), (278, side)]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in [*tags, (279, data.nbytes)])
    head = struct.pack("<2sHI", b"II", 42, 8 + data.nbytes)
    (tmp_path / "a.tif").write_bytes(head + data.tobytes() + struct.pack("<H", len(tags) + 1) + entries + bytes(4))
    pixels, record = one(tmp_path / "a.tif")
    assert (pixels[8:] == 255).all() and (pixels[:8] == 128).all() and "EXIF-rotated" in record.steps
