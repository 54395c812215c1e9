"""Colours, grain and fine detail that the shots lack leave the images of the result, and nothing else does."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tenshot.adaptation import begin
from tenshot.config import RunConfig
from tenshot.lacking import (
    LACKS,
    LEVELS,
    RARE,
    WITHIN,
    gamut_of,
    has_grain,
    lacking,
    mosaic_of,
    paint_,
    palette_of,
    smooth_,
    without,
)
from tenshot.methods import Dap
from tenshot.models import load_model
from tenshot.nets.gamut import DIRECTIONS
from tenshot.result import averaged_model
from tenshot.sampling import generate, synthesise
from tenshot.step import run_step
from tiny import QUICK, tiny_model, tiny_shots


def grey_shots(tint=(0, 0, 0)):
    """One channel's blocks in all three, shifted by `tint`."""
    one = (tiny_shots()[:, :1].float() * 0.8).expand(-1, 3, -1, -1) + torch.tensor(tint).view(1, 3, 1, 1)
    return one.round().to(torch.uint8)


def adapted(shots, **settings):
    method = replace(Dap(**QUICK["dap"]), **(dict.fromkeys(LACKS, "free") | settings))
    run = begin(RunConfig(shots="tiny", method=method, steps=8, batch=2), tiny_model(), shots)
    for step in range(8):
        run_step(run, step)
    return run


def result_of(run):
    return averaged_model(run, 8, tiny_model(), "0" * 64).generator


class TestPalette:
    def test_of_shots_in_colour_changes_nothing(self):
        assert torch.equal(palette_of(tiny_shots()), torch.eye(3, 4, dtype=torch.float64))

    def test_of_grey_shots_is_the_mean_of_the_channels(self):
        wanted = torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0]] * 3, dtype=torch.float64)
        torch.testing.assert_close(palette_of(grey_shots()), wanted, atol=1e-8, rtol=0)

    def test_keeps_every_colour_of_the_shots_where_it_is(self):
        shots = grey_shots(tint=(40, 20, 0))  # a sepia print: a line of colours beside the grey one
        palette = palette_of(shots)
        colours = shots.double().movedim(1, 0).flatten(1) / 127.5 - 1
        torch.testing.assert_close(palette[:, :3] @ colours + palette[:, 3:], colours)

    def test_sends_a_colour_beside_those_of_the_shots_to_the_nearest_of_them(self):
        shots = grey_shots(tint=(40, 20, 0))
        palette, colour = palette_of(shots), torch.tensor([0.9, -0.3, -0.5], dtype=torch.float64)
        line = torch.tensor([40.0, 20.0, 0.0], dtype=torch.float64) / 127.5 + torch.linspace(-3, 3, 60001)[:, None]
        nearest = line[(line - colour).square().sum(1).argmin()]
        torch.testing.assert_close(palette[:, :3] @ colour + palette[:, 3], nearest, atol=2e-3, rtol=0)

    @pytest.mark.parametrize("share, lacks", [(0.9, True), (1.1, False)])
    def test_lacks_a_direction_that_varies_by_less_than_so_many_levels(self, share, lacks, monkeypatch):
        shots = tiny_shots()
        deviation = shots.double().movedim(1, 0).flatten(1).cov(correction=0)
        least = torch.linalg.eigvalsh(deviation).clamp_min(0).sqrt()[0].item()
        monkeypatch.setattr("tenshot.lacking.LEVELS", least / share)
        assert torch.equal(palette_of(shots), torch.eye(3, 4, dtype=torch.float64)) is not lacks

    def test_of_one_colour_alone_changes_nothing(self):
        palette = palette_of(torch.full((2, 3, 16, 16), 77, dtype=torch.uint8))
        assert torch.equal(palette, torch.eye(3, 4, dtype=torch.float64))

    @pytest.mark.parametrize("levels, rank", [(2, 1), (8, 3)])
    def test_forgives_the_noise_of_a_stored_picture_and_no_more(self, levels, rank):
        noise = torch.randint(0, levels + 1, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0))
        palette = palette_of((grey_shots() + noise).to(torch.uint8))
        assert palette[:, :3].trace().item() == pytest.approx(rank)


class TestPaint:
    def test_is_the_same_as_changing_the_images(self):
        generator = tiny_model().generator
        painted = copy.deepcopy(generator)
        palette = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
        paint_(painted, palette)
        before, after = (torch.cat(list(synthesise(g, range(4)))) for g in (generator, painted))
        wanted = torch.einsum("ij,njhw->nihw", palette[:, :3], before) + palette[:, 3].view(1, 3, 1, 1)
        torch.testing.assert_close(after, wanted, atol=1e-5, rtol=1e-5)

    def test_of_all_colours_changes_no_bit(self):
        generator, painted = tiny_model().generator, tiny_model().generator
        paint_(painted, palette_of(tiny_shots()))
        assert all(torch.equal(a, b) for a, b in zip(generator.parameters(), painted.parameters(), strict=True))


class TestGrain:
    @pytest.mark.parametrize("apart, flat", [(LEVELS, True), (LEVELS + 1, False)])
    def test_is_had_where_most_neighbours_differ_by_more_than_two_levels(self, apart, flat):
        rows = torch.arange(16)
        checked = 100 + apart * ((rows[:, None] + rows) % 2)
        shots = checked.to(torch.uint8).expand(2, 3, -1, -1)
        assert has_grain(shots) is not flat

    def test_counts_pixels_above_and_beside_each_other(self):
        stripes = (40 * (torch.arange(16) % 2)).to(torch.uint8)
        assert not has_grain(stripes.expand(1, 3, 16, 16))  # half of all pairs are alike
        assert not has_grain(stripes[:, None].expand(1, 3, 16, 16))

    def test_one_channel_is_enough_to_differ(self):
        shots = torch.full((1, 3, 16, 16), 9, dtype=torch.uint8)
        shots[:, 2] = torch.randint(0, 256, (16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        assert has_grain(shots)

    def test_is_looked_for_at_64_pixels(self):
        shots = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        larger = shots.repeat_interleave(4, 2).repeat_interleave(4, 3)  # most neighbours are alike
        assert has_grain(shots) and has_grain(larger)

    def test_goes_from_the_four_layers_at_the_full_and_half_resolution(self):
        generator = tiny_model(32, (12, 10, 8, 6)).generator
        before = {name: value.clone() for name, value in generator.named_parameters()}
        smooth_(generator)
        gone = {name for name, value in generator.named_parameters() if not torch.equal(value, before[name])}
        assert gone == {f"convs.{k}.noise.weight" for k in range(2, 6)}
        assert all(generator.get_parameter(name) == 0 for name in gone)


def mosaic(side, size=64, *, seed=0, count=2):
    """Random squares of one colour."""
    rng = torch.Generator().manual_seed(seed)
    squares = torch.randint(0, 256, (count, 3, size // side, size // side), generator=rng, dtype=torch.uint8)
    return squares.repeat_interleave(side, 2).repeat_interleave(side, 3)


class TestMosaic:
    @pytest.mark.parametrize("side", [2, 4, 8])
    def test_has_the_side_of_the_largest_squares_of_one_colour(self, side):
        assert mosaic_of(mosaic(side)) == side

    def test_of_single_pixels_or_one_colour_is_none(self):
        assert mosaic_of(mosaic(1)) == mosaic_of(torch.full((2, 3, 64, 64), 9, dtype=torch.uint8)) == 1

    def test_is_had_by_stripes_as_wide_as_squares(self):
        assert mosaic_of(mosaic(4)[..., :1].expand(-1, -1, -1, 64)) == 4

    def test_has_eight_squares_a_side_at_least(self):
        assert mosaic_of(mosaic(16)) == 8

    def test_is_none_if_squares_begin_elsewhere_than_in_the_corner(self):
        assert mosaic_of(mosaic(4).roll(1, -1)) == 1

    def test_is_none_if_one_shot_is_not_made_of_squares(self):
        assert mosaic_of(torch.cat([mosaic(4, count=1), mosaic(1, count=1)])) == 1

    def test_is_seen_through_the_ringing_of_a_resized_picture(self):
        large = mosaic(16, 256, count=1)[0].permute(1, 2, 0).numpy()
        small = np.array(Image.fromarray(large).resize((64, 64), Image.Resampling.LANCZOS))
        shots = torch.from_numpy(small).permute(2, 0, 1)[None]
        assert not torch.equal(shots[..., ::4], shots[..., 1::4]) and mosaic_of(shots) == 4

    @pytest.mark.parametrize("share, seen", [(0.9, True), (1.1, False)])
    def test_forgives_steps_within_squares_up_to_a_tenth_of_those_across(self, share, seen):
        bands = 150.0 * (torch.arange(64) // 4 % 2)
        bands[1::4] += 150 * math.sqrt(WITHIN * share)  # up and down again within a square
        shots = bands.round().to(torch.uint8).expand(1, 3, 64, 64)
        assert (mosaic_of(shots) == 4) is seen

    @pytest.mark.parametrize("blur", [0, 3])
    def test_photographs_have_none_however_smooth(self, blur):
        faces = torch.cat(list(generate(load_model("faces64").generator, range(10))))
        faces = F.avg_pool2d(faces.float(), 2 * blur + 1, 1, blur).to(torch.uint8) if blur else faces
        assert mosaic_of(faces) == 1 and {mosaic_of(face[None]) for face in faces} == {1}


def along(direction, images):
    """By matrix product, in levels: the oracle of how far colours go."""
    return torch.tensor(direction) @ images.long().movedim(1, 0).flatten(1)


def within(gamut):
    """Share of random colours that go beyond along no direction."""
    colours = torch.randint(0, 256, (1, 3, 400, 400), generator=torch.Generator().manual_seed(0))
    inside = torch.ones(400 * 400, dtype=torch.bool)
    for direction, low, high in zip(DIRECTIONS, gamut[::2], gamut[1::2], strict=True):
        inside &= (along(direction, colours) >= low) & (along(direction, colours) <= high)
    return inside.float().mean().item()


class TestGamut:
    def test_is_what_sorting_all_pixels_finds(self):
        shots = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        shots[:, 2] //= 3
        rare = int(RARE * 3 * 32 * 32)
        assert rare == 3
        found = [along(direction, shots).sort().values for direction in DIRECTIONS]
        assert list(gamut_of(shots)) == [int(levels[at]) for levels in found for at in (rare, -1 - rare)]

    def test_of_one_colour_is_that_colour(self):
        colour = torch.tensor([200, 10, 60], dtype=torch.uint8)
        wanted = [int(torch.tensor(direction) @ colour.long()) for direction in DIRECTIONS for _ in range(2)]
        assert list(gamut_of(colour.view(1, 3, 1, 1).expand(2, -1, 16, 16))) == wanted

    def test_passes_over_colours_of_fewer_than_a_thousandth_of_all_pixels(self):
        shots = torch.full((1, 3, 64, 64), 100, dtype=torch.uint8)
        shots[0, :, 0, :4] = 255
        assert max(gamut_of(shots)) == 300
        shots[0, :, 0, 4] = 255
        assert max(gamut_of(shots)) == 3 * 255


class TestWithout:
    def test_nothing_asked_for_is_the_generator_itself(self):
        generator = tiny_model().generator
        assert without(generator, lacking(grey_shots(), [])) is generator

    def test_leaves_the_generator_as_it_was(self):
        generator, again = tiny_model().generator, tiny_model().generator
        result = without(generator, lacking(grey_shots(), LACKS))
        assert all(torch.equal(a, b) for a, b in zip(generator.parameters(), again.parameters(), strict=True))
        assert not torch.equal(result.to_rgb1.bias, generator.to_rgb1.bias)


class TestDap:
    def test_says_in_the_card_what_the_shots_have(self):
        asked, free = (adapted(grey_shots(), palette=how, grain=how) for how in ("shots", "free"))
        assert asked.method.card(asked.state) == {"colours": 1, "grain": False}
        assert free.method.card(free.state) == {}

    def test_before_the_first_step_gives_the_source_as_it_is(self):
        method = replace(Dap(**QUICK["dap"]), palette="shots", grain="shots")
        run = begin(RunConfig(shots="tiny", method=method, steps=8, batch=2), tiny_model(), grey_shots())
        assert run.method.averaged(run.nets, run.state) is run.nets.ema

    @pytest.mark.parametrize("reach", [0.0, 1.0])
    def test_has_noise_near_the_image_where_the_shots_have_grain_alone(self, reach):
        noisy = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        for shots, has in ((tiny_shots(), False), (noisy, True)):
            result = result_of(adapted(shots, grain="shots", reach=reach))
            assert [bool((layer.noise.weight != 0).all()) for layer in result.convs] == [has] * 4
            assert (result.conv1.noise.weight != 0).all()

    @pytest.mark.parametrize("settings", [{}, {"reach": 1.0, "spread": 1.3}])
    def test_makes_images_without_colour_of_shots_without_colour(self, settings):
        images = torch.cat(list(generate(result_of(adapted(grey_shots(), palette="shots", **settings)), range(8))))
        assert (images == images[:, :1]).all() and images.float().std() > 5
        images = torch.cat(list(generate(result_of(adapted(grey_shots(), **settings)), range(8))))
        assert not (images == images[:, :1]).all()

    def test_trains_alike_whatever_is_removed_from_the_result(self):
        free, bound = adapted(grey_shots()), adapted(grey_shots(), palette="shots", grain="shots")
        for network in ("generator", "ema", "discriminator"):
            pairs = zip(
                getattr(free.nets, network).parameters(), getattr(bound.nets, network).parameters(), strict=True
            )
            assert all(torch.equal(a, b) for a, b in pairs)

    def test_gives_coloured_shots_the_same_result_with_and_without(self):
        free, bound = (result_of(adapted(tiny_shots(), palette=palette)) for palette in ("free", "shots"))
        assert all(torch.equal(a, b) for a, b in zip(free.parameters(), bound.parameters(), strict=True))

    def test_trains_and_makes_squares_where_the_shots_are_made_of_them(self):
        run = adapted(tiny_shots(), mosaic="shots")
        assert {net.spec.mosaic for net in (run.nets.source, run.nets.generator, run.nets.ema)} == {2}
        images = torch.cat(list(generate(result_of(run), range(4))))
        assert torch.equal(images, F.interpolate(images[..., ::2, ::2], scale_factor=2, mode="nearest"))
        assert run.method.card(run.state) == {"mosaic": 2}
        smooth = F.avg_pool2d(tiny_shots().float(), 3, 1, 1).to(torch.uint8)
        assert adapted(smooth, mosaic="shots").nets.generator.spec.mosaic == 1

    def test_keeps_the_result_to_the_colours_of_the_shots_and_trains_as_without(self):
        dull = (tiny_shots().float() * 0.3 + 90).round().to(torch.uint8)
        free, bound = (adapted(dull, gamut=how, reach=1.0, spread=3.0) for how in ("free", "shots"))
        pairs = zip(free.nets.generator.parameters(), bound.nets.generator.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) and bound.nets.generator.spec.gamut == ()
        before, after = (torch.cat(list(generate(result_of(run), range(8)))) for run in (free, bound))
        gamut = gamut_of(dull)
        for direction, low, high in zip(DIRECTIONS, gamut[::2], gamut[1::2], strict=True):
            slack = 1.5 * sum(map(abs, direction))  # of rounding, a level or so a channel
            assert along(direction, after).min() >= low - slack and along(direction, after).max() <= high + slack
        assert any(
            along(direction, before).max() > high + 9 for direction, high in zip(DIRECTIONS, gamut[1::2], strict=True)
        )
        assert bound.method.card(bound.state)["gamut"] == pytest.approx(within(gamut), abs=0.01)

    def test_begins_without_the_squares_and_colours_of_another_domain(self):
        source = tiny_model()
        spec = source.generator.spec = replace(source.generator.spec, mosaic=4, gamut=gamut_of(tiny_shots()))
        run = begin(RunConfig(shots="tiny", method=Dap(), steps=8, batch=2), source, tiny_shots())
        for network in (run.nets.source, run.nets.generator, run.nets.ema):
            assert (network.spec.mosaic, network.spec.gamut) == (1, ())
        assert source.generator.spec == spec
