"""Walks as files: every format read back by another hand, whole or not at all; and the verb around them."""

import errno
import os
import weakref
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from tenshot import files, video
from tenshot.__main__ import main
from tenshot.errors import TenshotError
from tenshot.models import load_model, save_model
from tenshot.sampling import generate_images
from tenshot.video import check_strip, check_video, write_strip, write_video
from tenshot.walk import Walk, panels, resized

MOVING = [".mp4", ".gif", ".webp"]


def clip(count=7, width=48, height=32):
    """Soft colours that drift, `uint8 [count 3 h w]`; every frame is another."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width + 4 * count, 3), dtype=np.uint8)
    soft = np.array(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(4)))
    wide = torch.from_numpy((soft.astype(float) - 128) * 3 + 128).clamp(0, 255).byte().permute(2, 0, 1)
    return torch.stack([wide[:, :, 4 * i : 4 * i + width] for i in range(count)])


def decoded_by_ffmpeg(path):
    """Frames `[n h w 3]` and the times at which each begins and the last one ends, in seconds."""
    import av

    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    ends = decoded[-1].pts + decoded[-1].duration
    times = [float(t * decoded[0].time_base) for t in [*(frame.pts for frame in decoded), ends]]
    return np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]), times


def decoded_by_pillow(path):
    """The same."""
    pixels, times = [], [0.0]
    with Image.open(path) as picture:
        for i in range(picture.n_frames):
            picture.seek(i)
            pixels.append(np.asarray(picture.convert("RGB")))
            times.append(times[-1] + picture.info["duration"] / 1000)
    return np.stack(pixels), times


READERS = [(".mp4", decoded_by_ffmpeg), (".gif", decoded_by_ffmpeg), (".gif", decoded_by_pillow)]
READERS += [(".webp", decoded_by_pillow)]


def read(path):
    return dict(READERS)[path.suffix](path)


def pixels_of(images):
    return images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("kind", "reader"), READERS)
@pytest.mark.parametrize("fps", [1, 24, 30, 50])
def test_frames_come_back_in_order_at_their_times(tmp_path, kind, reader, fps):
    images = clip(9)
    assert write_video(tmp_path / f"a{kind}", images.split(4), fps) == 9
    pixels, times = reader(tmp_path / f"a{kind}")
    assert pixels.shape == (9, 32, 48, 3)
    distances = np.abs(pixels[:, None].astype(int) - pixels_of(images)[None]).mean((2, 3, 4))
    assert (distances.argmin(1) == range(9)).all() and distances.diagonal().max() < 4
    unit = {".gif": 0.01, ".webp": 0.001, ".mp4": 0}[kind]
    np.testing.assert_allclose(times, np.arange(10) / fps, atol=unit / 2 + 1e-9)


@pytest.mark.parametrize("kind", MOVING)
def test_frames_that_are_alike_stay_frames_of_their_own(tmp_path, kind):
    assert write_video(tmp_path / f"a{kind}", [clip(1).expand(5, -1, -1, -1)], 10) == 5
    pixels, times = read(tmp_path / f"a{kind}")
    assert len(pixels) == 5 and times[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("size", [(2, 2), (16, 48), (320, 18)])
def test_frames_of_any_even_size_and_a_single_one_come_back(tmp_path, kind, size):
    write_video(tmp_path / f"a{kind}", [clip(1, *size)], 5)
    pixels, times = read(tmp_path / f"a{kind}")
    assert pixels.shape == (1, size[1], size[0], 3) and times[-1] == pytest.approx(0.2)


@pytest.mark.parametrize("count", [1, 2, 3, 17, 200, 256])
def test_a_gif_of_few_colours_is_exact(tmp_path, count):
    rng = np.random.default_rng(count)
    colours = torch.from_numpy(rng.permutation(256)[:count, None] * [1, 255, 0] % 256).byte()
    images = colours[torch.from_numpy(rng.integers(0, count, (3, 21, 13)))].permute(0, 3, 1, 2)
    write_video(tmp_path / "a.gif", [images], 10)
    for reader in (decoded_by_pillow, decoded_by_ffmpeg):
        np.testing.assert_array_equal(reader(tmp_path / "a.gif")[0], pixels_of(images))


def test_flat_colours_keep_their_values_in_an_mp4_and_the_file_says_how_to_read_them(tmp_path):
    import av

    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 150, 120], [0, 0, 0], [255, 255, 255]])
    images = torch.from_numpy(colours).byte()[:, :, None, None].expand(-1, -1, 32, 32)
    write_video(tmp_path / "a.mp4", [images], 30)
    red, green, blue = colours.T / 255  # ITU-R BT.709-6, items 3.2 to 3.4, 8 bits
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    expected = [16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748]
    with av.open(str(tmp_path / "a.mp4")) as container:
        planes = np.stack([frame.to_ndarray() for frame in container.decode(video=0)])  # Y, and below it U and V
    for part, value in zip((planes[:, :32], planes[:, 32:40], planes[:, 40:]), expected, strict=True):
        assert np.abs(part - value[:, None, None]).max() <= 2
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 30)
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
        assert stream.frames == 6 and stream.duration * stream.time_base == Fraction(6, 30)


@pytest.mark.parametrize(("forever", "gif", "webp"), [(True, 0, 0), (False, None, 1)])
def test_what_is_no_loop_plays_once(tmp_path, forever, gif, webp):
    for kind, times in ((".gif", gif), (".webp", webp)):
        write_video(tmp_path / f"a{kind}", [clip(3)], 10, forever=forever)
        with Image.open(tmp_path / f"a{kind}") as picture:
            assert picture.info.get("loop") == times


def test_a_webp_is_built_of_whole_chunks(tmp_path):
    write_video(tmp_path / "a.webp", [clip()], 10)
    data, names, at = (tmp_path / "a.webp").read_bytes(), [], 12
    assert data[:4] == b"RIFF" and data[8:12] == b"WEBP" and int.from_bytes(data[4:8], "little") == len(data) - 8
    while at < len(data):
        names.append(data[at : at + 4])
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    assert at == len(data) and names == [b"VP8X", b"ANIM"] + [b"ANMF"] * 7


@pytest.mark.parametrize("kind", MOVING)
def test_the_same_frames_are_the_same_file_in_any_batches(tmp_path, kind):
    for name, batch in (("a", 7), ("b", 2)):
        write_video(tmp_path / f"{name}{kind}", clip().split(batch), 30)
    assert (tmp_path / f"a{kind}").read_bytes() == (tmp_path / f"b{kind}").read_bytes()


@pytest.mark.parametrize("kind", MOVING)
def test_only_a_frame_or_two_are_held_at_a_time(tmp_path, monkeypatch, kind):
    made, held = [], []

    def watched(frame, before=video.to_pillow):
        held.append(sum(image() is not None for image in made))
        image = before(frame)
        made.append(weakref.ref(image))
        return image

    monkeypatch.setattr(video, "to_pillow", watched)
    write_video(tmp_path / f"a{kind}", clip(40).split(4), 30)
    assert len(held) == 40 and max(held) <= 2


@pytest.mark.parametrize("kind", [*MOVING, ".png"])
def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path, kind):
    path = tmp_path / f"a{kind}"
    path.write_bytes(b"old")

    def broken():
        yield clip(3, 32, 32) if kind != ".png" else clip(3, 32, 32)[:, None]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_strip(path, broken()) if kind == ".png" else write_video(path, broken(), 30)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(path.name, b"old")]


class FullDisk:
    """An open file on a disk with room for a few bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("room", [10, 1000])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch, kind, room):
    before = os.fdopen
    monkeypatch.setattr(files.os, "fdopen", lambda *arguments: FullDisk(before(*arguments), room))
    with pytest.raises(TenshotError, match=rf"cannot write .*a{kind}: the disk is full; free some space"):
        write_video(tmp_path / f"a{kind}", [clip(9)], 30)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "fps", "size", "sentence"),
    [
        ("a.avi", 30, (64, 64), "a.avi must end in .mp4, .gif or .webp, or for a strip"),
        ("a", 30, (64, 64), "a must end in .mp4"),
        ("a.gif", 60, (64, 64), "fps is 60: in a file of the kind .gif it must be from 1 to 50"),
        ("a.mp4", 0, (64, 64), "fps is 0: in a file of the kind .mp4 it must be from 1 to 120"),
        ("a.mp4", 30, (65, 64), "frames are 65 x 64 px: an .mp4 needs even numbers"),
        ("a.webp", 30, (20000, 64), "frames of 20000 x 64 px are too large: at most 16,383 px a side"),
    ],
)
def test_a_video_that_cannot_be_is_refused(tmp_path, name, fps, size, sentence):
    with pytest.raises(TenshotError, match=sentence):
        check_video(tmp_path / name, fps, *size)


def test_an_mp4_without_its_library_names_the_extra_and_the_other_kinds_need_none(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    with pytest.raises(TenshotError, match=r'pip install "tenshot\[video\]", or write a .webp or a .gif'):
        write_video(tmp_path / "a.mp4", [clip()], 30)
    assert list(tmp_path.iterdir()) == []
    for kind in (".gif", ".webp"):
        assert write_video(tmp_path / f"a{kind}", [clip()], 30) == 7


def test_a_library_without_the_encoder_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_H264", "libx263")
    with pytest.raises(TenshotError, match="this PyAV has no libx263: reinstall it"):
        write_video(tmp_path / "a.mp4", [clip()], 30)
    assert list(tmp_path.iterdir()) == []


def test_a_strip_shows_all_frames_in_a_row_per_model(tmp_path):
    first, second = clip(5, 16, 16), 255 - clip(5, 16, 16)
    assert write_strip(tmp_path / "new" / "a.png", torch.stack([first, second], dim=1).split(2)) == 5
    with Image.open(tmp_path / "new" / "a.png") as picture:
        shown = np.asarray(picture)
    assert shown.shape == (16 + 2 + 16, 5 * 18 - 2, 3)
    for i in range(5):
        np.testing.assert_array_equal(shown[:16, i * 18 : i * 18 + 16], pixels_of(first)[i])
        np.testing.assert_array_equal(shown[18:, i * 18 : i * 18 + 16], pixels_of(second)[i])


def test_a_strip_that_is_too_wide_is_refused(tmp_path):
    check_strip(tmp_path / "a.png", 127, 256)
    with pytest.raises(TenshotError, match="128 images of 256 px side by side are too wide: at most 32,767 px"):
        check_strip(tmp_path / "a.png", 128, 256)
    with pytest.raises(TenshotError, match=r"a.gif is not the name of a strip"):
        check_strip(tmp_path / "a.gif", 1, 16)


@pytest.fixture
def interpolate(tmp_path, tiny_source):
    def run(*arguments, out="walk.webp"):
        return main(["interpolate", str(tiny_source), "--out", str(tmp_path / out), *arguments])

    return run


@pytest.mark.parametrize("kind", MOVING)
def test_the_verb_writes_a_walk_and_says_what_it_is(tmp_path, interpolate, capsys, kind):
    assert interpolate("--seeds", "4,2,7", "--frames", "5", out=f"new/walk{kind}") == 0
    out = tmp_path / "new" / f"walk{kind}"
    assert capsys.readouterr().out == f"{out}: 15 frames of 256 x 256 px, 0.5 s\n"
    pixels, times = read(out)
    assert pixels.shape == (15, 256, 256, 3) and times[-1] == pytest.approx(0.5, abs=0.005)


def test_a_pair_stands_side_by_side_and_its_latents_are_the_same(tmp_path, interpolate, tiny_source, tiny_model):
    options = ("--pair", str(tiny_source), "--seeds", "4,2", "--frames", "3", "--fps", "10", "--size", "32")
    assert interpolate(*options, "--no-loop", out="walk.gif") == 0
    pixels, times = read(tmp_path / "walk.gif")
    assert pixels.shape == (4, 32, 64, 3) and times[-1] == pytest.approx(0.4)
    np.testing.assert_array_equal(pixels[:, :, :32], pixels[:, :, 32:])
    (expected,) = panels([tiny_model], Walk((4, 2), 3, loop=False), 32)
    distances = np.abs(pixels[:, None, :, :32].astype(int) - pixels_of(expected[:, 0])).mean((2, 3, 4))
    assert (distances.argmin(1) == range(4)).all() and distances.diagonal().max() < 8  # 256 colours


def test_a_strip_has_the_seeds_and_three_images_between_each_two(tmp_path, interpolate, tiny_model, capsys):
    assert interpolate("--seeds", "4,2,7", "--no-loop", "--size", "16", "--truncation", "0.8", out="walk.png") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'walk.png'}: 9 images of 16 px side by side\n"
    with Image.open(tmp_path / "walk.png") as picture:
        shown = np.asarray(picture)
    assert shown.shape == (16, 9 * 18 - 2, 3)
    first = generate_images(tiny_model, [4], truncation=0.8)
    np.testing.assert_array_equal(shown[:, :16], pixels_of(first)[0])
    expected = torch.cat(list(panels([tiny_model], Walk((4, 2, 7), 4, loop=False), 16, truncation=0.8)))[:, 0]
    for i in range(9):
        np.testing.assert_array_equal(shown[:, i * 18 : i * 18 + 16], pixels_of(expected)[i])


def test_small_images_are_enlarged_by_a_whole_number_and_large_ones_left_alone(tmp_path, interpolate, tiny_factory):
    assert interpolate("--seeds", "4,2", "--frames", "1", out="walk.png") == 0
    with Image.open(tmp_path / "walk.png") as picture:
        shown = np.asarray(picture)
    small = resized(generate_images(load_model(tmp_path / "tiny.safetensors"), [4]), 256)
    np.testing.assert_array_equal(shown[:, :256], pixels_of(small)[0])
    save_model(tmp_path / "large.safetensors", tiny_factory(512, (4,) * 8))
    assert main(["interpolate", str(tmp_path / "large.safetensors"), "--seeds", "1,2", "--frames", "1", "--batch", "2",
                 "--out", str(tmp_path / "large.png")]) == 0  # fmt: skip
    with Image.open(tmp_path / "large.png") as picture:
        assert picture.size == (2 * 514 - 2, 512)


@pytest.mark.parametrize(
    ("arguments", "out", "sentence"),
    [
        (["--seeds", "5"], "a.gif", "the seeds are [5]: give at least two different ones"),
        (["--seeds", "5,5"], "a.gif", "the seeds are [5, 5]: give at least two different ones"),
        (["--seeds", "5-"], "a.gif", "write 7, or 0-99, or 1,5,9-12"),
        (["--frames", "0"], "a.gif", "frames is 0"),
        (["--fps", "51"], "a.gif", "fps is 51: in a file of the kind .gif it must be from 1 to 50"),
        (["--size", "8"], "a.gif", "--size is 8: it must be at least 16"),
        (["--size", "255"], "a.mp4", "frames are 255 x 255 px: an .mp4 needs even numbers"),
        (["--size", "9000", "--pair", "faces64"], "a.webp", "frames of 18000 x 9000 px are too large"),
        (["--pair", "faces64"], "a.webp", "the latents of the two models have 512 and 16 numbers"),
        (["--pair", "face64"], "a.webp", "there is no model 'face64'"),
        (["--truncation", "3"], "a.webp", "truncation is 3.0"),
        (["--batch", "0"], "a.webp", "--batch is 0"),
        (["--seeds", "0-99"], "a.png", "200 images of 256 px side by side are too wide"),
        ([], "a.avi", "a.avi must end in .mp4, .gif or .webp"),
        ([], "file/a.gif", "file: there is a file of that name; choose another place"),
        ([], "file/a.png", "file: there is a file of that name; choose another place"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence_and_leaves_no_file(
    tmp_path, interpolate, capsys, arguments, out, sentence
):
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert interpolate("--frames", "2", *arguments, out=out) == 1
    said = capsys.readouterr().err
    assert said.startswith("tenshot interpolate: ") and said.count("\n") == 1 and sentence in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_is_there_is_replaced_only_when_told_to_and_the_model_never(tmp_path, interpolate, capsys):
    mine = tmp_path / "mine.webp"
    mine.write_text("mine")
    assert interpolate("--seeds", "4,2", "--frames", "1", out="mine.webp") == 1
    assert "mine.webp is there already: replace it (--overwrite)" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert interpolate("--seeds", "4,2", "--frames", "1", "--overwrite", out="mine.webp") == 0
    assert read(mine)[0].shape[0] == 2
    assert interpolate("--overwrite", out="tiny.safetensors") == 1
    assert "tiny.safetensors is the file that is read: choose another name" in capsys.readouterr().err


def test_the_verb_computes_on_the_device_asked_for(tmp_path, interpolate, capsys):
    assert interpolate("--seeds", "4,2", "--frames", "1", "--device", "cpu") == 0
    assert interpolate("--device", "gpu", out="other.webp") == 1
    assert "there is no device 'gpu': give auto, cpu, cuda or cuda:1" in capsys.readouterr().err
    assert not (tmp_path / "other.webp").exists()


def test_without_a_place_to_write_to_the_kinds_are_named(capsys):
    assert main(["interpolate", "faces64"]) == 1
    assert "give --out FILE.mp4, FILE.gif or FILE.webp, or FILE.png for a strip" in capsys.readouterr().err
