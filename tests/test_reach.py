"""How far each layer of a result goes from its source: a line through two networks, a place on it for each layer."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tenshot.adaptation import begin
from tenshot.config import RunConfig
from tenshot.filters import Fate
from tenshot.fisher import gate_fisher
from tenshot.methods import Dap, deciding
from tenshot.methods import dap as dap_module
from tenshot.pruning import Guards
from tenshot.randomness import generator_for
from tenshot.reach import SOURCE_SAMPLES, extend, places, relative, remember_, spreads_of
from tenshot.result import averaged_model
from tenshot.step import run_step
from tiny import tiny_model, tiny_shots

NEVER = Dap(warmup=1.0, settle=1.0)
EAGER = Dap(warmup=0.0, settle=0.1, every=5, prune_mass=0.1, guards=Guards(min_alive=2), reach=5.5)
BLOCKS = ("conv1", "convs.0", "convs.1", "convs.2", "convs.3")


def adapted(method, steps=24, until=None, **settings):
    """After `until` steps of so many, all of them by default."""
    config = RunConfig(shots="tiny", method=method, **{"steps": steps, "batch": 2, **settings})
    run = begin(config, tiny_model(), tiny_shots())
    for step in range(until or steps):
        run_step(run, step)
    return run


def account(source, values, mean="arithmetic"):
    information = torch.tensor([source, 0.0, 0.0], dtype=torch.float64)
    for value in values:
        remember_(information, torch.tensor(value), mean)
    return information


def extended(reaches, spreads=None):
    source, averaged = (tiny_model(dtype=torch.float64, seed=seed).generator for seed in (0, 1))
    return source, averaged, extend(source, averaged, reaches, spreads or {}, {}, [])


def test_every_parameter_belongs_to_one_block_and_torgb_to_the_convolution_it_reads():
    generator = tiny_model().generator
    blocks = generator.blocks()
    assert sorted(name for names in blocks.values() for name in names) == sorted(dict(generator.named_parameters()))
    assert set(blocks) == {"style", *BLOCKS}
    assert {"input.input", "to_rgb1.bias"} <= set(blocks["conv1"])
    assert "to_rgbs.0.bias" in blocks["convs.1"] and "to_rgbs.1.bias" in blocks["convs.3"]
    assert not any("rgb" in name for name in blocks["convs.0"] + blocks["convs.2"])


@pytest.mark.parametrize("place", [0.0, 1.0, 1.5])
def test_one_place_for_all_layers_is_a_point_on_the_line_through_both_networks(place):
    source, averaged, result = extended(dict.fromkeys(BLOCKS, place))
    for name, parameter in result.named_parameters():
        a, b = source.get_parameter(name), averaged.get_parameter(name)
        torch.testing.assert_close(parameter, (1 - place) * a + place * b, atol=1e-11, rtol=0)


@pytest.mark.parametrize(
    ("spread", "below", "wanted"),
    [
        (1.0, "full", (1, 1, 1.5, 2, 1)),
        (1.0, "place", (1, 1, 1.5, 2, 1)),
        (1.2, "full", (1.2, 1.2, 1.8, 2.4, 1.2)),
        (1.2, "place", (1.06, 1.2, 1.8, 2.4, 1)),
    ],
)
def test_styles_are_to_spread_with_a_layer_that_goes_beyond_the_average_and_less_below_it_if_asked(
    spread, below, wanted
):
    reaches = dict(zip(BLOCKS, (0.3, 1.0, 1.5, 2.0, 0.0), strict=True))
    assert spreads_of(reaches, spread, below) == pytest.approx(dict(zip(BLOCKS, wanted, strict=True)))


def test_styles_spread_about_those_of_the_mean_latent():
    reaches = dict(zip(BLOCKS, (0.3, 1.0, 1.5, 2.0, 0.0), strict=True))
    factors = dict(zip(BLOCKS, (1.2, 1.0, 1.8, 2.4, 0.5), strict=True))
    source, averaged, result = extended(reaches, factors)
    w = result.map(torch.randn(8, 16, dtype=torch.float64))
    mean = result.mean_latent(generator_for(0, "latent_avg"))
    for block, factor in factors.items():
        rgb = {"conv1": ["to_rgb1"], "convs.1": ["to_rgbs.0"], "convs.3": ["to_rgbs.1"]}.get(block, [])
        for name in (f"{part}.conv.modulation" for part in (block, *rgb)):
            begun, end = source.get_submodule(name), averaged.get_submodule(name)

            def plain(w, begun=begun, end=end, place=reaches[block]):
                return begun(w) + place * (end(w) - begun(w))

            styles = plain(mean) + factor * (plain(w) - plain(mean))
            torch.testing.assert_close(result.get_submodule(name)(w), styles, atol=1e-9, rtol=0)


def test_each_layer_has_a_place_of_its_own_and_the_mapping_network_their_mean():
    reaches = dict(zip(BLOCKS, (0.0, 0.25, 0.5, 1.0, 1.25), strict=True))
    source, averaged, result = extended(reaches)
    for name, place in {
        "conv1.conv.weight": 0.0,
        "to_rgb1.conv.weight": 0.0,
        "convs.0.conv.modulation.bias": 0.25,
        "to_rgbs.0.bias": 0.5,
        "convs.3.noise.weight": 1.25,
        "style.1.weight": 0.6,
    }.items():
        a, b = source.get_parameter(name), averaged.get_parameter(name)
        torch.testing.assert_close(result.get_parameter(name), a + place * (b - a), atol=1e-11, rtol=0)


def test_what_is_given_does_not_change():
    source, averaged, _ = extended(dict.fromkeys(BLOCKS, 0.5))
    for network, seed in ((source, 0), (averaged, 1)):
        for name, parameter in tiny_model(dtype=torch.float64, seed=seed).generator.named_parameters():
            assert torch.equal(parameter, network.get_parameter(name))


def share(source, values, mean="arithmetic"):
    return relative(account(source, values, mean), mean)


def test_a_layers_share_is_its_mean_over_the_run_over_that_of_the_source():
    assert share(5.0, [4.0, 6.0, 2.0, 1.0, 0.0, 2.0]) == pytest.approx((15 / 6) / 5)
    assert share(5.0, [4.0, 6.0, 2.0, 1.0, 3.0], "geometric") == pytest.approx(144 ** (1 / 5) / 5)


def test_one_leap_hardly_moves_a_geometric_mean_and_nor_does_one_estimate_of_nothing():
    quiet, leap = [1.0] * 99, [1000.0]
    assert share(1.0, quiet + leap) == pytest.approx(10.99)
    assert share(1.0, quiet + leap, "geometric") == pytest.approx(1000**0.01)
    assert 0.4 < share(1.0, [*quiet, 0.0], "geometric") < 1


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_nothing_is_said_before_the_first_estimate_or_where_nothing_was_at_stake(mean):
    assert share(5.0, [], mean) is None
    assert share(0.0, [1.0, 2.0], mean) is None
    assert share(5.0, [0.0, 0.0], mean) == pytest.approx(0, abs=1e-30)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_an_estimate_that_is_not_a_number_is_left_out(mean):
    told = account(5.0, [4.0, float("nan"), 6.0, float("inf"), 2.0], mean)
    assert torch.equal(told, account(5.0, [4.0, 6.0, 2.0], mean))


@given(
    st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=20),
    st.floats(1e-3, 1e3),
    st.sampled_from(["arithmetic", "geometric"]),
)
def test_the_scale_of_the_loss_does_not_matter(values, scale, mean):
    plain, scaled = (share(3.0 * k, [v * k for v in values], mean) for k in (1.0, scale))
    assert plain is not None and scaled == pytest.approx(plain, rel=1e-3)


def test_layers_go_by_the_roots_of_their_shares_and_on_average_by_the_gain_times_the_mean_share():
    told = places({"a": 0.01, "b": 0.04, "c": 0.09}, 6.0, 1.5, 2.0)
    assert list(told.values()) == pytest.approx([0.14, 0.28, 0.42])


def test_layers_that_would_go_too_far_on_average_keep_their_proportions():
    told = places({"a": 0.16, "b": 0.25, "c": 0.36}, 100.0, 1.5, 2.0)
    assert list(told.values()) == pytest.approx([1.2, 1.5, 1.8])


def test_no_layer_goes_farther_than_allowed():
    assert list(places({"a": 0.01, "b": 0.81}, 50.0, 1.5, 2.0).values()) == pytest.approx([0.3, 2.0])


def test_where_nothing_was_at_stake_everything_stays_the_source():
    assert places({"a": 0.0, "b": 0.0}, 12.0, 1.5, 2.0) == {"a": 0.0, "b": 0.0}


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=9), st.floats(0.1, 100), st.floats(0.1, 5), st.floats(0.1, 5))
def test_places_rise_with_shares_and_keep_to_both_bounds(shares, gain, most, most_of_layer):
    told = list(places(dict(enumerate(shares)), gain, most, most_of_layer).values())
    assert all(0 <= place <= most_of_layer for place in told)
    assert sum(told) / len(told) <= most * (1 + 1e-9)
    assert [place for _, place in sorted(zip(shares, told, strict=True))] == sorted(told)


def test_a_runs_reaches_follow_from_the_source_and_every_estimate_of_its_steps(monkeypatch):
    seen = []

    def watched(gates, batch):
        found = gate_fisher(gates, batch)
        if "conv1" in gates:  # G's
            seen.append({name: values.mean().item() for name, values in found.items()})
        return found

    monkeypatch.setattr(dap_module, "gate_fisher", watched)
    monkeypatch.setattr(deciding, "gate_fisher", watched)
    run = adapted(replace(NEVER, reach=0.7, max_reach=50.0, max_layer_reach=50.0), steps=10)
    assert len(seen) == SOURCE_SAMPLES // 2 + 10
    reaches, shares = run.method.reaches(run.state), {}
    for name in reaches:
        values = [each[name] for each in seen]
        source, later = values[:-10], values[-10:]
        shares[name] = (sum(later) / 10) / (sum(source) / len(source))
    mean, mean_root = (sum(share**power for share in shares.values()) / len(shares) for power in (1, 0.5))
    for name, place in reaches.items():
        assert place == pytest.approx(0.7 * mean * shares[name] ** 0.5 / mean_root, rel=1e-5)


def test_the_sources_information_is_that_of_its_own_images_one_by_one():
    model, run = tiny_model(), adapted(replace(NEVER, reach=1.0), steps=1, batch=1)
    rng, wanted = generator_for(0, "source Fisher"), torch.zeros(12)
    for _ in range(SOURCE_SAMPLES):
        z = torch.randn(1, 16, generator=rng)
        noise = model.generator.draw_noise(1, rng)
        gate = torch.ones(12, requires_grad=True)
        image = model.generator.synthesise(model.generator.spread(model.generator.map(z)), noise, {"conv1": gate})
        loss = torch.nn.functional.softplus(-model.discriminator(image)).sum()
        wanted += torch.autograd.grad(loss, gate)[0].square() / SOURCE_SAMPLES
    assert run.state["generator/conv1/information"][0].item() == pytest.approx(wanted.mean().item(), rel=1e-4)


@pytest.mark.parametrize("networks", ["both", "generator", "discriminator"])
def test_the_result_is_at_its_reach_whichever_networks_are_pruned(networks):
    run = adapted(replace(EAGER, networks=networks, reach=0.5, max_reach=5.0, max_layer_reach=5.0))
    reaches, source = run.method.reaches(run.state), tiny_model().generator
    assert set(reaches) == set(BLOCKS) and len(set(reaches.values())) > 1
    result = averaged_model(run, 24, tiny_model(), "").generator
    for block, name in (("conv1", "conv1.noise.weight"), ("convs.3", "to_rgbs.1.bias")):
        begun, average = source.get_parameter(name), run.nets.ema.get_parameter(name)
        wanted = begun + reaches[block] * (average - begun)
        torch.testing.assert_close(result.get_parameter(name), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"reach_images": 12}, 6),
        ({"reach_images": 13}, 6),
        ({"reach_images": 1}, 1),
        ({"reach_images": 0}, 24),
        ({}, 24),
    ],
)
def test_what_was_at_stake_is_that_of_the_first_images_however_long_the_run_is(settings, steps):
    run = adapted(replace(EAGER, **settings))  # 24 steps of 2 images
    short, counted = adapted(replace(EAGER, reach_images=0), until=steps), run.state["generator/conv1/information"]
    assert counted[2] == steps
    assert torch.equal(counted, short.state["generator/conv1/information"])


def test_after_its_first_images_a_run_goes_the_less_beyond_the_average_the_longer_it_went_on():
    settings = {"reach": 1.1, "max_reach": 50.0, "max_layer_reach": 50.0, "spread": 1.5}
    run = adapted(replace(NEVER, reach_images=12, **settings))  # 24 steps of 2 images, so a quarter of them
    accounts = {name: run.state[f"generator/{name}/information"] for name in run.method.reaches(run.state)}
    shares = {name: relative(information, "arithmetic") for name, information in accounts.items()}
    whole = places(shares, 1.1, 50.0, 50.0)
    assert min(whole.values()) < 1 < max(whole.values())
    for name, place in run.method.reaches(run.state).items():
        assert place == pytest.approx(whole[name] if whole[name] < 1 else 1 + (whole[name] - 1) / 2)
    result, average = run.method.averaged(run.nets, run.state), run.nets.ema
    for name, place in run.method.reaches(run.state).items():
        weight = f"{name}.conv.modulation.weight"
        begun, here = run.nets.source.get_parameter(weight), average.get_parameter(weight)
        wanted = (1 + 0.5 / 2) * max(1.0, place) * (begun + place * (here - begun))
        torch.testing.assert_close(result.get_parameter(weight), wanted)


def test_a_run_averages_its_estimates_as_asked(monkeypatch):
    seen, remember = [], dap_module.remember_
    monkeypatch.setattr(dap_module, "remember_", lambda *given: (seen.append(given[1].item()), remember(*given)))
    run = adapted(replace(NEVER, reach=1.0, reach_mean="geometric"))
    estimates = torch.tensor(seen, dtype=torch.float64).reshape(-1, len(BLOCKS))
    for name, values in zip(BLOCKS, estimates.T, strict=True):
        information = run.state[f"generator/{name}/information"]
        assert relative(information, "geometric") == pytest.approx(values.log().mean().exp().item() / information[0])
    told = places({n: relative(run.state[f"generator/{n}/information"], "geometric") for n in BLOCKS}, 1.0, 1.25, 2.0)
    assert run.method.reaches(run.state) == told


@pytest.mark.parametrize("below", ["full", "place"])
def test_layers_below_the_average_get_what_spread_their_run_asks_for(below):
    run = adapted(replace(NEVER, reach=0.3, spread=1.5, spread_below=below))
    result, average = run.method.averaged(run.nets, run.state), run.nets.ema
    reaches = run.method.reaches(run.state)
    assert min(reaches.values()) < 0.9
    for name, place in reaches.items():
        weight = f"{name}.conv.modulation.weight"
        begun, here = run.nets.source.get_parameter(weight), average.get_parameter(weight)
        factor = (1 + 0.5 * (place if below == "place" and place < 1 else 1)) * max(1.0, place)
        torch.testing.assert_close(result.get_parameter(weight), factor * (begun + place * (here - begun)))


def test_styles_can_spread_without_reach():
    run = adapted(replace(EAGER, reach=0.0, spread=1.5))
    result, average = run.method.averaged(run.nets, run.state), run.nets.ema
    wanted = 1.5 * average.conv1.conv.modulation.weight
    torch.testing.assert_close(result.conv1.conv.modulation.weight, wanted)
    assert torch.equal(result.conv1.conv.weight, average.conv1.conv.weight)


def test_without_reach_the_result_is_the_moving_average():
    run = adapted(replace(EAGER, reach=0.0))
    assert run.method.averaged(run.nets, run.state) is run.nets.ema
    assert not any("information" in key for key in run.state)


@pytest.mark.parametrize("settings", [{}, {"spread": 1.5}, {"spread": 1.5, "reach": 0.0, "networks": "discriminator"}])
def test_before_the_first_step_the_result_is_the_source(settings):
    config = RunConfig(shots="tiny", method=replace(EAGER, **settings), steps=10, batch=2)
    run = begin(config, tiny_model(), tiny_shots())
    for name, parameter in run.method.averaged(run.nets, run.state).named_parameters():
        assert torch.equal(parameter, tiny_model().generator.get_parameter(name))


def test_what_is_pruned_stays_gone_in_the_result():
    run = adapted(EAGER)
    result, pruned = run.method.averaged(run.nets, run.state), 0
    for group in result.filter_groups():
        fates = run.state.get(f"generator/{group.name}/fate")
        for piece in group.slices if fates is not None else ():
            gone = result.get_parameter(piece.parameter).movedim(piece.axis, 0)[fates == Fate.PRUNE]
            pruned += len(gone)
            assert (gone == 0).all() and torch.equal(result.get_buffer(f"{group.name}.gate") == 0, fates == Fate.PRUNE)
    assert pruned


def test_with_the_weight_estimator_the_result_has_its_reach_too():
    run = adapted(replace(EAGER, estimator="weight", every=4, fisher_samples=2))
    assert all(0 < place <= 2.0 for place in run.method.reaches(run.state).values())


def test_the_results_card_says_how_far_each_layer_went():
    run = adapted(replace(EAGER, networks="discriminator"))
    told = averaged_model(run, 24, tiny_model(), "").card["reach"]
    assert told == {name: round(place, 4) for name, place in run.method.reaches(run.state).items()}
    without = adapted(replace(EAGER, reach=0.0))
    assert "reach" not in averaged_model(without, 24, tiny_model(), "").card


def test_decisions_tell_how_far_each_layer_of_g_goes():
    told = []
    run = begin(RunConfig(shots="tiny", method=EAGER, steps=10, batch=2), tiny_model(), tiny_shots())
    run.record = told.append
    for step in range(10):
        run_step(run, step)
    last = {entry["network"]: entry["layers"] for entry in told}
    assert all("reach" in layer for layer in last["generator"].values())
    assert not any("reach" in layer for layer in last["discriminator"].values())
