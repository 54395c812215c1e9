"""Kernel modulation: v[o] belongs to filter o, nothing else changes, and the product is a plain network."""

import copy

import pytest
import torch

from tenshot import kml
from tenshot.nets import Generator
from tiny import tiny_model


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slow_modulation(weight, u, v):
    """Number by number, as the formula has it."""
    out = weight.clone()
    filters = out[0] if weight.dim() == 5 else out
    for o in range(len(filters)):
        for index in torch.cartesian_prod(*(torch.arange(n) for n in filters.shape[1:])).view(-1, filters.dim() - 1):
            at = tuple(index.tolist())
            filters[o][at] = filters[o][at] * (1 + v[o] * u[at])
    return out


def everything_but(network, *prefixes):
    return [name for name, _ in network.named_parameters() if not name.startswith(prefixes)]


def modulated(network, scale=0.3, **settings):
    """A copy whose vectors are all set to sizeable numbers."""
    network = copy.deepcopy(network)
    kml.modulate_(network, everything_but(network, "input.", "final_"), **settings)
    with torch.no_grad():
        for i, (name, parameter) in enumerate(network.named_parameters()):
            if name.endswith((".u", ".v", ".b")):
                parameter.copy_(scale * randn(*parameter.shape, seed=i))
    return network


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1, 1), (4, 3, 3, 3), (1, 4, 3, 3, 3)])
def test_each_filter_is_multiplied_by_its_own_entry_of_v(shape):
    weight, change = randn(*shape), kml.Modulation(randn(*shape))
    with torch.no_grad():
        change.u.copy_(randn(*change.u.shape, seed=1))
        change.v.copy_(randn(*change.v.shape, seed=2))
        torch.testing.assert_close(change(weight), slow_modulation(weight, change.u, change.v))
        change.v[2] = 0.0
        filters = (weight[0], change(weight)[0]) if len(shape) == 5 else (weight, change(weight))
    same = [torch.equal(before, after) for before, after in zip(*filters, strict=True)]
    assert same == [False, False, True, False]


def test_the_scrambled_product_is_the_transpose_misread_and_mixes_filters():
    u, v = randn(3, 2, 2), randn(5, seed=1)
    product = kml.scrambled_factor(u, v)
    flat_u = u.flatten()
    for place in range(5 * 12):
        o, rest = divmod(place, 12)
        i, y, x = rest // 4, rest // 2 % 2, rest % 2
        assert product[o, i, y, x] == pytest.approx((flat_u[place // 5] * v[place % 5]).item())
    v[2] = 0.0
    assert not (kml.scrambled_factor(u, v)[2] == 0).all()
    assert (kml.factor(u, v)[2] == 0).all()


@pytest.mark.parametrize("scrambled", [False, True])
def test_products_keep_the_memory_layout_that_convolutions_want(scrambled):
    model = tiny_model()
    for network in (model.generator, model.discriminator):
        changed = modulated(network, scrambled=scrambled)
        for name, parameter in network.named_parameters():
            value = kml._value(changed, name)
            if name.endswith("weight") and parameter.dim() >= 4 and parameter.shape[-1] > 1:
                assert value.stride() == parameter.stride() and value.stride()[-3] == 1, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_vectors_nothing_changes_not_even_the_last_bit(dtype):
    model = tiny_model(dtype=dtype)
    z, images = randn(3, 16).to(dtype), randn(4, 3, 16, 16).to(dtype)
    before = model.generator(z), model.discriminator(images)
    for network in (model.generator, model.discriminator):
        kml.modulate_(network, everything_but(network, "input.", "final_"))
    assert torch.equal(model.generator(z), before[0]) and torch.equal(model.discriminator(images), before[1])


@pytest.mark.parametrize("kind", ["generator", "discriminator"])
def test_a_modulated_network_is_the_plain_one_with_weights_changed_by_hand(kind):
    plain = getattr(tiny_model(), kind)
    changed = modulated(plain)
    with torch.no_grad():
        for name, parameter in list(plain.named_parameters()):
            if name.startswith(("input.", "final_")):
                continue
            if name.endswith("weight") and parameter.dim() > 1:
                u, v = (changed.get_parameter(kml.vector_name(name, vector)) for vector in ("u", "v"))
                parameter.copy_(slow_modulation(parameter, u, v))
            else:
                parameter.add_(changed.get_parameter(kml.vector_name(name, "b")))
    given = randn(3, 16) if kind == "generator" else randn(4, 3, 16, 16)
    torch.testing.assert_close(changed(given), plain(given), rtol=1e-4, atol=1e-5)


def test_linear_layers_scaled_by_their_outputs_change_only_where_they_are_not_square():
    generator = tiny_model().generator  # latent 16; 12, 10, 8 channels
    changed = modulated(generator, scale=0.0, linear_fan_out=True)
    w = randn(2, 16)
    ours, theirs = changed.convs[2].conv.modulation, generator.convs[2].conv.modulation  # 16 -> 10
    wanted = (w @ theirs.weight.T) / 10**0.5 + theirs.bias
    torch.testing.assert_close(ours(w), wanted)
    assert not torch.allclose(ours(w), theirs(w))
    torch.testing.assert_close(changed.map(w), generator.map(w))


def test_vectors_are_drawn_by_seed_and_name_and_leave_the_global_generator_alone():
    a, b, c = (modulated(tiny_model().generator) for _ in range(3))
    before = torch.get_rng_state()
    for network, seed in ((a, 1), (b, 1), (c, 2)):
        kml.draw_(network, seed)
    assert torch.equal(before, torch.get_rng_state())
    vectors = {name: p for name, p in a.named_parameters() if name.endswith((".u", ".v"))}
    assert all(torch.equal(p, b.get_parameter(name)) for name, p in vectors.items())
    assert not any(torch.equal(p, c.get_parameter(name)) for name, p in vectors.items())
    everything = torch.cat([p.flatten() for p in vectors.values()])
    assert everything.std().item() == pytest.approx(1e-7, rel=0.1)
    assert everything.unique().numel() == everything.numel()
    assert not any(p.any() for name, p in a.named_parameters() if name.endswith(".b"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["generator", "discriminator"])
def test_a_merged_network_is_plain_and_computes_the_same(kind, dtype):
    source = getattr(tiny_model(dtype=dtype), kind)
    changed = modulated(source).requires_grad_(False)
    plain = kml.merged(changed)
    assert type(plain) is type(source)
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in source.state_dict().items()}
    assert [p.stride() for p in plain.parameters()] == [p.stride() for p in source.parameters()]
    assert not any(p.requires_grad for p in plain.parameters())
    given = (randn(3, 16) if kind == "generator" else randn(4, 3, 16, 16)).to(dtype)
    torch.testing.assert_close(plain(given), changed(given), rtol=0, atol=1e-5)
    assert not torch.allclose(plain(given), source(given), atol=1e-3)


def test_merging_leaves_the_modulated_network_and_its_copies_working():
    changed = modulated(tiny_model().generator)
    other, z = copy.deepcopy(changed), randn(2, 16)
    before = changed(z)
    plain = kml.merged(changed)
    with torch.no_grad():
        plain.convs[0].conv.weight.zero_()
    assert torch.equal(changed(z), before) and torch.equal(other(z), before)
    before.sum().backward()
    assert changed.get_parameter(kml.vector_name("convs.0.conv.weight", "v")).grad.any()


def test_merging_keeps_gates_the_mean_latent_and_the_mode():
    changed = modulated(tiny_model().generator).train()
    changed.convs[1].gate[:3] = 0.0
    changed.latent_avg.fill_(0.25)
    plain = kml.merged(changed)
    assert isinstance(plain, Generator) and plain.training
    assert plain.convs[1].gate.tolist()[:4] == [0, 0, 0, 1] and (plain.latent_avg == 0.25).all()
