"""EWC's penalty against the source's Fisher information, taken latent by latent."""

import pytest
import torch
from torch.nn.functional import softplus

from tenshot.adaptation import begin, context_of
from tenshot.config import RunConfig
from tenshot.methods import METHODS
from tenshot.randomness import generator_for
from tenshot.step import run_step
from tiny import tiny_model, tiny_shots

SAMPLES, WEIGHT = 2, 3.0


def fisher_of_the_source():
    """Mean squared gradient of G's loss over single latents, by G's parameters."""
    model, rng = tiny_model(), generator_for(0, "ewc")
    squares = {name: torch.zeros_like(p) for name, p in model.generator.named_parameters()}
    for _ in range(SAMPLES):
        z = torch.randn(1, 16, generator=rng)
        softplus(-model.discriminator(model.generator(z, model.generator.draw_noise(1, rng)))).sum().backward()
        for name, parameter in model.generator.named_parameters():
            squares[name] += parameter.grad**2 / SAMPLES
            parameter.grad = None
    return squares


@pytest.mark.parametrize("reduction", ["sum", "mean_per_tensor"])
def test_the_penalty_is_the_distance_to_the_source_weighted_by_its_fisher_information(reduction):
    method = METHODS["ewc"](weight=WEIGHT, fisher_samples=SAMPLES, reduction=reduction)
    run = begin(RunConfig("tiny", method=method, steps=100, batch=2), tiny_model(), tiny_shots())
    wanted, squares = 0.0, fisher_of_the_source()
    for k, (name, parameter) in enumerate(run.nets.generator.named_parameters(), 1):
        torch.testing.assert_close(run.state[f"fisher/{name}"], squares[name], rtol=1e-3, atol=1e-9)
        parameter.data += 0.01 * k
        term = squares[name] * (0.01 * k) ** 2
        wanted += WEIGHT * (term.sum() if reduction == "sum" else term.mean()).item()
    assert run.method.extra_losses("d", context_of(run, 0), run.state, None) == {}
    assert run_step(run, 1)["ewc"] == pytest.approx(wanted, rel=1e-3)
