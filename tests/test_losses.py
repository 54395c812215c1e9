"""The shared losses against sums written out by hand."""

import math

import pytest
import torch

from tenshot.losses import discriminator_loss, generator_loss, path_lengths, r1_penalty


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_adversarial_losses_are_softplus_means():
    real, fake = [0.3, -1.2], [2.0, -0.5]
    expected = sum(softplus(-v) for v in real) / 2 + sum(softplus(v) for v in fake) / 2
    assert discriminator_loss(torch.tensor(real), torch.tensor(fake)).item() == pytest.approx(expected, rel=1e-6)
    assert generator_loss(torch.tensor(fake)).item() == pytest.approx(sum(softplus(-v) for v in fake) / 2, rel=1e-6)


def test_r1_of_a_linear_discriminator_is_the_squared_norm_of_its_weights():
    weights = torch.randn(3, 4, 4, dtype=torch.float64)
    reals = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    logits = (reals * weights).sum(dim=(1, 2, 3))
    assert r1_penalty(logits, reals).item() == pytest.approx(weights.square().sum().item(), rel=1e-12)


def test_path_length_of_a_linear_generator_is_the_root_mean_square_over_layers():
    n, layers, size, pixels = 2, 3, 4, 2
    matrix = torch.randn(layers * size, 3 * pixels * pixels, dtype=torch.float64)
    ws = torch.randn(n, layers, size, dtype=torch.float64, requires_grad=True)
    images = (ws.flatten(1) @ matrix).view(n, 3, pixels, pixels)
    direction = torch.randn(n, 3, pixels, pixels, dtype=torch.float64)
    for i, length in enumerate(path_lengths(images, ws, direction)):
        gradient = (matrix @ direction[i].flatten() / pixels).view(layers, size)
        expected = math.sqrt(sum(row.square().sum().item() for row in gradient) / layers)
        assert length.item() == pytest.approx(expected, rel=1e-12)


def test_both_penalties_can_be_differentiated_again():
    reals = torch.randn(2, 3, 2, 2, requires_grad=True)
    weight = torch.ones((), requires_grad=True)
    r1_penalty((reals**2).sum(dim=(1, 2, 3)) * weight, reals).backward()
    assert weight.grad is not None and weight.grad.item() > 0
