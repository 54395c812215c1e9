"""RICK: two percentiles over all layers set the fates, the bank only grows, what is kept or gone does not move."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.stylegan2 import reference_discriminator, reference_generator, reference_mapping
from tenshot.adaptation import begin, context_of
from tenshot.checkpoint import is_finite, restore, snapshot
from tenshot.config import RunConfig
from tenshot.errors import TenshotError
from tenshot.filters import Fate
from tenshot.methods.rick import Rick, _measure, _Sample
from tenshot.pruning import decide_pooled
from tenshot.step import run_step
from tiny import tiny_model, tiny_shots

EAGER = Rick(
    warmup=0.04, decisions=24, prune_quantile=6.0, fisher_quantile=60.0, max_new_per_update=1.0, fisher_samples=2
)
"""Of 100 steps, 4 of warm-up and a decision every 4; each prunes at least 2 of G's 36 filters."""
softplus = torch.nn.functional.softplus


def adaptation(method=EAGER, model=None, **settings):
    config = RunConfig(shots="tiny", method=method, **{"steps": 100, "batch": 2, **settings})
    return begin(config, model or tiny_model(), tiny_shots())


def steps(run, count, first=0):
    for step in range(first, first + count):
        run_step(run, step)
    return run


def filters_of(run, network, fate):
    """(group, indices) of every layer that has filters of a fate."""
    for group in getattr(run.nets, network).filter_groups():
        fates = run.state.get(f"{network}/{group.name}/fate", torch.tensor([]))
        if len(indices := (fates == fate).nonzero().flatten()):
            yield group, indices


def bank_of(run):
    return {(key, i) for key, fates in run.state.items() for i in (fates == Fate.PRUNE).nonzero().flatten().tolist()}


def values_of(run, prefix=("generator/", "discriminator/")):
    return {k: v.clone() for k, v in snapshot(run).items() if k.startswith(prefix)}


def moved(before, run):
    after = snapshot(run)
    return {k for k, v in before.items() if not torch.equal(v, after[k])}


def pooled(importance, *, prune=0.0, tune=100.0, before=None, counted=None, max_new=1.0):
    importance = torch.as_tensor(importance, dtype=torch.float32)
    before = torch.full([len(importance)], int(Fate.TUNE)) if before is None else torch.as_tensor(before)
    counted = before != Fate.PRUNE if counted is None else counted
    return decide_pooled(
        importance, before, prune_percent=prune, tune_percent=tune, counted=counted, max_new=max_new
    ).tolist()


# The rule


@pytest.mark.parametrize(("filters", "pruned"), [(4864, 5), (5248, 6), (8064, 9)])
def test_a_tenth_of_a_percent_of_the_published_networks_pools_is_so_many_filters(filters, pruned):
    importance = torch.rand(filters, generator=torch.Generator().manual_seed(filters)) ** 4
    fates = pooled(importance, prune=0.1)
    assert fates.count(Fate.PRUNE) == pruned
    assert [i for i in range(filters) if fates[i] == Fate.PRUNE] == sorted(importance.argsort()[:pruned].tolist())
    assert pooled(importance, prune=0.1, max_new=0.001).count(Fate.PRUNE) == pruned  # the guard leaves room for it


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.integers(1, 30), min_size=2, max_size=40),
    prune=st.sampled_from([0.1, 0.075, 5.0, 25.0]),
    tune=st.sampled_from([40.0, 60.0, 85.0, 100.0]),
)
def test_thresholds_are_numpys_percentiles(values, prune, tune):
    low, high = np.percentile(np.array(values, dtype=np.float64), [prune, tune])
    read_aloud = [Fate.PRUNE if v <= low else Fate.PRESERVE if v > high else Fate.TUNE for v in values]
    assert pooled(values, prune=prune, tune=tune) == read_aloud


@pytest.mark.parametrize("quantile", [40.0, 60.0, 85.0])
def test_the_share_of_preserved_filters_is_what_the_quantile_leaves(quantile):
    importance = torch.rand(5000, generator=torch.Generator().manual_seed(0))
    assert pooled(importance, tune=quantile).count(Fate.PRESERVE) == round(5000 * (1 - quantile / 100))


def test_a_factor_of_1000_on_one_layer_moves_the_others_pruning_unlike_daps():
    rng = torch.Generator().manual_seed(1)
    first, second = torch.rand(100, generator=rng) + 0.01, torch.rand(100, generator=rng) + 0.01
    even = pooled(torch.cat([first, second]), prune=10.0, tune=60.0)
    scaled = pooled(torch.cat([first * 1000, second]), prune=10.0, tune=60.0)
    assert 5 <= even[:100].count(Fate.PRUNE) <= 15
    assert scaled[:100].count(Fate.PRUNE) == 0 and scaled[100:].count(Fate.PRUNE) == 20
    assert scaled[:100].count(Fate.PRESERVE) == 80 and scaled[100:].count(Fate.PRESERVE) == 0


def test_ties_at_zero_are_pruned_no_more_than_the_guard_allows():
    importance = [0.0] * 30 + [1.0] * 70
    assert pooled(importance, prune=0.1).count(Fate.PRUNE) == 30
    assert pooled(importance, prune=0.1, max_new=0.02).count(Fate.PRUNE) == 2
    before = pooled(importance, prune=0.1, max_new=0.02)
    assert pooled(importance, prune=0.1, max_new=0.02, before=before).count(Fate.PRUNE) == 4


def test_what_is_in_the_bank_stays_whatever_its_importance_and_is_not_counted():
    before = [Fate.PRUNE] * 5 + [Fate.TUNE] * 95
    fates = pooled([1e9] * 5 + list(range(1, 96)), prune=1.0, tune=60.0, before=before)
    assert fates[:5] == [Fate.PRUNE] * 5
    assert fates[5:].count(Fate.PRUNE) == 1 and fates[5:].count(Fate.PRESERVE) == 38  # of 95
    everyone = torch.ones(100, dtype=torch.bool)
    assert (
        pooled([1e9] * 5 + list(range(1, 96)), tune=60.0, before=before, counted=everyone)[5:].count(Fate.PRESERVE)
        == 35
    )  # the 5 in the bank are among the upper 40


def test_a_pool_without_any_importance_stays_as_it_is():
    assert pooled([0.0] * 8, prune=10.0, tune=50.0) == [Fate.TUNE] * 8
    assert pooled([math.nan, 1.0, 2.0], prune=10.0, tune=50.0, before=[0, 1, 2], counted=torch.ones(3) > 0) == [0, 1, 2]


def test_a_quantile_of_zero_prunes_nothing_and_one_of_a_hundred_preserves_nothing():
    assert pooled([0.0, 1.0, 2.0], prune=0.0, tune=100.0) == [Fate.TUNE] * 3


@pytest.mark.parametrize(
    ("method", "length", "expected"),
    [
        (Rick(), 1750, range(250, 1750, 50)),
        (Rick(warmup=0.111, decisions=40), 2250, range(250, 2250, 50)),
        (Rick(), 10, range(1, 10)),
        (Rick(warmup=0.96), 10, [9]),
    ],
)
def test_decisions_fall_where_they_were_published_and_never_after_the_last_step(method, length, expected):
    assert method.decision_steps(length) == list(expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fisher_quantile": 101.0}, r"--rick\.fisher-quantile is 101\.0: it must be between 0 and 100"),
        ({"prune_quantile": 50.0}, r"--rick\.prune-quantile is 50\.0: it must be from 0 to fisher_quantile, 40\.0"),
        ({"prune_quantile": 2.0}, r"--rick\.max-new-per-update is 0\.01: it must be from 0\.02, .* to 1"),
        ({"decisions": 0}, r"--rick\.decisions is 0: it must be at least 1"),
        ({"warmup": 250}, r"--rick\.warmup is 250: it must be a share of the run"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(TenshotError, match=message):
        Rick(**wrong)


# The estimate


def slow_squares(state, loss):
    """Squared derivative of a loss by every tensor of a state dict."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    loss(leaves).backward()
    return {name: leaf.grad**2 for name, leaf in leaves.items() if leaf.grad is not None}


def test_fisher_information_equals_single_sample_gradients_squared_and_reduced_as_published():
    nets, rng = adaptation(model=tiny_model(dtype=torch.float64)).nets, torch.Generator().manual_seed(7)
    samples = [
        _Sample(
            torch.randn(1, 16, generator=rng, dtype=torch.float64),
            nets.ema.draw_noise(1, rng),
            torch.rand(1, 3, 16, 16, generator=rng, dtype=torch.float64) * 2 - 1,
        )
        for _ in range(3)
    ]
    g, d = nets.ema.state_dict(), nets.discriminator_ema.state_dict()

    def image(state, sample):
        w = reference_mapping(state, sample.z)[:, None].expand(-1, nets.ema.spec.layers, -1)
        return reference_generator(state, w, sample.noise)

    def loss_d(state, s):
        real, fake = reference_discriminator(state, s.real), reference_discriminator(state, image(g, s).detach())
        return (softplus(-real) + softplus(fake)).sum()

    of_g = [slow_squares(g, lambda p, s=s: softplus(-reference_discriminator(d, image(p, s))).sum()) for s in samples]
    of_d = [slow_squares(d, lambda p, s=s: loss_d(p, s)) for s in samples]
    g2 = {name: sum(squares[name] for squares in of_g) / 3 for name in of_g[0]}
    d2 = {name: sum(squares[name] for squares in of_d) / 3 for name in of_d[0]}

    expected = {"generator": {}, "discriminator": {}}
    for i in range(4):
        name, rows = f"convs.{i}", f"convs.{i}.conv.modulation"
        expected["generator"][name] = g2[f"{name}.conv.weight"][0].mean(dim=(1, 2, 3))
        expected["generator"][rows] = (g2[f"{rows}.weight"].mean(dim=1) + g2[f"{rows}.bias"]) / 2
    for i in (1, 2):
        for conv, at in (("conv1", 0), ("conv2", 1)):
            name = f"convs.{i}.{conv}"
            weight, bias = d2[f"{name}.{at}.weight"], d2[f"{name}.{at + 1}.bias"]
            expected["discriminator"][name] = (weight.mean(dim=(1, 2, 3)) + bias) / 2
        expected["discriminator"][f"convs.{i}.skip"] = d2[f"convs.{i}.skip.1.weight"].mean(dim=(1, 2, 3))

    measured = _measure(nets, samples)
    for network, groups in expected.items():
        assert measured[network].keys() == groups.keys()
        for name, values in groups.items():
            torch.testing.assert_close(measured[network][name], values, rtol=1e-8, atol=0)


def test_estimates_change_no_weight_gradient_flag_moment_or_random_state():
    """With nothing to prune or preserve, a run with 24 decisions is the run with one."""
    random = torch.get_rng_state()
    idle = replace(EAGER, prune_quantile=0.0, fisher_quantile=100.0)
    often, once = (steps(adaptation(replace(idle, decisions=n)), 12) for n in (24, 1))
    assert moved(snapshot(once), often) == set()
    assert torch.equal(random, torch.get_rng_state())

    before = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in often.nets.ema.parameters()]
    values = values_of(often, "")
    _measure(often.nets, often.method._samples(context_of(often, 11)))
    assert moved(values, often) == set()
    for (flag, gradient), parameter in zip(before, often.nets.ema.parameters(), strict=True):
        assert flag == parameter.requires_grad and gradient is None and parameter.grad is None


def test_latents_stay_the_same_all_through_the_run_unless_asked_otherwise():
    run = adaptation()
    early, late = (run.method._samples(context_of(run, step)) for step in (3, 7))
    assert all(torch.equal(a.z, b.z) for a, b in zip(early, late, strict=True))
    assert not torch.equal(early[0].z, early[1].z)
    assert not any(torch.equal(a.noise[0], b.noise[0]) for a, b in zip(early, late, strict=True))
    fresh = replace(EAGER, fresh_latents=True)
    assert not torch.equal(fresh._samples(context_of(run, 3))[0].z, fresh._samples(context_of(run, 7))[0].z)


# In the loop


def test_the_warm_up_leaves_g_and_ds_trunk_as_they_are_to_the_bit():
    run = adaptation(replace(EAGER, warmup=0.5), r1_every=2)
    before = values_of(run)
    steps(run, 6)
    changed = moved(before, run)
    assert changed and all(name.startswith("discriminator/final_") for name in changed)
    assert len(changed) == sum(name.startswith("final_") for name, _ in run.nets.discriminator.named_parameters())
    assert not run.nets.optimiser_g.state and run.path_mean.isnan()


def test_what_never_trains_is_the_sources_to_the_bit_and_all_else_moves():
    run = adaptation(replace(EAGER, prune_quantile=0.0, fisher_quantile=100.0))
    before = values_of(run)
    steps(run, 8)
    frozen = ("style.", "input.", "conv1.", "to_rgb", "latent_avg")
    still = {name for name in before if name.split("/")[1].startswith(frozen) or name.endswith("gate")}
    still |= {name for name in before if name.startswith("discriminator/convs.0.")}
    assert moved(before, run) == before.keys() - still


@pytest.mark.parametrize("scope", ["filter", "weight"])
def test_the_bank_only_grows_and_its_filters_are_zero_in_both_networks_and_both_averages(scope):
    run, bank = adaptation(replace(EAGER, prune_scope=scope)), set()
    for step in range(10):
        run_step(run, step)
        assert bank <= bank_of(run)
        assert (step + 1) % 4 or len(bank) < len(bank_of(run))
        bank = bank_of(run)
        for network, nets in (
            ("generator", (run.nets.generator, run.nets.ema)),
            ("discriminator", (run.nets.discriminator, run.nets.discriminator_ema)),
        ):
            for group, indices in filters_of(run, network, Fate.PRUNE):
                alone = scope == "weight" and network == "generator" and group.kind == "conv"
                for net in nets:
                    if group.gated:
                        assert (net.get_buffer(f"{group.name}.gate")[indices] == (scope == "weight")).all()
                    for piece in group.slices[: 1 if alone else None]:
                        assert (net.get_parameter(piece.parameter).index_select(piece.axis, indices) == 0).all()
    kinds = {group.kind for n in ("generator", "discriminator") for group, _ in filters_of(run, n, Fate.PRUNE)}
    assert kinds == {"conv", "modulation", "skip"}


def test_a_pruned_filter_is_silent_or_as_published_still_emits_its_noise_and_trains_its_bias():
    for scope, silent in (("filter", True), ("weight", False)):
        run = adaptation(replace(EAGER, prune_scope=scope))
        steps(run, 4)
        group, indices = next(f for f in filters_of(run, "generator", Fate.PRUNE) if f[0].kind == "conv")
        bias = run.nets.generator.get_parameter(f"{group.name}.activate.bias")
        before, maps = bias.detach().clone(), {}
        steps(run, 3, first=4)
        assert torch.equal(bias[indices], before[indices]) == silent
        generator = run.nets.ema
        noise = generator.draw_noise(2, torch.Generator().manual_seed(0))
        generator.synthesise(generator.spread(torch.zeros(2, 16)), noise, keep=maps)
        assert (maps[group.name][:, indices] == 0).all() == silent


@pytest.mark.parametrize("scope", ["filter", "weight"])
@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_preserved_filters_stand_still_from_decision_to_decision_and_tuned_ones_move(scope, beta1):
    run = steps(adaptation(replace(EAGER, prune_scope=scope), beta1=beta1, r1_every=2, path_every=2), 8)
    before, fates = values_of(run), {k: v.clone() for k, v in run.state.items()}
    steps(run, 3, first=8)
    assert all(torch.equal(fates[k], run.state[k]) for k in fates)
    for network in ("generator", "discriminator"):
        trained, was = getattr(run.nets, network), {k.split("/")[1]: v for k, v in before.items() if network in k}
        for fate, stands in ((Fate.PRESERVE, True), (Fate.TUNE, False)):
            filters = list(filters_of(run, network, fate))
            assert filters
            for group, indices in filters:
                alone = scope == "weight" and network == "generator" and group.kind == "conv"
                for piece in group.slices[: 1 if alone else None]:
                    now, then = (
                        tensor.index_select(piece.axis, indices)
                        for tensor in (trained.get_parameter(piece.parameter), was[piece.parameter])
                    )
                    assert torch.equal(now, then) == stands, (group.name, piece)
    bias, preserved = "convs.1.activate.bias", run.state["generator/convs.1/fate"] == Fate.PRESERVE
    assert preserved.any()
    then = before[f"generator/{bias}"][preserved]
    assert torch.equal(run.nets.generator.get_parameter(bias)[preserved], then) == (scope == "filter")


def test_without_the_mask_the_average_keeps_pruned_filters_and_they_fade_by_its_factor_alone():
    run = steps(adaptation(replace(EAGER, mask_ema=False, decisions=1)), 4)
    expected = values_of(run, ("ema/", "discriminator_ema/"))
    decay = 0.5 ** (run.config.batch / run.config.ema_half_life)
    steps(run, 5, first=4)
    for network, part in (("generator", "ema"), ("discriminator", "discriminator_ema")):
        for group, indices in filters_of(run, network, Fate.PRUNE):
            average = getattr(run.nets, part)
            if group.gated:
                assert (average.get_buffer(f"{group.name}.gate") == 1).all()
            for piece in group.slices:
                now = average.get_parameter(piece.parameter).index_select(piece.axis, indices)
                then = expected[f"{part}/{piece.parameter}"].index_select(piece.axis, indices)
                torch.testing.assert_close(now, then * decay**5, rtol=1e-5, atol=0)
                assert (now != 0).any()


def test_a_convolution_filter_that_fades_in_the_average_is_as_loud_as_before():
    """Why the mask is on by default: demodulation gives every output channel unit norm again."""
    generator = adaptation().nets.ema
    ws, noise = generator.spread(torch.ones(1, 16)), generator.draw_noise(1, torch.Generator().manual_seed(0))
    before, after = {}, {}
    generator.synthesise(ws, noise, keep=before)
    generator.convs[1].conv.weight[:, :3] *= 0.997784**1750
    generator.synthesise(ws, noise, keep=after)
    torch.testing.assert_close(after["convs.1"], before["convs.1"], rtol=1e-3, atol=1e-3)


def test_without_the_mask_filters_in_the_bank_are_measured_like_all_others():
    entries = {}
    for mask in (True, False):
        run = adaptation(replace(EAGER, mask_ema=mask))
        run.record = entries.setdefault(mask, []).append
        steps(run, 8)
        banked = [
            entries[mask][2]["layers"][group.name]["importance"][i]
            for group, indices in filters_of(run, "generator", Fate.PRUNE)
            for i in indices.tolist()
            if entries[mask][0]["layers"][group.name]["pruned"] == entries[mask][2]["layers"][group.name]["pruned"]
        ]
        assert banked and (max(banked) == 0) == mask


def test_every_decision_is_recorded_with_each_layers_ratios_and_the_banks_size():
    run, entries = adaptation(), []
    run.record = entries.append
    steps(run, 8)
    assert [(e["step"], e["network"]) for e in entries] == [
        (step, network) for step in (4, 8) for network in ("generator", "discriminator")
    ]
    assert sum(entry["bank"] for entry in entries[2:]) == len(bank_of(run))
    for entry in entries[2:]:
        for name, layer in entry["layers"].items():
            fates = run.state[f"{entry['network']}/{name}/fate"]
            assert layer["pruned"] == pytest.approx((fates == Fate.PRUNE).float().mean().item(), abs=1e-4)
            assert layer["preserved"] == pytest.approx((fates == Fate.PRESERVE).float().mean().item(), abs=1e-4)
            assert len(layer["importance"]) == len(fates)


def test_an_estimate_that_is_not_finite_decides_nothing_and_is_recorded():
    run, entries = adaptation(), []
    run.record = entries.append
    run.nets.ema.conv1.conv.weight.fill_(math.nan)
    run.method.after_step(context_of(run, 3), run.state)
    assert [entry.get("skipped") for entry in entries] == ["Fisher is not finite"] * 2
    assert not bank_of(run)


def test_a_layer_whose_filters_all_train_again_takes_steps_of_ordinary_size():
    run = adaptation(replace(EAGER, prune_quantile=0.0, fisher_quantile=100.0, decisions=1))
    weight = run.nets.generator.convs[1].conv.weight
    run.state["generator/convs.1/fate"].fill_(Fate.PRESERVE)
    steps(run, 3, first=4)
    moments, before = run.nets.optimiser_g.state[weight], weight.detach().clone()
    moments["step"].fill_(1000.0)
    steps(run, 1, first=3)  # the warm-up's last: G stands still, then the decision frees them all
    assert (run.state["generator/convs.1/fate"] == Fate.TUNE).all()
    assert torch.equal(weight, before)
    steps(run, 1, first=5)
    largest = (weight.detach() - before).abs().max().item()
    assert 0 < largest < 4 * run.config.lr  # with Adam's old count of steps it would be eleven times


def test_filters_that_the_source_has_lost_already_stay_lost():
    model = tiny_model()
    model.generator.convs[1].gate[:3] = 0
    run = steps(adaptation(model=model), 6)
    assert (run.nets.generator.convs[1].gate[:3] == 0).all()
    assert (run.state["generator/convs.1/fate"][:3] == Fate.PRUNE).all()


def test_a_learning_rate_of_zero_changes_nothing_before_the_first_filter_is_pruned():
    run = adaptation(lr=0.0)
    before = snapshot(run)
    before = {k: v.clone() for k, v in before.items() if k.startswith(("gen", "dis", "ema"))}
    assert moved(before, steps(run, 3)) == set()
    assert moved(before, steps(run, 1, first=3))
    idle = adaptation(replace(EAGER, prune_quantile=0.0), lr=0.0)
    assert moved(before, steps(idle, 9)) == set()


def test_a_run_that_is_stopped_and_resumed_equals_the_unbroken_one_to_the_bit():
    whole, stopped = steps(adaptation(), 11), adaptation()
    for first, stop in ((0, 2), (2, 6), (6, 8)):  # in the warm-up, between decisions, right after one
        steps(stopped, stop - first, first=first)
        tensors = {name: tensor.clone() for name, tensor in snapshot(stopped).items()}
        stopped = adaptation()
        restore(stopped, tensors)
    steps(stopped, 3, first=8)
    assert snapshot(whole).keys() == snapshot(stopped).keys()
    assert moved(snapshot(whole), stopped) == set()


@pytest.mark.parametrize("augment", ["none", "flip", "diffaug", "ada"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_runs_in_both_precisions_under_every_augmentation(augment, precision):
    run = steps(adaptation(augment=augment, precision=precision, r1_every=3, path_every=2), 9)
    assert is_finite(run) and bank_of(run)


@pytest.mark.parametrize(("scope", "count"), [("filter", 100), ("weight", 40)])
def test_everything_stays_finite_even_when_whole_layers_are_pruned(scope, count):
    run = adaptation(replace(EAGER, prune_scope=scope, decisions=4))
    for name in ("convs.1", "convs.2.conv.modulation"):
        run.state[f"generator/{name}/fate"].fill_(Fate.PRUNE)
    for step in range(count):
        assert all(math.isfinite(value) for value in run_step(run, step).values())
    assert is_finite(run)
    assert run.nets.generator.convs[2].conv.modulation.bias.abs().max() == 0
