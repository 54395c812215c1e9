"""The formulas that every method shares: R1's and the path lengths' weights, and the mixing of styles."""

import pytest
import torch

from tenshot import phases
from tenshot.adaptation import begin, context_of
from tenshot.config import RunConfig
from tenshot.losses import path_lengths
from tenshot.methods import Finetune
from tiny import tiny_model, tiny_shots


def begun(**settings):
    torch.manual_seed(0)
    return begin(RunConfig("tiny", method=Finetune(), batch=4, augment="none", **settings), tiny_model(), tiny_shots())


def rng():
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize(("gamma", "every"), [(10.0, 16), (0.1, 3)])
def test_r1_is_half_gamma_times_the_squared_gradient_times_its_interval(gamma, every):
    run = begun(r1_gamma=gamma, r1_every=every)
    reals = torch.rand(4, 3, *[run.nets.generator.spec.resolution] * 2) * 2 - 1
    loss, _, _ = phases.PHASES["r1"](run, context_of(run, 0, {}), reals, rng())
    given = reals.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(run.nets.discriminator(given).sum(), given)
    penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
    assert loss.item() == pytest.approx(gamma / 2 * penalty.item() * every, rel=1e-4)


def test_path_lengths_are_drawn_to_a_mean_that_moves_by_a_hundredth():
    run = begun(path_weight=2.0, path_every=4)
    reals = torch.zeros(4, 3, *[run.nets.generator.spec.resolution] * 2)

    def lengths_now(seed):
        g, draws = run.nets.generator, torch.Generator().manual_seed(seed)
        ws = phases._mixed(run, 2, draws)
        images = g.synthesise(ws, g.draw_noise(2, draws))
        return path_lengths(images, ws, torch.randn(images.shape, generator=draws)).detach()

    first, second = lengths_now(1), lengths_now(2)
    loss, _, _ = phases.PHASES["path"](run, context_of(run, 0, {}), reals, torch.Generator().manual_seed(1))
    assert loss.item() == pytest.approx(8 * (first - first.mean()).square().mean().item(), rel=1e-4)
    loss, _, _ = phases.PHASES["path"](run, context_of(run, 0, {}), reals, torch.Generator().manual_seed(2))
    mean = 0.99 * first.mean() + 0.01 * second.mean()
    assert run.path_mean.item() == pytest.approx(mean.item(), rel=1e-5)
    assert loss.item() == pytest.approx(8 * (second - mean).square().mean().item(), rel=1e-3)


@pytest.mark.parametrize(("mixing", "least", "most"), [(0.0, 0, 0), (1.0, 40, 40), (0.5, 10, 30)])
def test_so_many_latents_are_mixed_as_the_probability_says(mixing, least, most):
    run, draws = begun(mixing=mixing), rng()
    mixed = 0
    for _ in range(40):
        ws = phases._mixed(run, 3, draws)
        changes = [layer for layer in range(1, ws.shape[1]) if not torch.equal(ws[:, layer], ws[:, layer - 1])]
        assert len(changes) <= 1, "one crossover for the batch"
        mixed += len(changes)
    assert least <= mixed <= most
