"""A batch that goes through the networks in pieces gives the same gradients and takes less memory."""

from dataclasses import replace

import pytest
import torch

from tenshot import phases
from tenshot.adaptation import begin
from tenshot.checkpoint import restore, snapshot
from tenshot.config import RunConfig, build_method
from tenshot.errors import TenshotError
from tenshot.filters import sample_gates
from tenshot.losses import discriminator_loss, generator_loss, path_lengths, r1_penalty
from tenshot.methods import Dap
from tenshot.nets.layers import ConvLayer, StyledConv
from tenshot.nets.pieces import in_pieces
from tenshot.recovery import half, is_out_of_memory
from tenshot.step import run_step
from tiny import QUICK, tiny_model, tiny_shots

N = 4
SIGNS = (
    "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried to allocate 8589934592 B.",
)


def loss_of(phase, model):
    """A phase's loss in float64, and what it is derived by: its network's parameters, and gates."""
    generator, discriminator = model.generator, model.discriminator
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(N, 16, generator=rng, dtype=torch.float64)
    noise = generator.draw_noise(N, rng)
    reals = torch.randn(N, 3, 16, 16, generator=rng, dtype=torch.float64)
    network = generator if phase in ("g", "path") else discriminator
    gates = {}
    if phase == "g":
        gates = sample_gates(generator, [g for g in generator.filter_groups() if g.gated], N)
        loss = generator_loss(discriminator(generator.synthesise(generator.spread(generator.map(z)), noise, gates)))
    elif phase == "d":
        gates = sample_gates(discriminator, [g for g in discriminator.filter_groups() if g.gated], 2 * N)
        fakes = generator(z, noise).detach()
        loss = discriminator_loss(*discriminator(torch.cat([reals, fakes]), gates, 2).split(N))
    elif phase == "r1":
        reals.requires_grad_()
        loss = r1_penalty(discriminator(reals), reals)
    else:
        ws = generator.spread(generator.map(z))
        images = generator.synthesise(ws, noise)
        loss = (path_lengths(images, ws, torch.randn(images.shape, generator=rng).double()) - 0.3).square().mean()
    return loss, dict(network.named_parameters()) | {f"gate of {name}": gate for name, gate in gates.items()}


def gradients(phase, model, size):
    with in_pieces((model.generator, model.discriminator), size):
        loss, leaves = loss_of(phase, model)
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(leaves, found, strict=True) if gradient is not None}


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("phase", ["d", "r1", "g", "path"])
def test_gradients_in_pieces_are_those_of_the_whole_batch_whose_statistics_couple_all_images(phase, size):
    model = tiny_model(dtype=torch.float64)
    whole, pieces = gradients(phase, model, 0), gradients(phase, model, size)
    assert whole.keys() == pieces.keys() and len(whole) >= 17
    for name, gradient in whole.items():
        assert (gradient - pieces[name]).norm() <= 1e-12 * gradient.norm(), name


def test_one_image_after_the_other_without_its_neighbours_would_give_other_gradients():
    """What the test above would not notice: D's statistics do matter here."""
    model = tiny_model(dtype=torch.float64)
    images = torch.randn(N, 3, 16, 16, generator=torch.Generator().manual_seed(2)).double()
    weight = model.discriminator.convs[1].conv1[0].weight
    (whole,) = torch.autograd.grad(generator_loss(model.discriminator(images)), weight)
    apart = [torch.autograd.grad(generator_loss(model.discriminator(x[None])), weight)[0] / N for x in images]
    assert (whole - sum(apart)).norm() > 1e-3 * whole.norm()


def test_networks_are_left_as_they_were():
    model = tiny_model()
    x = torch.randn(4, 3, 16, 16)
    before = model.discriminator(x)
    with pytest.raises(ZeroDivisionError), in_pieces([model.discriminator], 1):
        _ = 1 / 0
    assert not any({"forward", "trunk"} & vars(module).keys() for module in model.discriminator.modules())
    assert torch.equal(model.discriminator(x), before)


@pytest.mark.parametrize("phase", ["d", "g"])
def test_less_is_kept_for_backward(phase):
    def kept(size):
        held, model = {}, tiny_model(32, (12, 10, 8, 8), dtype=torch.float64)

        def hold(tensor):
            if not tensor.requires_grad or tensor.grad_fn is not None:  # parameters take no memory of their own
                held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        z, images = torch.randn(16, 16).double(), torch.randn(16, 3, 32, 32).double()
        with in_pieces((model.generator, model.discriminator), size):
            with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
                out = model.discriminator(images) if phase == "d" else model.generator(z)
            held_alive = sum(held.values())  # while `out` lives, none of these is freed
            out.sum().backward()
        return held_alive

    assert kept(1) < 0.3 * kept(0)


def begun(name="finetune", **settings):
    settings = {"steps": 8, "batch": 2, "r1_every": 3, "path_every": 2, "augment": "diffaug", **settings}
    method = build_method(name, QUICK.get(name, {"fisher_samples": 2} if name in ("adam", "rick") else {}))
    return begin(RunConfig("tiny", method=method, **settings), tiny_model(), tiny_shots())


def gradients_of_a_step(run, step):
    """What the optimisers are given, phase by phase."""
    found = []
    for optimiser in (run.nets.optimiser_d, run.nets.optimiser_g):
        parameters = optimiser.param_groups[0]["params"]

        def note(parameters=parameters):
            found.append([p.grad.double() for p in parameters if p.grad is not None])

        optimiser.step = note
    run_step(run, step)
    return found


@pytest.mark.parametrize("name", ["finetune", "dap", "adam", "rick", "cdc", "dcl", "ewc"])
def test_a_step_in_pieces_has_the_gradients_of_the_whole_step_for_methods_that_couple_images_too(name):
    runs = begun(name, batch=3), begun(name, batch=3)
    for run in runs:  # away from the source, where CDC's loss has no gradient but rounding
        for step in range(3):
            run_step(run, step)
    runs[1].health = replace(runs[1].health, micro_batch=1)
    whole, pieces = (gradients_of_a_step(run, 6) for run in runs)
    assert [len(phase) for phase in whole] == [len(phase) for phase in pieces] and len(whole) == 4
    for one, other in zip(whole, pieces, strict=True):
        size = torch.stack([gradient.norm() for gradient in one]).norm()
        tolerance = 1e-4 if name == "cdc" else 1e-5  # 1000 times a difference of nearly equal numbers
        assert all((a - b).norm() <= tolerance * size for a, b in zip(one, other, strict=True))


@pytest.fixture
def memory(monkeypatch):
    """Blocks have memory for `limit` images."""
    limit = [1000]

    def scarce(forward):
        def limited(self, x, *rest):
            if len(x) > limit[0]:
                raise RuntimeError(SIGNS[0])
            return forward(self, x, *rest)

        return limited

    for block in (ConvLayer, StyledConv):
        monkeypatch.setattr(block, "forward", scarce(block.forward))
    return limit


@pytest.mark.parametrize("limit", [3, 2, 1])
def test_when_memory_runs_out_the_batch_is_halved_until_it_fits(memory, limit):
    memory[0] = limit
    run, whole = begun(batch=4), begun(batch=4)
    with pytest.warns(UserWarning, match=r"not enough memory at step 1: from now on \d images at once"):
        stats = run_step(run, 0)
    assert run.health.micro_batch == {3: 2, 2: 2, 1: 1}[limit]
    memory[0] = 1000
    assert stats == pytest.approx(run_step(whole, 0), rel=1e-4)
    resumed = begun(batch=4)
    restore(resumed, snapshot(run))
    assert resumed.health.micro_batch == run.health.micro_batch


def test_a_method_whose_setup_does_not_fit_measures_the_same_in_halves(memory):
    config = RunConfig("tiny", method=Dap(reach=12.0), steps=8, batch=4)
    whole = begin(config, tiny_model(), tiny_shots())
    memory[0] = 2
    with pytest.warns(UserWarning, match=r"not enough memory at step 1: from now on \d images at once"):
        halves = begin(config, tiny_model(), tiny_shots())
    key = "generator/conv1/information"
    assert halves.health.micro_batch == 2
    torch.testing.assert_close(halves.state[key], whole.state[key], rtol=1e-4, atol=0)


def test_not_even_one_image_is_a_sentence(memory):
    memory[0] = 0
    with (
        pytest.warns(UserWarning, match="not enough memory"),
        pytest.raises(TenshotError, match=r"not enough memory for step 1, not even with one image.*--batch below 4"),
    ):
        run_step(begun(batch=4), 0)


def test_another_error_of_a_phase_is_not_taken_for_memory(monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(phases, "generator_loss", broken)
    run = begun()
    with pytest.raises(RuntimeError, match="shapes"):
        run_step(run, 0)
    assert all(parameter.requires_grad for parameter in run.nets.discriminator.parameters())


@pytest.mark.parametrize("augment", ["diffaug", "ada"])
@pytest.mark.parametrize("site", ["forward", "backward"])
def test_a_step_whose_memory_ran_out_equals_one_that_began_in_pieces_bit_for_bit(monkeypatch, site, augment):
    run, other = begun("dap", augment=augment), begun("dap", augment=augment, micro_batch=2)
    raised = []

    def once(x):
        if not raised:
            raised.append(True)
            raise MemoryError
        return x

    if site == "forward":  # the end of the phase's loss, after random numbers were drawn and ADA has counted
        loss = phases.discriminator_loss
        monkeypatch.setattr(phases, "discriminator_loss", lambda *logits: loss(*logits) if raised else once(None))
    else:
        run.nets.discriminator.convs[1].conv1[0].weight.register_hook(once)
    with pytest.warns(UserWarning, match="not enough memory"):
        first = run_step(run, 0)
    assert raised and first == run_step(other, 0)
    for step in range(1, 8):
        assert run_step(run, step) == run_step(other, step)
    one, two = snapshot(run), snapshot(other)
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


def test_memory_is_told_from_other_errors_by_type_or_words():
    assert all(map(is_out_of_memory, (MemoryError(), torch.OutOfMemoryError("x"), *map(RuntimeError, SIGNS))))
    assert not any(map(is_out_of_memory, (RuntimeError("shapes"), ValueError(SIGNS[0]), OSError(12, "x"))))


def test_halves_go_down_to_one_and_end():
    sizes = [8]
    while sizes[-1]:
        sizes.append(half(0 if len(sizes) == 1 else sizes[-1], 8))
    assert sizes == [8, 4, 2, 1, 0]
    assert half(100, 8) == 4 and half(3, 8) == 1


def test_the_real_allocators_refusal_is_known():
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value), caught.value


@pytest.mark.parametrize("size", [1, 2])
def test_a_trunk_that_is_frozen_goes_through_in_pieces(size):
    method = build_method("freezed", {"trained_blocks": 0})
    whole, pieces = (
        begin(RunConfig("tiny", method=method, steps=4, micro_batch=m), tiny_model(), tiny_shots()) for m in (0, size)
    )
    for a, b in zip(gradients_of_a_step(whole, 1), gradients_of_a_step(pieces, 1), strict=True):
        assert all(torch.allclose(x, y, rtol=1e-3, atol=1e-5) for x, y in zip(a, b, strict=True))
