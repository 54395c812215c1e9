"""AdAM: a probe that leaves no trace but its decision; then each filter is either modulated or tuned, never both."""

import functools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tenshot import kml, plan
from tenshot.adaptation import begin, context_of
from tenshot.checkpoint import restore, snapshot
from tenshot.config import RunConfig
from tenshot.errors import TenshotError
from tenshot.filters import Fate
from tenshot.loop import start
from tenshot.methods import METHODS
from tenshot.methods.adam import AdaM
from tenshot.models import load_model
from tenshot.nets import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec, channel_plan
from tenshot.randomness import generator_for
from tenshot.step import run_step
from tiny import tiny_model, tiny_shots

QUICK = AdaM(probe=0.5, fisher_samples=2)  # of 12 steps, the first 6 are the probe
NETWORKS = ("generator", "discriminator")


def adaptation(method=QUICK, **settings):
    config = RunConfig(shots="tiny", method=method, **{"steps": 12, "batch": 2, "ema_half_life": 4, **settings})
    return begin(config, tiny_model(), tiny_shots())


def steps(run, count, first=0):
    for step in range(first, first + count):
        run_step(run, step)
    return run


@functools.cache
def late(beta1=0.0):
    """A run in its second stage, with every penalty taken in both; not to be changed."""
    return steps(adaptation(beta1=beta1, r1_every=2, path_every=2), 11)


@functools.cache
def probed():
    """A run at the end of its probe; not to be changed."""
    return steps(adaptation(replace(QUICK, fisher_samples=5)), 6)


def parameters_of(run, network):
    return dict(getattr(run.nets, network).named_parameters())


def plain_name(name):
    """a.parametrizations.weight.original -> a.weight; None for a vector."""
    owner, found, rest = name.partition(".parametrizations.")
    if not found:
        return name
    return f"{owner}.{rest.removesuffix('.original')}" if rest.endswith(".original") else None


def is_vector(name):
    return plain_name(name) is None


def layers_of(run, network):
    """(group as the plain network lists it, its fates)."""
    for group in getattr(tiny_model(), network).filter_groups():
        fate = run.state.get(f"{network}/{group.name}/fate")
        if fate is not None:
            yield group, fate


def own_slices(network, group):
    """What the formulas of a filter speak of: G's convolutions have no bias of their own."""
    return group.slices[:1] if network == "generator" and group.kind == "conv" else group.slices


def picked(tensor, axis, chosen):
    return tensor.detach().index_select(axis, chosen.nonzero().flatten())


def copies(run, network):
    """The trained network, then its average."""
    average = run.nets.ema if network == "generator" else run.nets.discriminator_ema
    return getattr(run.nets, network), average


def images_of(generator, n=3):
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return generator(torch.randn(n, generator.spec.latent_size, generator=rng), generator.draw_noise(n, rng))


def test_the_method_is_in_the_table():
    assert METHODS["adam"] is AdaM


def test_at_the_start_both_networks_and_their_averages_compute_what_the_source_does():
    run, source = adaptation(), tiny_model()
    shots = tiny_shots(4).float() / 127.5 - 1
    for generator in (run.nets.generator, run.nets.ema):
        torch.testing.assert_close(images_of(generator), images_of(source.generator), rtol=0, atol=1e-5)
    for discriminator in (run.nets.discriminator, run.nets.discriminator_ema):
        torch.testing.assert_close(discriminator(shots), source.discriminator(shots), rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_weight_and_bias_but_the_constant_and_the_last_layers_is_modulated(network):
    modulated = parameters_of(adaptation(), network)
    for name, parameter in getattr(tiny_model(), network).named_parameters():
        if name.startswith(("input.", "final_")):
            assert name in modulated
            continue
        vectors = ["u", "v"] if name.endswith("weight") and parameter.dim() > 1 else ["b"]
        assert modulated[kml.base_name(name)].shape == parameter.shape
        owned = {n for n in modulated if n.startswith(kml.vector_name(name, "b")[:-1])}
        assert owned == {kml.vector_name(name, vector) for vector in vectors}


def test_what_is_neither_decided_on_nor_a_vector_nor_in_ds_last_layers_never_trains():
    run = adaptation()
    for network in NETWORKS:
        decided = {p.parameter for group, _ in layers_of(run, network) for p in own_slices(network, group)}
        for name, parameter in parameters_of(run, network).items():
            trains = is_vector(name) or plain_name(name) in decided or name.startswith("final_")
            assert parameter.requires_grad == trains, name
    trainable = {plain_name(n) for n, p in parameters_of(run, "generator").items() if p.requires_grad} - {None}
    assert trainable == {
        f"convs.{i}.conv.{leaf}" for i in range(4) for leaf in ("weight", "modulation.weight", "modulation.bias")
    }


def test_the_published_networks_have_as_many_filters_to_decide_on_as_published():
    with torch.device("meta"):
        generator = Generator(GeneratorSpec(256, channel_plan(256)))
        discriminator = Discriminator(DiscriminatorSpec(256, channel_plan(256)))
    groups = [g for g in generator.filter_groups() if QUICK.may_prune("generator", g)]
    count = {kind: sum(g.count for g in groups if g.kind == kind) for kind in ("conv", "modulation")}
    assert count == {"conv": 4864, "modulation": 5248}
    groups = [g for g in discriminator.filter_groups() if QUICK.may_prune("discriminator", g)]
    assert sum(g.count for g in groups) == 8064


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_the_probe_changes_vectors_and_ds_last_layers_and_nothing_else(beta1):
    run, source = adaptation(beta1=beta1, r1_every=2, path_every=2), tiny_model()
    start = {n: {k: v.clone() for k, v in parameters_of(run, n).items()} for n in NETWORKS}
    steps(run, 5)
    for network in NETWORKS:
        for net in copies(run, network):
            for name, parameter in net.named_parameters():
                if is_vector(name) or name.startswith("final_"):
                    assert not torch.equal(parameter, start[network][name]), name
                else:
                    assert torch.equal(parameter, getattr(source, network).get_parameter(plain_name(name))), name


def test_after_the_probe_everything_is_as_at_the_start_but_the_vectors_of_tuned_filters():
    run, begun = probed(), adaptation()
    tuned_entries = 0
    for network in NETWORKS:
        tuned = {}
        for group, fate in layers_of(run, network):
            for piece, vector in zip(own_slices(network, group), "vb", strict=False):
                tuned[kml.vector_name(piece.parameter, vector)] = fate == Fate.TUNE
        for (name, parameter), before in zip(
            parameters_of(run, network).items(), parameters_of(begun, network).values(), strict=True
        ):
            is_tuned = tuned.get(name, torch.tensor(False)).expand(parameter.shape[:1] or (1,))
            tuned_entries += int(is_tuned.sum())
            if name in tuned:
                assert not parameter[is_tuned].any() and torch.equal(parameter[~is_tuned], before[~is_tuned])
            else:
                assert torch.equal(parameter, before), name
            assert torch.equal(copies(run, network)[1].get_parameter(name), parameter)
    assert tuned_entries > 50
    assert not run.nets.optimiser_g.state and not run.nets.optimiser_d.state


def brute_force_fisher(run, network, samples):
    """vector's name -> mean over samples of the squared derivative, one backward pass a sample."""
    generator, discriminator = run.nets.ema, run.nets.discriminator_ema
    trained = generator if network == "generator" else discriminator
    vectors = {name: p for name, p in trained.named_parameters() if is_vector(name)}
    context, squares = context_of(run, 5), {name: torch.zeros_like(p) for name, p in vectors.items()}
    for sample in range(samples):
        rng = generator_for(run.config.seed, "probe", sample)
        z, noise = torch.randn(1, 16, generator=rng), generator.draw_noise(1, rng)
        for parameter in vectors.values():
            parameter.requires_grad_(True).grad = None
        fake = generator(z, noise)
        if network == "generator":
            loss = F.softplus(-discriminator(fake)[0])
        else:
            real = context.reals(1, rng)
            loss = F.softplus(-discriminator(real)[0]) + F.softplus(discriminator(fake.detach())[0])
        loss.backward()
        for name, parameter in vectors.items():
            squares[name] += parameter.grad**2 / samples
            parameter.requires_grad_(False).grad = None
    return squares


@pytest.mark.parametrize("network", NETWORKS)
def test_importance_is_the_published_sum_of_squared_single_sample_derivatives(network):
    run = steps(adaptation(replace(QUICK, fisher_samples=5)), 3)
    fisher = brute_force_fisher(run, network, 5)
    method, context = run.method, context_of(run, 5)
    ours = method._importance(network, method._layers(network, getattr(run.nets, network)), context)
    checked = 0
    for group, _ in layers_of(run, network):
        weight, *bias = (piece.parameter for piece in own_slices(network, group))
        for o in range(group.count):
            f_u = fisher[kml.vector_name(weight, "u")].mean()
            f_v = fisher[kml.vector_name(weight, "v")][o]
            if group.kind == "modulation" or (network == "discriminator" and group.kind == "conv"):
                wanted = (f_u + f_v + fisher[kml.vector_name(bias[0], "b")][o]) / 2
            else:
                wanted = f_u + f_v
            torch.testing.assert_close(ours[group.name][o], wanted, rtol=1e-3, atol=1e-12)
            checked += 1
    assert checked == sum(len(values) for values in ours.values()) > 50
    assert not any(p.requires_grad or p.grad is not None for p in copies(run, network)[1].parameters())


@pytest.mark.parametrize("percentile", [0.0, 25.0, 50.0, 75.0, 100.0])
def test_the_percentile_is_the_share_of_each_group_that_is_tuned_and_those_are_the_least_important(percentile):
    method = replace(QUICK, percentile=percentile)
    for network in NETWORKS:
        importance = {
            group.name: probed().state[f"{network}/{group.name}/importance"]
            for group, _ in layers_of(probed(), network)
        }
        fates = method._decide(method._layers(network, getattr(probed().nets, network)), importance)
        kinds = {group.name: group.kind == "modulation" for group, _ in layers_of(probed(), network)}
        assert len(set(kinds.values())) == (2 if network == "generator" else 1)
        for kind in set(kinds.values()):
            pool = [name for name in kinds if kinds[name] == kind]
            values = torch.cat([importance[name] for name in pool])
            tuned = torch.cat([fates[name] for name in pool]) == Fate.TUNE
            assert tuned.sum() == math.floor(percentile / 100 * (len(values) - 1)) + 1
            assert tuned.all() or values[tuned].max() < values[~tuned].min()


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_modulated_filters_keep_the_sources_weights_and_tuned_ones_are_not_modulated_bit_for_bit(beta1):
    run, source = late(beta1), tiny_model()
    for network in NETWORKS:
        kinds = set()
        for group, fate in layers_of(run, network):
            tuned = fate == Fate.TUNE
            for net in copies(run, network):
                for piece, vector in zip(own_slices(network, group), "vb", strict=False):
                    before = getattr(source, network).get_parameter(piece.parameter)
                    base = net.get_parameter(kml.base_name(piece.parameter))
                    own = net.get_parameter(kml.vector_name(piece.parameter, vector))
                    assert torch.equal(picked(base, piece.axis, ~tuned), picked(before, piece.axis, ~tuned))
                    assert not picked(own, 0, tuned).any()
                    if tuned.any():
                        moved = (base - before).detach().movedim(piece.axis, 0).reshape(group.count, -1).any(dim=1)
                        assert moved[tuned].all()
                        kinds.add("tuned")
                    if (~tuned).any():
                        assert (own[~tuned].abs() > 1e-5).any()
                        kinds.add("modulated")
        assert kinds == {"tuned", "modulated"}


def test_shared_vectors_and_ds_last_layers_train_after_the_probe_and_the_other_bases_do_not():
    run, source = late(), tiny_model()
    for network in NETWORKS:
        decided = {p.parameter for group, _ in layers_of(run, network) for p in own_slices(network, group)}
        idle = {kml.vector_name(name, vector) for name in decided for vector in "vb"}
        for group, fate in layers_of(run, network):
            if (fate == Fate.TUNE).all():  # where v is 0 for all filters, u has nothing to change
                idle.add(kml.vector_name(group.slices[0].parameter, "u"))
        assert len(idle) < 2 * len(decided) + 3
        for name, parameter in parameters_of(run, network).items():
            if is_vector(name):
                assert name in idle or (parameter.abs() > 1e-5).any(), name
            elif name.startswith("final_"):
                assert not torch.equal(parameter, getattr(source, network).get_parameter(name))
            elif plain_name(name) not in decided:
                assert torch.equal(parameter, getattr(source, network).get_parameter(plain_name(name))), name


def test_the_merged_generator_is_plain_and_makes_the_modulated_ones_images():
    run, source = late(), tiny_model().generator
    before = images_of(run.nets.ema)
    merged = run.method.merge(run.nets.ema)
    torch.testing.assert_close(images_of(merged), before, rtol=0, atol=1e-5)
    assert (before - images_of(source)).abs().max() > 1e-3
    assert merged.state_dict().keys() == source.state_dict().keys()
    assert torch.equal(images_of(run.nets.ema), before)


@functools.cache
def snapshots():
    """Of an unbroken run: steps done -> all tensors."""
    run, kept = adaptation(beta1=0.5), {}
    for step in range(12):
        run_step(run, step)
        kept[step + 1] = {name: tensor.clone() for name, tensor in snapshot(run).items()}
    return kept


@pytest.mark.parametrize(("parted", "until"), [(4, 9), (6, 9), (9, 12)])  # in the probe, at its end, after it
def test_a_run_that_is_resumed_equals_the_unbroken_one_bit_for_bit(parted, until):
    second = adaptation(beta1=0.5)
    restore(second, snapshots()[parted])
    whole, resumed = snapshots()[until], snapshot(steps(second, until - parted, first=parted))
    assert whole.keys() == resumed.keys()
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, resumed[name])] == []


@pytest.mark.parametrize(
    ("augment", "precision"),
    [("none", "bfloat16"), ("flip", "bfloat16"), ("diffaug", "bfloat16"), ("ada", "bfloat16"), ("ada", "float32")],
)
def test_every_precision_and_augmentation_runs(augment, precision):
    run = adaptation(replace(QUICK, fisher_samples=1), steps=3, augment=augment, precision=precision)
    losses = [run_step(run, step) for step in range(3)]
    assert all(math.isfinite(value) for stats in losses for value in stats.values())
    assert images_of(run.nets.ema).dtype == torch.float32 and torch.isfinite(images_of(run.nets.ema)).all()


def test_without_a_learning_rate_the_result_is_the_source():
    run, source = steps(adaptation(lr=0.0, steps=4), 4), tiny_model()
    torch.testing.assert_close(
        images_of(run.method.merge(run.nets.ema)), images_of(source.generator), rtol=0, atol=1e-5
    )
    for network in NETWORKS:
        for name, parameter in parameters_of(run, network).items():
            if not is_vector(name):
                assert torch.equal(parameter, getattr(source, network).get_parameter(plain_name(name)))


def test_the_decision_is_recorded_once_for_each_network():
    run, entries = adaptation(steps=6), []
    run.record = entries.append
    steps(run, 5)
    assert [(entry["step"], entry["network"]) for entry in entries] == [(3, network) for network in NETWORKS]
    for entry in entries:
        for name, layer in entry["layers"].items():
            fate = run.state[f"{entry['network']}/{name}/fate"]
            assert layer["pruned"] == 0.0 and len(layer["importance"]) == len(fate)
            assert layer["preserved"] == pytest.approx((fate == Fate.PRESERVE).float().mean().item(), abs=1e-4)
    assert entries[0]["layers"]["convs.3"]["resolution"] == 16


def test_the_public_codes_products_are_reproduced_only_on_demand():
    scrambled = steps(adaptation(replace(QUICK, legacy_outer_product=True)), 2).nets.generator
    conv = scrambled.convs[1].conv
    u, v = (scrambled.get_parameter(kml.vector_name("convs.1.conv.weight", name)) for name in ("u", "v"))
    base = scrambled.get_parameter(kml.base_name("convs.1.conv.weight"))
    torch.testing.assert_close(conv.weight[0], base[0] * (1 + torch.outer(u.flatten(), v).view(base[0].shape)))
    source, scaled = tiny_model().generator, adaptation(replace(QUICK, legacy_linear_scale=True))
    assert not torch.allclose(images_of(scaled.nets.generator), images_of(source), atol=1e-3)


def test_fisher_information_that_is_not_finite_ends_the_run_with_a_sentence():
    run = steps(adaptation(), 5)
    with torch.no_grad():
        run.nets.discriminator_ema.final_linear[1].weight.fill_(float("inf"))
    with pytest.raises(TenshotError, match="Fisher information of step 6 is not finite"):
        run_step(run, 5)


def test_however_short_a_run_its_last_step_is_not_undone():
    run = steps(adaptation(replace(QUICK, probe=0.95), steps=3), 2)
    assert not run.nets.optimiser_g.state
    before = images_of(steps(run, 1, first=2).nets.ema)
    assert not torch.equal(before, images_of(tiny_model().generator))


def test_the_plan_shows_what_trains_and_how_many_filters_are_decided_on():
    rows = {(network, layer): row for network, layer, *row in plan._layers(adaptation())}
    assert rows["generator", "input"][1] == "frozen"
    assert rows["generator", "convs.0"][2] == str(10 + 12)  # filters, and rows of the style
    assert rows["generator", "conv1"][2] == "" and rows["discriminator", "final_conv"][1:] == ["all", ""]
    assert rows["discriminator", "convs.1"][2] == str(8 + 10 + 10)


def test_a_finished_runs_model_is_an_ordinary_one(tmp_path, tiny_source, shots):
    config = RunConfig(shots=str(shots), source=str(tiny_source), method=QUICK, steps=4, batch=2)
    model = start(config, out=tmp_path / "run")
    loaded = load_model(tmp_path / "run")
    assert torch.equal(images_of(loaded.generator), images_of(model.generator))
    assert loaded.generator.state_dict().keys() == load_model(tiny_source).generator.state_dict().keys()
    assert loaded.card["method"]["percentile"] == 50.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probe": 0.0}, r"--adam\.probe is 0\.0: it must be a share of the run, above 0 and below 1"),
        ({"probe": 1.0}, r"--adam\.probe is 1\.0"),
        ({"fisher_samples": 0}, r"--adam\.fisher-samples is 0: it must be at least 1"),
        ({"percentile": 101.0}, r"--adam\.percentile is 101\.0: it must be between 0 and 100"),
        ({"percentile": "half"}, r"--adam\.percentile is 'half': it must be a finite number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(TenshotError, match=message):
        AdaM(**settings)
