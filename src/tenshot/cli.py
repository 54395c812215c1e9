"""The verbs: flags in, calls of the public functions, words out. Nothing is computed here."""

import os
import signal
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, Suppress, arg

from tenshot import loop, plan, sheets
from tenshot.config import RunConfig, build_method, read_config
from tenshot.convert import convert as read_foreign
from tenshot.data import intake_table, load_images
from tenshot.errors import TenshotError
from tenshot.files import make_folder
from tenshot.methods import METHODS, Dap, Method
from tenshot.models import load_model, save_model
from tenshot.progress import ProgressLine
from tenshot.runs import RunDir
from tenshot.sampling import check_truncation
from tenshot.sampling import generate as sample
from tenshot.seeds import parse_seeds, write_images

_T = TypeVar("_T")
_Path = Annotated[str | None, arg(metavar="PATH", help_behavior_hint="")]


@dataclass(frozen=True)
class _Settings(RunConfig):
    """What the result depends on; kept in the run's config.json."""

    shots: Annotated[Positional[str], arg(metavar="SHOTS", help_behavior_hint="")] = ""
    """The images of the new domain: a folder, a zip, a folder in a zip (art.zip/shots), or one image."""
    method: Suppress[Method] = field(default_factory=Dap)


def _flag(name: str, kind: Any, text: str) -> tuple[str, Any, Any]:
    """Name, type with help, and default of a flag that is no setting of the run."""
    return name, Annotated[kind, arg(help=text)], False if kind is bool else None


_ADAPT_FLAGS = [
    _flag("out", _Path, "Folder of the run. Default: runs/NAME, after the shots."),
    _flag("overwrite", bool, "Replace a run that is in the folder."),
    _flag("dry_run", bool, "Print the settings, what trains, an estimate of time and memory; change nothing."),
    _flag("resume", _Path, "Continue the run in this folder from its newest checkpoint; takes nothing else."),
    _flag("config", _Path, "Start from the settings of this file, for example another run's config.json."),
]


def adapt(arguments: list[str]) -> int:
    """tenshot adapt SHOTS [--out RUN] [--method NAME] [--steps N] ..."""
    config, flags = _adapt_flags(arguments)
    console = Console(highlight=False)
    if flags.resume:
        if others := [a for a in arguments if a not in ("--resume", flags.resume, f"--resume={flags.resume}")]:
            raise TenshotError(
                f"--resume goes on with the run's own settings: leave out {' '.join(others)}, "
                f"or begin a new run with --config {Path(flags.resume) / 'config.json'}"
            )
        with ProgressLine(console) as watch, _Signals(watch):
            loop.resume(Path(flags.resume), watch=watch)
        return _finished(console, Path(flags.resume))
    if not config.shots:
        raise TenshotError("no images were given: name a folder or zip of them, for example `tenshot adapt my_images`")
    out = Path(flags.out) if flags.out else _default_out(config.shots)
    if not flags.dry_run:
        RunDir(out).check(overwrite=flags.overwrite)  # before the work of loading
    source = load_model(config.source)
    intake = load_images(config.shots, source.resolution)
    console.print(intake_table(intake))
    if flags.dry_run:
        plan.show(console, config, source, intake)
        return 0
    with ProgressLine(console) as watch, _Signals(watch):
        loop.start(config, out=out, overwrite=flags.overwrite, watch=watch, intake=intake)
    return _finished(console, out)


def _default_out(shots: str) -> Path:
    """`runs/robots` for `examples/robots`, `robots.zip` and, in that folder, `.`"""
    place = Path(os.path.expanduser(shots)).resolve()
    name = place.name if place.is_dir() else place.stem
    return Path("runs") / (name or "run")


def _adapt_flags(arguments: list[str]) -> tuple[RunConfig, Any]:
    """Two looks at the arguments: the method and the file to start from decide which flags there are."""
    early = _peek(arguments, "--method"), _peek(arguments, "--config")
    config = read_config(Path(early[1])) if early[1] else RunConfig(shots="")
    if early[0] and early[0] != config.method.name:
        config = RunConfig(**{**_values(config), "method": build_method(early[0], {})})
    method = config.method
    names = f"How to adapt: {', '.join(METHODS)}. Its own settings are below, as --{method.name}.NAME."
    extra = [
        ("method", Annotated[str, arg(help=names, metavar="NAME")], method.name),
        *_ADAPT_FLAGS,
        (method.name, type(method), method),
    ]
    flags = make_dataclass(
        "adapt",
        [
            ("settings", OmitArgPrefixes[_Settings], field(default=_Settings(**_values(config)))),
            *[(name, kind, field(default=default)) for name, kind, default in extra],
        ],
    )
    parsed = _parse(
        flags,
        arguments,
        "tenshot adapt examples/robots --out runs/robots",
        "Adapt a source GAN to a few images of a new domain.",
    )
    values = {**_values(parsed.settings), "method": getattr(parsed, method.name)}
    return RunConfig(**values), parsed


def _values(config: RunConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(RunConfig)}


def _peek(arguments: list[str], flag: str) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


class _Signals:
    """Ctrl-C and SIGTERM end the run after the step under way, at a checkpoint; a second one at once."""

    def __init__(self, watch: ProgressLine) -> None:
        self.watch = watch
        self.received = 0

    def __enter__(self) -> None:
        self.before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}

    def _stop(self, number: int, frame: Any) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        self.watch.stop()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if isinstance(error, loop.Stopped) and self.received:
            error.exit_code = 128 + self.received


def _finished(console: Console, out: Path) -> int:
    lines = (
        f"\nsheet  {out / 'sheet.png'}",
        f"model  {out / 'model.safetensors'}",
        f"next   tenshot generate {out} --seeds 0-99 --out {out}-images",
    )
    console.print("\n".join(lines), soft_wrap=True, markup=False)
    return 0


@dataclass(frozen=True)
class _Generate:
    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A run's folder, a model file, or an embedded source's name."""
    seeds: Annotated[str, arg(metavar="SEEDS")] = "0-15"
    """Seeds, one image each: 7 or 0-99 or 1,5,9-12."""
    out: _Path = None
    """A folder for single PNG images, or a .zip of them."""
    grid: _Path = None
    """A .png of all images side by side."""
    columns: int = 8
    """Images in a row of the grid."""
    truncation: float = 1.0
    """1 = as trained; lower = closer to the mean image, fewer surprises."""
    batch: int = 8
    """Images computed at once."""


def generate(arguments: list[str]) -> int:
    """tenshot generate MODEL --seeds 0-99 --out DIR"""
    flags = _parse(
        _Generate,
        arguments,
        "tenshot generate runs/robots --seeds 0-99 --out robots.zip",
        "Images from a model: one seed, one image, whatever the batch.",
    )
    seeds = parse_seeds(flags.seeds)
    if not flags.out and not flags.grid:
        raise TenshotError("where to? give --out DIR, --out FILE.zip or --grid FILE.png")
    if flags.batch < 1 or flags.columns < 1:
        raise TenshotError(f"--batch is {flags.batch} and --columns {flags.columns}: both must be at least 1")
    if flags.grid and Path(flags.grid).suffix.lower() != ".png":
        raise TenshotError(f"--grid is {flags.grid}: the name must end in .png")
    check_truncation(flags.truncation)
    model = load_model(flags.model)
    batches = sample(model.generator, seeds, truncation=flags.truncation, batch=flags.batch)
    images = write_images(batches, seeds, flags.out, flags.grid, flags.columns)
    plural = "image" if images == 1 else "images"
    print(f"{images} {plural} of {model.resolution} px: {', '.join(filter(None, (flags.out, flags.grid)))}")
    return 0


@dataclass(frozen=True)
class _Convert:
    checkpoint: Annotated[Positional[str], arg(metavar="IN.pt")]
    """A rosinality-style .pt with the state dicts g_ema and d."""
    out: Annotated[Positional[str], arg(metavar="OUT.safetensors")]
    """The .safetensors to write; a grid of its images goes beside it."""
    half: bool = False
    """Store float16: half the size."""


def convert(arguments: list[str]) -> int:
    """tenshot convert IN.pt OUT.safetensors"""
    import torch

    flags = _parse(
        _Convert,
        arguments,
        "tenshot convert 550000.pt church256.safetensors",
        "Another program's StyleGAN2 checkpoint to a model file of tenshot.",
    )
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
    channels = ", ".join(map(str, spec.channels))
    print(f"{out}: {spec.resolution} px, channels {channels} from 4 px up,", end=" ")
    print(f"latent {spec.latent_size}, mapping of {spec.mapping_depth} layers")
    print(f"look at {picture}: the images should be as you know them from the original")
    return 0


def _parse(kind: type[_T], arguments: list[str], example: str, description: str) -> _T:
    """Flags to a dataclass; a misspelt flag ends the program with exit code 2."""
    verb = " ".join(example.split()[:2])
    text = f"{description}\n\nFor example: {example}"
    return tyro.cli(kind, args=arguments, prog=verb, description=text, config=(FlagCreatePairsOff,))
