"""Augmentation keeps what it should and can be differentiated as often as R1 needs."""

import pytest
import torch

from tenshot import augment
from tenshot.augment import diffaug, flip
from tenshot.randomness import generator_for


def rng(seed=0):
    return generator_for(seed, "test")


def test_flip_mirrors_about_half_of_the_images_and_only_left_to_right():
    images = torch.rand(400, 3, 4, 4)
    flipped = flip(images, rng())
    mirrored = [torch.equal(b, a.flip(2)) for a, b in zip(images, flipped, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(images, flipped, strict=True)]
    assert all(m or k for m, k in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


def test_diffaug_depends_on_the_generator_alone():
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(diffaug(images, rng(1)), diffaug(images, rng(1)))
    assert not torch.equal(diffaug(images, rng(1)), diffaug(images, rng(2)))


def test_diffaug_hides_at_most_a_quarter_and_an_eighth_at_the_border():
    images = torch.ones(200, 3, 32, 32)
    seen = (diffaug(images, rng()).abs().sum(dim=1) > 0).float().mean(dim=(1, 2))
    assert seen.min() >= 1 - 0.25 - 2 * 4 / 32
    assert seen.max() > 0.85  # a square in the corner hides little


def test_diffaug_changes_the_share_of_images_it_is_told_to():
    images = torch.rand(400, 3, 8, 8)
    unchanged = (diffaug(images, rng(), p=0.25) == images).all(dim=(1, 2, 3))
    assert 0.68 < unchanged.float().mean() < 0.82
    assert torch.equal(diffaug(images, rng(), p=0.0), images)


def test_diffaugs_colours_have_the_ranges_of_the_paper(monkeypatch):
    """Brightness moves the mean alone, contrast what is around it, saturation the channels around their own mean."""
    monkeypatch.setattr(augment, "_translate", lambda images, *_: images)
    monkeypatch.setattr(augment, "_cutout", lambda *_: torch.ones(()))
    images = torch.rand(1, 3, 8, 8).expand(4000, -1, -1, -1) * 2 - 1
    changed = diffaug(images, rng())
    grey, grey_before = changed.mean(1, keepdim=True), images.mean(1, keepdim=True)
    contrast = grey.std(dim=(1, 2, 3)) / grey_before.std(dim=(1, 2, 3))
    colour = (changed - grey).std(dim=(1, 2, 3)) / (images - grey_before).std(dim=(1, 2, 3))
    brightness = grey.mean(dim=(1, 2, 3)) - grey_before.mean(dim=(1, 2, 3))
    for factor, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5), (colour / contrast, 0.0, 2.0)):
        assert factor.min().item() == pytest.approx(low, abs=0.01)
        assert factor.max().item() == pytest.approx(high, abs=0.01)
        assert factor.mean().item() == pytest.approx((low + high) / 2, abs=0.05)


def test_every_image_is_augmented_by_itself():
    image = torch.rand(1, 3, 16, 16).expand(8, -1, -1, -1)
    augmented = diffaug(image, rng())
    assert all(not torch.equal(augmented[0], other) for other in augmented[1:])


def test_diffaug_has_right_first_and_second_derivatives():
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    squared = lambda x: diffaug(x, rng(3)).square()  # noqa: E731
    assert torch.autograd.gradcheck(squared, images)
    assert torch.autograd.gradgradcheck(squared, images)
