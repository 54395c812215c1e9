"""DAP and fine-tuning in the loop: what is pruned is gone everywhere, what is preserved does not move."""

from dataclasses import replace

import pytest
import torch

from tenshot.adaptation import begin, context_of
from tenshot.checkpoint import snapshot
from tenshot.config import RunConfig
from tenshot.filters import Fate
from tenshot.methods import Dap, Finetune
from tenshot.pruning import Guards
from tenshot.step import run_step
from tiny import tiny_model, tiny_shots

EAGER = Dap(warmup=0.0, settle=0.1, every=5, prune_mass=0.1, preserve_mass=0.3, guards=Guards(min_alive=2))


def adaptation(method, **settings):
    config = RunConfig(shots="tiny", method=method, **{"steps": 100, "batch": 2, **settings})
    return begin(config, tiny_model(), tiny_shots())


def steps(run, count, first=0):
    for step in range(first, first + count):
        run_step(run, step)
    return run


def fates_of(run, network):
    prefix, suffix = f"{network}/", "/fate"
    return {
        k[len(prefix) : -len(suffix)]: v for k, v in run.state.items() if k.startswith(prefix) and k.endswith(suffix)
    }


def filters_of(run, network, fate):
    """(group, indices) of every layer that has filters of a fate."""
    groups = {group.name: group for group in getattr(run.nets, network).filter_groups()}
    for name, fates in fates_of(run, network).items():
        indices = (fates == fate).nonzero().flatten()
        if len(indices):
            yield groups[name], indices


def activations(network, run_forward):
    """The output of every gated block."""
    seen, hooks = {}, []
    for name, module in network.named_modules():
        if hasattr(module, "gate"):
            hooks.append(module.register_forward_hook(lambda m, a, out, name=name: seen.update({name: out.detach()})))
    run_forward()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("revive", [False, True])
def test_pruned_channels_are_exactly_zero_in_g_d_and_ema_after_any_step(revive):
    run = adaptation(replace(EAGER, revive=revive))
    z, noise = torch.randn(3, 16), run.nets.generator.draw_noise(3, torch.Generator().manual_seed(1))
    for step in range(12):
        run_step(run, step)
        for network in ("generator", "discriminator"):
            pruned = list(filters_of(run, network, Fate.PRUNE))
            assert step < 4 or pruned
            nets = (run.nets.generator, run.nets.ema) if network == "generator" else (run.nets.discriminator,)
            for net in nets:
                forward = (lambda n: n(z, noise)) if network == "generator" else (lambda n: n(torch.rand(2, 3, 16, 16)))
                seen = activations(net, lambda net=net, forward=forward: forward(net))
                for group, indices in pruned:
                    assert (seen[group.name][:, indices] == 0).all()
                    assert (net.get_buffer(f"{group.name}.gate")[indices] == 0).all()


def test_weights_of_pruned_filters_are_zero_in_every_copy_and_have_no_moments():
    run = steps(adaptation(EAGER, beta1=0.5), 30)
    optimisers = {"generator": run.nets.optimiser_g, "discriminator": run.nets.optimiser_d}
    for network, optimiser in optimisers.items():
        trained = getattr(run.nets, network)
        for group, indices in filters_of(run, network, Fate.PRUNE):
            for piece in group.slices:
                parameter = trained.get_parameter(piece.parameter)
                copies = [
                    parameter,
                    optimiser.state[parameter]["exp_avg"],
                    optimiser.state[parameter]["exp_avg_sq"],
                ]
                if network == "generator":
                    copies.append(run.nets.ema.get_parameter(piece.parameter))
                for tensor in copies:
                    assert (tensor.index_select(piece.axis, indices) == 0).all(), (network, group.name, piece)


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
def test_preserved_filters_are_the_sources_bit_for_bit_after_100_steps(beta1):
    """Fates are given beforehand and no decision is due, so the same filters are preserved from the first step on."""
    source = tiny_model()
    run = adaptation(replace(EAGER, prune_mass=0.0, preserve_mass=0.4, every=1000), beta1=beta1)
    for network in ("generator", "discriminator"):
        for fates in fates_of(run, network).values():
            fates[::2] = Fate.PRESERVE
    steps(run, 100)
    for network, nets in (
        ("generator", (run.nets.generator, run.nets.ema)),
        ("discriminator", (run.nets.discriminator,)),
    ):
        preserved = list(filters_of(run, network, Fate.PRESERVE))
        assert preserved
        for group, indices in preserved:
            others = torch.tensor([i for i in range(group.count) if i not in indices.tolist()])
            for piece in group.slices:
                before = getattr(source, network).get_parameter(piece.parameter)
                for net in nets:
                    after = net.get_parameter(piece.parameter)
                    assert torch.equal(
                        after.index_select(piece.axis, indices), before.index_select(piece.axis, indices)
                    )
                    assert not torch.equal(
                        after.index_select(piece.axis, others), before.index_select(piece.axis, others)
                    )


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_a_filter_that_a_decision_preserves_stands_still_from_then_on(beta1):
    run = steps(adaptation(replace(EAGER, every=10, prune_mass=0.0), beta1=beta1), 10)
    group, indices = next(filters_of(run, "generator", Fate.PRESERVE))
    weight = run.nets.generator.get_parameter(group.slices[0].parameter)
    before = weight.detach().clone()
    steps(run, 9, first=10)
    assert torch.equal(weight[:, indices], before[:, indices])
    assert not torch.equal(weight, before)


@pytest.mark.parametrize("off", [Dap(prune_mass=0.0, preserve_mass=0.0), Dap(warmup=1.0, settle=1.0)])
def test_finetune_and_dap_with_pruning_off_take_identical_steps(off):
    ours, plain = steps(adaptation(off, steps=40), 24), steps(adaptation(Finetune(), steps=40), 24)
    a, b = ({k: v for k, v in snapshot(run).items() if not k.startswith("state/")} for run in (ours, plain))
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


def test_watching_for_the_fisher_information_changes_no_random_state():
    run, before = adaptation(EAGER), torch.get_rng_state()
    steps(run, 6)
    assert torch.equal(before, torch.get_rng_state())


def test_a_filter_that_trains_again_takes_a_step_of_ordinary_size():
    run = steps(adaptation(replace(EAGER, prune_mass=0.0, preserve_mass=0.6)), 10)
    group, indices = next(filters_of(run, "generator", Fate.PRESERVE))
    run.state[f"generator/{group.name}/importance"][indices] = 1e-3  # so the next decision tunes them
    weight = run.nets.generator.get_parameter(group.slices[0].parameter)
    run.nets.optimiser_g.state[weight]["step"].fill_(1000)  # long enough for the bias correction to hide nothing
    steps(run, 5, first=10)
    assert (fates_of(run, "generator")[group.name][indices] == Fate.TUNE).any()
    tuned = indices[fates_of(run, "generator")[group.name][indices] == Fate.TUNE]
    before = weight.detach().clone()
    steps(run, 1, first=15)
    moved = (weight.detach() - before)[0, tuned].abs().max().item()
    assert 0 < moved < 7 * run.config.lr  # without a second moment to start from: 9 times


def test_every_decision_is_recorded_with_each_layers_ratio_and_importances():
    run, entries = adaptation(EAGER), []
    run.record = entries.append
    steps(run, 11)
    assert [(e["step"], e["network"]) for e in entries] == [
        (step, network) for step in (5, 10) for network in ("generator", "discriminator")
    ]
    for entry in entries[2:]:
        for name, layer in entry["layers"].items():
            fates = fates_of(run, entry["network"])[name]
            assert layer["pruned"] == pytest.approx((fates == Fate.PRUNE).float().mean().item(), abs=1e-4)
            assert len(layer["importance"]) == len(fates)


def test_what_must_survive_is_never_pruned():
    names = set(fates_of(adaptation(EAGER), "generator")) | set(fates_of(adaptation(EAGER), "discriminator"))
    assert not any(name.startswith(("to_rgb", "input", "style", "final")) or name == "convs.0.0" for name in names)
    assert "conv1" in names and "convs.1.conv2" in names and "convs.0" in names
    assert "convs.0" not in fates_of(adaptation(EAGER), "discriminator")  # fromRGB


def test_a_revived_filter_has_its_weights_again():
    run = steps(adaptation(replace(EAGER, revive=True)), 6)
    group, indices = next(filters_of(run, "generator", Fate.PRUNE))
    kept = run.nets.generator.get_parameter(group.slices[0].parameter)[0, indices]
    assert (kept != 0).any()
    run.state[f"generator/{group.name}/importance"][indices] = 100.0
    steps(run, 5, first=6)
    assert (run.nets.generator.get_buffer(f"{group.name}.gate")[indices] == 1).all()
    assert (run.nets.ema.get_buffer(f"{group.name}.gate")[indices] == 1).all()


def test_the_weight_estimator_prunes_too_and_keeps_an_averaged_discriminator():
    run = steps(adaptation(replace(EAGER, estimator="weight", fisher_samples=2)), 11)
    assert run.nets.discriminator_ema is not None
    for network in ("generator", "discriminator"):
        assert list(filters_of(run, network, Fate.PRUNE))
    group, indices = next(filters_of(run, "discriminator", Fate.PRUNE))
    assert (run.nets.discriminator_ema.get_buffer(f"{group.name}.gate")[indices] == 0).all()


def test_fisher_information_that_is_not_finite_is_passed_over():
    run = adaptation(EAGER)
    steps(run, 3)
    before = {k: v.clone() for k, v in run.state.items()}
    groups = run.nets.generator.filter_groups()[:1]
    entries, context = [], context_of(run, 2)
    context.record = entries.append
    nothing = {groups[0].name: torch.full([groups[0].count], float("nan"))}
    run.method._track("generator", groups, nothing, context, run.state, 0.9)
    assert all(torch.equal(before[k], run.state[k]) for k in before)
    assert entries == [{"step": 3, "network": "generator", "skipped": "Fisher is not finite"}]


def test_the_weight_estimator_watches_before_the_first_decision():
    run = steps(adaptation(Dap(estimator="weight", warmup=0.9, settle=1.0, every=5, fisher_samples=1)), 10)
    assert run.state["generator/estimates"] == run.state["discriminator/estimates"] == 2


def test_nothing_is_pruned_after_the_last_step():
    last = replace(EAGER, warmup=1.0, settle=1.0, every=10)
    run = steps(adaptation(last, steps=10), 10)
    assert all((fates == Fate.TUNE).all() for fates in fates_of(run, "generator").values())


def test_filters_that_the_source_has_lost_already_stay_lost():
    model = tiny_model()
    model.generator.convs[1].gate[:3] = 0
    run = steps(begin(RunConfig(shots="x", method=EAGER, batch=2, steps=100), model, tiny_shots()), 6)
    assert (run.nets.generator.convs[1].gate[:3] == 0).all()
