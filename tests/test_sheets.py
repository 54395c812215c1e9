"""Grids and sheets: where each image lies, pixel for pixel."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tenshot.errors import TenshotError
from tenshot.sheets import grid, png, save_png, sheet, to_pillow


def blocks(n, side=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, side, side), generator=rng, dtype=torch.uint8)


def tile(picture, x, y, side):
    return np.asarray(picture)[y : y + side, x : x + side]


def test_a_grid_places_images_row_by_row_with_white_lines_between():
    images = blocks(5)
    picture = grid(images, 3)
    assert picture.size == (3 * 6 - 2, 2 * 6 - 2)
    seen = np.full((10, 16), False)
    for i, image in enumerate(images):
        x, y = i % 3 * 6, i // 3 * 6
        np.testing.assert_array_equal(tile(picture, x, y, 4), image.permute(1, 2, 0).numpy())
        seen[y : y + 4, x : x + 4] = True
    assert (np.asarray(picture)[~seen] == 255).all()


def test_a_scaled_grid_enlarges_every_image_by_itself():
    flat = torch.tensor([[0, 0, 0], [250, 100, 50]], dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 4, 4)
    picture = grid(flat, 2, scale=3)
    assert picture.size == (26, 12)
    assert (tile(picture, 0, 0, 12) == 0).all()  # nothing of the neighbour or of the paper bleeds in
    assert (tile(picture, 14, 0, 12) == [250, 100, 50]).all()


def test_pixel_art_is_enlarged_without_smoothing_and_others_with():
    squares = blocks(1, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)
    enlarged = squares[0].repeat_interleave(3, 1).repeat_interleave(3, 2).permute(1, 2, 0)
    assert (tile(grid(squares, 1, scale=3), 0, 0, 48) == enlarged.numpy()).all()
    photograph = blocks(1, 16)
    enlarged = photograph[0].repeat_interleave(3, 1).repeat_interleave(3, 2).permute(1, 2, 0)
    assert not (tile(grid(photograph, 1, scale=3), 0, 0, 48) == enlarged.numpy()).all()


def test_a_sheet_shows_the_shots_and_then_source_above_result():
    shots, source, result = blocks(3, 96, seed=1), blocks(20, 96, seed=2), blocks(20, 96, seed=3)
    picture = sheet(shots, source, result)
    step, margin, line, gap = 98, 14, 24, 10
    assert picture.width == 10 * step - 2 + 2 * margin
    y = margin + line
    np.testing.assert_array_equal(tile(picture, margin + 2 * step, y, 96), shots[2].permute(1, 2, 0))
    y += 96 + gap + line
    np.testing.assert_array_equal(tile(picture, margin + 9 * step, y, 96), source[9].permute(1, 2, 0))
    np.testing.assert_array_equal(tile(picture, margin + 9 * step, y + step, 96), result[9].permute(1, 2, 0))
    y += 2 * step - 2 + gap
    np.testing.assert_array_equal(tile(picture, margin, y, 96), source[10].permute(1, 2, 0))
    np.testing.assert_array_equal(tile(picture, margin, y + step, 96), result[10].permute(1, 2, 0))
    assert picture.height == y + 2 * step - 2 + margin


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (10, 1), (11, 2), (20, 2), (35, 2)])
def test_a_sheet_shows_at_most_two_rows_of_shots(count, rows):
    result = blocks(10, 16)
    with_one = sheet(blocks(1, 16), result, result).height
    assert sheet(blocks(count, 16), result, result).height == with_one + (rows - 1) * (8 * 16 + 2)


def test_small_images_are_enlarged_on_a_sheet_and_large_ones_are_not():
    for side, shown in ((16, 128), (64, 128), (128, 128), (256, 256)):
        images = blocks(10, side)
        assert sheet(images, images, images).width == 10 * (shown + 2) - 2 + 28


def test_a_png_holds_the_pixels(tmp_path):
    image = blocks(1)[0]
    save_png(to_pillow(image), tmp_path / "a.png")
    for file in (tmp_path / "a.png", io.BytesIO(png(to_pillow(image)))):
        with Image.open(file) as read:
            assert (read.format, read.mode) == ("PNG", "RGB")
            np.testing.assert_array_equal(np.asarray(read), image.permute(1, 2, 0))


def test_a_png_in_a_folder_that_is_gone_is_told(tmp_path):
    with pytest.raises(TenshotError, match=r"cannot write .*a.png: the folder does not exist any more"):
        save_png(to_pillow(blocks(1)[0]), tmp_path / "gone" / "a.png")
