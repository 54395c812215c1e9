"""tenshot adapt: a source and a few images to a run."""

import os
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional, Suppress, arg

from tenshot import loop, plan
from tenshot.cli.common import PathFlag, Signals, parse
from tenshot.config import RunConfig, build_method, read_config
from tenshot.data import intake_table, load_images
from tenshot.errors import TenshotError
from tenshot.methods import METHODS, Dap, Method
from tenshot.models import load_model
from tenshot.progress import ProgressLine
from tenshot.runs import RunDir


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
    _flag("out", PathFlag, "Folder of the run. Default: runs/NAME, after the shots."),
    _flag("overwrite", bool, "Replace a run that is in the folder."),
    _flag("dry_run", bool, "Print the settings, what trains, an estimate of time and memory; change nothing."),
    _flag("resume", PathFlag, "Continue the run in this folder from its newest checkpoint; takes nothing else."),
    _flag("config", PathFlag, "Start from the settings of this file, for example another run's config.json."),
]


def run(arguments: list[str]) -> int:
    """tenshot adapt SHOTS [--out RUN] [--method NAME] [--steps N] ..."""
    config, flags = _adapt_flags(arguments)
    console = Console(highlight=False)
    if flags.resume:
        if others := [a for a in arguments if a not in ("--resume", flags.resume, f"--resume={flags.resume}")]:
            raise TenshotError(
                f"--resume goes on with the run's own settings: leave out {' '.join(others)}, "
                f"or begin a new run with --config {Path(flags.resume) / 'config.json'}"
            )
        with ProgressLine(console) as watch, Signals(watch):
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
    with ProgressLine(console) as watch, Signals(watch):
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
    parsed = parse(
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


def _finished(console: Console, out: Path) -> int:
    lines = (
        f"\nsheet  {out / 'sheet.png'}",
        f"model  {out / 'model.safetensors'}",
        f"next   tenshot generate {out} --seeds 0-99 --out {out}-images",
    )
    console.print("\n".join(lines), soft_wrap=True, markup=False)
    return 0
