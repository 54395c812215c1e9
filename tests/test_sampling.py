"""One seed is one image, whatever the batch, the order and the company; and seeds as text and as files."""

import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tenshot import seeds as seeds_module
from tenshot.errors import TenshotError
from tenshot.models import load_model
from tenshot.randomness import generator_for
from tenshot.sampling import (
    generate,
    generate_images,
    latents,
    measure_latent_avg_,
    noises,
    to_uint8,
    to_unit,
)
from tenshot.seeds import parse_seeds, parse_way, write_images


def images_of(generator, seeds, **settings):
    return torch.cat(list(generate(generator, list(seeds), **settings)))


@pytest.fixture(scope="module")
def faces():
    return load_model("faces64").generator


def test_an_image_depends_neither_on_how_many_are_asked_for_nor_on_their_order(faces, tiny_model):
    for generator in (faces, tiny_model.generator):
        together = images_of(generator, range(10))
        assert images_of(generator, [7]).equal(together[7:8])
        assert images_of(generator, [9, 2, 0]).equal(together[[9, 2, 0]])
        assert images_of(generator, range(3, 8)).equal(together[3:8])


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_a_batch_of_another_size_changes_a_tiny_image_nowhere_and_a_face_by_a_level_in_few_places(
    faces, tiny_model, batch
):
    assert images_of(tiny_model.generator, range(10), batch=batch).equal(images_of(tiny_model.generator, range(10)))
    # Convolutions of another shape add in another order; a value near two levels may be rounded to the other.
    difference = images_of(faces, range(6), batch=batch).int() - images_of(faces, range(6)).int()
    assert difference.abs().max() <= 1
    assert (difference != 0).float().mean() < 1e-3


def test_different_seeds_are_different_images(tiny_model):
    images = images_of(tiny_model.generator, range(20)).flatten(1)
    assert len(torch.unique(images, dim=0)) == 20


def test_a_seed_gives_the_same_latent_and_noise_alone_and_in_company(tiny_model):
    assert latents([5], 16).equal(latents([1, 5, 9], 16)[1:2])
    alone, company = noises([5], tiny_model.generator), noises([1, 5, 9], tiny_model.generator)
    assert [tuple(layer.shape) for layer in alone] == [(1, 1, s, s) for s in (4, 8, 8, 16, 16)]
    assert all(one.equal(three[1:2]) for one, three in zip(alone, company, strict=True))


def test_latents_are_standard_normal():
    z = latents(range(400), 64)
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03
    assert z.T.corrcoef().fill_diagonal_(0).abs().max() < 0.3


def test_truncation_zero_gives_one_image_when_there_is_no_noise(tiny_model):
    generator = tiny_model.generator
    noisy = images_of(generator, range(5), truncation=0.0)
    assert len(torch.unique(noisy.flatten(1), dim=0)) == 5
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise.weight"):
                parameter.zero_()
    mean = to_uint8(generator.synthesise(generator.spread(generator.latent_avg[None])).detach())
    assert images_of(generator, range(5), truncation=0.0).equal(mean.expand(5, -1, -1, -1))


def test_truncation_one_leaves_latents_and_a_half_goes_half_the_way(tiny_model):
    generator = tiny_model.generator
    w = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    assert generator.truncate(w, 1.0).equal(w)
    torch.testing.assert_close(generator.truncate(w, 0.5), (w + generator.latent_avg) / 2)


@pytest.mark.parametrize("truncation", [-0.1, 2.1, float("nan"), float("inf")])
def test_a_truncation_without_sense_is_refused(tiny_model, truncation):
    with pytest.raises(TenshotError, match=f"truncation is {truncation}: 0 gives the mean image, 1 leaves all"):
        generate_images(tiny_model, [0], truncation=truncation)


@pytest.mark.parametrize("seeds", [[], [3, -1]])
def test_no_seeds_and_negative_seeds_are_refused(tiny_model, seeds):
    with pytest.raises(TenshotError, match="give at least one, none negative"):
        generate_images(tiny_model, seeds)


def test_generating_touches_neither_random_state_nor_grad_mode(tiny_model):
    before = torch.get_rng_state()
    for _ in generate(tiny_model.generator, range(20)):  # between two batches the caller's mode holds
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    with torch.no_grad():
        generate_images(tiny_model, range(3))
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert torch.get_rng_state().equal(before)
    assert all(parameter.grad is None for parameter in tiny_model.generator.parameters())


def test_images_are_uint8_in_the_range_of_the_network(tiny_model):
    images = generate_images(tiny_model, range(3))
    assert images.dtype == torch.uint8 and images.shape == (3, 3, 16, 16)
    with torch.no_grad():
        w = tiny_model.generator.map(latents(range(3), 16))
        raw = tiny_model.generator.synthesise(tiny_model.generator.spread(w), noises(range(3), tiny_model.generator))
    expected = (raw.clamp(-1, 1).double() + 1) / 2 * 255
    assert (images.double() - expected).abs().max() < 0.501


def test_levels_survive_the_way_to_unit_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    assert to_uint8(to_unit(levels)).equal(levels)
    assert to_uint8(torch.tensor([-7.0, -1.0, 0.0, 1.0, 7.0])).tolist() == [0, 0, 128, 255, 255]


def test_the_mean_latent_is_the_mean_of_the_mapping(tiny_model):
    generator = tiny_model.generator
    generator.latent_avg.fill_(99)
    measure_latent_avg_(generator)
    with torch.no_grad():
        w = generator.map(torch.randn(20_000, 16, generator=torch.Generator().manual_seed(5)))
    assert (generator.latent_avg - w.mean(0)).abs().max() < 0.1 * w.std(0).mean()


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("7", [7]),
        ("0-3", [0, 1, 2, 3]),
        ("1,5,9-12", [1, 5, 9, 10, 11, 12]),
        (" 4 , 2 - 3 ", [4, 2, 3]),
        ("5-5", [5]),
        ("3,1-3,1", [3, 1, 2]),
        ("007", [7]),
        ("999999999999999", [999999999999999]),
    ],
)
def test_seeds_as_text(text, seeds):
    assert parse_seeds(text) == seeds


def test_a_way_may_pass_a_seed_again():
    assert parse_way("1,5,1,3-4") == [1, 5, 1, 3, 4] and parse_seeds("1,5,1,3-4") == [1, 5, 3, 4]


@pytest.mark.parametrize("text", ["", ",", "1,", "-1", "1-", "a", "1.5", "1-2-3", "0x1", "1;2", "²"])
def test_seeds_that_cannot_be_read_are_refused_with_an_example(text):
    with pytest.raises(TenshotError, match="write 7, or 0-99, or 1,5,9-12"):
        parse_seeds(text)


def test_ranges_that_fall_or_never_end_are_refused(monkeypatch):
    for text in ("9-1", "0-999999999999"):
        with pytest.raises(TenshotError, match=f"--seeds {text}: the range must rise and hold at most 1,000,000"):
            parse_seeds(text)
    monkeypatch.setattr(seeds_module, "MOST", 10)
    assert len(parse_seeds("0-4,5-9")) == 10
    with pytest.raises(TenshotError, match="--seeds names more than 10 seeds: at most so many can be made in one call"):
        parse_seeds("0-4,5-10")


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20, unique=True))
def test_any_list_of_seeds_can_be_written_as_text(seeds):
    assert parse_seeds(",".join(map(str, seeds))) == seeds


def pixels(file):
    with Image.open(file) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def test_folder_zip_and_grid_hold_the_same_pixels(tmp_path, tiny_model):
    seeds = [3, 1, 1234567, 8]
    images = generate_images(tiny_model, seeds).permute(0, 2, 3, 1).numpy()

    def write(out, picture=None):
        batches = generate(tiny_model.generator, seeds, batch=3)
        place = None if picture is None else str(tmp_path / picture)
        return write_images(batches, seeds, out and str(tmp_path / out), place, columns=3)

    assert write("folder") == write("new/all.ZIP", "grids/grid.png") == write(None, "grid.png") == 4
    names = ["seed000003.png", "seed000001.png", "seed1234567.png", "seed000008.png"]
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == sorted(names)
    with zipfile.ZipFile(tmp_path / "new" / "all.ZIP") as packed:
        assert packed.namelist() == names
        unpacked = [pixels(packed.open(name)) for name in names]
    for picture in ("grid.png", "grids/grid.png"):
        grid = pixels(tmp_path / picture)
        assert grid.shape == (2 * 18 - 2, 3 * 18 - 2, 3)
        for i, name in enumerate(names):
            y, x = i // 3 * 18, i % 3 * 18
            np.testing.assert_array_equal(grid[y : y + 16, x : x + 16], images[i])
            np.testing.assert_array_equal(pixels(tmp_path / "folder" / name), images[i])
            np.testing.assert_array_equal(unpacked[i], images[i])


def test_a_zip_of_the_same_images_is_the_same_file(tmp_path, tiny_model):
    for name in ("a.zip", "b.zip"):
        write_images(generate(tiny_model.generator, [1, 2]), [1, 2], str(tmp_path / name), None, 8)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_zip_that_fails_half_way_leaves_the_old_one(tmp_path, tiny_model):
    (tmp_path / "a.zip").write_bytes(b"old")

    def broken():
        yield generate_images(tiny_model, [1])
        raise OSError(28, "No space left on device")

    with pytest.raises(TenshotError, match=r"cannot write .*a.zip: the disk is full"):
        write_images(broken(), [1, 2], str(tmp_path / "a.zip"), None, 8)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.zip", b"old")]


def test_a_seed_means_the_same_numbers_as_in_earlier_versions():
    assert generator_for(7, "latent").initial_seed() == 149302904502509093
    assert generator_for(7, "step", 17).initial_seed() == 5556383619121570774
