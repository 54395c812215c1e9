"""The networks against their slow twin: values, gradients, double gradients; gates, minibatches, layout and sizes."""

from collections.abc import Callable, Mapping

import pytest
import torch
from reference.stylegan2 import reference_discriminator, reference_generator, reference_mapping
from tenshot.nets import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec, channel_plan
from torch import Tensor, nn

CHANNELS = (12, 10, 9, 7, 5, 3, 2, 3, 2)  # at 4, 8, ..., 1024 pixels; neighbours differ: no axes to confuse
LATENT = 16
RESOLUTIONS = (16, 32, 64, 128, 256)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
CASES = [(torch.float32, resolution, n) for resolution in RESOLUTIONS for n in (1, 5)]
CASES += [(torch.float64, resolution, n) for resolution in (16, 32) for n in (1, 5)]


def channels_of(resolution: int) -> tuple[int, ...]:
    return CHANNELS[: resolution.bit_length() - 2]


def random_generator(resolution: int, dtype: torch.dtype = torch.float32) -> Generator:
    net = Generator(GeneratorSpec(resolution, channels_of(resolution), latent_size=LATENT, mapping_depth=2))
    return randomised(net).to(dtype)


def random_discriminator(resolution: int, dtype: torch.dtype = torch.float32) -> Discriminator:
    return randomised(Discriminator(DiscriminatorSpec(resolution, channels_of(resolution)))).to(dtype)


def randomised(net: nn.Module) -> nn.Module:
    """All parameters away from their initial values: no bias is 0, no noise strength is 0, no modulation bias is 1."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            jitter = torch.randn(parameter.shape, generator=rng)
            if name.startswith("style."):
                parameter.copy_(100 * jitter)  # the mapping network stores its parameters over 0.01
            elif name.endswith("modulation.bias"):
                parameter.copy_(1 + 0.5 * jitter)
            elif parameter.dim() == 1:
                parameter.copy_(0.5 * jitter)
            else:
                parameter.copy_(jitter)
    return net


def random_gates(net: nn.Module, n: int, rng: torch.Generator, dtype: torch.dtype) -> dict[str, Tensor]:
    """A gate per channel [c] and a gate per sample [n, c] by turns; one channel of each is 0, the others near 1."""
    gates = {}
    for turn, group in enumerate(group for group in net.filter_groups() if group.gated):
        gate = 0.5 + torch.rand(n, group.count, generator=rng)
        closed = torch.randint(group.count, (n, 1), generator=rng)
        gate.scatter_(1, closed, 0.0)
        gates[group.name] = (gate if turn % 2 else gate[0]).to(dtype)
    return gates


def random_images(n: int, resolution: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Large blots under fine grain, so that signal reaches D's last layers from every resolution."""
    blots = torch.randn(n, 3, 4, 4, generator=rng).repeat_interleave(resolution // 4, 2)
    grain = torch.randn(n, 3, resolution, resolution, generator=rng)
    return (blots.repeat_interleave(resolution // 4, 3) + 0.3 * grain).to(dtype)


def gradients(loss: Tensor, leaves: Mapping[str, Tensor], order: str) -> dict[str, Tensor]:
    grads = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, materialize_grads=True)
    return {f"{order} {name}": grad for name, grad in zip(leaves, grads, strict=True)}


def generator_values(
    mapping: Callable, synthesise: Callable, parameters: dict[str, Tensor], inputs: dict[str, Tensor], probe: Tensor
) -> dict[str, Tensor]:
    """The image, and the gradient and the path-length double gradient with respect to everything that goes in."""
    # Leaves of its own for each of the two networks; the parameters are theirs already.
    inputs = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    leaves = parameters | inputs
    noise = [tensor for name, tensor in inputs.items() if name.startswith("noise ")]
    gates = {name.removeprefix("gate "): tensor for name, tensor in inputs.items() if name.startswith("gate ")}
    ws = mapping(inputs["z"])[:, None] + inputs["offsets"]  # a different style in every layer
    image = synthesise(ws, noise, gates)

    slope = torch.autograd.grad((image * probe).sum(), ws, create_graph=True)[0]
    lengths = slope.square().sum(dim=2).mean(dim=1).sqrt()
    penalty = lengths.square().mean()  # path length on its first step, its running mean still 0
    return (
        {"image": image}
        | gradients((image * probe).sum(), leaves, "gradient")
        | {"lengths": lengths}
        | gradients(penalty, leaves, "double gradient")
    )


def discriminator_values(
    discriminate: Callable, parameters: dict[str, Tensor], inputs: dict[str, Tensor], probe: Tensor
) -> dict[str, Tensor]:
    """The logits, and the gradient and the R1 double gradient with respect to everything that goes in."""
    inputs = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    leaves = parameters | inputs
    gates = {name.removeprefix("gate "): tensor for name, tensor in inputs.items() if name.startswith("gate ")}
    logits = discriminate(inputs["images"], gates).flatten()

    slope = torch.autograd.grad(logits.sum(), inputs["images"], create_graph=True)[0]
    penalty = slope.square().sum(dim=(1, 2, 3))
    return (
        {"logits": logits}
        | gradients((logits * probe).sum(), leaves, "gradient")
        | {"penalty": penalty}
        | gradients(penalty.mean(), leaves, "double gradient")
    )


def twin_of(net: nn.Module) -> dict[str, Tensor]:
    """The network's parameters, as leaves of their own."""
    return {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}


def relative_errors(ours: dict[str, Tensor], twins: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference in each tensor, over the largest number in it."""
    errors = {}
    for name, twin in twins.items():
        difference = (ours[name] - twin).abs().max().item()
        errors[name] = difference / twin.abs().max().item() if difference else 0.0
    return errors


def assert_same(ours: dict[str, Tensor], twins: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == twins.keys()
    errors = relative_errors(ours, twins)
    assert {name: error for name, error in errors.items() if not error <= tolerance} == {}
    zeros = [name for name, twin in twins.items() if name.startswith("gradient") and not twin.any()]
    assert zeros == []  # nothing that goes in goes in vain, so nothing was compared in vain


@pytest.mark.parametrize(("dtype", "resolution", "n"), CASES)
def test_generator_its_gradients_and_path_length_gradients_equal_the_twins(dtype, resolution, n):
    net = random_generator(resolution, dtype)
    rng = torch.Generator().manual_seed(2)
    inputs = {
        "z": torch.randn(n, LATENT, generator=rng, dtype=dtype),
        "offsets": torch.randn(n, net.spec.layers, LATENT, generator=rng, dtype=dtype) / 2,
    }
    inputs |= {f"noise {i}": noise for i, noise in enumerate(net.draw_noise(n, rng))}
    gates = random_gates(net, n, rng, dtype)
    inputs |= {f"gate {name}": gate for name, gate in gates.items()}
    probe = torch.randn(n, 3, resolution, resolution, generator=rng, dtype=dtype) / resolution

    ours = generator_values(net.map, net.synthesise, dict(net.named_parameters()), inputs, probe)
    state = twin_of(net)
    twins = generator_values(
        lambda z: reference_mapping(state, z),
        lambda ws, noise, gates: reference_generator(state, ws, noise, gates),
        state,
        inputs,
        probe,
    )
    assert_same(ours, twins, TOLERANCE[dtype])


@pytest.mark.parametrize(("dtype", "resolution", "n"), CASES)
def test_discriminator_its_gradients_and_r1_gradients_equal_the_twins(dtype, resolution, n):
    net = random_discriminator(resolution, dtype)
    rng = torch.Generator().manual_seed(3)
    inputs = {"images": random_images(n, resolution, rng, dtype)}
    gates = random_gates(net, n, rng, dtype)
    inputs |= {f"gate {name}": gate for name, gate in gates.items()}
    probe = torch.randn(n, generator=rng, dtype=dtype)

    ours = discriminator_values(net, dict(net.named_parameters()), inputs, probe)
    state = twin_of(net)
    twins = discriminator_values(lambda x, gates: reference_discriminator(state, x, gates), state, inputs, probe)
    assert_same(ours, twins, TOLERANCE[dtype])
