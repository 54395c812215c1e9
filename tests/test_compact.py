"""Cutting channels out: the same images, files that load everywhere, guards, and fine-tuning that mends a loss."""

import itertools
import json
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from tenshot import export, proof
from tenshot.__main__ import main
from tenshot.adaptation import begin
from tenshot.compact import blocks, compact, filled_up, kept_channels, parameters, silent_channels
from tenshot.config import RunConfig
from tenshot.distil import Distillation, distil_, pyramid_distance
from tenshot.errors import TenshotError
from tenshot.export import Cut, compacted
from tenshot.lacking import gamut_of
from tenshot.mend import mended
from tenshot.methods import METHODS
from tenshot.metrics import METRICS
from tenshot.models import Model, load_model, read_tensors, save_model, write_tensors
from tenshot.nets import Generator, GeneratorSpec
from tenshot.randomness import generator_for
from tenshot.sampling import generate_images
from tenshot.shrink import choose, sensitivity
from tenshot.step import run_step

WIDTHS = (12, 10, 8, 16)  # 32 px


def pruned(seed=0, *, share=0.4, dtype=torch.float64, channels=WIDTHS, resolution=32) -> Generator:
    """A tiny generator with random gates closed."""
    generator = tiny.tiny_model(resolution, channels, dtype=dtype).generator
    rng = torch.Generator().manual_seed(seed)
    for _, block in blocks(generator):
        block.gate.copy_(torch.rand(len(block.gate), generator=rng) >= share)
    return generator


def close(generator, **channels):
    """Gates of the first so many channels, by block name (dots as underscores)."""
    for name, count in channels.items():
        generator.get_buffer(f"{name.replace('_', '.')}.gate")[:count] = 0
    return generator


@torch.no_grad()
def images(generator, n=3, **more):
    z = torch.randn(n, generator.spec.latent_size, generator=torch.Generator().manual_seed(1)).to(generator.latent_avg)
    noise = generator.draw_noise(n, torch.Generator().manual_seed(2))
    return generator.synthesise(generator.spread(generator.map(z)), noise, **more)


def difference(a, b):
    return (images(a) - images(b)).abs().max().item()


@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from([1, 3, 4, 8]))
@settings(max_examples=12, deadline=None)
def test_random_channels_are_cut_without_changing_an_image(seed, share, multiple):
    generator = pruned(seed, share=share, resolution=16, channels=(12, 10, 8))
    small = compact(generator, kept_channels(generator, multiple))
    assert difference(generator, small) < 1e-10
    again = compact(small, kept_channels(small, 1))  # what filled up the layers goes too
    assert difference(generator, again) < 1e-10
    alive = [max(1, int((block.gate != 0).sum())) for _, block in blocks(generator)]
    assert [len(block.gate) for _, block in blocks(again)] == alive


def test_in_float32_images_agree_to_1e5():
    generator = pruned(dtype=torch.float32, resolution=16, channels=(12, 10, 8))
    small = compact(generator, kept_channels(generator))
    found = proof.pixel_differences(generator, small, 60)
    assert found["latents"] == 60 and 0 < found["mean"] < found["largest"] <= 1e-5


def test_a_pruned_channel_counts_in_the_demodulation_of_who_reads_it():
    """Without its squared norms the images are others: the test above would see it."""
    generator = pruned()
    small = compact(generator, kept_channels(generator, 1))
    for _, block in blocks(small):
        if block.conv.silent is not None:
            block.conv.silent.zero_()
    assert difference(generator, small) > 1e-3


@pytest.mark.parametrize("resolution", [16, 128])
def test_any_resolution_and_a_layer_that_is_silent_altogether(resolution):
    count = {16: 3, 128: 6}[resolution]
    generator = pruned(resolution=resolution, channels=(6, 5, 4, 7, 4, 6)[:count])
    generator.get_buffer("convs.1.gate").zero_()
    small = compact(generator, kept_channels(generator, 1))
    assert small.spec.kept[2] == 1 and small.convs[1].gate.tolist() == [0]
    assert difference(generator, small) < 1e-10


def test_kept_channels_are_the_living_in_order_and_the_first_silent_ones():
    generator = tiny.tiny_model().generator
    generator.conv1.gate.copy_(torch.tensor([0, 1, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0]))
    assert kept_channels(generator, 1)["conv1"].tolist() == [1, 3, 4, 8, 9]
    assert kept_channels(generator, 4)["conv1"].tolist() == [0, 1, 2, 3, 4, 5, 8, 9]
    assert silent_channels(generator)["conv1"].tolist() == [0, 2, 5, 6, 7, 10, 11]
    assert kept_channels(generator, 16)["convs.0"].tolist() == list(range(10))


@pytest.mark.parametrize(
    ("kept", "count", "multiple", "expected"),
    [(25, 32, 4, 28), (25, 32, 8, 32), (65, 128, 8, 72), (0, 9, 4, 4), (0, 9, 1, 1), (9, 9, 8, 9), (3, 256, 1, 3)],
)
def test_layers_are_filled_up(kept, count, multiple, expected):
    assert filled_up(kept, count, multiple) == expected


def test_parameters_are_those_a_pencil_counts():
    generator = close(tiny.tiny_model(channels=(8, 8, 8), latent_size=4, mapping_depth=1).generator, conv1=4, convs_0=4)
    small = compact(generator, kept_channels(generator, 4))
    assert small.spec.kept == (4, 4, 8, 8, 8)
    conv1 = 4 * 8 * 9 + 8 * 5 + 1 + 4  # weights, style, noise, bias
    up = 4 * 4 * 9 + 8 * 5 + 1 + 4 + 4 * 4  # ... and norms of 4 silent inputs
    after = 8 * 4 * 9 + 8 * 5 + 1 + 8 + 8 * 4
    rest = 2 * (8 * 8 * 9 + 8 * 5 + 1 + 8)
    rgb = (3 * 4 + 4 * 5 + 3) + 2 * (3 * 8 + 8 * 5 + 3)
    assert parameters(small) == (4 * 5) + 8 * 16 + conv1 + up + after + rest + rgb
    assert parameters(small) < parameters(generator) == sum(p.numel() for p in generator.parameters())


def test_multiply_adds_are_those_a_pencil_counts():
    generator = tiny.tiny_model(16, (4, 3, 2), 5, 1).generator
    mapping = 5 * 5
    styles = 5 * (4 + 4 + 4 + 3 + 3 + 3 + 2 + 2)  # conv1, to_rgb1, two convolutions and a toRGB a size
    demodulation = 4 * 4 + 3 * 4 + 3 * 3 + 2 * 3 + 2 * 2
    convs = 9 * (16 * 4 * 4 + 16 * 4 * 3 + 64 * 3 * 3 + 64 * 3 * 2 + 256 * 2 * 2)
    low_pass = 16 * (64 * 3 + 256 * 2) + 16 * 3 * (16 + 64)  # after doubling: channels, and the RGB image below
    rgb = 3 * (16 * 4 + 64 * 3 + 256 * 2)
    assert proof.multiply_adds(generator) == mapping + styles + demodulation + convs + low_pass + rgb


@pytest.mark.parametrize("name", METHODS)
def test_what_any_method_leaves_can_be_cut(name):
    method = METHODS[name](**tiny.QUICK.get(name, {}))
    config = RunConfig("", method=method, steps=8, batch=2, seed=1)
    run = begin(config, tiny.tiny_model(), tiny.tiny_shots())
    for step in range(8 if name in ("dap", "rick") else 1):
        run_step(run, step)
    generator = method.merge(run.nets.ema).double()
    assert name != "dap" or silent_channels(generator)
    close(generator, conv1=3, convs_0=5, convs_3=2)
    small = compact(generator, kept_channels(generator, 1))
    assert small.spec.kept and difference(generator, small) < 1e-10


def test_a_compact_model_survives_its_file_and_loads_as_any_other(tmp_path):
    generator = pruned(dtype=torch.float32)
    small = compact(generator, kept_channels(generator, 4))
    for name in ("a", "b"):
        save_model(tmp_path / f"{name}.safetensors", Model(small, None, {"name": "x"}))
    path = tmp_path / "a.safetensors"
    assert path.read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = load_model(path)
    assert loaded.generator.spec == small.spec and loaded.generator.spec.kept
    assert images(loaded.generator).equal(images(small))
    assert generate_images(loaded, range(3)).equal(generate_images(Model(small), range(3)))
    half = tmp_path / "half.safetensors"
    save_model(half, loaded, dtype=torch.float16)
    stored = export.as_stored(small, "float16")
    assert images(load_model(half).generator).equal(images(stored)) and 0 < difference(small, stored) < 0.05


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        ([12, 10], "must be a part of"),
        ([13, 10, 10, 8, 8], "must be a part of"),
        ([12, 10, 0, 8, 8], "must be a part of"),
        ([12, 10, -4, 8, 8], "must be a part of"),
        ([12, 10, 10, 8, 8], "must be a part of"),
        ([10**12] * 5, "must be a part of"),
        (3, "its header is damaged"),
        ("abcde", "its header is damaged"),
        ([None] * 5, "its header is damaged"),
        ([[1]] * 5, "its header is damaged"),
        ([12, 10, 4, 8, 8], "has shape"),
        ([], "convs.3.conv.silent is not part of the network|has shape"),
    ],
    ids=str,
)
def test_a_plan_of_channels_that_lies_is_refused(tmp_path, kept, sentence):
    generator = close(tiny.tiny_model().generator, conv1=4, convs_2=2)
    path = tmp_path / "a.safetensors"
    save_model(path, Model(compact(generator, kept_channels(generator, 1)), None, {}))
    tensors, header = read_tensors(path)
    header["generator"]["kept"] = kept
    write_tensors(path, tensors, header)
    with pytest.raises(TenshotError, match=sentence):
        load_model(path)


def test_a_compact_model_is_not_adapted_further():
    model = tiny.tiny_model()
    close(model.generator, conv1=4)
    model.generator = compact(model.generator, kept_channels(model.generator, 1))
    with pytest.raises(TenshotError, match=r"is compact: .* adapt the run or model that it was made from"):
        begin(RunConfig("", source="small.safetensors"), model, tiny.tiny_shots())


def test_a_mosaic_and_a_gamut_survive_the_cut_and_the_file(tmp_path):
    generator = close(tiny.tiny_model().generator, conv1=4)
    gamut = gamut_of(tiny.tiny_shots() // 2)
    generator.spec = replace(generator.spec, mosaic=4, gamut=gamut)
    small = compact(generator, kept_channels(generator, 1))
    save_model(tmp_path / "a.safetensors", Model(small, None, {}))
    loaded = load_model(tmp_path / "a.safetensors").generator
    assert (loaded.spec.mosaic, loaded.spec.gamut) == (4, gamut) and loaded.spec.kept
    found = images(loaded)
    assert found.equal(found[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert found.max() <= max(gamut[:6]) / 127.5 - 1 + 1e-6
    torch.testing.assert_close(found, images(generator))


@pytest.mark.parametrize(
    "key, value",
    [
        *(("mosaic", side) for side in (0, -4, 3, 32, 10**30, "a", None, [4])),
        *(
            ("gamut", gamut)
            for gamut in (0, None, "a", [0], [255, 0] * 13, [0, 10**30] * 13, [None] * 26, [[0, 255]] * 13)
        ),
    ],
    ids=str,
)
def test_squares_and_colours_that_no_image_has_are_refused(tmp_path, key, value):
    path = tmp_path / "a.safetensors"
    save_model(path, Model(tiny.tiny_model().generator, None, {}))
    tensors, header = read_tensors(path)
    assert key not in header["generator"]
    header["generator"][key] = value
    write_tensors(path, tensors, header)
    with pytest.raises(TenshotError, match="its header is damaged"):
        load_model(path)


def timed(*ratios):
    """In place of a stopwatch: the cut generator takes so many times as long as the uncut one, call by call."""
    left = itertools.chain(ratios, itertools.repeat(ratios[-1]))
    return lambda generators, batch, **_: [1.0, next(left)]


def test_what_is_slower_is_not_cut(monkeypatch):
    model = Model(close(tiny.tiny_model(channels=(16, 16, 16)).generator, conv1=9, convs_0=5))
    monkeypatch.setattr(export, "milliseconds", timed(0.9))
    assert compacted(model, Cut(multiple=1)).small.spec.kept == (7, 11, 16, 16, 16)
    monkeypatch.setattr(export, "milliseconds", timed(1.2, 0.9, 0.9))
    found = compacted(model, Cut(multiple=1))
    assert found.small.spec.kept == (8, 16, 16, 16, 16)
    assert "slower here than uncut (1.20 ms an image, not 1.00, at batch 1" in found.notes[0]
    monkeypatch.setattr(export, "milliseconds", timed(0.9, 1.2))
    found = compacted(model, Cut(multiple=1))
    assert found.small is found.dense is model.generator
    assert "nothing is cut, 14 pruned channels stay: it would be slower here" in found.notes[-1]


def test_equal_generators_are_timed_alike_and_slow_ones_are_seen():
    generator = tiny.tiny_model().generator

    class Slow(torch.nn.Module):
        spec, latent_avg, draw_noise = generator.spec, generator.latent_avg, staticmethod(generator.draw_noise)

        def forward(self, z, noise):
            now[0] += 3.0
            return z

    class Fast(Slow):
        def forward(self, z, noise):
            now[0] += 1.0
            return z

    now = [0.0]
    assert proof.milliseconds([Slow(), Fast()], 2, seconds=1.0, clock=lambda: now[0]) == [1500.0, 500.0]


def test_sensitivity_is_how_far_the_image_moves_with_a_gate():
    """Against nudging every gate of the same latents by a millionth; the random directions leave some noise."""
    generator = close(tiny.tiny_model(channels=(3, 3, 3), dtype=torch.float64).generator, convs_1=1)
    found = sensitivity(generator, 256, batch=32)
    assert found["convs.1"][0] == 0 and all(values[1:].min() > 0 for values in found.values())
    exact = {name: torch.zeros(3, dtype=torch.float64) for name in ("conv1", "convs.1", "convs.2")}
    for k in range(8):
        rng = generator_for(0, "sensitivity", k)
        z = torch.randn(32, 16, generator=rng).double()
        ws, noise = generator.spread(generator.map(z)), generator.draw_noise(32, rng)
        with torch.no_grad():
            for name, channel in itertools.product(exact, range(3)):
                own = generator.get_buffer(f"{name}.gate")
                nudged = own.index_add(0, torch.tensor([channel]), torch.full([1], 1e-6, dtype=torch.float64))
                a, b = (generator.synthesise(ws, noise, {name: gate}) for gate in (own, nudged))
                exact[name][channel] += ((b - a) / 1e-6).square().sum().item() / (8 * 32) * (own[channel] != 0)
    for name, values in exact.items():
        assert torch.allclose(found[name], values, rtol=0.3)


@given(st.integers(0, 1000), st.floats(0.05, 0.7), st.sampled_from([1, 2, 4]))
@settings(max_examples=30, deadline=None)
def test_a_choice_cuts_the_least_important_to_the_share_and_no_more(seed, share, multiple):
    generator = tiny.tiny_model(32, WIDTHS).generator
    rng = torch.Generator().manual_seed(seed)
    importance = {name: torch.rand(len(block.gate), generator=rng) for name, block in blocks(generator)}
    kept = choose(importance, generator, share, multiple=multiple, min_alive=4)
    total, left = sum(generator.spec.outputs), sum(map(len, kept.values()))
    assert total - left <= round(share * total)
    is_at_the_end = all(len(indices) < 4 + multiple for indices in kept.values())
    assert is_at_the_end or total - left > round(share * total) - multiple
    for name, indices in kept.items():
        values = importance[name]
        gone = values[[i for i in range(len(values)) if i not in indices.tolist()]]
        assert len(indices) >= 4 and indices.tolist() == sorted(indices.tolist())
        assert len(gone) == 0 or (gone.max() <= values[indices].min() and len(indices) % multiple == 0)


def twins(generator):
    """The last two channels of every block become copies of the first two, half as loud."""
    for name, block in blocks(generator):
        for tensor, axis in ((block.conv.weight.data, 1), (block.activate.bias.data, 0)):
            tensor.narrow(axis, -2 + tensor.shape[axis], 2).copy_(tensor.narrow(axis, 0, 2))
        assert block.noise.weight.shape == (1,), name
    return generator


def test_channels_that_have_twins_are_not_missed():
    """Weights of one style can take over what a twin carried. A rest stays where they outgrow the demodulation."""
    generator = twins(tiny.tiny_model(dtype=torch.float64).generator)
    for _, block in blocks(generator):
        block.conv.modulation.weight.data.zero_()
    for to_rgb in (generator.to_rgb1, *generator.to_rgbs):
        to_rgb.conv.modulation.weight.data.zero_()
    kept = {name: torch.arange(len(block.gate) - 2) for name, block in blocks(generator)}
    plain, whole = compact(generator, kept), mended(generator, kept)
    assert whole.spec == plain.spec and difference(generator, whole) < 0.2 * difference(generator, plain)


def test_mending_changes_nothing_where_only_silent_channels_are_cut():
    generator = pruned(resolution=16, channels=(12, 10, 8))
    assert difference(generator, mended(generator, kept_channels(generator, 1))) < 1e-10


def test_fine_tuning_brings_back_what_a_cut_has_lost_and_keeps_the_mapping():
    generator = tiny.tiny_model(16, (12, 12, 12)).generator
    kept = choose(sensitivity(generator, 32), generator, 0.2, multiple=4)
    small = compact(generator, kept)
    before = pyramid_distance(images(generator, 16), images(small, 16))
    losses = distil_(small, generator, kept, Distillation(40, lr=0.01))
    assert len(losses) == 40
    assert pyramid_distance(images(generator, 16), images(small, 16)) < 0.85 * before
    assert all(a.equal(b) for a, b in zip(small.style.parameters(), generator.style.parameters(), strict=True))
    assert all(p.grad is None for p in small.parameters())


def test_the_distance_of_a_constant_is_itself_once_a_size():
    a = torch.zeros(1, 3, 32, 32)
    assert pyramid_distance(a, a + 0.5).item() == pytest.approx(3 * 0.5)  # 32, 16, 8
    grain = a.clone()
    grain[..., ::2] = 1.0
    grain[..., 1::2] = -1.0
    assert pyramid_distance(a, grain).item() == pytest.approx(1.0)  # gone at half the size


@pytest.mark.parametrize(
    ("values", "sentence"),
    [({"steps": -1}, "--distillation.steps"), ({"lr": 0.0}, "above 0"), ({"batch": 0}, "at least 1")],
)
def test_settings_that_make_no_sense_are_refused(values, sentence):
    with pytest.raises(TenshotError, match=sentence):
        Distillation(**values)


class TestTheVerb:
    @pytest.fixture
    def source(self, tmp_path, monkeypatch):
        monkeypatch.setattr(export, "milliseconds", timed(0.5))
        model = tiny.tiny_model(channels=(16, 16, 16))
        close(model.generator, conv1=9, convs_0=5)
        save_model(tmp_path / "m.safetensors", model)
        return str(tmp_path / "m.safetensors")

    def test_writes_file_and_proof_and_prints_a_table(self, tmp_path, source, capsys):
        out = tmp_path / "new" / "c.safetensors"
        assert main(["export", source, "--compact", "--out", str(out), "--latents", "20"]) == 0
        said = capsys.readouterr().out
        told = json.loads((tmp_path / "new" / "c.proof.json").read_text())
        small = load_model(out)
        assert small.generator.spec.kept == (8, 12, 16, 16, 16) and small.discriminator is None
        assert told["channels"]["conv1"] == {"designed": 16, "alive": 7, "kept": 8}
        assert told["compact"]["parameters"] == parameters(small.generator) < told["uncut"]["parameters"]
        assert told["compact"]["multiply_adds"] == proof.multiply_adds(small.generator) < told["uncut"]["multiply_adds"]
        assert told["pixels"]["latents"] == 20 and told["pixels"]["largest"] <= 1e-5
        assert told["milliseconds"]["8"] == {"uncut": 1.0, "compact": 0.5}
        assert told["file"]["bytes"] == out.stat().st_size and told["machine"]["processor"]
        for row in ("channels", "parameters", "multiply-adds", "ms an image, batch 1", "largest pixel difference"):
            assert row in said
        assert all(len(line) <= 80 for line in said.splitlines() if str(tmp_path) not in line)

    def test_exporting_twice_gives_the_same_bytes(self, tmp_path, source):
        for name in ("a", "b"):
            out = str(tmp_path / f"{name}.safetensors")
            assert main(["export", source, "--compact", "--out", out, "--latents", "1"]) == 0
        assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()

    def test_a_compact_model_generates_what_the_uncut_one_does(self, tmp_path, source):
        out = str(tmp_path / "c.safetensors")
        assert main(["export", source, "--compact", "--out", out, "--latents", "1"]) == 0
        a, b = (generate_images(load_model(name), range(8)) for name in (source, out))
        assert (a.int() - b.int()).abs().max() <= 1 and (a != b).float().mean() < 1e-3

    def test_a_model_without_pruned_channels_is_written_as_it_is(self, tmp_path, tiny_source, capsys):
        out = str(tmp_path / "c.safetensors")
        assert main(["export", str(tiny_source), "--compact", "--out", out, "--latents", "3"]) == 0
        assert "there is nothing to cut: no channel of the generator is pruned" in capsys.readouterr().out
        before, after = load_model(tiny_source).generator, load_model(out).generator
        assert after.spec == before.spec and images(before).equal(images(after))

    def test_without_compact_only_the_type_changes(self, tmp_path, source, capsys):
        out = tmp_path / "h.safetensors"
        assert main(["export", source, "--dtype", "float16", "--out", str(out)]) == 0
        assert "float16" in capsys.readouterr().out and not (tmp_path / "h.proof.json").exists()
        assert load_model(out).generator.spec.kept == ()
        assert all(tensor.dtype == torch.float16 for tensor in read_tensors(out)[0].values())

    def test_a_share_is_cut_fine_tuned_and_judged(self, tmp_path, source, monkeypatch, capsys):
        looks = iter([100.0, 140.0, 103.0])
        monkeypatch.setattr(
            export, "_Judge", lambda *_: type("", (), {"against": "x", "__call__": lambda *_: next(looks)})()
        )
        monkeypatch.setattr("tenshot.metrics.efflite.weights_path", lambda: tmp_path)
        out = str(tmp_path / "c.safetensors")
        how = ["--target-ratio", "0.4", "--finetune-steps", "3", "--latents", "4"]
        assert main(["export", source, *how, "--out", out]) == 0
        told = json.loads((tmp_path / "c.proof.json").read_text())["finetune"]
        assert told["scores"] == {"against": "x", "metric": "fd_efflite_2k", "uncut": 100, "cut": 140, "tuned": 103}
        assert told["steps"] == 3 and 0.35 < told["ratio"] <= 0.4
        assert sum(load_model(out).generator.spec.kept) == round(80 * (1 - told["ratio"]))
        said = capsys.readouterr().out
        assert "140.0%" in said and "103.0%" in said

    def test_what_shall_stay_unjudged_is_cut_and_fine_tuned_and_says_so(self, tmp_path, source, monkeypatch, capsys):
        monkeypatch.setattr(export, "_Judge", mock.Mock(side_effect=AssertionError("judged")))
        how = ["--target-ratio", "0.4", "--finetune-steps", "3", "--latents", "4", "--unjudged"]
        assert main(["export", source, *how, "--out", str(tmp_path / "c.safetensors")]) == 0
        told = json.loads((tmp_path / "c.proof.json").read_text())
        assert told["finetune"]["steps"] == 3 and "scores" not in told["finetune"]
        assert "note: the images were not judged: --unjudged says so" in capsys.readouterr().out

    def test_an_onnx_file_has_a_proof_of_its_own_that_names_its_numbers(self, tmp_path, source):
        pytest.importorskip("onnxruntime")
        for name, dtype in (("c.safetensors", "float32"), ("c.onnx", "int8")):
            kind = name.partition(".")[2]
            how = ["--compact", "--format", kind, "--dtype", dtype, "--latents", "1"]
            assert main(["export", source, *how, "--out", str(tmp_path / name)]) == 0
        one, other = (json.loads((tmp_path / f"{name}.proof.json").read_text()) for name in ("c", "c.onnx"))
        assert (one["file"]["name"], one["file"]["dtype"]) == ("c.safetensors", "float32")
        assert (other["file"]["name"], other["file"]["dtype"]) == ("c.onnx", "int8")
        assert one["pixels"] == other["pixels"]

    def test_the_proof_of_a_file_that_is_replaced_does_not_stay_beside_the_new_one(self, tmp_path, source, monkeypatch):
        how = ["export", source, "--compact", "--out", str(tmp_path / "c.safetensors"), "--latents", "1"]
        assert main(how) == 0 and (tmp_path / "c.proof.json").exists()
        full = [a for a in how if a not in ("--compact", "--latents", "1")]
        assert main([*full, "--overwrite"]) == 0 and not (tmp_path / "c.proof.json").exists()
        assert main([*how, "--overwrite"]) == 0 and (tmp_path / "c.proof.json").exists()
        monkeypatch.setattr("tenshot.cli.export.prove", mock.Mock(side_effect=KeyboardInterrupt))
        assert main([*how, "--overwrite"]) == 130
        assert (tmp_path / "c.safetensors").exists() and not (tmp_path / "c.proof.json").exists()

    def test_a_share_that_is_gone_already_needs_no_fine_tuning(self, tmp_path, source, capsys):
        out = str(tmp_path / "c.safetensors")
        assert main(["export", source, "--target-ratio", "0.1", "--out", out, "--latents", "1"]) == 0
        assert "17.5% of the channels are gone already" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ([], "where to? give --out FILE.safetensors"),
            (["--out", "c.onnx"], "the name must end in .safetensors"),
            (["--out", "c.safetensors", "--latents", "0"], "--latents is 0: it must be at least 1"),
            (["--out", "c.safetensors", "--target-ratio", "1"], "--target-ratio is 1.0: it must be a share"),
            (["--out", "c.safetensors", "--compact", "--multiple", "0"], "--multiple is 0: it must be at least 1"),
            (["--out", "c.safetensors", "--target-ratio", "0.01"], "gone already"),
        ],
    )
    def test_what_makes_no_sense_is_told(self, tmp_path, source, monkeypatch, capsys, arguments, sentence):
        monkeypatch.chdir(tmp_path)
        code = main(["export", source, *arguments])
        said = capsys.readouterr()
        assert sentence in (said.err if code else said.out)


def test_the_header_of_a_whole_model_does_not_speak_of_cutting(tmp_path):
    assert GeneratorSpec(16, (4, 4, 4)).kept == ()
    with pytest.raises(ValueError, match="must be a part of"):
        GeneratorSpec(16, (4, 4, 4), kept=(4, 4, 4, 4, 4))


def test_the_judge_compares_with_the_uncut_generators_images_of_other_seeds(monkeypatch):
    asked = []

    def score(fakes, reals, *_, **__):
        asked.append((torch.cat(list(fakes)), reals))
        return {export.METRIC: {"value": 1.0}}

    monkeypatch.setitem(METRICS, export.METRIC, METRICS[export.METRIC]._replace(n=6))
    monkeypatch.setattr(export.efflite, "load", lambda: None)
    monkeypatch.setattr(export, "score", score)
    dense, small = tiny.tiny_model(), tiny.tiny_model(seed=1)
    judge = export._Judge(dense.generator, None, None)
    assert judge(dense.generator) == judge(small.generator) == 1.0
    for (fakes, reals), model in zip(asked, (dense, small), strict=True):
        assert fakes.equal(generate_images(model, range(6))) and reals.equal(generate_images(dense, range(6, 12)))


def test_the_learning_rate_rises_over_20_steps_and_falls_along_a_cosine():
    rates = [Distillation(100, lr=0.02).rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.001) and rates[50] == pytest.approx(0.01) and rates[99] < 1e-4
    assert rates[20:] == sorted(rates[20:], reverse=True)
