"""A walk passes through its seeds' images, moves smoothly between them, and is the same in any batches."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.interpolate import CubicHermiteSpline

import tenshot
from tenshot.errors import TenshotError
from tenshot.models import Model, load_model
from tenshot.sampling import generate_images, latents
from tenshot.walk import Walk, beside, frames, panels, resized

SEEDS = (3, 17, 5, 8)


@pytest.fixture(scope="module")
def faces():
    return load_model("faces64")


def random_keys(count, size=16):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(count))


def images_of(generator, walk, **settings):
    return torch.cat(list(frames(generator, walk, **settings)))


def without_noise(model):
    with torch.no_grad():
        for name, parameter in model.generator.named_parameters():
            if name.endswith("noise.weight"):
                parameter.zero_()
    return model


@given(st.integers(2, 9), st.integers(1, 40), st.booleans())
def test_a_walk_passes_through_its_seeds_latents_bit_for_bit(seeds, steps, loop):
    keys, walk = random_keys(seeds), Walk(tuple(range(seeds)), steps, loop)
    assert walk.latents(keys, 0, len(walk))[::steps].equal(keys)
    if loop:  # the frame after the last is the first
        assert walk.latents(keys, len(walk), len(walk) + 1).equal(keys[:1])


@pytest.mark.parametrize("seeds", [2, 3, 7])
@pytest.mark.parametrize("loop", [True, False])
def test_latents_are_the_cubic_hermite_spline_whose_slopes_look_at_both_neighbours(seeds, loop):
    keys, walk = random_keys(seeds), Walk(tuple(range(seeds)), 10, loop)
    known = keys.double().numpy()
    if loop:
        points = np.concatenate([known, known[:1]])
        slopes = (np.roll(known, -1, 0) - np.roll(known, 1, 0)) / 2
        slopes = np.concatenate([slopes, slopes[:1]])
    else:
        points = known
        slopes = np.gradient(known, axis=0)  # central differences; at the ends one-sided, as a straight continuation
    expected = CubicHermiteSpline(np.arange(len(points)), points, slopes)(np.arange(len(walk)) / 10)
    np.testing.assert_allclose(walk.latents(keys, 0, len(walk)), expected, atol=2e-6)


def test_two_seeds_that_are_not_joined_are_a_straight_line_in_even_steps():
    keys = random_keys(2)
    expected = torch.lerp(keys[:1], keys[1:], torch.arange(9)[:, None] / 8)
    torch.testing.assert_close(Walk((0, 1), 8, loop=False).latents(keys, 0, 9), expected)


@pytest.mark.parametrize("loop", [True, False])
def test_a_frame_is_a_mean_of_seeds_and_on_average_no_farther_from_the_mean_than_they(loop):
    walk = Walk(tuple(range(6)), 50, loop)
    weights = walk.latents(torch.eye(6), 0, len(walk))  # of each seed, in each frame
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(walk)))
    assert (weights**2).sum(dim=1).max() < 1 + 1e-6


def test_any_part_of_the_latents_is_that_part_of_the_whole():
    keys, walk = random_keys(4), Walk(SEEDS, 7)
    whole = walk.latents(keys, 0, len(walk))
    for start, stop in ((0, 1), (5, 16), (27, 28)):
        assert walk.latents(keys, start, stop).equal(whole[start:stop])


@pytest.mark.parametrize(("loop", "count"), [(True, 20), (False, 16)])
def test_a_walk_has_as_many_images_as_it_says(tiny_model, loop, count):
    walk = Walk(SEEDS, 5, loop)
    batches = list(frames(tiny_model.generator, walk, batch=6))
    assert [len(part) for part in batches] == [6] * (count // 6) + [count % 6]
    assert len(walk) == count
    assert all(part.dtype == torch.uint8 and part.shape[1:] == (3, 16, 16) for part in batches)


@pytest.mark.parametrize("truncation", [1.0, 0.6])
def test_without_noise_a_seeds_frame_is_its_generated_image(tiny_model, truncation):
    for model in (without_noise(tiny_model), without_noise(load_model("faces64"))):
        walked = tenshot.interpolate(model, SEEDS, frames=3, truncation=truncation)
        assert walked[::3].equal(generate_images(model, SEEDS, truncation=truncation))


def test_noise_is_that_of_the_first_seed_in_every_frame(tiny_model, faces):
    for model in (tiny_model, faces):
        assert tenshot.interpolate(model, SEEDS, frames=3)[:1].equal(generate_images(model, SEEDS[:1]))
    still = tenshot.interpolate(tiny_model, SEEDS, frames=3, truncation=0)  # only noise could move here
    assert still.equal(still[:1].expand_as(still))
    assert still[:1].equal(generate_images(tiny_model, SEEDS[:1], truncation=0))


def test_a_looped_walk_ends_next_to_its_beginning_and_an_open_one_at_its_last_seed(faces):
    looped, opened = (tenshot.interpolate(faces, (1, 5, 9), frames=12, loop=loop).float() for loop in (True, False))
    steps = (looped.roll(-1, 0) - looped).square().mean((1, 2, 3)).sqrt()
    assert steps[-1] < 1.25 * steps[:-1].max()  # from the last frame to the first, no jump
    assert (opened[-1] - opened[0]).square().mean().sqrt() > 1.5 * steps.max()
    assert opened[-1].equal(looped[24])


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_batches_of_another_size_change_a_tiny_walk_nowhere_and_faces_by_a_level_in_few_places(
    tiny_model, faces, batch
):
    walk = Walk(SEEDS, 3)
    assert images_of(tiny_model.generator, walk, batch=batch).equal(images_of(tiny_model.generator, walk))
    difference = images_of(faces.generator, walk, batch=batch).int() - images_of(faces.generator, walk).int()
    assert difference.abs().max() <= 1
    assert (difference != 0).float().mean() < 1e-3


def test_a_walk_of_a_million_million_frames_begins_at_once(tiny_model):
    first = next(frames(tiny_model.generator, Walk(SEEDS, 10**12)))
    assert first.equal(first[:1].expand_as(first))


def test_a_pair_moves_from_the_same_latents_through_each_models_own_mapping(tiny_factory):
    source, target = tiny_factory(seed=1), tiny_factory(seed=2)
    both = tenshot.interpolate(target, SEEDS, frames=2, pair=source)
    assert both.shape == (8, 3, 16, 32)
    assert both[..., :16].equal(tenshot.interpolate(source, SEEDS, frames=2))
    assert both[..., 16:].equal(tenshot.interpolate(target, SEEDS, frames=2))
    with torch.no_grad():
        z = latents(SEEDS, 16)
        assert not torch.allclose(source.generator.map(z), target.generator.map(z))


def test_the_smaller_of_a_pair_is_enlarged(tiny_factory):
    small, large = tiny_factory(), tiny_factory(32, (12, 10, 8, 8))
    for target, source in ((small, large), (large, small)):
        both = tenshot.interpolate(target, SEEDS, frames=2, pair=source)
        halves = [resized(tenshot.interpolate(model, SEEDS, frames=2), 32) for model in (source, target)]
        assert both.equal(torch.cat(halves, dim=3))


def test_models_stand_side_by_side_in_their_order():
    images = torch.arange(2 * 3 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 3, 4, 4)
    assert [beside(images)[..., 4 * k : 4 * k + 4].equal(images[:, k]) for k in range(3)] == [True] * 3


def test_models_whose_latents_differ_in_size_cannot_be_a_pair(tiny_factory):
    with pytest.raises(TenshotError, match="have 24 and 16 numbers: only models of one latent size"):
        tenshot.interpolate(tiny_factory(), SEEDS, pair=tiny_factory(latent_size=24))


@pytest.mark.parametrize("side", [16, 40, 64, 200])
def test_images_are_resized_as_pillow_does_it_bicubically(faces, side):
    images = generate_images(faces, range(2))
    for image, other in zip(images, resized(images, side), strict=True):
        expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BICUBIC)
        difference = other.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)
        assert np.abs(difference).max() <= 2 and (difference != 0).mean() < 0.05  # Pillow rounds after each axis


@pytest.mark.parametrize(
    ("seeds", "settings", "sentence"),
    [
        ([4], {}, r"the seeds are \[4\]: give at least two different ones, none negative"),
        ([], {}, r"the seeds are \[\]: give at least two"),
        ([4, -1], {}, r"the seeds are \[4, -1\]: give at least two different ones, none negative"),
        ([4, 5], {"frames": 0}, "frames is 0: from one seed to the next it takes at least 1"),
        ([4, 5], {"truncation": math.nan}, "truncation is nan: 0 gives the mean image"),
    ],
)
def test_what_is_no_walk_is_refused_in_a_sentence(tiny_model, seeds, settings, sentence):
    with pytest.raises(TenshotError, match=sentence):
        tenshot.interpolate(tiny_model, seeds, **settings)


def test_walking_touches_neither_random_state_nor_grad_mode(tiny_model):
    before = torch.get_rng_state()
    for _ in panels([tiny_model], Walk(SEEDS, 9), 16):
        assert torch.is_grad_enabled()
    assert torch.get_rng_state().equal(before)
    assert all(parameter.grad is None for parameter in tiny_model.generator.parameters())


def test_a_model_needs_no_discriminator_to_walk(tiny_model):
    alone = Model(tiny_model.generator)
    assert tenshot.interpolate(alone, SEEDS, frames=1).equal(tenshot.interpolate(tiny_model, SEEDS, frames=1))
