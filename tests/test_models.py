"""Model files: what is saved comes back, and what is damaged is refused in a sentence."""

import json
import os
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

import tenshot
from tenshot.errors import TenshotError
from tenshot.models import (
    Model,
    embedded_sources,
    file_digest,
    find_model,
    load_model,
    read_tensors,
    save_model,
    write_tensors,
)
from tenshot.sampling import generate_images


@pytest.fixture
def altered(tiny_source):
    """Load the tiny source after its tensors or its header were changed in place."""

    def alter_and_load(change):
        tensors, header = read_tensors(tiny_source)
        change(tensors, header)
        write_tensors(tiny_source, tensors, header)
        return load_model(tiny_source)

    return alter_and_load


def test_a_saved_model_comes_back_bit_for_bit(tiny_model, tiny_source):
    tiny_model.generator.conv1.gate[3] = 0  # a pruned filter
    save_model(tiny_source, tiny_model)
    loaded = load_model(tiny_source)
    assert loaded.card == tiny_model.card
    for before, after in (
        (tiny_model.generator, loaded.generator),
        (tiny_model.discriminator, loaded.discriminator),
    ):
        assert before.spec == after.spec
        tensors = after.state_dict()
        assert tensors.keys() == before.state_dict().keys()
        assert all(tensor.equal(tensors[name]) for name, tensor in before.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.generator.parameters())


def test_saving_twice_gives_the_same_bytes(tmp_path, tiny_model, tiny_source):
    save_model(tmp_path / "again.safetensors", load_model(tiny_source))
    assert (tmp_path / "again.safetensors").read_bytes() == tiny_source.read_bytes()
    assert file_digest(tmp_path / "again.safetensors") == file_digest(tiny_source)


def test_a_place_given_as_text_is_as_good_as_a_path(tmp_path, tiny_source):
    save_model(f"{tmp_path}/again.safetensors", load_model(str(tiny_source)))
    assert (tmp_path / "again.safetensors").read_bytes() == tiny_source.read_bytes()


def test_a_digest_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "abc") == expected


def test_a_model_without_discriminator_comes_back_without_one(tmp_path, tiny_model):
    save_model(tmp_path / "g.safetensors", Model(tiny_model.generator, None, {"kind": "adapted"}))
    assert load_model(tmp_path / "g.safetensors").discriminator is None


def test_a_run_folder_stands_for_its_model(tmp_path, tiny_model):
    save_model(tmp_path / "model.safetensors", tiny_model)
    assert find_model(tmp_path) == tmp_path / "model.safetensors"
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(TenshotError, match=r"is a folder without model.safetensors: is it a finished run\?"):
        find_model(tmp_path)


def test_a_folder_named_like_an_embedded_source_does_not_hide_it(tmp_path, monkeypatch):
    (tmp_path / "faces64").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model("faces64").is_absolute()


def test_an_unknown_name_lists_the_embedded_ones():
    assert "faces64" in embedded_sources()
    for name in ("face64", "no/such.safetensors", "", "a" * 5000, "nul\0"):
        with pytest.raises(TenshotError, match=r"give a .safetensors file, a run folder, or one of: .*faces64"):
            load_model(name)


@pytest.mark.parametrize("name", embedded_sources())
def test_an_embedded_source_is_truncated_towards_the_mean_of_its_own_mapping_network(name):
    generator = load_model(name).generator
    w = generator.map(torch.randn(4096, generator.spec.latent_size, generator=torch.Generator().manual_seed(5)))
    away = (w - w.mean(dim=0)).norm(dim=1).mean()
    assert (generator.latent_avg - w.mean(dim=0)).norm() < 0.05 * away


def test_the_embedded_faces_load_and_make_images():
    model = tenshot.load("faces64")
    assert model.resolution == 64 and model.discriminator is not None
    with torch.no_grad():
        z = torch.randn(4, model.generator.spec.latent_size, generator=torch.Generator().manual_seed(0))
        noise = model.generator.draw_noise(4, torch.Generator().manual_seed(0))
        images = model.generator(z, noise)
        logits = model.discriminator(images)
    assert images.shape == (4, 3, 64, 64) and images.abs().max() < 1.5  # false for NaN
    assert images.std(dim=0).mean() > 0.1  # four faces, not one
    assert torch.isfinite(logits).all()


def test_loading_leaves_torchs_random_state_alone(tiny_source):
    before = torch.get_rng_state()
    load_model(tiny_source)
    assert torch.get_rng_state().equal(before)


def test_a_network_survives_its_file(tiny_model, tiny_source):
    loaded = load_model(tiny_source)
    tiny_source.write_bytes(bytes(tiny_source.stat().st_size))
    assert generate_images(loaded, [0]).equal(generate_images(tiny_model, [0]))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda data: b"", "is damaged or not a .safetensors file"),
        (
            lambda data: b"some text, long enough to be read as a length",
            "is damaged or not a .safetensors file",
        ),
        (lambda data: data[: len(data) // 2], "is damaged or not a .safetensors file"),
        (lambda data: data[:-1], "is damaged or not a .safetensors file"),
        (lambda data: struct.pack("<Q", 2**60) + data[8:], "is damaged or not a .safetensors file"),
        (
            lambda data: data[:8] + data[8:].replace(b"F32", b"F99", 1),
            "is damaged or not a .safetensors file",
        ),
        (lambda data: save(load(data)), "was not written by tenshot: it has no tenshot header"),
        (lambda data: save(load(data), {"tenshot": "[1]"}), "was not written by tenshot"),
        (lambda data: save(load(data), {"tenshot": "{"}), "is damaged or not a .safetensors file"),
        (lambda data: save(load(data), {"tenshot": "[" * 100_000}), "is damaged or not a .safetensors file"),
        (
            lambda data: save(
                load(data), {"tenshot": '{"format": 1, "card": {}, "generator": {"resolution": Infinity}}'}
            ),
            "is not a model file of tenshot: its header is damaged",
        ),
    ],
    ids=["empty", "text", "half", "short", "length", "dtype", "foreign", "list", "no json", "deep json", "infinite"],
)
def test_damaged_and_foreign_files_are_refused(tiny_source, spoil, sentence):
    tiny_source.write_bytes(spoil(tiny_source.read_bytes()))
    with pytest.raises(TenshotError, match=f"^{tiny_source} {sentence}"):
        load_model(tiny_source)


def test_a_runs_checkpoint_is_told_as_one_and_not_as_a_damaged_model(tmp_path, tiny_source, shots):
    tenshot.adapt(shots, source=tiny_source, out=tmp_path / "run", steps=1, batch=1, checkpoint_every=1)
    checkpoint = tmp_path / "run/checkpoints/000001.safetensors"
    with pytest.raises(TenshotError, match=r"is the checkpoint of a run after step 1, .*: give the run's folder"):
        load_model(checkpoint)


@pytest.mark.parametrize("name", ["a.pt", "a.pkl", "a.safetensors"])
@pytest.mark.parametrize("content", [b"PK\3\4" + bytes(40), b"\x80\2}q\0."], ids=["zip", "pickle"])
def test_a_checkpoint_of_another_program_is_known_by_its_content_and_points_to_convert(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TenshotError, match=rf"first run `tenshot convert .*{name} OUT\.safetensors`"):
        load_model(tmp_path / name)


@pytest.mark.parametrize("name", ["a.pt", "a.pkl", "a"])
def test_a_model_file_is_read_whatever_its_name(tiny_source, tmp_path, name):
    tiny_source.rename(tmp_path / name)
    assert load_model(tmp_path / name).card["name"] == "tiny"


def test_a_newer_format_asks_for_a_newer_tenshot(altered):
    with pytest.raises(TenshotError, match="is of format 2, newer than this tenshot: upgrade tenshot"):
        altered(lambda tensors, header: header.update(format=2))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "one"}, "its header is damaged"),
        ({"card": "text"}, "its header is damaged"),
        ({"generator": None}, "its header is damaged"),
        ({"generator": {"resolution": 16}}, "its header is damaged .*channels"),
        ({"generator": {"resolution": 17, "channels": [16, 16, 16]}}, "resolution 17 is not a power of two"),
        (
            {"generator": {"resolution": 16, "channels": [16, 16]}},
            "16 px needs 3 positive numbers",
        ),
        ({"generator": {"resolution": 16, "channels": [16, 16, -1]}}, "16 px needs 3 positive numbers"),
        ({"generator": {"resolution": 16, "channels": [16, 16, 10**9]}}, "between 1 and 16,384 are possible"),
        (
            {"generator": {"resolution": 16, "channels": [16] * 3, "depth": 1}},
            "its header is damaged .*depth",
        ),
        (
            {"generator": {"resolution": 16, "channels": [16] * 3, "mapping_depth": 10**9}},
            "at most 64 are possible",
        ),
        ({"generator": {"resolution": "x", "channels": [16] * 3}}, "its header is damaged .*invalid literal"),
        ({"discriminator": [16]}, "its header is damaged"),
        ({"discriminator": {"resolution": 32, "channels": [16] * 3}}, "32 px needs 4 positive numbers"),
    ],
    ids=str,
)
def test_a_header_with_a_wrong_description_is_refused(altered, change, sentence):
    with pytest.raises(TenshotError, match=f"is not a model file of tenshot: .*{sentence}"):
        altered(lambda tensors, header: header.update(change))


@pytest.mark.parametrize("key", ["format", "card", "generator"])
def test_a_header_without_a_part_names_it(altered, key):
    with pytest.raises(TenshotError, match=f"its header is damaged \\(it has no '{key}'\\)"):
        altered(lambda tensors, header: header.pop(key))


BIAS = "generator.conv1.activate.bias"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({BIAS: None}, "generator: conv1.activate.bias is missing"),
        ({"generator.more": torch.zeros(1)}, "generator: more is not part of the network"),
        ({BIAS: torch.zeros(2)}, r"conv1.activate.bias has shape \[2\], expected \[16\]"),
        ({BIAS: torch.full([16], torch.nan)}, "conv1.activate.bias holds values that are not finite"),
        ({BIAS: torch.zeros(16, dtype=torch.int64)}, "conv1.activate.bias holds int64, not real numbers"),
        ({"discriminator.final_linear.1.bias": None}, "discriminator: final_linear.1.bias is missing"),
    ],
)
def test_every_faulty_tensor_is_named(altered, change, sentence):
    def alter(tensors, header):
        tensors.update(change)
        for name in [name for name, tensor in change.items() if tensor is None]:
            del tensors[name]

    with pytest.raises(TenshotError, match=sentence):
        altered(alter)


def test_a_header_that_asks_for_more_than_the_file_holds_takes_no_memory(altered):
    huge = {"resolution": 16, "channels": [16384] * 3, "latent_size": 16384, "mapping_depth": 64}
    with pytest.raises(TenshotError, match=r"conv1.conv.weight has shape .*16384"):  # 180 GB
        altered(lambda tensors, header: header.update(generator=huge))


def test_a_pair_of_two_resolutions_is_refused(tmp_path, tiny_factory, tiny_model):
    other = tiny_factory(32, (4, 4, 4, 4))
    save_model(tmp_path / "a.safetensors", Model(tiny_model.generator, other.discriminator, {}))
    with pytest.raises(TenshotError, match="the generator makes 16 px, the discriminator judges 32 px"):
        load_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("value", "dtype", "sentence"),
    [
        (torch.nan, torch.float32, "holds values that are not finite: the training diverged"),
        (1e6, torch.float16, "is too large for float16; save it as float32"),
    ],
)
def test_a_model_that_could_not_be_loaded_is_not_saved(tmp_path, tiny_model, value, dtype, sentence):
    with torch.no_grad():
        tiny_model.generator.input.input[0, 0, 0, 0] = value
    with pytest.raises(TenshotError, match=f"generator.input.input {sentence}"):
        save_model(tmp_path / "a.safetensors", tiny_model, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_the_header_is_json_that_other_programs_can_read(tiny_source):
    data = tiny_source.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["tenshot"])
    assert header["generator"] == {
        "resolution": 16,
        "channels": [16, 16, 16],
        "latent_size": 16,
        "mapping_depth": 2,
    }
    assert header["card"] == {"kind": "source", "name": "tiny"}


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8 are Linux's")
def test_a_model_in_a_folder_whose_name_is_not_utf8_is_read(tmp_path, tiny_model):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    save_model(folder / "tiny.safetensors", tiny_model)
    assert load_model(folder / "tiny.safetensors").generator.spec == tiny_model.generator.spec
