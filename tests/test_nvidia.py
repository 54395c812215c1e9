"""Pickles of NVIDIA's StyleGAN2: what comes out of them computes what the published networks compute."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from reference import nvidia as reference
from reference.nvidia_pickle import SOURCE, contents, dump, module, networks
from tenshot.convert import convert
from tenshot.errors import TenshotError
from tenshot.models import load_model, save_model


@pytest.fixture
def converted(tmp_path):
    """Write a pickle and convert it."""

    def write_and_convert(generator, discriminator, **how):
        path = tmp_path / "in.pkl"
        path.write_bytes(dump(contents(generator, discriminator), **how))
        return convert(path)

    return write_and_convert


def refusal(converted, *pair):
    with pytest.raises(TenshotError) as told:
        converted(*pair)
    return str(told.value)


def draws(model, count, seed=0):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(count, model.generator.spec.latent_size, generator=rng)
    return z, model.generator.draw_noise(count, rng)


PLANS = {  # resolution, channel base, channel cap, latent size, depth of the mapping
    "16 px": (16, 128, 64, 16, 2),
    "64 px": (64, 1024, 512, 32, 2),
    "64 px, all at the cap": (64, 32768, 12, 16, 8),
    "64 px, half at the cap": (64, 1024, 32, 16, 8),
    "128 px": (128, 1024, 24, 24, 2),
    "128 px, one channel": (128, 128, 16, 16, 8),
    "256 px": (256, 2048, 16, 16, 8),
    "256 px, shallow mapping": (256, 1024, 48, 32, 2),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
@torch.no_grad()
def test_a_converted_pair_computes_what_the_published_networks_compute(converted, plan):
    resolution, base, cap, w_dim, depth = plan
    pair = networks(resolution, base, cap, w_dim=w_dim, depth=depth)
    model = converted(*pair)
    sizes = [4 * 2**k for k in range(resolution.bit_length() - 2)]
    assert model.generator.spec.channels == tuple(min(base // size, cap) for size in sizes)
    assert (model.generator.spec.latent_size, model.generator.spec.mapping_depth) == (w_dim, depth)
    assert model.discriminator.spec.channels == model.generator.spec.channels

    g, d = (network.state_dict() for network in pair)
    count = 2 if resolution < 256 else 1
    z, noise = draws(model, count)
    w = reference.mapping(g, z)
    torch.testing.assert_close(model.generator.map(z), w, atol=1e-5, rtol=1e-5)
    images = reference.synthesis(g, w[:, None].repeat(1, 2 * len(sizes), 1), noise)
    assert images.shape == (count, 3, resolution, resolution) and images.std() > 0.1
    torch.testing.assert_close(model.generator(z, noise), images, atol=1e-4, rtol=1e-4)
    logits = reference.discriminator(d, images)[:, 0]
    torch.testing.assert_close(model.discriminator(images), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_the_fused_and_the_plain_modulated_convolution_are_one_function(converted, fused):
    pair = networks(32, 512, 24)
    model = converted(*pair)
    _, noise = draws(model, 3)
    ws = torch.randn(3, 8, 32, generator=torch.Generator().manual_seed(1))  # another w for every layer
    images = reference.synthesis(pair[0].state_dict(), ws, noise, fused=fused)
    torch.testing.assert_close(model.generator.synthesise(ws, noise), images, atol=1e-4, rtol=1e-4)
    without = reference.synthesis(pair[0].state_dict(), ws, fused=fused)
    torch.testing.assert_close(model.generator.synthesise(ws), without, atol=1e-4, rtol=1e-4)
    assert (images - without).abs().mean() > 1e-2  # the noise matters


@torch.no_grad()
def test_truncation_pulls_towards_the_tracked_mean(converted):
    pair = networks(16, 128, 16)
    model = converted(*pair)
    g = pair[0].state_dict()
    assert model.generator.latent_avg.equal(g["mapping.w_avg"])
    z, _ = draws(model, 2)
    w = reference.mapping(g, z)
    truncated = g["mapping.w_avg"] + 0.7 * (w - g["mapping.w_avg"])
    images = reference.synthesis(g, truncated[:, None].repeat(1, 6, 1))
    ours = model.generator.synthesise(model.generator.spread(model.generator.truncate(model.generator.map(z), 0.7)))
    torch.testing.assert_close(ours, images, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 8])
@torch.no_grad()
def test_logits_agree_for_every_batch_of_the_published_group_size(converted, batch):
    pair = networks(16, 256, 32)
    model = converted(*pair)
    images = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))
    logits = reference.discriminator(pair[1].state_dict(), images, group=4)[:, 0]
    torch.testing.assert_close(model.discriminator(images), logits, atol=1e-4, rtol=1e-4)
    assert "notes" not in model.card


@pytest.mark.parametrize(
    ("group", "same", "other", "told"),
    [
        (8, 4, 8, "compared groups of 8 images, here groups of 4: the same for batches of up to 4"),
        (None, 4, 8, "compared whole batches, here groups of 4: the same for batches of up to 4"),
        (2, 2, 4, "compared groups of 2 images, here groups of 4: the same for batches of up to 2"),
    ],
)
@torch.no_grad()
def test_another_group_size_is_noted_and_the_note_is_true(converted, group, same, other, told):
    pair = networks(16, 256, 32, group=group)
    model = converted(*pair)
    assert model.card["notes"] == [f"the discriminator {told}"]
    for batch in (same, other):
        images = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))
        logits = reference.discriminator(pair[1].state_dict(), images, group=group)[:, 0]
        assert torch.allclose(model.discriminator(images), logits, atol=1e-4) == (batch == same)


@torch.no_grad()
def test_clamps_and_half_precision_are_noted_and_change_nothing_below_the_clamp(tmp_path, converted):
    pair = networks(32, 256, 16, clamp=256, half_blocks=2)
    model = converted(*pair)
    clamp, half = "the {} clamped activations at 256, tenshot does not", "blocks of the {} ran in half precision"
    said = "\n".join(model.card["notes"])
    assert all(text.format(what) in said for text in (clamp, half) for what in ("generator", "discriminator"))
    z, noise = draws(model, 2)
    g, d = (network.state_dict() for network in pair)
    images = reference.synthesis(g, reference.mapping(g, z)[:, None].repeat(1, 8, 1), noise, clamp=256)
    torch.testing.assert_close(model.generator(z, noise), images, atol=1e-4, rtol=1e-4)
    logits = reference.discriminator(d, images, clamp=256)[:, 0]
    torch.testing.assert_close(model.discriminator(images), logits, atol=1e-4, rtol=1e-4)
    save_model(tmp_path / "out.safetensors", model)
    assert load_model(tmp_path / "out.safetensors").card == model.card


@torch.no_grad()
def test_a_mapping_of_another_learning_rate_multiplier_is_scaled(converted):
    pair = networks(16, 128, 16, rate=0.05, depth=3)
    model = converted(*pair)
    z, _ = draws(model, 4)
    w = reference.mapping(pair[0].state_dict(), z, rate=0.05)
    torch.testing.assert_close(model.generator.map(z), w, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_generator_trained_without_noise_ignores_it(converted):
    pair = networks(16, 128, 16, use_noise=False)
    model = converted(*pair)
    z, noise = draws(model, 2)
    assert model.generator(z, noise).equal(model.generator(z, [torch.zeros_like(n) for n in noise]))
    g = pair[0].state_dict()
    images = reference.synthesis(g, reference.mapping(g, z)[:, None].repeat(1, 6, 1))
    torch.testing.assert_close(model.generator(z, noise), images, atol=1e-4, rtol=1e-4)


def test_names_and_shapes_up_to_1024_px_are_found(converted):
    model = converted(*networks(1024, 4096, 8, w_dim=8, depth=8))
    assert model.generator.spec.channels == model.discriminator.spec.channels == (8,) * 8 + (4,)
    assert model.resolution == 1024


@pytest.mark.parametrize(("protocol", "is_old"), [(2, True), (3, True), (2, False), (3, False), (4, False), (5, False)])
def test_every_protocol_and_era_gives_the_same_tensors(converted, protocol, is_old):
    pair = networks(16, 128, 16)
    found = converted(*pair, protocol=protocol, is_old=is_old).generator.state_dict()
    g = pair[0].state_dict()
    assert found["convs.2.conv.weight"][0].equal(g["synthesis.b16.conv0.weight"])
    assert found["to_rgbs.1.bias"].flatten().equal(g["synthesis.b16.torgb.bias"])
    assert found["style.2.weight"].equal(g["mapping.fc1.weight"])


def test_frozen_layers_half_precision_and_other_memory_formats_are_read(converted):
    g, d = networks(16, 128, 16)
    before = {name: tensor.clone() for name, tensor in {**g.state_dict(), **d.state_dict()}.items()}
    layer = d.b16.conv0  # Freeze-D stores what does not train as buffers
    for name in ("weight", "bias"):
        value = layer._parameters.pop(name)
        layer.register_buffer(name, value.data)
    conv = g.synthesis.b16.conv1
    conv.weight = nn.Parameter(conv.weight.data.to(memory_format=torch.channels_last))
    g.synthesis.b8.conv1.weight = nn.Parameter(g.synthesis.b8.conv1.weight.data.half())
    model = converted(g, d)
    assert model.discriminator.convs[1].conv1[0].weight.equal(before["b16.conv0.weight"])
    assert model.generator.convs[3].conv.weight[0].equal(before["synthesis.b16.conv1.weight"])
    assert model.generator.convs[1].conv.weight[0].equal(before["synthesis.b8.conv1.weight"].half().float())


def test_nothing_of_the_source_text_is_kept(converted):
    g, d = networks(16, 128, 16)
    data = dump(contents(g, d))
    assert SOURCE.encode() in data  # the trap is armed
    model = converted(g, d)
    assert model.card == {"kind": "source", "name": "in"}


def test_a_mean_latent_that_was_not_tracked_is_measured(converted):
    g, d = networks(16, 128, 16)
    del g.mapping.w_avg
    z = torch.randn(20_000, 32, generator=torch.Generator().manual_seed(1))
    w = reference.mapping(g.state_dict(), z)
    assert (converted(g, d).generator.latent_avg - w.mean(0)).abs().max() < 0.1 * w.std(0).mean()


def stylegan3():
    layers = {
        "input": module("SynthesisInput", buffers={"freqs": torch.zeros(8, 2)}),
        "L0_36_8": module("SynthesisLayer"),
    }
    mapping = module("MappingNetwork", c_dim=0)
    return module("Generator", children={"synthesis": module("SynthesisNetwork", children=layers), "mapping": mapping})


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"c_dim": 10}, "G_ema is conditional (c_dim 10): tenshot adapts networks without labels"),
        ({"colours": 1}, "G_ema has images of 1 channels: tenshot reads RGB"),
        ({"colours": 4}, "G_ema has images of 4 channels: tenshot reads RGB"),
        (
            {"g_architecture": "orig"},
            "G_ema: synthesis.b16 has the architecture orig: tenshot knows the skip generator",
        ),
        ({"g_architecture": "resnet"}, "has the architecture resnet: tenshot knows the skip generator"),
        (
            {"d_architecture": "orig"},
            "D: b4 has the architecture orig: tenshot knows the skip generator and the residual",
        ),
        ({"z_dim": 16}, "mapping.fc0.weight has shape [32, 16]; z, w and all between must be of one size"),
    ],
    ids=str,
)
def test_networks_that_are_another_function_are_refused(converted, how, sentence):
    assert sentence in refusal(converted, *networks(16, 128, 16, **how))


def test_stylegan3_is_refused_by_name(converted):
    assert "G_ema is a StyleGAN3 generator" in refusal(converted, stylegan3(), networks(16, 128, 16)[1])


def test_stylegan1_and_the_tensorflow_era_are_refused_by_name(tmp_path):
    network = b"\x80\x03cdnnlib.tflib.network\nNetwork\n)\x81}X\x04\x00\x00\x00nameX\x01\x00\x00\x00Gsb."
    (tmp_path / "karras2019stylegan-ffhq-1024x1024.pkl").write_bytes(network)
    with pytest.raises(TenshotError, match=r"NVIDIA's TensorFlow era: StyleGAN1, .*convert the latter with legacy.py"):
        convert(tmp_path / "karras2019stylegan-ffhq-1024x1024.pkl")


def test_another_network_is_refused_by_its_class(converted):
    other = module("TriPlaneGenerator", children={"backbone": module("Backbone")})
    message = refusal(converted, other, networks(16, 128, 16)[1])
    assert "G_ema is a network TriPlaneGenerator, not a StyleGAN2 generator" in message


def test_a_pickle_without_one_of_the_networks_is_refused(tmp_path):
    g, d = networks(16, 128, 16)
    for lost in ("D", "G_ema"):
        content = contents(g, d)
        del content[lost]
        (tmp_path / "in.pkl").write_bytes(dump(content))
        with pytest.raises(
            TenshotError, match=f"in.pkl has no {lost}, only training_set_kwargs, G, .*adaptation needs"
        ):
            convert(tmp_path / "in.pkl")


def change_filter(g, d):
    g.synthesis.b8.resample_filter = torch.full((4, 4), 1 / 16)


def change_gain(g, d):
    d.b16.conv1.weight_gain = np.float64(1.0)


def change_rate(g, d):
    d.b4.fc.bias_gain, d.b4.fc.weight_gain = 0.5, d.b4.fc.weight_gain / 2


def lose_a_mapping_weight(g, d):
    g.mapping.fc0.bias_gain, g.mapping.fc0.weight_gain = 0.1, g.mapping.fc0.weight_gain * 10
    del g.mapping.fc0.bias


def change_activation(g, d):
    g.mapping.fc1.activation = "relu"


def lose_a_weight(g, d):
    del g.synthesis.b8.conv1.weight


def lose_a_strength(g, d):
    del g.synthesis.b8.conv1.noise_strength


def lose_a_block(g, d):
    del g.synthesis.b8


def lose_a_shortcut(g, d):
    del d.b16.skip


def add_a_tensor(g, d):
    g.synthesis.b8.register_buffer("stray", torch.zeros(2))


def add_a_layer(g, d):
    g.synthesis.b8.add_module("conv2", module("SynthesisLayer", parameters={"weight": torch.zeros(2)}))


def lose_the_statistics(g, d):
    d.b4.mbstd = None


def put_a_number(g, d):
    d.b4.conv._parameters["bias"] = 3


def poison(g, d):
    d.b4.fc.bias.data[0] = float("nan")


def add_thousands(g, d):
    one = g.synthesis.b8.conv1._parameters["bias"]
    g.synthesis.b8.conv1._parameters.update({f"x{i}": one for i in range(6000)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (change_filter, "G_ema: synthesis.b8.resample_filter is not the [1, 3, 3, 1] low-pass filter"),
        (change_gain, "D: b16.conv1 scales its weights by 1.0, expected 0.117851"),
        (change_rate, "D: b4.fc scales its bias by 0.5, expected 1"),
        (lose_a_mapping_weight, "G_ema: style.1.bias is missing"),
        (change_activation, "G_ema: mapping.fc1 has the activation relu, StyleGAN2 the leaky ReLU"),
        (lose_a_weight, "G_ema: synthesis.b8.conv1.weight is missing"),
        (lose_a_strength, "G_ema: convs.1.noise.weight is missing"),
        (lose_a_block, "G_ema: synthesis.b8.conv0.weight, synthesis.b8.conv0.affine.weight, "),
        (lose_a_shortcut, "D: b16.skip.weight is missing"),
        (add_a_tensor, "G_ema: synthesis.b8.stray is not part of a StyleGAN2 in NVIDIA's layout"),
        (add_thousands, "G_ema has more tensors than a StyleGAN2"),
        (add_a_layer, "G_ema: synthesis.b8.conv2.weight is not part of a StyleGAN2 in NVIDIA's layout"),
        (lose_the_statistics, "D has no minibatch statistics of one channel"),
        (put_a_number, "D: b4.conv.bias is not a tensor"),
        (poison, "D: final_linear.0.bias holds values that are not finite"),
    ],
)
def test_every_fault_is_named(converted, change, sentence):
    pair = networks(16, 128, 16)
    change(*pair)
    message = refusal(converted, *pair)
    assert sentence in message


def test_a_discriminator_of_another_resolution_is_refused(converted):
    message = refusal(converted, networks(16, 128, 16)[0], networks(32, 128, 16)[1])
    assert "the generator makes 16 px, the discriminator judges 32 px" in message


def test_the_name_of_the_file_decides_nothing(tmp_path):
    g, d = networks(16, 128, 16)
    for name in ("a.pt", "a.safetensors", "a.png", "a"):
        (tmp_path / name).write_bytes(dump(contents(g, d)))
        assert convert(tmp_path / name).resolution == 16


def test_every_name_of_the_published_layout_is_translated_once(converted):
    pair = networks(16, 128, 16)
    model = converted(*pair)
    ours = [n for net in (model.generator, model.discriminator) for n in net.state_dict() if not n.endswith(".gate")]
    theirs = [n for net in pair for n in net.state_dict() if not re.search(r"resample_filter|noise_const", n)]
    assert len(ours) == len(theirs)
