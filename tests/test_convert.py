"""Checkpoints in rosinality's layout, and files that only pretend to be one."""

import argparse
import builtins
import pickle
import re

import pytest
import torch
from PIL import Image
from torch import nn

from reference.stylegan2 import reference_discriminator, reference_generator, reference_mapping
from tenshot.__main__ import main
from tenshot.convert import convert
from tenshot.errors import TenshotError
from tenshot.models import load_model
from tenshot.sampling import generate_images, latents

BLUR = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


def rosinality(model):
    """A checkpoint as rosinality's script writes it: state dicts with blur kernels and fixed noise."""
    generator, discriminator = (
        {name: t.clone() for name, t in net.state_dict().items() if not name.endswith(("gate", "latent_avg"))}
        for net in (model.generator, model.discriminator)
    )
    sizes = len(model.generator.spec.channels)
    for k in range(sizes - 1):
        generator[f"convs.{2 * k}.conv.blur.kernel"] = BLUR * 4
        generator[f"to_rgbs.{k}.upsample.kernel"] = BLUR * 4
        discriminator[f"convs.{k + 1}.conv2.0.kernel"] = BLUR
        discriminator[f"convs.{k + 1}.skip.0.kernel"] = BLUR
    for k in range(2 * sizes - 1):
        side = 4 * 2 ** ((k + 1) // 2)
        generator[f"noises.noise_{k}"] = torch.ones(1, 1, side, side)
    return {"g": {}, "g_ema": generator, "d": discriminator, "latent_avg": model.generator.latent_avg.clone()}


@pytest.fixture
def checkpoint(tiny_model):
    return rosinality(tiny_model)


@pytest.fixture
def converted(tmp_path):
    """Write a checkpoint and convert it."""

    def write_and_convert(checkpoint, **how):
        torch.save(checkpoint, tmp_path / "in.pt", **how)
        return convert(tmp_path / "in.pt")

    return write_and_convert


def refusal(converted, checkpoint):
    with pytest.raises(TenshotError) as told:
        converted(checkpoint)
    return str(told.value)


def test_a_converted_generator_makes_the_images_of_the_network_it_was_made_from(tiny_model, checkpoint, converted):
    model = converted(checkpoint)
    seeds = range(10)
    assert generate_images(model, seeds).equal(generate_images(tiny_model, seeds))
    assert generate_images(model, seeds, truncation=0.5).equal(generate_images(tiny_model, seeds, truncation=0.5))


def test_a_converted_pair_agrees_with_equations_that_read_the_checkpoint_itself(checkpoint, converted):
    model = converted(checkpoint)
    z = latents(range(5), 16)
    w = reference_mapping(checkpoint["g_ema"], z)
    images = reference_generator(checkpoint["g_ema"], w[:, None].repeat(1, 6, 1))
    with torch.no_grad():
        torch.testing.assert_close(model.generator(z), images, atol=1e-4, rtol=1e-4)
        logits = reference_discriminator(checkpoint["d"], images)[:, 0]
        torch.testing.assert_close(model.discriminator(images), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("resolution", "channels", "latent_size", "mapping_depth"),
    [
        (16, (4, 4, 4), 8, 1),
        (16, (9, 5, 3), 12, 8),
        (32, (8, 8, 4, 2), 20, 3),
        (128, (6, 5, 4, 3, 2, 1), 7, 0),
        (1024, (3, 3, 3, 2, 2, 2, 1, 1, 1), 4, 2),
    ],
)
def test_shapes_are_found_from_tensors_alone(tiny_factory, converted, resolution, channels, latent_size, mapping_depth):
    model = converted(rosinality(tiny_factory(resolution, channels, latent_size, mapping_depth)))
    spec = model.generator.spec
    found = (spec.resolution, spec.channels, spec.latent_size, spec.mapping_depth)
    assert found == (resolution, channels, latent_size, mapping_depth)
    assert (model.discriminator.spec.resolution, model.discriminator.spec.channels) == (resolution, channels)


@pytest.mark.parametrize("shape", [(16,), (1, 16)])
def test_a_given_mean_latent_is_taken(checkpoint, converted, shape):
    given = torch.linspace(-1, 1, 16)
    model = converted({**checkpoint, "latent_avg": given.view(shape)})
    assert model.generator.latent_avg.equal(given)


def test_a_mean_latent_that_is_not_given_is_measured(checkpoint, converted):
    del checkpoint["latent_avg"]
    measured = converted(checkpoint).generator.latent_avg
    w = reference_mapping(checkpoint["g_ema"], torch.randn(20_000, 16, generator=torch.Generator().manual_seed(1)))
    assert (measured - w.mean(0)).abs().max() < 0.1 * w.std(0).mean()


def test_what_a_training_script_stores_beside_the_networks_is_no_hindrance(checkpoint, converted):
    extras = {
        "g_optim": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(size=16, lr=0.002, path="data"),
        "ada_aug_p": 0.0,
        "names": ["a", None, True],
    }
    assert converted({**checkpoint, **extras}).resolution == 16


def test_old_torch_files_and_half_precision_are_read(tiny_model, checkpoint, converted):
    old = converted(checkpoint, _use_new_zipfile_serialization=False)
    assert old.generator.conv1.conv.weight.equal(tiny_model.generator.conv1.conv.weight)
    checkpoint["g_ema"] = {name: tensor.half() for name, tensor in checkpoint["g_ema"].items()}
    half = converted(checkpoint).generator.conv1.conv.weight
    assert half.dtype == torch.float32
    assert half.equal(tiny_model.generator.conv1.conv.weight.half().float())


def test_conversion_leaves_torchs_random_state_alone(checkpoint, converted):
    del checkpoint["latent_avg"]
    before = torch.get_rng_state()
    converted(checkpoint)
    assert torch.get_rng_state().equal(before)


CONV = "convs.1.conv.weight"


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("g_ema", {CONV: None}, f"g_ema: {CONV} is missing"),
        ("g_ema", {"to_rgb1.bias": None}, "g_ema: to_rgb1.bias is missing"),
        ("g_ema", {"convs.9.extra": torch.zeros(2)}, "g_ema: convs.9.extra is not part of the network"),
        (
            "g_ema",
            {CONV: torch.zeros(1, 16, 15, 3, 3)},
            f"{CONV} has shape [1, 16, 15, 3, 3], expected [1, 16, 16",
        ),
        (
            "g_ema",
            {CONV: torch.full((1, 16, 16, 3, 3), float("nan"))},
            f"{CONV} holds values that are not finite",
        ),
        (
            "g_ema",
            {CONV: torch.zeros(1, 16, 16, 3, 3, dtype=torch.int64)},
            f"{CONV} holds int64, not real",
        ),
        ("g_ema", {"input.input": torch.zeros(16)}, "input.input has 1 dimensions, expected 4"),
        ("g_ema", {"conv1.conv.modulation.weight": None}, "g_ema has no conv1.conv.modulation.weight"),
        ("d", {"final_conv.1.bias": None}, "d: final_conv.1.bias is missing"),
        (
            "d",
            {"final_conv.1.bias": torch.tensor([float("inf")] * 16)},
            "final_conv.1.bias holds values that are not",
        ),
        ("d", {"final_linear.0.weight": torch.zeros(16, 99)}, "has shape [16, 99], expected [16, 256]"),
        ("d", {"stray": torch.zeros(1)}, "d: stray is not part of the network"),
    ],
)
def test_every_faulty_tensor_is_named(checkpoint, converted, part, change, sentence):
    checkpoint[part] = {k: v for k, v in {**checkpoint[part], **change}.items() if v is not None}
    assert sentence in refusal(converted, checkpoint)


def test_many_faults_are_counted_after_the_fifth(checkpoint, converted):
    checkpoint["d"].update({f"stray{i}": torch.zeros(1) for i in range(8)})
    message = refusal(converted, checkpoint)
    assert message.count("is not part of the network") == 5
    assert message.endswith("; and 3 more")


@pytest.mark.parametrize("part", ["d", "g_ema"])
def test_a_checkpoint_without_one_of_the_networks_is_refused(checkpoint, converted, part):
    del checkpoint[part]
    message = refusal(converted, checkpoint)
    assert f"has no {part}, only g, " in message and "adaptation needs" in message


def test_a_mean_latent_of_the_wrong_size_is_refused(checkpoint, converted):
    message = refusal(converted, {**checkpoint, "latent_avg": torch.zeros(3)})
    assert "latent_avg has shape [3], expected [16]" in message


def test_another_architecture_is_refused(converted):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2))
    message = refusal(converted, {"g_ema": network.state_dict(), "d": network.state_dict()})
    assert "has no input.input: not a StyleGAN2 in rosinality's layout (it begins with 0.bias" in message
    assert "only 0.weight, 0.bias" in refusal(converted, network.state_dict())


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3)], ids=["list", "tensor"])
def test_a_file_that_holds_something_else_is_refused(converted, content):
    assert f"holds a {type(content).__name__}, not the state dicts" in refusal(converted, content)


@pytest.mark.parametrize(
    "state",
    [
        {"a": 1},
        {1: torch.zeros(1)},
        [torch.zeros(1)],
        {"a": [torch.zeros(1)]},
        {"a\x1b[2J": torch.zeros(1)},
        {"a" * 201: torch.zeros(1)},
    ],
    ids=["number", "key", "list", "nested", "escapes", "long"],
)
def test_state_dicts_that_are_none_are_refused(checkpoint, converted, state):
    assert "g_ema is not a state dict of tensors" in refusal(converted, {**checkpoint, "g_ema": state})


def test_a_discriminator_of_another_resolution_is_refused(tiny_factory, checkpoint, converted):
    checkpoint["d"] = rosinality(tiny_factory(32, (16, 16, 16, 16)))["d"]
    assert "the generator makes 16 px, the discriminator judges 32 px" in refusal(converted, checkpoint)


def test_a_resolution_too_small_is_refused(checkpoint, converted):
    checkpoint["g_ema"] = {k: v for k, v in checkpoint["g_ema"].items() if not re.match("convs.[123]|to_rgbs.1", k)}
    assert "resolution 8 is not a power of two from 16 to 1024" in refusal(converted, checkpoint)


@pytest.mark.parametrize(
    ("count", "sentence"), [(10**12, "of shape [1, 1000000000000, 4, 4]"), (512, "repeats its own")]
)
def test_tensors_that_claim_more_than_they_store_are_refused(checkpoint, converted, count, sentence):
    checkpoint["g_ema"]["input.input"] = torch.zeros(1).expand(1, count, 4, 4)
    assert sentence in refusal(converted, checkpoint)


def test_more_channels_than_any_network_has_are_refused(checkpoint, converted):
    checkpoint["g_ema"]["input.input"] = torch.zeros(1, 20_000, 4, 4)
    assert "between 1 and 16,384 are possible" in refusal(converted, checkpoint)


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        (torch.zeros(2, 2).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (torch.zeros(2, dtype=torch.cfloat), "torch.ComplexFloatStorage"),
        (torch.zeros(2, device="meta"), "torch._utils._rebuild_meta_tensor_no_storage"),
    ],
    ids=["sparse", "complex", "meta"],
)
def test_tensors_that_no_network_has_are_refused_by_name(checkpoint, converted, tensor, name):
    assert f"in.pt asks for {name}: " in refusal(converted, {**checkpoint, "other": tensor})


def test_two_tensors_may_share_one_storage(checkpoint, converted):
    both = torch.randn(32)
    checkpoint["g_ema"] |= {f"convs.{i}.activate.bias": both[16 * (i - 2) :][:16] for i in (2, 3)}
    biases = [converted(checkpoint).generator.convs[i].activate.bias for i in (2, 3)]
    assert torch.cat(list(biases)).equal(both)


def test_one_tensor_under_two_names_is_refused_because_it_would_grow_on_the_way(checkpoint, converted):
    checkpoint["g_ema"]["convs.3.activate.bias"] = checkpoint["g_ema"]["convs.2.activate.bias"]
    message = refusal(converted, checkpoint)
    assert "g_ema: convs.2.activate.bias and convs.3.activate.bias are one tensor" in message


@pytest.mark.parametrize(("part", "name"), [("g_ema", "convs.0.conv.blur.kernel"), ("d", "convs.1.skip.0.kernel")])
def test_a_blur_of_another_shape_is_refused_by_name(checkpoint, converted, part, name):
    for kernel in (torch.ones(2, 2) / 4, torch.ones(4, 4) / 16, torch.full((4, 4), float("nan"))):
        checkpoint[part][name] = kernel
        assert f"{name} is not the [1, 3, 3, 1] low-pass filter" in refusal(converted, checkpoint)


class Intruder:
    """Unpickled the ordinary way, creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return builtins.open, (self.path, "w")


@pytest.mark.parametrize("form", ["zip", "legacy", 2, 4])
def test_a_pickle_that_would_run_code_does_not(tmp_path, checkpoint, form):
    trace, path = tmp_path / "trace", tmp_path / "in.pt"
    checkpoint["args"] = Intruder(trace)
    is_bare = isinstance(form, int)
    if is_bare:
        path.write_bytes(pickle.dumps(checkpoint["args"], protocol=form))
    else:
        torch.save(checkpoint, path, _use_new_zipfile_serialization=form == "zip")
    named = r"asks for \w+\.open: it holds objects other than tensors, or code, and was not opened"
    with pytest.raises(TenshotError, match=named):
        convert(path)
    assert not trace.exists()
    if is_bare:  # the trap is armed
        pickle.loads(path.read_bytes()).close()
        assert trace.exists()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "is not a torch checkpoint: nothing can be read from it$"),
        (b"hello\nworld\n" * 9, "is not a torch checkpoint: nothing can be read from it$"),
        (bytes(range(1, 256)) * 9, "is not a torch checkpoint: nothing can be read from it$"),
        (b"PK\x03\x04" + bytes(99), "is a damaged or foreign torch file: its zip is cut off"),
        (pickle.dumps({"g_ema": 1}), "has no d, only g_ema: adaptation needs"),
    ],
    ids=["empty", "text", "bytes", "zip", "pickle"],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, kind):
    (tmp_path / "in.pt").write_bytes(content)
    with pytest.raises(TenshotError, match=f"in.pt {kind}"):
        convert(tmp_path / "in.pt")


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, checkpoint, share, is_zip):
    path = tmp_path / "in.pt"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(TenshotError, match="is a damaged or foreign torch file"):
        convert(path)


def test_a_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(TenshotError, match=f"^{tmp_path} is a folder: give the name of the checkpoint's file$"):
        convert(tmp_path)
    with pytest.raises(TenshotError, match=f"^there is no file {tmp_path / 'none.pt'}: check the spelling"):
        convert(tmp_path / "none.pt")


def run(tmp_path, checkpoint, *arguments):
    torch.save(checkpoint, tmp_path / "in.pt")
    return main(["convert", str(tmp_path / "in.pt"), *map(str, arguments)])


def test_the_command_writes_a_model_and_the_grid_of_its_images(tmp_path, tiny_model, checkpoint, capsys):
    assert run(tmp_path, checkpoint, tmp_path / "new" / "out.safetensors") == 0
    said = capsys.readouterr().out
    assert "16 px, channels 16, 16, 16 from 4 px up, latent 16, mapping of 2 layers" in said
    assert "new/out.png" in said
    seeds = range(24)
    assert generate_images(load_model(tmp_path / "new" / "out.safetensors"), seeds).equal(
        generate_images(tiny_model, seeds)
    )
    with Image.open(tmp_path / "new" / "out.png") as picture:  # 6 x 4 tiles of 16 px, 2 px apart
        assert picture.size == (6 * 18 - 2, 4 * 18 - 2)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["out.png", "out.safetensors"]


def test_half_precision_halves_the_file_and_hardly_changes_images(tmp_path, tiny_factory):
    model = tiny_factory(channels=(64, 64, 64))
    assert run(tmp_path, rosinality(model), tmp_path / "full.safetensors") == 0
    assert run(tmp_path, rosinality(model), tmp_path / "half.safetensors", "--half") == 0
    full, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half"))
    assert 0.49 < half / full < 0.53
    images = [generate_images(load_model(tmp_path / f"{name}.safetensors"), range(8)) for name in ("full", "half")]
    difference = (images[0].int() - images[1].int()).abs()
    assert 0 < difference.max() <= 4  # float16 keeps 11 bits
    assert difference.float().mean() < 0.3


def test_weights_too_large_for_half_precision_are_refused(tmp_path, checkpoint, capsys):
    checkpoint["g_ema"]["input.input"][0, 0, 0, 0] = 1e6
    assert run(tmp_path, checkpoint, tmp_path / "out.safetensors", "--half") == 1
    assert "generator.input.input is too large for float16; save it as float32" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", ["out.pt", "out", "out.png"])
def test_an_output_of_another_suffix_is_refused(tmp_path, checkpoint, capsys, name):
    assert run(tmp_path, checkpoint, tmp_path / name) == 1
    assert f"{name} must end in .safetensors" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["in.pt"]


def test_the_command_tells_a_fault_in_one_sentence_and_writes_nothing(tmp_path, checkpoint, capsys):
    del checkpoint["d"]
    assert run(tmp_path, checkpoint, tmp_path / "out.safetensors") == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("tenshot convert: ") and "has no d" in said.err
    assert [p.name for p in tmp_path.iterdir()] == ["in.pt"]


@pytest.mark.parametrize("lost", ["g_ema/convs.0.conv.weight", "d/convs.1.skip.1.weight"])
def test_a_missing_first_block_is_named_and_not_taken_for_a_resolution(tiny_model, converted, lost):
    checkpoint = rosinality(tiny_model)
    part, name = lost.split("/")
    del checkpoint[part][name]
    with pytest.raises(TenshotError, match=f"has no {re.escape(name)}: not a StyleGAN2"):
        converted(checkpoint)
