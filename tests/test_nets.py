"""The networks against their slow twin: values, gradients, double gradients; gates, minibatches, layout and sizes."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from reference.stylegan2 import reference_discriminator, reference_generator, reference_mapping
from tenshot.nets import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec, channel_plan
from tenshot.nets.gamut import DIRECTIONS, in_gamut
from tenshot.sampling import synthesise
from tiny import tiny_model

CHANNELS = (12, 10, 9, 7, 5, 3, 2, 3, 2)  # at 4, 8, ..., 1024 pixels; neighbours differ: no axes to confuse
LATENT = 16
RESOLUTIONS = (16, 32, 64, 128, 256)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
CASES = [(dtype, resolution, n) for dtype in TOLERANCE for resolution in RESOLUTIONS for n in (1, 5)]


@pytest.fixture(autouse=True, scope="module")
def single_thread():
    """Tensors this small are done sooner by one thread, many times sooner on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def gradients(loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    grads = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, materialize_grads=True)
    return dict(zip(leaves, grads, strict=True))


def generator_values(
    mapping: Callable, synthesise: Callable, parameters: dict[str, Tensor], inputs: dict[str, Tensor], probe: Tensor
) -> dict[str, dict[str, Tensor]]:
    """The image and its gradient with respect to all that goes in; path lengths and their gradient, to parameters."""
    inputs = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    noise = [tensor for name, tensor in inputs.items() if name.startswith("noise ")]
    gates = {name.removeprefix("gate "): tensor for name, tensor in inputs.items() if name.startswith("gate ")}
    ws = mapping(inputs["z"])[:, None] + inputs["offsets"]  # a different style in every layer
    image = synthesise(ws, noise, gates)
    projected = (image * probe).sum()
    slope = torch.autograd.grad(projected, ws, create_graph=True)[0]
    lengths = slope.square().sum(dim=2).mean(dim=1).sqrt()
    return {
        "image": {"image": image},
        "gradient": gradients(projected, parameters | inputs),
        "path lengths": {"path lengths": lengths},
        "double gradient": gradients(lengths.square().mean(), parameters),
    }


def discriminator_values(
    discriminate: Callable, parameters: dict[str, Tensor], inputs: dict[str, Tensor], probe: Tensor
) -> dict[str, dict[str, Tensor]]:
    """The logits and their gradient with respect to all that goes in; R1 and its gradient, to parameters."""
    inputs = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    gates = {name.removeprefix("gate "): tensor for name, tensor in inputs.items() if name.startswith("gate ")}
    logits = discriminate(inputs["images"], gates).flatten()
    slope = torch.autograd.grad(logits.sum(), inputs["images"], create_graph=True)[0]
    penalty = slope.square().sum(dim=(1, 2, 3))
    return {
        "logits": {"logits": logits},
        "gradient": gradients((logits * probe).sum(), parameters | inputs),
        "R1": {"R1": penalty},
        "double gradient": gradients(penalty.mean(), parameters),
    }


def twin_of(net: nn.Module) -> dict[str, Tensor]:
    """The network's parameters, as leaves of their own."""
    return {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}


def relative_errors(ours: dict[str, Tensor], twins: dict[str, Tensor]) -> dict[str, float]:
    """For each tensor, the norm of the difference over the norm of the twin's.

    A tensor far smaller than the others, or zero, is measured by a hundredth of the norm of all together: in float32
    rounding may carry a pixel across the kink of the leaky ReLU, and a small tensor would show nothing else.
    """
    assert ours.keys() == twins.keys()
    whole = torch.stack([twin.norm() for twin in twins.values()]).norm()
    return {name: float((ours[name] - twin).norm() / max(twin.norm(), whole / 100)) for name, twin in twins.items()}


def assert_same(ours: dict[str, dict[str, Tensor]], twins: dict[str, dict[str, Tensor]], dtype: torch.dtype) -> None:
    assert ours.keys() == twins.keys()
    for quantity in twins:
        ours_now = {name: tensor.detach() for name, tensor in ours[quantity].items()}
        errors = relative_errors(ours_now, {name: tensor.detach() for name, tensor in twins[quantity].items()})
        too_large = {name: error for name, error in errors.items() if not error <= TOLERANCE[dtype]}
        assert not too_large, quantity
    assert all(gradient.any() for gradient in twins["gradient"].values())  # nothing was compared in vain


@pytest.mark.parametrize(("dtype", "resolution", "n"), CASES, ids=str)
def test_generator_its_gradients_and_path_length_gradients_equal_the_twins(dtype, resolution, n):
    net = random_generator(resolution, dtype)
    rng = torch.Generator().manual_seed(2)
    inputs = {
        "z": torch.randn(n, LATENT, generator=rng, dtype=dtype),
        "offsets": torch.randn(n, net.spec.layers, LATENT, generator=rng, dtype=dtype) / 2,
    }
    inputs |= {f"noise {i}": noise for i, noise in enumerate(net.draw_noise(n, rng))}
    inputs |= {f"gate {name}": gate for name, gate in random_gates(net, n, rng, dtype).items()}
    probe = torch.randn(n, 3, resolution, resolution, generator=rng, dtype=dtype) / resolution

    state = twin_of(net)
    ours = generator_values(net.map, net.synthesise, dict(net.named_parameters()), inputs, probe)
    twins = generator_values(
        partial(reference_mapping, state), partial(reference_generator, state), state, inputs, probe
    )
    assert_same(ours, twins, dtype)


@pytest.mark.parametrize(("dtype", "resolution", "n"), CASES, ids=str)
def test_discriminator_its_gradients_and_r1_gradients_equal_the_twins(dtype, resolution, n):
    net = random_discriminator(resolution, dtype)
    rng = torch.Generator().manual_seed(3)
    inputs = {"images": random_images(n, resolution, rng, dtype)}
    inputs |= {f"gate {name}": gate for name, gate in random_gates(net, n, rng, dtype).items()}
    probe = torch.randn(n, generator=rng, dtype=dtype)

    state = twin_of(net)
    ours = discriminator_values(net, dict(net.named_parameters()), inputs, probe)
    twins = discriminator_values(partial(reference_discriminator, state), state, inputs, probe)
    assert_same(ours, twins, dtype)


@pytest.mark.parametrize("n", [2, 3, 6, 7, 8, 10, 12])
def test_discriminator_groups_every_batch_size_as_its_twin_does(n):
    net = random_discriminator(16, torch.float64)
    images = random_images(n, 16, torch.Generator().manual_seed(4), torch.float64)
    assert_close(net(images), reference_discriminator(twin_of(net), images).squeeze(1), rtol=1e-9)


def test_generator_without_noise_equals_its_twin():
    net = random_generator(32, torch.float64)
    ws = torch.randn(2, net.spec.layers, LATENT, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert_close(net.synthesise(ws), reference_generator(twin_of(net), ws), rtol=1e-9)


@pytest.mark.parametrize("resolution", [512, 1024])
def test_largest_networks_equal_their_twins(resolution):
    generator, discriminator = random_generator(resolution), random_discriminator(resolution)
    ws = torch.randn(1, generator.spec.layers, LATENT, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        images = generator.synthesise(ws)
        assert images.shape == (1, 3, resolution, resolution)
        assert_close(images, reference_generator(twin_of(generator), ws), rtol=1e-4)
        logits = reference_discriminator(twin_of(discriminator), images)
        assert_close(discriminator(images), logits.squeeze(1), rtol=1e-4)


def assert_close(ours: Tensor, twin: Tensor, rtol: float) -> None:
    """The largest difference is at most rtol times the largest number."""
    assert ours.shape == twin.shape
    assert (ours - twin).abs().max() <= rtol * twin.abs().max()


# Gates.


def generator_case(resolution: int = 32, n: int = 3) -> tuple[Generator, Tensor, list[Tensor]]:
    net = random_generator(resolution)
    rng = torch.Generator().manual_seed(8)
    return net, torch.randn(n, net.spec.layers, LATENT, generator=rng), net.draw_noise(n, rng)


def discriminator_case(resolution: int = 32, n: int = 3) -> tuple[Discriminator, Tensor]:
    images = random_images(n, resolution, torch.Generator().manual_seed(9), torch.float32)
    return random_discriminator(resolution), images


def both_networks() -> list[tuple[nn.Module, Callable]]:
    generator, ws, noise = generator_case()
    discriminator, images = discriminator_case()
    return [
        (generator, lambda gates=None: generator.synthesise(ws, noise, gates)),
        (discriminator, lambda gates=None: discriminator(images, gates)),
    ]


def close_first_channels_(net: nn.Module) -> dict[str, Tensor]:
    """Set the network's own gates: about a third of every group's channels closed. Returns what is closed."""
    closed = {}
    for group in net.filter_groups():
        if group.gated:
            closed[group.name] = torch.arange(group.count) < max(1, group.count // 3)
            net.get_buffer(f"{group.name}.gate").copy_(~closed[group.name])
    return closed


def activations_of(net: nn.Module, names: Iterable[str], forward: Callable) -> dict[str, Tensor]:
    seen = {}
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        for name in names
    ]
    forward()
    for hook in hooks:
        hook.remove()
    return seen


def test_a_closed_channel_is_exactly_zero_in_the_activation():
    for net, forward in both_networks():
        closed = close_first_channels_(net)
        own = activations_of(net, closed, forward)
        gates = {name: (~mask).float().expand(3, -1) for name, mask in closed.items()}
        given = activations_of(net, closed, lambda forward=forward, gates=gates: forward(gates))
        for name, mask in closed.items():
            for activation in (own[name], given[name]):
                assert activation[:, mask].count_nonzero() == 0
                assert activation[:, ~mask].all()  # and no open channel is dead


def test_a_closed_channel_adds_nothing_whatever_its_weights_are():
    for net, forward in both_networks():
        closed = close_first_channels_(net)
        before = forward()
        with torch.no_grad():
            for group in net.filter_groups():
                for piece in group.slices if group.gated else ():
                    parameter = net.get_parameter(piece.parameter)
                    parameter.transpose(0, piece.axis)[closed[group.name]] = 1000.0
        assert torch.equal(forward(), before)


def test_gates_set_in_the_network_and_gates_given_make_the_same_result():
    for net, forward in both_networks():
        closed = close_first_channels_(net)
        own = forward()
        for name in closed:
            net.get_buffer(f"{name}.gate").fill_(1.0)
        given = forward({name: (~mask).float() for name, mask in closed.items()})
        assert_close(given, own, rtol=1e-5)
        assert (forward() - own).abs().max() > 0.01 * own.abs().max()  # the closed channels mattered


def test_a_given_gate_takes_the_place_of_the_blocks_own():
    for net, forward in both_networks():
        fully_open = forward()
        closed = close_first_channels_(net)
        assert_close(forward({name: torch.ones(len(mask)) for name, mask in closed.items()}), fully_open, rtol=1e-5)


def test_per_sample_gates_of_ones_change_nothing_bit_for_bit():
    for net, forward in both_networks():
        gates = {group.name: torch.ones(3, group.count) for group in net.filter_groups() if group.gated}
        plain, gated = forward(), forward(gates)
        assert torch.equal(plain, gated)
        parameters = [p for name, p in net.named_parameters() if not name.startswith("style.")]
        slopes = [torch.autograd.grad(output.square().sum(), parameters) for output in (plain, gated)]
        assert all(map(torch.equal, *slopes))


def test_a_closed_channel_still_has_a_derivative_by_its_gate():
    for net, forward in both_networks():
        closed = close_first_channels_(net)
        gates = {name: (~mask).float().repeat(3, 1).requires_grad_() for name, mask in closed.items()}
        forward(gates).square().sum().backward()
        assert all(gates[name].grad[:, mask].all() for name, mask in closed.items())


# Batches and memory layout.


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 8])
def test_two_minibatches_in_one_pass_equal_two_passes(n):
    net = random_discriminator(16, torch.float64)
    rng = torch.Generator().manual_seed(10)
    real, fake = random_images(n, 16, rng, torch.float64), 2 * random_images(n, 16, rng, torch.float64)
    gates = random_gates(net, 2 * n, rng, torch.float64)
    halves = [{k: g if g.dim() == 1 else g.chunk(2)[i] for k, g in gates.items()} for i in range(2)]

    both = net(torch.cat([real, fake]), gates, minibatches=2)
    apart = torch.cat([net(real, halves[0]), net(fake, halves[1])])
    assert_close(both, apart, rtol=1e-12)
    mixed = net(torch.cat([real, fake]), gates)
    assert (mixed - apart).abs().max() > 1e-6  # as one minibatch they would influence each other


def test_an_image_does_not_depend_on_its_batch():
    net, ws, noise = generator_case(n=5)
    together = net.synthesise(ws, noise)
    alone = torch.cat([net.synthesise(ws[i : i + 1], [x[i : i + 1] for x in noise]) for i in range(5)])
    assert_close(together, alone, rtol=1e-5)


def test_channels_last_and_contiguous_inputs_give_the_same_result():
    net, images = discriminator_case()
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(net(last), net(images))
    assert torch.equal(net(images.transpose(2, 3).contiguous().transpose(2, 3)), net(images))
    assert_close(net.to(memory_format=torch.channels_last)(last), discriminator_case()[0](images), rtol=1e-5)

    net, ws, noise = generator_case()
    plain = net.synthesise(ws, noise)
    last = [x.contiguous(memory_format=torch.channels_last) for x in noise]
    assert torch.equal(net.synthesise(ws.transpose(0, 1).contiguous().transpose(0, 1), last), plain)
    spread = net.spread(ws[:, 0])
    assert torch.equal(net.synthesise(spread), net.synthesise(spread.contiguous()))


def test_noise_follows_its_generator_and_the_layers_sizes():
    net = random_generator(64)
    first, second = (net.draw_noise(2, torch.Generator().manual_seed(seed)) for seed in (0, 0))
    assert [tuple(x.shape) for x in first] == [(2, 1, s, s) for s in (4, 8, 8, 16, 16, 32, 32, 64, 64)]
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[1], net.draw_noise(2, torch.Generator().manual_seed(1))[1])


# Names and sizes.


def published_networks(resolution: int) -> tuple[Generator, Discriminator]:
    """The published shape, without memory for its weights."""
    channels = channel_plan(resolution)
    with torch.device("meta"):
        return Generator(GeneratorSpec(resolution, channels)), Discriminator(DiscriminatorSpec(resolution, channels))


def test_state_has_the_published_names_and_a_gate_per_gated_group():
    styled = ["conv.weight", "conv.modulation.weight", "conv.modulation.bias", "noise.weight", "activate.bias"]
    rgb = ["conv.weight", "conv.modulation.weight", "conv.modulation.bias", "bias"]
    generator = {f"style.{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")} | {"input.input"}
    generator |= {
        f"{block}.{name}" for block in ("conv1", "convs.0", "convs.1", "convs.2", "convs.3") for name in styled
    }
    generator |= {f"{block}.{name}" for block in ("to_rgb1", "to_rgbs.0", "to_rgbs.1") for name in rgb}

    block = ["conv1.0.weight", "conv1.1.bias", "conv2.1.weight", "conv2.2.bias", "skip.1.weight"]
    discriminator = {f"convs.{i}.{name}" for i in (1, 2) for name in block}
    discriminator |= {"convs.0.0.weight", "convs.0.1.bias", "final_conv.0.weight", "final_conv.1.bias"}
    discriminator |= {f"final_linear.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}

    extras = {"latent_avg"}
    for net, names in ((random_generator(16), generator), (random_discriminator(16), discriminator)):
        assert {name for name, _ in net.named_parameters()} == names
        gates = {f"{group.name}.gate" for group in net.filter_groups() if group.gated}
        assert set(net.state_dict()) - names - gates <= extras
        assert gates <= set(net.state_dict())


def test_a_new_network_starts_from_the_published_initial_values():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(GeneratorSpec(16, (64, 64, 64), latent_size=64, mapping_depth=2))
        discriminator = Discriminator(DiscriminatorSpec(16, (64, 64, 64)))
    for net in (generator, discriminator):
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                assert torch.equal(parameter, torch.full_like(parameter, "modulation" in name))
            elif name.endswith("noise.weight"):
                assert parameter.item() == 0
            else:
                spread = 100 if name.startswith("style.") else 1
                assert parameter.std().item() == pytest.approx(spread, rel=0.3)


def test_filter_groups_name_parameters_with_as_many_entries_as_they_count():
    for net in (random_generator(64), random_discriminator(64)):
        groups = net.filter_groups()
        assert len({group.name for group in groups}) == len(groups)
        for group in groups:
            assert all(net.get_parameter(s.parameter).shape[s.axis] == group.count for s in group.slices)
            if group.gated:
                assert torch.equal(net.get_buffer(f"{group.name}.gate"), torch.ones(group.count))


def test_sizes_at_256_pixels_equal_the_published_ones():
    generator, discriminator = published_networks(256)
    assert channel_plan(256) == (512, 512, 512, 512, 512, 256, 128)
    assert generator.spec.layers == 14

    def filters(net, kind):
        return sum(g.count for g in net.filter_groups() if g.name.startswith("convs.") and g.kind == kind)

    assert filters(generator, "conv") == 4864
    assert filters(generator, "modulation") == 5248
    first = next(group for group in discriminator.filter_groups() if group.name == "convs.0")
    assert filters(discriminator, "conv") - first.count + filters(discriminator, "skip") == 8064


@pytest.mark.parametrize(
    ("resolution", "generator_size", "discriminator_size"),
    [(256, 30_034_338, 28_864_129), (1024, 30_370_060, 29_012_513)],
)
def test_parameter_counts_equal_the_published_ones(resolution, generator_size, discriminator_size):
    """As NVlabs/stylegan2 and stylegan2-ada-pytorch print them, layer by layer, when a training starts."""
    generator, discriminator = published_networks(resolution)
    assert sum(p.numel() for p in generator.parameters()) == generator_size
    assert sum(p.numel() for p in discriminator.parameters()) == discriminator_size


@pytest.mark.parametrize("resolution", [0, 8, 48, 2048])
def test_a_resolution_that_is_no_power_of_two_from_16_to_1024_is_refused(resolution):
    with pytest.raises(ValueError, match=f"resolution {resolution} is not a power of two"):
        channel_plan(resolution)


@pytest.mark.parametrize("resolution", [16, 64])
def test_arguments_that_do_not_fit_are_refused_with_their_value(resolution):
    channels = channel_plan(resolution, base=64, cap=8)
    g = Generator(GeneratorSpec(resolution, channels, 8, 1))
    d = Discriminator(DiscriminatorSpec(resolution, channels))
    ws, images = torch.randn(2, g.spec.layers, 8), torch.randn(3, 3, resolution, resolution)
    for call, message in (
        (lambda: g.synthesise(ws, gates={"convs.99": torch.ones(8)}), r"no block convs\.99"),
        (lambda: d(images, gates={"convs.1": torch.ones(8)}), r"no block convs\.1 "),
        (lambda: g.synthesise(ws[:, 1:]), r"ws is \[2, "),
        (lambda: g.synthesise(ws, noise=[torch.zeros(2, 1, 4, 4)]), "1 noise maps, expected"),
        (lambda: d(images[..., 1:]), "images are"),
        (lambda: d(images, minibatches=2), "3 images cannot be 2 minibatches"),
        (lambda: d(images[:0]), "0 images cannot be"),
        (lambda: GeneratorSpec(resolution, channels[1:]), "channels"),
        (lambda: DiscriminatorSpec(resolution, (*channels[1:], 0)), "channels"),
        (lambda: GeneratorSpec(48, channels), "resolution 48 is not a power of two"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("side", [2, 4, 16])
def test_images_of_a_mosaic_are_the_means_of_squares_of_those_without(side):
    model = tiny_model()
    plain = torch.cat(list(synthesise(model.generator, range(3))))
    model.generator.spec = replace(model.generator.spec, mosaic=side)
    squares = torch.cat(list(synthesise(model.generator, range(3))))
    for y, x in itertools.product(range(0, 16, side), repeat=2):
        mean = plain[..., y : y + side, x : x + side].mean((2, 3), keepdim=True)
        torch.testing.assert_close(squares[..., y : y + side, x : x + side], mean.expand(-1, -1, side, side))


@pytest.mark.parametrize("side", [0, -4, 3, 32])
def test_squares_that_do_not_fill_the_image_are_refused(side):
    with pytest.raises(ValueError, match=f"mosaic of {side} px squares: they must fill 16 px evenly"):
        GeneratorSpec(16, (4, 4, 4), mosaic=side)


WIDE = (  # along the axes, the diagonals of the faces and those of the cube
    *(0, 200, 20, 255, 0, 180),
    *(-90, 120, 30, 400, -150, 150, -120, 100, 10, 350, 9, 380),
    *(-300, 120, 0, 250, -9, 300, 60, 600),
)


def test_colours_beyond_a_gamut_go_to_the_nearest_within_one_direction_after_the_other():
    colours = torch.rand(1, 3, 1, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 - 1.5
    found = in_gamut(colours, WIDE)[0, :, 0].T
    for colour, moved in zip(colours[0, :, 0].T, found, strict=True):
        for direction, low, high in zip(DIRECTIONS, WIDE[::2], WIDE[1::2], strict=True):
            normal = torch.tensor(direction, dtype=torch.float64)
            levels = (colour + 1) * 127.5 @ normal
            wanted = min(max(levels.item(), low), high)
            colour = colour + (wanted - levels) / 127.5 * normal / (normal @ normal)
        torch.testing.assert_close(moved, colour)


def test_colours_within_a_gamut_stay_to_the_last_bit():
    once = in_gamut(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), WIDE)
    inside = (in_gamut(once, WIDE) - once).abs() < 1e-6
    assert inside.all()  # none is left beyond a wide gamut
    dull = once * 0.5
    assert torch.equal(in_gamut(dull, WIDE), dull) and in_gamut(once, ()) is once


def test_a_gamut_is_of_images_as_the_network_makes_them():
    model = tiny_model()
    plain = torch.cat(list(synthesise(model.generator, range(3))))
    model.generator.spec = replace(model.generator.spec, gamut=WIDE)
    kept = torch.cat(list(synthesise(model.generator, range(3))))
    torch.testing.assert_close(kept, in_gamut(plain, WIDE))
    assert not torch.equal(kept, plain)


@pytest.mark.parametrize(
    "gamut, message",
    [
        (WIDE[:-1], "gamut of 25 numbers: 26 are needed"),
        ((9, 8, *WIDE[2:]), r"gamut from 9 to 8 along \(0, 0, 1\): must be within 0 to 255"),
        ((*WIDE[:-1], 766), r"gamut from 60 to 766 along \(1, 1, 1\): must be within 0 to 765"),
        ((*WIDE[:6], -256, *WIDE[7:]), r"gamut from -256 to 120 along \(0, 1, -1\): must be within -255 to 255"),
    ],
)
def test_a_gamut_of_no_colours_is_refused(gamut, message):
    with pytest.raises(ValueError, match=message):
        GeneratorSpec(16, (4, 4, 4), gamut=gamut)


def test_a_first_forward_on_the_meta_device_does_no_harm_to_later_ones():
    spec = DiscriminatorSpec(16, (2, 2, 2))
    with torch.device("meta"):
        Discriminator(spec)(torch.empty(1, 3, 16, 16))
    assert torch.isfinite(Discriminator(spec)(torch.randn(1, 3, 16, 16))).all()
