"""CDC: the distance consistency against loops, anchors and patches as published, and the same losses in DAP."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, leaky_relu

from tenshot.adaptation import begin, context_of
from tenshot.checkpoint import restore, snapshot
from tenshot.config import RunConfig
from tenshot.consistency import distance_consistency
from tenshot.errors import TenshotError
from tenshot.losses import discriminator_loss
from tenshot.methods import Cdc, Dap, Finetune
from tenshot.methods.anchors import PatchHead, patch_groups, patch_logits
from tenshot.methods.base import Batch
from tenshot.nets import Discriminator, DiscriminatorSpec
from tenshot.step import run_step
from tiny import tiny_model, tiny_shots


def adaptation(method, resolution=16, channels=(12, 10, 8), **settings):
    config = RunConfig(shots="tiny", method=method, **{"steps": 100, "batch": 2, **settings})
    shots = tiny_shots().repeat_interleave(resolution // 16, 2).repeat_interleave(resolution // 16, 3)
    return begin(config, tiny_model(resolution, channels), shots)


def larger(method, **settings):
    """At 32 px, where D has three maps whose places can be judged."""
    return adaptation(method, 32, (10, 8, 6, 4), **settings)


def steps(run, count, first=0):
    return [run_step(run, step) for step in range(first, first + count)]


def term(run, step, name="cdc"):
    context = context_of(run, step)
    reals = torch.zeros(2, 3, 16, 16)
    batch = Batch(reals, reals, torch.Generator().manual_seed(0))
    return run.method.extra_losses("g", context, run.state, batch)[name]


def moved(run, amount=0.3):
    """Move the adapting generator away from its source."""
    rng = torch.Generator().manual_seed(9)
    for parameter in run.nets.generator.parameters():
        parameter.data += amount * torch.randn(parameter.shape, generator=rng)
    return run


def discriminator(resolution, channels):
    torch.manual_seed(0)
    return Discriminator(DiscriminatorSpec(resolution, channels))


def heads_of(d, count, activated=True):
    rng = torch.Generator().manual_seed(0)
    return torch.nn.ModuleList(
        PatchHead(group.count, rng, activated=activated) for group in patch_groups(d)[:count]
    ).requires_grad_(False)


def maps_of(rows, seed):
    rng = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 4, 4), "b": (5, 2, 2), "c": (2, 8, 8)}
    return {name: torch.randn(rows, *shape, generator=rng, dtype=torch.float64) for name, shape in shapes.items()}


def slow_divergences(source, target, layers, kl_from):
    """Every term of every row's divergence, one number at a time."""
    terms = []
    for i, layer in enumerate(layers):
        rows = []
        for maps in (source, target):
            others = [j for j in range(len(layers)) if j != i]
            similarities = [
                cosine_similarity(maps[layer][i].flatten(), maps[layer][j].flatten(), dim=0).item() for j in others
            ]
            total = sum(math.exp(s) for s in similarities)
            rows.append([math.exp(s) / total for s in similarities])
        p, q = rows if kl_from == "source" else rows[::-1]
        terms += [a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)]
    return terms


@pytest.mark.parametrize("kl_from", ["source", "target"])
@pytest.mark.parametrize("layers", [("a", "b", "a", "c"), ("b", "b", "b", "b"), ("c", "a")])
def test_the_consistency_is_that_of_loops_over_rows_and_pairs(layers, kl_from):
    source, target = maps_of(len(layers), 1), maps_of(len(layers), 2)
    terms = slow_divergences(source, target, layers, kl_from)
    mean = distance_consistency(source, target, layers, kl_from=kl_from).item()
    assert mean == pytest.approx(sum(terms) / (len(layers) * (len(layers) - 1)), rel=1e-12)
    total = distance_consistency(source, target, layers, reduction="sum", kl_from=kl_from).item()
    assert total == pytest.approx(sum(terms), rel=1e-12)


def test_the_two_directions_and_the_two_generators_can_be_told_apart():
    source, target, layers = maps_of(3, 1), maps_of(3, 2), ["a", "b", "c"]
    one = distance_consistency(source, target, layers)
    torch.testing.assert_close(one, distance_consistency(target, source, layers, kl_from="target"))
    assert abs(one - distance_consistency(source, target, layers, kl_from="target")) > 1e-6


def test_a_generator_equal_to_its_source_has_no_loss_under_the_same_noise_and_some_under_other():
    assert all(term(adaptation(Cdc()), step) == 0 for step in range(5))
    assert all(term(adaptation(Cdc(shared_noise=False)), step) > 0 for step in range(5))


def test_the_term_is_weight_times_the_loss_of_maps_computed_one_latent_at_a_time():
    run = moved(adaptation(Cdc(pairs=3)))
    source, target = run.nets.source, run.nets.generator
    seen = []
    for network in (source, target):
        synthesise = network.synthesise

        def spy(ws, noise=None, gates=None, keep=None, synthesise=synthesise):
            seen.append((ws.detach(), noise))
            return synthesise(ws, noise, gates, keep)

        network.synthesise = spy
    total = term(run, 7).item()
    (ws_source, noise), (ws_target, other_noise) = seen
    assert noise is other_noise and (ws_source == ws_source[:, :1]).all()  # one latent for every layer: no mixing
    slow = [{}, {}]
    for maps, network, ws in zip(slow, (source, target), (ws_source, ws_target), strict=True):
        for i in range(3):
            kept = {}
            network.double().synthesise(ws[i : i + 1].double(), [x[i : i + 1].double() for x in noise], None, kept)
            for name, x in kept.items():
                maps.setdefault(name, []).append(x[0].detach())
    names = [f"convs.{i}" for i in range(len(source.convs))]
    every_draw = [
        1000 * sum(slow_divergences(*slow, (a, b, c), "source")) / 6 for a in names for b in names for c in names
    ]
    assert min(abs(total / value - 1) for value in every_draw) < 1e-4


def test_every_styled_convolution_but_the_first_is_drawn_for_rows_of_its_own(monkeypatch):
    drawn = []
    real = distance_consistency
    monkeypatch.setattr("tenshot.methods.cdc.distance_consistency", lambda *a, **k: drawn.append(a[2]) or real(*a, **k))
    run = adaptation(Cdc())
    for step in range(40):
        term(run, step)
    assert {name for layers in drawn for name in layers} == {f"convs.{i}" for i in range(4)}
    assert all(len(layers) == 4 for layers in drawn) and any(len(set(layers)) > 1 for layers in drawn)


def test_only_the_adapting_generator_feels_the_consistency():
    run = moved(adaptation(Cdc()))
    run.nets.source.requires_grad_(True)
    term(run, 0).backward()
    assert all(parameter.grad is None for parameter in run.nets.source.parameters())
    assert all(parameter.grad is None for parameter in run.nets.discriminator.parameters())
    assert run.nets.generator.convs[0].conv.weight.grad.abs().sum() > 0


def test_training_never_changes_the_source():
    run = adaptation(Cdc())
    before = {name: tensor.clone() for name, tensor in run.nets.source.state_dict().items()}
    steps(run, 6)
    assert all(torch.equal(before[name], tensor) for name, tensor in run.nets.source.state_dict().items())


def test_without_its_weight_no_second_pass_is_made():
    run = adaptation(Cdc(weight=0.0))
    run.nets.source.synthesise = None
    assert "cdc" not in steps(run, 2)[1]


def test_anchors_are_drawn_once_from_the_runs_seed():
    run = adaptation(Cdc(anchors=7))
    before = run.state["anchors"].clone()
    assert before.shape == (7, 16) and abs(before.std() - 1) < 0.3
    steps(run, 9)
    assert torch.equal(run.state["anchors"], before)
    assert torch.equal(adaptation(Cdc(anchors=7)).state["anchors"], before)
    assert not torch.equal(adaptation(Cdc(anchors=7), seed=1).state["anchors"], before)


def test_every_fourth_step_is_near_anchors_and_judged_whole_the_others_free_and_judged_by_places():
    run = larger(Cdc())
    images = torch.zeros(4, 3, 32, 32)
    for step in range(9):
        context = context_of(run, step)
        z = run.method.latents(context, run.state, 5, torch.Generator().manual_seed(step))
        logits = run.method.judge(images, context, run.state, None, 2)
        assert (z is not None) == (step % 4 == 0)
        assert logits.shape == ((4,) if step % 4 == 0 else (4, 32, 32))


def test_latents_near_anchors_are_as_far_from_them_as_asked():
    run = adaptation(Cdc(anchor_sigma=0.1))
    z = run.method.latents(context_of(run, 0), run.state, 4000, torch.Generator().manual_seed(0))
    distances = torch.cdist(z, run.state["anchors"])
    nearest = distances.argmin(dim=1)
    assert (distances.min(dim=1).values / math.sqrt(16)).square().mean().sqrt() == pytest.approx(0.1, rel=0.02)
    assert (nearest.bincount(minlength=10) > 4000 / 10 * 0.8).all()  # all anchors alike


def test_latents_of_free_steps_are_the_loops_own():
    ours, plain = adaptation(Cdc()), adaptation(Finetune())
    seen = []
    for run in (ours, plain):
        synthesise = run.nets.generator.synthesise
        kept = []
        run.nets.generator.synthesise = lambda ws, *a, s=synthesise, k=kept, **kw: k.append(ws) or s(ws, *a, **kw)
        run_step(run, 1)
        seen.append(kept)
    assert torch.equal(seen[0][0], seen[1][0])  # phase d, before anything has moved


def test_the_first_patch_map_of_a_256_px_network_is_32_px_behind_the_block_from_64_px():
    d = discriminator(256, (3, 3, 4, 5, 6, 7, 8))
    groups = patch_groups(d)
    assert [(g.name, g.resolution, g.count) for g in groups] == [
        ("convs.3.conv2", 32, 5),
        ("convs.4.conv1", 32, 5),
        ("convs.4.conv2", 16, 4),
        ("convs.5.conv1", 16, 4),
    ]
    shapes = [patch_logits(d, heads_of(d, 4), torch.zeros(1, 3, 256, 256), [i]).shape for i in range(4)]
    assert shapes == [(1, 32, 32), (1, 32, 32), (1, 16, 16), (1, 16, 16)]


@pytest.mark.parametrize(("index", "patch"), [(0, 12), (1, 16), (2, 30), (3, 38)])
def test_patches_of_a_64_px_network_stay_local(index, patch):
    """How many rows of the image one place of each map depends on."""
    d = discriminator(64, (3, 3, 3, 3, 3))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = patch_logits(d, heads_of(d, 4), images, [index])
    middle = logits.shape[1] // 2
    (gradient,) = torch.autograd.grad(logits[0, middle, middle], images)
    rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == patch


def test_patch_logits_are_a_convolution_bias_and_leaky_relu_of_the_published_map():
    d = discriminator(64, (5, 4, 4, 3, 3))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for activated in (True, False):
        heads = heads_of(d, 2, activated)
        heads[1].bias.fill_(0.7)
        x = dict(d.maps(images))["convs.2.conv1"]
        expected = torch.zeros(2, 32, 32)
        padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
        for dy in range(3):
            for dx in range(3):
                window = padded[:, :, dy : dy + 32, dx : dx + 32]
                expected += torch.einsum("nchw,c->nhw", window, heads[1].weight[0, :, dy, dx])
        expected = expected / math.sqrt(3 * 9) + 0.7
        if activated:
            expected = leaky_relu(expected, 0.2) * math.sqrt(2)
        torch.testing.assert_close(patch_logits(d, heads, images, [1]), expected, rtol=1e-4, atol=1e-5)


def test_maps_of_other_sizes_side_by_side_give_each_part_its_own_mean():
    d = discriminator(32, (4, 4, 4, 4))
    heads, images = heads_of(d, 3), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    for chosen in ([0, 1], [1, 0], [2, 1], [1, 1]):
        together = patch_logits(d, heads, images, chosen)
        alone = [patch_logits(d, heads, part, [i]) for part, i in zip(images.split(2), chosen, strict=True)]
        torch.testing.assert_close(discriminator_loss(*together.split(2)), discriminator_loss(*alone))


def test_shots_and_generated_images_are_judged_by_maps_drawn_apart(monkeypatch):
    drawn = []
    real = patch_logits
    monkeypatch.setattr(
        "tenshot.methods.anchors.patch_logits",
        lambda d, h, x, chosen, g: drawn.append(chosen) or real(d, h, x, chosen, g),
    )
    run = larger(Cdc(patch_maps=3))
    for step in range(1, 60):
        if step % 4:
            run.method.judge(torch.zeros(2, 3, 32, 32), context_of(run, step), run.state, None, 2)
    assert {tuple(pair) for pair in drawn} == {(i, j) for i in range(3) for j in range(3)}


def test_more_patch_maps_than_the_discriminator_has_are_refused():
    with pytest.raises(TenshotError, match=r"--cdc.patch-maps is 2: it must be at most 1 for a discriminator of 16 px"):
        adaptation(Cdc(patch_maps=2))
    with pytest.raises(TenshotError, match="at most 4"):
        Cdc(patch_maps=5)
    with pytest.raises(TenshotError, match=r"--cdc.pairs is 2: it must be at least 3"):
        Cdc(pairs=2)


def test_heads_train_with_d_in_free_steps_alone():
    run = larger(Cdc(patch_maps=3), r1_every=1)
    names = [name for name, _ in run.nets.heads.named_parameters()]
    before = {k: v.clone() for k, v in run.nets.heads.state_dict().items()}
    run_step(run, 0)
    assert all(torch.equal(v, before[k]) for k, v in run.nets.heads.state_dict().items())
    steps(run, 15, first=1)
    assert all(not torch.equal(v, before[k]) for k, v in run.nets.heads.state_dict().items())
    moments = {k.removeprefix("adam/heads/") for k in snapshot(run) if k.startswith("adam/heads/")}
    assert {f"{name}/exp_avg_sq" for name in names} <= moments


def test_the_last_layers_of_d_rest_in_free_steps():
    run = adaptation(Cdc())
    before = run.nets.discriminator.final_linear[1].weight.clone()
    run_step(run, 1)
    assert torch.equal(run.nets.discriminator.final_linear[1].weight, before)
    run_step(run, 4)
    assert not torch.equal(run.nets.discriminator.final_linear[1].weight, before)


def test_patch_heads_are_drawn_without_touching_torchs_own_random_numbers():
    before = torch.get_rng_state()
    steps(adaptation(Cdc()), 3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("at", [4, 5])
def test_a_run_restored_midway_equals_the_unbroken_one_bit_for_bit(at):
    method = Cdc(patch_maps=3)
    unbroken = larger(method)
    steps(unbroken, at)
    saved = {name: tensor.clone() for name, tensor in snapshot(unbroken).items()}
    steps(unbroken, 4, first=at)
    resumed = larger(method)
    restore(resumed, saved)
    steps(resumed, 4, first=at)
    a, b = snapshot(unbroken), snapshot(resumed)
    assert a.keys() == b.keys() and any(name.startswith("heads/") for name in a)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("augment", ["none", "flip", "diffaug", "ada"])
def test_every_augmentation_and_precision_gives_finite_losses(augment, precision):
    run = adaptation(Cdc(), augment=augment, precision=precision, r1_every=3)
    for stats in steps(run, 6):
        assert all(math.isfinite(value) for value in stats.values())
        assert {"d", "g", "cdc"} <= stats.keys()


@pytest.mark.parametrize("name", ["cdc", "dcl"])
def test_dap_takes_the_losses_of_cdc_and_dcl_and_without_weight_the_very_same_steps(name):
    eager = Dap(warmup=0.0, settle=0.1, every=2, prune_mass=0.1)
    plain, idle, held = (
        adaptation(replace(eager, **more))
        for more in ({}, {"consistency": name, "consistency_weight": 0.0}, {"consistency": name})
    )
    stats = [steps(run, 6)[-1] for run in (plain, idle, held)]
    a, b, c = (snapshot(run) for run in (plain, idle, held))
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    assert any(not torch.equal(a[k], c[k]) for k in a if k.startswith("generator/"))
    added = {"cdc": {"cdc"}, "dcl": {"cl1", "cl2", "cl2_d"}}[name]
    assert stats[2].keys() - stats[0].keys() == added and all(stats[2][k] > 0 for k in added)
    assert held.nets.heads is None and "anchors" not in held.state
