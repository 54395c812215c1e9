"""Both Fisher estimators against brute force: one sample, one loss, one gradient at a time, through the slow twin."""

import pytest
import torch

from reference.stylegan2 import reference_discriminator, reference_generator, reference_mapping
from tenshot.filters import sample_gates
from tenshot.fisher import gate_fisher, weight_fisher
from tenshot.losses import discriminator_loss, generator_loss
from tiny import tiny_model

softplus = torch.nn.functional.softplus


@pytest.fixture
def model():
    return tiny_model(dtype=torch.float64)


def draw(model, n):
    rng = torch.Generator().manual_seed(7)
    z = torch.randn(n, 16, generator=rng, dtype=torch.float64)
    reals = torch.rand(n, 3, 16, 16, generator=rng, dtype=torch.float64) * 2 - 1
    return z, [noise.double() for noise in model.generator.draw_noise(n, rng)], reals


def gated(network):
    return [group for group in network.filter_groups() if group.gated]


def one_row_at_a_time(groups, n, loss):
    """Squared derivative of the batch's summed loss by each sample's gates; only that sample's row is a variable."""
    total = {group.name: torch.zeros(group.count, dtype=torch.float64) for group in groups}
    for row in range(n):
        leaves = {group.name: torch.ones(group.count, dtype=torch.float64, requires_grad=True) for group in groups}
        gates = {}
        for name, leaf in leaves.items():
            ones = torch.ones(len(leaf), dtype=torch.float64)
            gates[name] = torch.stack([leaf if i == row else ones for i in range(n)])
        for name, gradient in zip(leaves, torch.autograd.grad(loss(gates), list(leaves.values())), strict=True):
            total[name] += gradient**2
    return {name: squares / n for name, squares in total.items()}


@pytest.mark.parametrize("n", [1, 4])
def test_gate_fisher_of_the_generator_equals_brute_force(model, n):
    generator, discriminator = model.generator, model.discriminator
    z, noise, _ = draw(model, n)
    groups = gated(generator)
    gates = sample_gates(generator, groups, n)
    images = generator.synthesise(generator.spread(generator.map(z)), noise, gates)
    generator_loss(discriminator(images)).backward()

    g, d = generator.state_dict(), discriminator.state_dict()

    def loss(gates):
        w = reference_mapping(g, z)[:, None].expand(-1, generator.spec.layers, -1)
        return softplus(-reference_discriminator(d, reference_generator(g, w, noise, gates))).sum()

    expected = one_row_at_a_time(groups, n, loss)
    for name, fisher in gate_fisher(gates, n).items():
        torch.testing.assert_close(fisher, expected[name], rtol=1e-8, atol=0)


@pytest.mark.parametrize("n", [1, 4])
def test_gate_fisher_of_the_discriminator_equals_brute_force_over_reals_and_fakes(model, n):
    generator, discriminator = model.generator, model.discriminator
    z, noise, reals = draw(model, n)
    fakes = generator(z, noise).detach()
    groups = gated(discriminator)
    gates = sample_gates(discriminator, groups, 2 * n)
    real_logits, fake_logits = discriminator(torch.cat([reals, fakes]), gates, minibatches=2).split(n)
    discriminator_loss(real_logits, fake_logits).backward()

    d = discriminator.state_dict()

    def loss(gates):
        first, second = ({name: gate[part] for name, gate in gates.items()} for part in (slice(n), slice(n, None)))
        real, fake = reference_discriminator(d, reals, first), reference_discriminator(d, fakes, second)
        return softplus(-real).sum() + softplus(fake).sum()

    expected = one_row_at_a_time(groups, 2 * n, loss)
    for name, fisher in gate_fisher(gates, n).items():
        torch.testing.assert_close(fisher, expected[name], rtol=1e-8, atol=0)


@pytest.mark.parametrize("n", [1, 4])
def test_weight_fisher_equals_squared_single_sample_gradients_filter_by_filter(model, n):
    generator, discriminator = model.generator, model.discriminator
    z, noise, _ = draw(model, n)
    noises = [[layer[i : i + 1] for layer in noise] for i in range(n)]

    def loss_of(i):
        return lambda: generator_loss(discriminator(generator(z[i : i + 1], noises[i])))

    groups = gated(generator)
    fisher = weight_fisher(generator, groups, [loss_of(i) for i in range(n)])

    d, squares = discriminator.state_dict(), {}
    for i in range(n):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in generator.state_dict().items()}
        w = reference_mapping(leaves, z[i : i + 1])[:, None].expand(-1, generator.spec.layers, -1)
        softplus(-reference_discriminator(d, reference_generator(leaves, w, noises[i]))).sum().backward()
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                squares[name] = squares.get(name, 0) + leaf.grad**2 / n
    for group in groups:
        weight, bias = squares[f"{group.name}.conv.weight"], squares[f"{group.name}.activate.bias"]
        for k in range(group.count):
            expected = (weight[0, k].mean() + bias[k]) / 2
            assert fisher[group.name][k].item() == pytest.approx(expected.item(), rel=1e-8)


def test_the_squared_gradient_of_a_batch_mean_is_another_number(model):
    z, noise, _ = draw(model, 4)
    groups = gated(model.generator)

    def loss_of(rows):
        return lambda: generator_loss(model.discriminator(model.generator(z[rows], [layer[rows] for layer in noise])))

    apart = weight_fisher(model.generator, groups, [loss_of(slice(i, i + 1)) for i in range(4)])
    together = weight_fisher(model.generator, groups, [loss_of(slice(0, 4))])
    assert (apart["conv1"] / together["conv1"] - 1).abs().max() > 0.1


def test_estimating_changes_no_weight_gradient_buffer_flag_or_random_state(model):
    generator, discriminator = model.generator, model.discriminator
    z, noise, _ = draw(model, 2)
    generator_loss(discriminator(generator(z, noise))).backward()
    generator.conv1.conv.weight.requires_grad_(False)
    tensors = {
        f"{i}{k}": v.clone() for i, net in enumerate((generator, discriminator)) for k, v in net.state_dict().items()
    }
    gradients = [None if p.grad is None else p.grad.clone() for p in generator.parameters()]
    flags = [p.requires_grad for p in generator.parameters()]
    random = torch.get_rng_state()

    weight_fisher(generator, gated(generator), [lambda: generator_loss(discriminator(generator(z, noise)))])

    for i, net in enumerate((generator, discriminator)):
        assert all(torch.equal(tensors[f"{i}{k}"], v) for k, v in net.state_dict().items())
    for before, parameter in zip(gradients, generator.parameters(), strict=True):
        assert before is None if parameter.grad is None else torch.equal(before, parameter.grad)
    assert flags == [p.requires_grad for p in generator.parameters()]
    assert torch.equal(random, torch.get_rng_state())


def test_gates_that_no_backward_pass_has_reached_are_named(model):
    gates = sample_gates(model.generator, gated(model.generator), 2)
    with pytest.raises(ValueError, match=r"no backward pass has reached the gates of conv1, convs\.0"):
        gate_fisher(gates, 2)
