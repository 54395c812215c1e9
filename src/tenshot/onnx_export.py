"""A generator as an ONNX file, and the proof that the file computes what torch computes.

torch's dynamo exporter writes the graph; the activations are modulated, not the weights (`nets/layers.py`), so that the
kernels are constants and the batch is free. onnxruntime then runs the file at several batch sizes against the
generator.

An ONNX file has no seeds: noise is drawn when the file is written, the maps of one seed for every image, as in a walk
(`walk.py`), or left out. So the image of that seed is the one `tenshot generate` makes, another seed's is that image
up to its noise. Images without noise are smoother than those that the generator was trained to make.
"""

import copy
import importlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import tenshot
from tenshot.errors import TenshotError
from tenshot.files import make_folder, write_atomically
from tenshot.models import Model, file_digest
from tenshot.nets import Generator
from tenshot.onnx_weights import Weights, store_as_
from tenshot.randomness import generator_for
from tenshot.sampling import check_truncation, latents, to_uint8

BATCHES = (1, 2, 7)
"""Batch sizes at which a file is held against torch."""
TOLERANCE = 1e-3
"""Largest difference to torch that the graph may have, as a share of the images' amplitude; a level is 8e-3."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TRUNCATIONS = (1.0, 0.7, 0.4)


@dataclass(frozen=True)
class OnnxPlan:
    """What the file shall be. Raises TenshotError for what no file can be."""

    input: Literal["z", "w"] = "z"
    """z: latents `[n d]` that pass through the mapping network. w: mapped latents, one per layer, `[n layers d]`."""
    truncation: float | None = None
    """A number is built in; None makes it an input of the file, a scalar named `truncation`."""
    noise: int | None = 0
    """The seed whose noise maps every image gets; None = no noise."""
    weights: Weights = "float32"
    """How weights are stored; all is computed in float32."""

    def __post_init__(self) -> None:
        if self.truncation is not None:
            check_truncation(self.truncation)
        if self.noise is not None and self.noise < 0:
            raise TenshotError(f"the seed of the noise is {self.noise}: it must not be negative")


@dataclass(frozen=True)
class Difference:
    """Images of the file against torch's, both from the same latents and noise."""

    batch: int
    largest: float
    """Of all values, in the network's units, where a level of 255 is 0.0078."""
    largest_level: int
    """Of all pixels and colours, as uint8."""
    mean_level: float


def licence_of(card: dict[str, Any]) -> str | None:
    """The terms that a card states, or else those of the source it names, and so on; None if none does."""
    for _ in range(8):
        if card.get("licence"):
            return str(card["licence"])
        source = card.get("source")
        before = source.get("card") if isinstance(source, dict) else None
        card = before if isinstance(before, dict) else {}
    return None


def check_onnx() -> None:
    """Whether the packages of the extra `onnx` are there. Raises TenshotError."""
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise TenshotError(f'ONNX needs {", ".join(missing)}, not installed here: pip install "tenshot[onnx]"')


def onnx_runtime() -> Any:
    """The package onnxruntime, told first to gather no telemetry: otherwise it keeps a device's number and a list of
    events below ~/.cache/Microsoft, and may send them. Whoever has set its variable is heeded."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def proof_path(path: Path) -> Path:
    """The proof file of an ONNX file: its name and .json."""
    return path.with_name(f"{path.name}.json")


def export_onnx(model: Model, path: Path, plan: OnnxPlan | None = None) -> dict[str, Any]:
    """Write the generator as an .onnx file, and what is known of it as `PATH.json` beside; returns the latter.

    The file takes `z [n d]` or `w [n layers d]`, float32, n free, and perhaps the scalar `truncation`; it gives
    `images`, float32 `[n 3 r r]`, about [-1, 1] and not clamped (`sampling.to_uint8`). The metadata key `tenshot` holds
    JSON: resolution, sizes, inputs, card, licence. A graph that differs from torch by more than `TOLERANCE` is not
    written; what float16 and int8 weights change is only measured. Raises TenshotError.
    """
    check_onnx()
    plan = plan or OnnxPlan()
    if path.suffix.lower() != ".onnx":
        raise TenshotError(f"{path} must end in .onnx")
    onnx_runtime()  # before torch's exporter or onnxscript import it
    generator = copy.deepcopy(model.generator).float().cpu().eval().requires_grad_(False)
    generator.compute = None
    make_folder(path.parent)
    proto = _traced(generator, plan)
    facts = _facts(model, plan, proto)
    parity = list(compare(generator, plan, proto.SerializeToString()))
    if not all(each.largest <= TOLERANCE * amplitude for each, amplitude in parity):
        worst = max(each.largest for each, _ in parity)
        raise TenshotError(
            f"{path} was not written: onnxruntime's images differ from torch's by up to {worst:.2g}; "
            "please report it with the versions of torch, onnx and onnxruntime"
        )
    store_as_(proto, plan.weights)
    _label(proto, facts)
    data = proto.SerializeToString()
    written = parity if plan.weights == "float32" else list(compare(generator, plan, data))
    write_atomically(path, data)
    proof = {
        "file": path.name,
        "bytes": len(data),
        "sha256": file_digest(path),
        **facts,
        "versions": {name: version(name) for name in ("torch", *_PACKAGES)},
        "graph_against_torch": [asdict(each) for each, _ in parity],
        "file_against_torch": [asdict(each) for each, _ in written],
    }
    write_atomically(proof_path(path), (json.dumps(proof, indent=2) + "\n").encode())
    return proof


@torch.no_grad()
def compare(generator: Generator, plan: OnnxPlan, data: bytes) -> Iterator[tuple[Difference, float]]:
    """The bytes of an ONNX file against a float32 generator, at each of `BATCHES`, all of other seeds.

    Yields the difference and the amplitude of torch's images, at least 1. Where truncation is an input, it differs from
    batch to batch.
    """
    session = _session(data)
    first = 0
    for k, batch in enumerate(BATCHES):
        truncation = _TRUNCATIONS[k] if plan.truncation is None else plan.truncation
        given = _latents(generator, plan, range(first, first + batch))
        first += batch
        feeds = {plan.input: given.numpy()}
        if plan.truncation is None:
            feeds["truncation"] = torch.tensor(truncation).numpy()
        got = torch.from_numpy(session.run(["images"], feeds)[0])
        ws = generator.spread(generator.map(given)) if plan.input == "z" else given
        noise = [layer.expand(batch, -1, -1, -1) for layer in _noise(generator, plan)]
        expected = generator.synthesise(generator.truncate(ws, truncation), noise or None)
        levels = (to_uint8(got).int() - to_uint8(expected).int()).abs()
        largest = float((got - expected).abs().max())
        difference = Difference(batch, largest, int(levels.max()), float(levels.float().mean()))
        yield difference, max(1.0, float(expected.abs().max()))


class _Graph(nn.Module):
    """What is traced: latents, and perhaps a truncation, to images."""

    def __init__(self, generator: Generator, plan: OnnxPlan) -> None:
        super().__init__()
        self.generator, self.plan = generator, plan
        self.noise = nn.ParameterList([nn.Parameter(x, requires_grad=False) for x in _noise(generator, plan)])

    def forward(self, given: Tensor, truncation: Tensor | None = None) -> Tensor:
        """`z [n d]` or `w [n layers d]`, a scalar or None (built in) -> `[n 3 r r]`."""
        generator = self.generator
        ws = generator.map(given) if self.plan.input == "z" else given
        if truncation is not None:
            ws = generator.latent_avg + truncation * (ws - generator.latent_avg)
        elif self.plan.truncation is not None:
            ws = generator.truncate(ws, self.plan.truncation)
        ws = generator.spread(ws) if self.plan.input == "z" else ws
        # As wide as the batch: otherwise whoever folds constants makes one map per channel out of each map.
        noise = [x.expand(given.shape[0], -1, -1, -1) for x in self.noise]
        return generator.synthesise(ws, noise or None)


def _traced(generator: Generator, plan: OnnxPlan) -> Any:
    """The graph as an onnx.ModelProto with nothing in it but the graph: no traces of the code that made it."""
    given = _latents(generator, plan, range(2))
    free = {0: torch.export.Dim("n")}
    is_fed = plan.truncation is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, on itself
        program = torch.onnx.export(
            _Graph(generator, plan).eval(),
            (given, torch.tensor(0.7)) if is_fed else (given,),
            dynamo=True,
            verbose=False,
            optimize=False,  # its rewriting takes "+ 1e-8" for "+ 0", and then a silent channel divides by 0
            input_names=[plan.input, "truncation"] if is_fed else [plan.input],
            output_names=["images"],
            dynamic_shapes=(free, {}) if is_fed else (free,),
        )
    assert program is not None
    optimizer: Any = importlib.import_module("onnxscript.optimizer")
    optimizer.inline(program.model)
    optimizer.remove_unused_nodes(program.model)
    proto = program.model_proto
    graph = proto.graph
    del graph.value_info[:], graph.metadata_props[:], proto.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    graph.name = "generator"
    return proto


def _facts(model: Model, plan: OnnxPlan, proto: Any) -> dict[str, Any]:
    """What a reader of the file has to know, for its metadata and its proof."""
    spec = model.generator.spec
    return {
        "tenshot": tenshot.__version__,
        "resolution": spec.resolution,
        "latent_size": spec.latent_size,
        "layers": spec.layers,
        "input": plan.input,
        "truncation": "input" if plan.truncation is None else plan.truncation,
        "noise": plan.noise,
        "weights": plan.weights,
        "opset": proto.opset_import[0].version,
        "licence": licence_of(model.card),
        "card": model.card,
    }


def _label(proto: Any, facts: dict[str, Any]) -> None:
    """Facts and origin into the file's metadata."""
    proto.producer_name, proto.producer_version = "tenshot", tenshot.__version__
    proto.doc_string = f"Generator of {facts['resolution']} px images. Licence: {facts['licence'] or 'not stated'}."
    entry = proto.metadata_props.add()
    entry.key, entry.value = "tenshot", json.dumps(facts, sort_keys=True)


def _session(data: bytes) -> Any:
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def _latents(generator: Generator, plan: OnnxPlan, seeds: range) -> Tensor:
    """Latents of the seeds as the file takes them; as w, every layer has another, so that no two can be confused."""
    d, layers = generator.spec.latent_size, generator.spec.layers
    if plan.input == "z":
        return latents(seeds, d)
    return generator.map(latents(range(seeds.start * layers, seeds.stop * layers), d)).view(len(seeds), layers, d)


def _noise(generator: Generator, plan: OnnxPlan) -> list[Tensor]:
    """The maps that are built in, `[1 1 h w]` each; none where there is no noise."""
    return [] if plan.noise is None else generator.draw_noise(1, generator_for(plan.noise, "noise"))
