"""An ONNX file makes torch's images at any batch size, says what it is, and is small where asked to be."""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import tiny
from tenshot import onnx_export
from tenshot.__main__ import main
from tenshot.compact import blocks, compact, kept_channels
from tenshot.errors import TenshotError
from tenshot.lacking import gamut_of
from tenshot.models import Model, save_model
from tenshot.onnx_export import OnnxPlan, export_onnx, licence_of, onnx_runtime
from tenshot.onnx_weights import quantised, store_as_
from tenshot.randomness import generator_for
from tenshot.sampling import generate, latents
from tiny import tiny_shots

ADAPTED = {"kind": "adapted", "name": "dots", "source": {"name": "s", "card": {"licence": "research only"}}}


def model_with_silent_channels():
    """16 px. Each block has four pruned channels, weights and all: the demodulation of these divides by its epsilon."""
    model = tiny.tiny_model(channels=(16, 16, 16))
    for _, block in blocks(model.generator):
        block.gate[:4] = 0
        block.conv.weight.data[:, :4] = 0
    return Model(model.generator, None, ADAPTED)


class Made:
    """An exported file and what it was made from."""

    def __init__(self, model, folder, plan):
        self.model, self.plan, self.path = model, plan, folder / "made.onnx"
        self.proof = export_onnx(model, self.path, plan)
        self.data = self.path.read_bytes()

    def images(self, data=None, **feeds):
        return run(data or self.data, **feeds)


def run(data, **feeds):
    session = onnx_runtime().InferenceSession(data, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: np.asarray(value) for name, value in feeds.items()})[0])


@pytest.fixture(scope="module")
def from_z(tmp_path_factory):
    """Truncation fed, noise of seed 3."""
    return Made(model_with_silent_channels(), tmp_path_factory.mktemp("z"), OnnxPlan(noise=3))


@pytest.fixture(scope="module")
def from_w(tmp_path_factory):
    """Of a compact generator whose images are squares of a few colours, truncation built in, no noise."""
    dense = model_with_silent_channels().generator
    dense.spec = replace(dense.spec, mosaic=4, gamut=gamut_of(tiny_shots() // 2))
    small = compact(dense, kept_channels(dense, 1))
    return Made(Model(small, None, {}), tmp_path_factory.mktemp("w"), OnnxPlan("w", 0.7, None))


@pytest.fixture
def traced(from_z, monkeypatch):
    """The graph without the seconds that tracing takes."""

    def again(*_):
        proto = onnx.load_from_string(from_z.data)
        del proto.metadata_props[:]
        return proto

    monkeypatch.setattr(onnx_export, "_traced", again)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_from_z_it_makes_what_torch_makes_at_any_batch_and_truncation(from_z, batch):
    generator = from_z.model.generator
    z = latents(range(50, 50 + batch), 16)
    noise = [layer.expand(batch, -1, -1, -1) for layer in generator.draw_noise(1, generator_for(3, "noise"))]
    for truncation in (1.0, 0.4):
        w = generator.latent_avg.lerp(generator.map(z), truncation)
        expected = generator.synthesise(generator.spread(w), noise)
        got = from_z.images(z=z, truncation=np.float32(truncation))
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
def test_from_w_every_layer_of_a_compact_generator_has_its_own_latent_and_images_their_squares(from_w, batch):
    generator = from_w.model.generator
    ws = torch.randn(batch, 6, 16, generator=torch.Generator().manual_seed(0))
    expected = generator.synthesise(generator.latent_avg.lerp(ws, 0.7))
    torch.testing.assert_close(from_w.images(w=ws), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


def test_the_image_of_the_noises_seed_is_that_of_generate(from_z):
    (own, other) = torch.cat(list(generate(from_z.model.generator, [3, 4])))
    images = from_z.images(z=latents([3, 4], 16), truncation=np.float32(1))
    levels = ((images.clamp(-1, 1) + 1) * 127.5).round()
    assert (levels[0] - own.float()).abs().max() <= 1
    assert (levels[1] - other.float()).abs().max() > 1  # has other noise


def test_the_example_of_the_documentation_runs(from_z, monkeypatch):
    monkeypatch.setitem(os.environ, "ORT_DISABLE_TELEMETRY", "1")
    text = (Path(__file__).parents[1] / "docs" / "onnx.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert '"robots.onnx"' in example and "(4, 512)" in example
    names = {}
    exec(example.replace('"robots.onnx"', repr(str(from_z.path))).replace("(4, 512)", "(4, 16)"), names)
    assert names["images"].shape == (4, 3, 16, 16) and np.isfinite(names["images"]).all()


def test_the_batch_is_free_and_inputs_are_named(from_z, from_w):
    def told(values):
        return {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}

    z, w = (onnx.load_from_string(made.data).graph for made in (from_z, from_w))
    assert told(z.input) == {"z": ["n", 16], "truncation": []}
    assert told(w.input) == {"w": ["n", 6, 16]}
    assert told(z.output) == told(w.output) == {"images": ["n", 3, 16, 16]}


def test_the_file_and_its_proof_say_the_same_of_it(from_z):
    proto = onnx.load_from_string(from_z.data)
    (entry,) = proto.metadata_props
    told, proof = json.loads(entry.value), json.loads(Path(f"{from_z.path}.json").read_text())
    assert entry.key == proto.producer_name == "tenshot"
    assert told.items() <= proof.items() and proof == from_z.proof
    wanted = {"resolution": 16, "latent_size": 16, "layers": 6, "input": "z", "truncation": "input", "noise": 3}
    assert wanted.items() <= told.items()
    assert told["card"] == ADAPTED and told["licence"] == "research only"
    assert proof["sha256"] == hashlib.sha256(from_z.data).hexdigest() and proof["bytes"] == len(from_z.data)
    assert [each["batch"] for each in proof["file_against_torch"]] == [1, 2, 7]
    assert all(0 < each["largest"] < 1e-4 for each in proof["file_against_torch"])


def test_nothing_of_the_machine_is_in_the_file(from_z):
    for name in (b"site-packages", b".py", str(Path(onnx_export.__file__).parent).encode()):
        assert name not in from_z.data


def test_the_file_is_as_large_as_its_numbers(from_z):
    """No noise map was unfolded to one per channel."""
    generator = from_z.model.generator
    numbers = sum(x.numel() for x in generator.parameters()) + sum(
        x.numel() for x in generator.draw_noise(1, generator_for(0))
    )
    assert len(from_z.data) < 4 * numbers + 70_000


def test_a_licence_is_the_nearest_on_the_way_to_the_sources():
    assert licence_of(ADAPTED) == "research only"
    assert licence_of({**ADAPTED, "licence": "mine"}) == "mine"
    assert licence_of({"source": {"card": [1]}}) is None
    assert licence_of({}) is None and licence_of({"source": "faces64"}) is None


@pytest.mark.parametrize("axis", [0, 1])
def test_int8_is_off_by_half_a_step_of_its_channels_scale_at_most(axis):
    values = np.random.default_rng(0).normal(size=[12, 20, 3, 3]).astype(np.float32)
    loud = np.moveaxis(values, axis, 0)  # a view: channels along the axis differ in size
    loud *= np.logspace(-3, 1, len(loud), dtype=np.float32).reshape(-1, 1, 1, 1)
    loud[0] = 0
    whole, scale, found = quantised(values)
    assert found == axis and scale.shape == (values.shape[axis],) and whole.dtype == np.int8
    error = np.moveaxis(np.abs(whole * np.expand_dims(scale, [k for k in range(4) if k != axis]) - values), axis, 0)
    assert (error.reshape(len(scale), -1).max(axis=1) <= scale * 0.5001).all()
    assert (error[0] == 0).all()


@pytest.mark.parametrize(("weights", "share", "off"), [("float16", 0.65, 2e-3), ("int8", 0.5, 3e-2)])
def test_fewer_bits_make_a_smaller_file_of_nearly_the_same_images(from_z, weights, share, off):
    proto = onnx.load_from_string(from_z.data)
    store_as_(proto, weights)
    large = [(t.dims, t.data_type) for t in proto.graph.initializer if np.prod(t.dims) >= 1024]
    assert large and all(kind != onnx.TensorProto.FLOAT for _, kind in large)
    size = sum(len(t.raw_data) for t in proto.graph.initializer)
    before = sum(len(t.raw_data) for t in onnx.load_from_string(from_z.data).graph.initializer)
    assert size < share * before
    feeds = {"z": latents(range(4), 16), "truncation": np.float32(1)}
    exact, rounded = from_z.images(**feeds), from_z.images(proto.SerializeToString(), **feeds)
    assert 0 < (exact - rounded).norm() / exact.norm() < off


def test_a_graph_that_makes_other_images_is_not_written(traced, tmp_path):
    other = tiny.tiny_model(channels=(16, 16, 16), seed=1)
    with pytest.raises(TenshotError, match="was not written: onnxruntime's images differ"):
        export_onnx(other, tmp_path / "a.onnx", OnnxPlan(noise=3))
    assert not list(tmp_path.iterdir())


def test_the_verb_writes_it(traced, from_z, tmp_path, capsys):
    save_model(tmp_path / "m.safetensors", from_z.model)
    out = tmp_path / "new" / "m.onnx"
    given = ["--format", "onnx", "--onnx.noise", "3", "--dtype", "float16", "--out", str(out)]
    assert main(["export", str(tmp_path / "m.safetensors"), *given]) == 0
    assert "m.onnx: 16 px" in (printed := capsys.readouterr().out) and "of 256 levels off" in printed
    proof = json.loads(Path(f"{out}.json").read_text())
    assert proof["weights"] == "float16" and proof["noise"] == 3 and len(out.read_bytes()) == proof["bytes"]
    assert "exported" in proof["card"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--format", "onnx", "--onnx.noise", "-1"], "must not be negative"),
        (["--format", "onnx", "--onnx.truncation", "3"], "truncation is 3"),
        (["--dtype", "int8"], "int8 is for --format onnx"),
        (["--onnx.truncation", "0.7"], "--onnx.truncation is for --format onnx: leave it out, or name that format"),
    ],
)
def test_what_no_file_can_be_is_a_sentence(given, sentence, from_z, tmp_path, capsys):
    save_model(tmp_path / "m.safetensors", from_z.model)
    out = tmp_path / f"m2.{'onnx' if 'onnx' in given else 'safetensors'}"
    assert main(["export", str(tmp_path / "m.safetensors"), *given, "--out", str(out)]) == 1
    assert sentence in capsys.readouterr().err and not out.exists()


def test_without_its_packages_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(TenshotError, match=r"needs onnxscript, not installed here: .*tenshot\[onnx\]"):
        export_onnx(tiny.tiny_model(), tmp_path / "a.onnx")


def test_nothing_of_onnxruntime_is_left_in_a_home(from_z, tmp_path):
    """Left alone, it keeps a device's number and a database of events there."""
    code = """
import sys
from tenshot.onnx_export import onnx_runtime
assert "onnxruntime" not in sys.modules
onnx_runtime().InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""
    home = {key: str(tmp_path) for key in ("HOME", "USERPROFILE", "XDG_CACHE_HOME")}
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"} | home
    subprocess.run([sys.executable, "-c", code, str(from_z.path)], env=environment, check=True)
    assert not [path for path in tmp_path.rglob("*") if "Microsoft" in path.parts or "onnxruntime" in str(path.name)]


def test_a_choice_about_telemetry_is_heeded_and_made_for_those_who_have_none(monkeypatch):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    onnx_runtime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    onnx_runtime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


def test_only_one_place_imports_it():
    """Before `onnx_runtime` has set its variable, nothing may."""
    root = Path(__file__).parents[1]
    files = [path for folder in ("src", "benchmarks") for path in (root / folder).rglob("*.py")]
    importing = ("import onnxruntime", "from onnxruntime", 'import_module("onnxruntime")')
    found = [path.name for path in files if any(text in path.read_text() for text in importing)]
    assert found == ["onnx_export.py"]
