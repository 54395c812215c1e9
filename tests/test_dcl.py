"""DCL: both contrasts against loops, who feels them, and what they share with CDC."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tenshot.adaptation import begin, context_of
from tenshot.checkpoint import restore, snapshot
from tenshot.config import RunConfig
from tenshot.consistency import discriminator_contrast, generator_contrast
from tenshot.errors import TenshotError
from tenshot.methods import Cdc, Dcl
from tenshot.methods.base import Batch
from tenshot.step import run_step
from tiny import tiny_model, tiny_shots

TAU = 0.07


def adaptation(method, **settings):
    config = RunConfig(shots="tiny", method=method, **{"steps": 100, "batch": 2, **settings})
    return begin(config, tiny_model(), tiny_shots())


def steps(run, count, first=0):
    return [run_step(run, step) for step in range(first, first + count)]


def terms(run, step, phase):
    context, rng = context_of(run, step), torch.Generator().manual_seed(0)
    reals = torch.rand(3, 3, 16, 16, generator=rng)
    return run.method.extra_losses(phase, context, run.state, Batch(reals, reals, rng))


def maps_of(rows, seed):
    return torch.randn(rows, 4, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def f(a, b):
    return math.exp(cosine_similarity(a.flatten(), b.flatten(), dim=0).item() / TAU)


def test_the_contrast_in_g_is_that_of_loops():
    target, source = maps_of(4, 1), maps_of(4, 2)
    slow = 0.0
    for i in range(4):
        slow -= math.log(f(target[i], source[i]) / sum(f(target[i], source[j]) for j in range(4))) / 4
    assert generator_contrast(target, source, TAU).item() == pytest.approx(slow, rel=1e-12)


def test_the_contrast_in_d_is_that_of_loops():
    target, source, shots = maps_of(4, 1), maps_of(4, 2), maps_of(5, 3)
    slow = 0.0
    for i in range(4):
        own = f(target[i], source[i])
        slow -= math.log(own / (own + sum(f(target[i], shots[j]) for j in range(5)))) / 4
    assert discriminator_contrast(target, source, shots, TAU).item() == pytest.approx(slow, rel=1e-12)


def test_with_identical_positives_only_the_negatives_decide():
    maps, shots, top = maps_of(3, 1), maps_of(2, 2), math.exp(1 / TAU)
    in_g = [-math.log(top / (top + sum(f(maps[i], maps[j]) for j in range(3) if j != i))) for i in range(3)]
    in_d = [-math.log(top / (top + sum(f(maps[i], shot) for shot in shots))) for i in range(3)]
    assert generator_contrast(maps, maps, TAU).item() == pytest.approx(sum(in_g) / 3, rel=1e-8)
    assert discriminator_contrast(maps, maps, shots, TAU).item() == pytest.approx(sum(in_d) / 3, rel=1e-8)


def test_g_feels_both_contrasts_and_d_the_second():
    run = adaptation(Dcl())
    assert terms(run, 0, "g").keys() == {"cl1", "cl2"} and terms(run, 0, "d").keys() == {"cl2_d"}
    assert not terms(adaptation(Dcl(cl2_in_d=False)), 0, "d")
    assert terms(adaptation(Dcl(lambda1=0.0)), 0, "g").keys() == {"cl2"}
    assert terms(adaptation(Dcl(lambda2=0.0)), 0, "g").keys() == {"cl1"}
    assert not terms(adaptation(Dcl(lambda2=0.0)), 0, "d")


def test_weights_multiply_the_contrasts():
    one, other = (terms(adaptation(Dcl(lambda1=a, lambda2=b)), 3, "g") for a, b in ((1.0, 1.0), (2.0, 0.5)))
    torch.testing.assert_close(other["cl1"], 2.0 * one["cl1"])
    torch.testing.assert_close(other["cl2"], 0.5 * one["cl2"])


def test_the_terms_are_the_contrasts_of_one_layer_of_each_network(monkeypatch):
    """At the start source and target are one, so the positives are identical."""
    seen = {}
    for name, function in (
        ("generator_contrast", generator_contrast),
        ("discriminator_contrast", discriminator_contrast),
    ):
        spy = lambda *a, name=name, function=function: seen.setdefault(name, []).append(a) or function(*a)  # noqa: E731
        monkeypatch.setattr(f"tenshot.methods.dcl.{name}", spy)
    run = adaptation(Dcl())
    for step in range(30):
        terms(run, step, "g")
    for target, source, tau in seen["generator_contrast"]:
        assert torch.equal(target, source) and target.requires_grad and not source.requires_grad and tau == TAU
    shapes = {tuple(target.shape) for target, *_ in seen["generator_contrast"]}
    assert shapes == {(4, 10, 8, 8), (4, 8, 16, 16)}  # conv1, 12 channels of 4 px, is never drawn
    for target, source, shots, _ in seen["discriminator_contrast"]:
        torch.testing.assert_close(target, source)
        assert target.requires_grad and not source.requires_grad and len(shots) == 3
    shapes = {tuple(shots.shape[1:]) for *_, shots, _ in seen["discriminator_contrast"]}
    assert shapes == {(8, 16, 16), (10, 8, 8), (12, 4, 4)}  # both blocks; fromRGB's 8 channels of 16 px look the same


def test_the_gradient_reaches_neither_the_source_nor_the_network_that_rests():
    run = adaptation(Dcl())
    nets = run.nets
    nets.source.requires_grad_(True)
    nets.discriminator.requires_grad_(False)  # as in phase g
    sum(terms(run, 1, "g").values()).backward()
    assert nets.generator.convs[0].conv.weight.grad.abs().sum() > 0
    nets.discriminator.requires_grad_(True)
    nets.generator.requires_grad_(False)  # as in phase d
    nets.generator.zero_grad()
    sum(terms(run, 1, "d").values()).backward()
    assert nets.discriminator.convs[1].conv1[0].weight.grad.abs().sum() > 0
    for network in (nets.source, nets.generator):
        assert all(parameter.grad is None for parameter in network.parameters())


def test_anchors_patches_and_heads_are_those_of_cdc():
    ours, cdc = adaptation(Dcl(lambda1=0.0, lambda2=0.0)), adaptation(Cdc(weight=0.0))
    for run in (ours, cdc):
        steps(run, 5)
    a, b = snapshot(ours), snapshot(cdc)
    assert a.keys() == b.keys() and "state/anchors" in a and "heads/0.weight" in a
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_run_restored_midway_equals_the_unbroken_one_bit_for_bit():
    unbroken = adaptation(Dcl())
    steps(unbroken, 3)
    saved = {name: tensor.clone() for name, tensor in snapshot(unbroken).items()}
    steps(unbroken, 3, first=3)
    resumed = adaptation(Dcl())
    restore(resumed, saved)
    steps(resumed, 3, first=3)
    a, b = snapshot(unbroken), snapshot(resumed)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("augment", ["none", "flip", "diffaug", "ada"])
def test_every_augmentation_and_precision_gives_finite_losses(augment, precision):
    for stats in steps(adaptation(Dcl(), augment=augment, precision=precision), 5):
        assert all(math.isfinite(value) for value in stats.values())
        assert {"d", "g", "cl1", "cl2", "cl2_d"} <= stats.keys()


def test_settings_that_make_no_sense_are_refused():
    for name, value in (("lambda1", -1.0), ("lambda2", math.inf), ("temperature", 0.0), ("anchor_every", 0)):
        with pytest.raises(TenshotError, match=f"--dcl.{name.replace('_', '-')} is"):
            Dcl(**{name: value})
