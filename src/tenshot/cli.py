"""The verbs: flags in, calls of the public functions, words out. Nothing is computed here."""

import signal
import sys
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional, Suppress, arg

from tenshot import loop, plan, sheets
from tenshot.config import RunConfig, build_method, read_config
from tenshot.convert import convert as read_foreign
from tenshot.data import intake_table, load_images
from tenshot.errors import TenshotError
from tenshot.files import make_folder, write_atomically
from tenshot.methods import METHODS, Dap, Method
from tenshot.models import load_model, save_model
from tenshot.progress import ProgressLine
from tenshot.sampling import generate as sample
from tenshot.seeds import parse_seeds, write_images

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Settings(RunConfig):
    """RunConfig as flags: the method is chosen by name and its settings are a group of their own."""

    shots: Positional[str] = ""
    """The images of the new domain: a folder, a zip, a folder in a zip (art.zip/shots), or one image."""
    method: Suppress[Method] = field(default_factory=Dap)


_ADAPT_FLAGS: list[tuple[str, Any, Any]] = [
    ("out", str | None, "Folder of the run. Default: runs/NAME of the shots."),
    ("overwrite", bool, "Replace a run that is in the folder."),
    ("dry_run", bool, "Print the settings, what trains, and an estimate of time and memory; change nothing."),
    ("resume", str | None, "Continue the run in this folder from its newest checkpoint. Nothing else is needed."),
    ("config", str | None, "Start from the settings of this file, for example another run's config.json."),
]


def adapt(arguments: list[str]) -> int:
    """tenshot adapt SHOTS [--out RUN] [--method NAME] [--steps N] ..."""
    config, flags = _adapt_flags(arguments)
    console = Console(highlight=False)
    if flags.resume:
        with ProgressLine(console) as watch, _stoppable(watch):
            loop.resume(Path(flags.resume), watch=watch)
        return _finished(console, Path(flags.resume))
    if not config.shots:
        raise TenshotError("no images were given: name a folder or zip of them, for example `tenshot adapt my_images`")
    source = load_model(config.source)
    intake = load_images(config.shots, source.resolution)
    console.print(intake_table(intake))
    if flags.dry_run:
        plan.show(console, config, source, intake)
        return 0
    out = Path(flags.out or f"runs/{Path(config.shots).stem}")
    with ProgressLine(console) as watch, _stoppable(watch):
        loop.start(config, out=out, overwrite=flags.overwrite, watch=watch, intake=intake)
    return _finished(console, out)


def _adapt_flags(arguments: list[str]) -> tuple[RunConfig, Any]:
    """Two looks at the arguments: the method and the file to start from decide which flags there are."""
    early = _peek(arguments, "--method"), _peek(arguments, "--config")
    config = read_config(Path(early[1])) if early[1] else RunConfig(shots="")
    if early[0] and early[0] != config.method.name:
        config = RunConfig(**{**_values(config), "method": build_method(early[0], {}, "--method")})
    method = config.method
    names = f"Method: {', '.join(METHODS)}. Its own settings are below, as --{method.name}.NAME."
    extra = [("method", Annotated[str, arg(help=names)], method.name), *_extra_fields(), (method.name, type(method), method)]
    flags = make_dataclass(
        "adapt",
        [
            ("settings", OmitArgPrefixes[_Settings], field(default=_Settings(**_values(config)))),
            *[(name, kind, field(default=default)) for name, kind, default in extra],
        ],
    )
    parsed = _parse(flags, arguments, "adapt", "Adapt a source GAN to a few images of a new domain.")
    values = {**_values(parsed.settings), "method": getattr(parsed, method.name)}
    return RunConfig(**values), parsed


def _extra_fields() -> list[tuple[str, Any, Any]]:
    return [
        (name, Annotated[kind, arg(help=text)], False if kind is bool else None) for name, kind, text in _ADAPT_FLAGS
    ]


def _values(config: RunConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(RunConfig)}


def _peek(arguments: list[str], flag: str) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def _stoppable(watch: ProgressLine):
    """Ctrl-C and SIGTERM end the run at the next step, with a checkpoint."""
    return _Signals(watch)


class _Signals:
    def __init__(self, watch: ProgressLine) -> None:
        self.watch = watch

    def __enter__(self) -> None:
        self.before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}

    def _stop(self, number: int, frame: Any) -> None:
        self.watch.stop()

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _finished(console: Console, out: Path) -> int:
    console.print(f"\nsheet  {out / 'sheet.png'}\nmodel  {out / 'model.safetensors'}", soft_wrap=True, markup=False)
    console.print(f"next   tenshot generate {out} --seeds 0-99 --out {out}-images", soft_wrap=True, markup=False)
    return 0


@dataclass(frozen=True)
class _Generate:
    model: Positional[str]
    """A run's folder, a model file, or an embedded source's name."""
    seeds: str = "0-15"
    """Seeds, one image each: 7 or 0-99 or 1,5,9-12."""
    out: str | None = None
    """A folder for single PNG images, or a .zip of them."""
    grid: str | None = None
    """A .png of all images side by side."""
    columns: int = 8
    """Images in a row of the grid."""
    truncation: float = 1.0
    """1 = as trained; lower = closer to the mean image, fewer surprises."""
    batch: int = 8
    """Images computed at once."""


def generate(arguments: list[str]) -> int:
    """tenshot generate MODEL --seeds 0-99 --out DIR"""
    flags = _parse(_Generate, arguments, "generate", "Images from a model: one seed, one image, whatever the batch.")
    seeds = parse_seeds(flags.seeds)
    if not flags.out and not flags.grid:
        raise TenshotError("where to? give --out DIR, --out FILE.zip or --grid FILE.png")
    if flags.batch < 1 or flags.columns < 1:
        raise TenshotError(f"--batch is {flags.batch} and --columns {flags.columns}: both must be at least 1")
    model = load_model(flags.model)
    batches = sample(model.generator, seeds, truncation=flags.truncation, batch=flags.batch)
    images = write_images(batches, seeds, flags.out, flags.grid, flags.columns)
    print(f"{images} images of {model.resolution} px: {', '.join(filter(None, (flags.out, flags.grid)))}")
    return 0


@dataclass(frozen=True)
class _Convert:
    checkpoint: Positional[str]
    """A rosinality-style .pt with the state dicts g_ema and d."""
    out: Positional[str]
    """The .safetensors to write; a grid of its images goes beside it."""
    half: bool = False
    """Store float16: half the size."""


def convert(arguments: list[str]) -> int:
    """tenshot convert IN.pt OUT.safetensors"""
    import torch

    flags = _parse(_Convert, arguments, "convert", "Another program's StyleGAN2 checkpoint to a model file of tenshot.")
    out = Path(flags.out)
    if out.suffix != ".safetensors":
        raise TenshotError(f"the output {out} must end in .safetensors")
    model = read_foreign(Path(flags.checkpoint))
    make_folder(out.parent)
    save_model(out, model, dtype=torch.float16 if flags.half else torch.float32)
    picture = out.with_suffix(".png")
    images = torch.cat(list(sample(model.generator, range(24))))
    sheets.save_png(sheets.grid(images, 6), picture)
    spec = model.generator.spec
    print(
        f"{out}: {spec.resolution} px, channels {', '.join(map(str, spec.channels))} from 4 px up, latent {spec.latent_size}, "
        f"mapping of {spec.mapping_depth} layers\nlook at {picture}: the images should be as you know them from the original"
    )
    return 0


def _parse(kind: type[_T], arguments: list[str], verb: str, description: str) -> _T:
    return tyro.cli(kind, args=arguments, prog=f"tenshot {verb}", description=description)
