"""ADA's operations against their definitions, its warps against a slow twin, its derivatives against differences."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tenshot import warp
from tenshot.ada import ada, adjust, apply, colour, draw, geometry
from tenshot.randomness import generator_for


def rng(seed=0):
    return generator_for(seed, "test")


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=rng(seed), dtype=torch.float64) * 2 - 1


def drawn(n=1, **values):
    """Nothing but these; [n] numbers or [n 2], or one for all."""
    neutral = draw(n, rng(), 0.0)
    return replace(
        neutral,
        **{name: torch.as_tensor(v).double().expand(getattr(neutral, name).shape) for name, v in values.items()},
    )


class Waves:
    """Products of cosines that reflection at the borders continues for ever: what any pixel of a warp should be."""

    def __init__(self, size, waves=((1, 2), (3, 0), (2, 3))):
        self.size, self.waves = size, waves

    def at(self, x, y):
        """Three channels at places in pixels from the centre. `[...], [...] -> [3 ...]`."""
        half = (self.size - 1) / 2
        u, v = (x + half) * math.pi / (self.size - 1), (y + half) * math.pi / (self.size - 1)
        return torch.stack([(a * u).cos() * (b * v).cos() + 0.3 * u.cos() for a, b in self.waves])

    def places(self):
        line = torch.arange(self.size, dtype=torch.float64) - (self.size - 1) / 2
        return line.expand(self.size, -1), line[:, None].expand(-1, self.size)

    def image(self):
        return self.at(*self.places())

    def warped(self, inverse):
        x, y = self.places()
        return self.at(*(inverse[i, 0] * x + inverse[i, 1] * y + inverse[i, 2] for i in (0, 1)))


# The filter


def test_sym6_is_orthonormal():
    taps = np.array(warp.SYM6)
    assert taps.sum() == pytest.approx(math.sqrt(2), abs=1e-8)
    assert np.convolve(taps, taps[::-1])[1::2] == pytest.approx(np.eye(11)[5], abs=1e-8)


def test_sym6_has_six_vanishing_moments():
    place = np.arange(12) - 5.5
    for power in range(6):
        assert np.sum((-1.0) ** np.arange(12) * (place / 5.5) ** power * warp.SYM6) == pytest.approx(0, abs=1e-8)


def test_sym6_is_the_most_symmetric_filter_of_that_kind():
    """All of them: (1 + z)^6 times one of each pair of roots z, 1 / z of Daubechies' polynomial."""
    places = np.roots([math.comb(5 + k, k) for k in range(5, -1, -1)])
    choices = [[]]
    for place in places[places.imag >= 0]:
        pair = np.roots([1, 4 * place - 2, 1])
        roots = [[z] if place.imag == 0 else [z, z.conj()] for z in pair]
        choices = [[*choice, *some] for choice in choices for some in roots]
    filters = []
    for choice in choices:
        taps = np.real(np.poly([*choice, *[-1.0] * 6]))
        filters.append(taps * math.sqrt(2) / taps.sum())
    assert len(filters) == 8
    asymmetry = [np.abs(taps - taps[::-1]).max() for taps in filters]
    best = [taps for taps, a in zip(filters, asymmetry, strict=True) if a < min(asymmetry) + 1e-6]
    assert len(best) == 2  # it and its mirror image
    assert min(np.abs(taps - warp.SYM6).max() for taps in best) < 1e-8


# Pixel blitting


def test_nothing_drawn_changes_nothing_and_takes_the_same_random_numbers():
    images = torch.randn(5, 3, 16, 16)
    generators = [rng() for _ in range(3)]
    kept, _, _ = (ada(images, generator, p) for generator, p in zip(generators, (0.0, 0.3, 1.0), strict=True))
    assert torch.equal(kept, images)
    assert all(torch.equal(generator.get_state(), generators[0].get_state()) for generator in generators)


def test_mirroring_alone_is_a_flip():
    images = uniform(2, 3, 16, 16)
    assert torch.equal(apply(images, drawn(2, mirror=[-1, 1])), torch.stack([images[0].flip(2), images[1]]))


@pytest.mark.parametrize("size", [16, 17])
def test_turns_alone_are_quarter_turns(size):
    images = uniform(4, 3, size, size)
    expected = torch.stack([images[k].rot90(k, (1, 2)) for k in range(4)])
    assert torch.equal(apply(images, drawn(4, turns=range(4))), expected)


def test_shift_alone_moves_the_reflected_image_by_whole_pixels():
    images = uniform(3, 3, 16, 16)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (8, 8), (8, 8)), mode="reflect")
    shifts = [(2, 0), (-1, 1), (0, -2)]  # to the right, down
    expected = [np.roll(padded[i], (dy, dx), (1, 2))[:, 8:24, 8:24] for i, (dx, dy) in enumerate(shifts)]
    shift = [[2 / 16, 0.02], [-0.8 / 16, 1.3 / 16], [0.4 / 16, -2 / 16]]
    assert np.array_equal(apply(images, drawn(3, shift=shift)), np.stack(expected))


def test_blits_are_done_in_their_order():
    images = uniform(1, 3, 16, 16)
    turned = images.flip(3).rot90(1, (2, 3))
    expected = torch.cat([turned[..., 2:3], turned[..., 1:2], turned[..., :-2]], dim=3)
    assert torch.equal(apply(images, drawn(mirror=-1, turns=1, shift=[[0.125, 0]])), expected)


# Geometry


MOVES = {
    "enlarged": {"scale": 2**0.6},
    "reduced": {"scale": 2**-0.6},
    "rotated": {"before": 0.7},
    "stretched": {"stretch": 2**0.4},
    "rotated after": {"after": -2.5},
    "drifted": {"drift": [[0.13, -0.21]]},
    "drifted out of sight": {"drift": [[2.3, 0.0]]},
    "reduced to less than a reflection's period": {"scale": 0.3, "before": 0.4},
    "all": {
        "mirror": -1, "turns": 3, "shift": [[0.1, -0.06]], "scale": 0.9, "before": 2.0,
        "stretch": 1.2, "after": 1.0, "drift": [[0.05, 0.11]],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_a_moved_smooth_image_is_the_smooth_function_at_moved_places(name):
    waves = Waves(64)
    move = drawn(**MOVES[name])
    (moved,) = apply(waves.image()[None], move)
    error = (moved - waves.warped(geometry(move, 64, 64)[0])).abs()
    assert error.max() < 0.005 and error.mean() < 0.0015


def test_geometry_undoes_the_operations_in_their_order():
    """A place is moved by one operation after the other, by the textbook; the inverse finds back."""
    values = draw(50, rng(3), 1.0)
    size = 64
    start = uniform(50, 2, seed=4) * 40
    x, y = start.unbind(1)

    def rotate(x, y, angle):  # counter-clockwise, y down
        return x * angle.cos() + y * angle.sin(), -x * angle.sin() + y * angle.cos()

    x = x * values.mirror
    x, y = rotate(x, y, values.turns * math.pi / 2)
    x, y = x + (values.shift[:, 0] * size).round(), y + (values.shift[:, 1] * size).round()
    x, y = x * values.scale, y * values.scale
    x, y = rotate(x, y, values.before)
    x, y = x * values.stretch, y / values.stretch
    x, y = rotate(x, y, values.after)
    x, y = x + values.drift[:, 0] * size, y + values.drift[:, 1] * size
    end = torch.stack([x, y, torch.ones_like(x)], 1)
    assert torch.allclose((geometry(values, size, size) @ end[..., None])[:, :2, 0], start)


def test_a_rotation_by_a_right_angle_is_nearly_a_quarter_turn():
    image = Waves(64, ((4, 1), (2, 5), (0, 3))).image()[None]
    for angle in ({"before": math.pi / 2}, {"after": math.pi / 2}):
        assert (apply(image, drawn(**angle)) - image.rot90(1, (2, 3))).abs().max() < 0.02


def test_with_nothing_in_the_middle_halving_undoes_doubling():
    images = uniform(2, 3, 17, 17)
    identity = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    assert torch.allclose(warp.resample(images, identity), images, atol=1e-10)


def slow_resample(channel, inverse):
    """The definition, one channel: reflect far, zeros between pixels, filter, interpolate, filter, every second."""
    size, far = len(channel), 4 * len(channel)
    taps = np.array(warp.SYM6)
    lag = 5 - taps @ np.arange(12) / taps.sum()
    wide = np.pad(channel, far, mode="reflect")
    sparse = np.zeros([2 * len(wide)] * 2)
    sparse[::2, ::2] = wide
    samples = sparse
    for axis in (0, 1):
        samples = np.apply_along_axis(lambda line: np.convolve(line, taps * math.sqrt(2))[5:-6], axis, samples)
    number = np.arange(-5, 2 * size + 5)
    place = (number + lag) / 2 - (size - 1) / 2
    x, y = np.meshgrid(place, place)
    source = np.einsum("ij,jhw->ihw", inverse.numpy(), np.stack([x, y, np.ones_like(x)]))[:2]
    column, row = 2 * (source + (size - 1) / 2 + far) - lag
    halved = ndimage.map_coordinates(samples, [row, column], order=1, mode="nearest")
    for axis in (0, 1):
        halved = np.apply_along_axis(
            lambda line: np.correlate(line, taps / math.sqrt(2), mode="valid")[::2], axis, halved
        )
    return halved


@pytest.mark.parametrize("name", MOVES)
def test_resampling_is_its_definition(name):
    image = uniform(1, 1, 16, 16)
    inverse = geometry(drawn(**MOVES[name]), 16, 16)
    expected = slow_resample(image[0, 0].numpy(), inverse[0])
    assert warp.resample(image, inverse)[0, 0].numpy() == pytest.approx(expected, abs=1e-9)


def test_no_more_is_read_than_one_period_of_the_reflected_image():
    for reduction, read in ((1.0, 2 * 16 + 11), (1e-3, 4 * 15 + 1)):
        inverse = geometry(drawn(scale=reduction), 16, 16)
        assert warp._window(inverse, 16, 16)[2] == (read, read)


def test_what_an_image_becomes_does_not_depend_on_the_others(monkeypatch):
    images, inverse = uniform(6, 3, 16, 16), geometry(draw(6, rng(1), 1.0), 16, 16)
    together = warp.resample(images, inverse)
    monkeypatch.setattr(warp, "_PIXELS", 2 * 16 * 16)
    assert torch.allclose(warp.resample(images, inverse), together, atol=1e-10)


# Colour


def test_each_colour_operation_is_its_definition():
    images = uniform(1, 3, 4, 4)
    mean = images.mean(dim=1, keepdim=True)
    axis = np.ones(3) / math.sqrt(3)
    turned = torch.from_numpy(Rotation.from_rotvec(0.8 * axis).as_matrix()) @ images.flatten(2)
    for change, expected in (
        ({"brightness": 0.3}, images + 0.3),
        ({"contrast": 1.7}, images * 1.7),
        ({"luma": -1}, images - 2 * mean),
        ({"hue": 0.8}, turned.view_as(images)),
        ({"hue": 2 * math.pi / 3}, images.roll(1, 1)),
        ({"saturation": 2.5}, mean + 2.5 * (images - mean)),
        ({"saturation": 0.0}, mean.expand_as(images)),
    ):
        assert torch.allclose(apply(images, drawn(**change)), expected), change


def test_colour_operations_are_done_in_their_order():
    change = {"brightness": 0.3, "contrast": 1.7, "luma": -1, "hue": 0.8, "saturation": 2.5}
    images = one_by_one = uniform(1, 3, 4, 4)
    for name, value in change.items():
        one_by_one = apply(one_by_one, drawn(**{name: value}))
    assert torch.allclose(apply(images, drawn(**change)), one_by_one)
    assert torch.equal(colour(drawn(**change))[:, 3], torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64))


# What is drawn


def test_each_operation_changes_the_share_of_images_that_it_should():
    n, p = 40_000, 0.3
    values, neutral = draw(n, rng(), p), draw(1, rng(), 0.0)
    p_rotation = 1 - math.sqrt(1 - p)
    expected = {"mirror": p / 2, "luma": p / 2, "turns": p * 3 / 4, "before": p_rotation, "after": p_rotation}
    changed = {}
    for field in fields(values):
        is_changed = getattr(values, field.name) != getattr(neutral, field.name)
        changed[field.name] = is_changed if is_changed.dim() == 1 else is_changed.any(1)
        share = changed[field.name].double().mean().item()
        assert share == pytest.approx(expected.get(field.name, p), abs=0.01), field.name
    is_rotated = changed["before"] | changed["after"]
    assert is_rotated.double().mean().item() == pytest.approx(p, abs=0.01)
    both = (changed["scale"] & changed["hue"]).double().mean().item()
    assert both == pytest.approx(p * p, abs=0.01)  # independent of each other


def test_what_is_drawn_has_the_papers_distributions():
    values = draw(40_000, rng(), 1.0)
    for value, deviation in (
        (values.scale.log2(), 0.2),
        (values.stretch.log2(), 0.2),
        (values.drift[:, 0], 0.125),
        (values.drift[:, 1], 0.125),
        (values.brightness, 0.2),
        (values.contrast.log2(), 0.5),
        (values.saturation.log2(), 1.0),
    ):
        assert value.mean().item() == pytest.approx(0, abs=0.02 * deviation)
        assert value.std().item() == pytest.approx(deviation, rel=0.02)
    for value, reach in (
        (values.shift[:, 0], 0.125),
        (values.shift[:, 1], 0.125),
        (values.before, math.pi),
        (values.after, math.pi),
        (values.hue, math.pi),
    ):
        quantiles = torch.quantile(value, torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64)) / reach
        assert quantiles.tolist() == pytest.approx([-1, -0.5, 0, 0.5, 1], abs=0.03)
    assert torch.bincount(values.turns.long()).div(40_000).tolist() == pytest.approx([0.25] * 4, abs=0.01)


def test_one_generator_one_result_whatever_torch_drew_before():
    images = torch.rand(4, 3, 16, 16)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = ada(images, rng(1), 0.5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(ada(images, rng(1), 0.5), first)
    assert not torch.equal(ada(images, rng(2), 0.5), first)


def test_images_that_draw_nothing_stay_bit_for_bit_among_others():
    images = torch.randn(64, 3, 16, 16)
    values = draw(64, rng(), 0.15)
    augmented = apply(images, values)
    is_drawn = (geometry(values, 16, 16) != torch.eye(3)).flatten(1).any(1)
    is_drawn |= (colour(values) != torch.eye(4)).flatten(1).any(1)
    assert 5 < is_drawn.sum() < 60
    assert torch.equal(augmented[~is_drawn], images[~is_drawn])
    assert (augmented != images).flatten(1).any(1)[is_drawn].all()


# Types, sizes, derivatives


@pytest.mark.parametrize(("n", "size"), [(1, 16), (3, 17), (1, 64), (2, 256)])
def test_any_batch_and_size(n, size):
    images = torch.rand(n, 3, size, size) * 2 - 1
    augmented = ada(images, rng(), 1.0)
    assert augmented.shape == images.shape and augmented.dtype == images.dtype and augmented.isfinite().all()
    assert torch.allclose(augmented.double(), ada(images.double(), rng(), 1.0), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    images = torch.rand(4, 3, 16, 16).to(dtype)
    augmented = ada(images, rng(), 0.6)
    assert augmented.dtype == dtype
    assert torch.equal(augmented, ada(images.float(), rng(), 0.6).to(dtype))


@pytest.mark.parametrize("p", [0.2, 1.0])
def test_derivatives_of_the_first_and_second_order_are_right(p):
    images = uniform(4, 3, 16, 16).requires_grad_()
    squared = lambda x: ada(x, rng(3), p).square()  # noqa: E731
    assert torch.autograd.gradcheck(squared, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(squared, images, fast_mode=True)


def test_derivatives_of_some_pixels_are_right_one_by_one():
    images = uniform(2, 3, 16, 16)
    pixels = images[:, :, 5:7, 9:11].clone().requires_grad_()

    def cubed(x):
        return ada(images.slice_scatter(images[:, :, 5:7].slice_scatter(x, 3, 9, 11), 2, 5, 7), rng(3), 1.0)[
            :, :, ::3, ::3
        ].pow(3)

    assert torch.autograd.gradcheck(cubed, pixels)
    assert torch.autograd.gradgradcheck(cubed, pixels)


def test_the_gradient_of_a_warp_is_its_adjoint():
    images, inverse = uniform(2, 3, 16, 16).requires_grad_(), geometry(draw(2, rng(5), 1.0), 16, 16)
    warped = warp.resample(images, inverse)
    other = uniform(2, 3, 16, 16, seed=1).requires_grad_()
    (back,) = torch.autograd.grad(warped, images, other, create_graph=True)
    assert (warped * other).sum().item() == pytest.approx((images * back).sum().item())
    (forth,) = torch.autograd.grad(back, other, images)
    assert torch.allclose(forth, warped)


def test_r1_reaches_the_discriminator_through_it(tiny_factory):
    discriminator = tiny_factory().discriminator
    images = torch.rand(4, 3, 16, 16, generator=rng()).requires_grad_()
    logits = discriminator(ada(images, rng(1), 1.0))
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    gradient.square().sum(dim=(1, 2, 3)).mean().backward()
    weights = [w.grad for name, w in discriminator.named_parameters() if name.endswith("weight")]
    assert all(grad is not None and grad.isfinite().all() for grad in weights)
    assert sum(grad.abs().sum() > 0 for grad in weights) > len(weights) / 2


# The controller


@pytest.mark.parametrize(("ada_images", "legacy", "most"), [(500_000, True, 0.0072), (100_000, False, 0.06)])
def test_always_overfitting_raises_p_as_far_as_published_code_can(ada_images, legacy, most):
    p = 0.0
    for _ in range(1500):
        p = adjust(p, 1.0, 4, ada_images, target=0.6, legacy=legacy)
    assert p == pytest.approx(most)


def test_p_falls_where_d_does_not_overfit_and_stays_between_0_and_1():
    assert adjust(0.5, 0.61, 100, 1000, target=0.6) == pytest.approx(0.6)
    assert adjust(0.5, 0.59, 100, 1000, target=0.6) == pytest.approx(0.4)
    assert adjust(0.5, 0.6, 100, 1000, target=0.6) == 0.5
    assert adjust(0.05, -1.0, 100, 1000, target=0.6) == 0.0
    assert adjust(0.95, 1.0, 100, 1000, target=0.6) == 1.0
