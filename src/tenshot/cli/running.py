"""What the verbs that train share: a run's settings as flags, and the run itself."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional, Suppress, arg

from tenshot import loop, plan
from tenshot.cli.common import PathFlag, Signals, parse, warnings_told
from tenshot.commands import argument
from tenshot.config import RunConfig
from tenshot.data import intake_table, load_images
from tenshot.errors import TenshotError
from tenshot.interrupts import Interrupts
from tenshot.methods import KNOWN, Ada, Dap, Method, Pretrain
from tenshot.models import load_model
from tenshot.progress import ProgressLine
from tenshot.runs import RunDir, check_shots
from tenshot.scoring import check_scores

Flag = tuple[str, Any, Any]
"""Name, type with help, and default of a flag that is no setting of the run."""


@dataclass(frozen=True)
class _Settings(RunConfig):
    """What the result depends on; kept in the run's config.json."""

    shots: Annotated[Positional[str], arg(metavar="IMAGES", help_behavior_hint="")] = ""
    """The images: a folder, a zip, a folder in a zip (art.zip/shots), or one image."""
    method: Suppress[Method] = field(default_factory=Dap)


def flag(name: str, kind: Any, text: str) -> Flag:
    """A flag that is off, or not given, by default."""
    return name, Annotated[kind, arg(help=text)], False if kind is bool else None


RUN_FLAGS = (
    flag("out", PathFlag, "Folder of the run. Default: runs/NAME, after the images."),
    flag("overwrite", bool, "Replace a run that is in the folder."),
    flag("dry_run", bool, "Print the settings, what trains, an estimate of time and memory; change nothing."),
    flag("resume", PathFlag, "Continue the run in this folder from its newest checkpoint; takes nothing else."),
    flag("config", PathFlag, "Start from the settings of this file, for example another run's config.json."),
)


def parse_run(
    arguments: list[str], config: RunConfig, extra: Sequence[Flag], example: str, description: str
) -> tuple[RunConfig, Any]:
    """Arguments over `config` to the settings of a run, and the flags that are none."""
    name = config.method.name
    _check_owner(arguments, name)
    flags = make_dataclass(
        "flags",
        [
            ("settings", OmitArgPrefixes[_Settings], field(default=_Settings(**values_of(config)))),
            *[(key, kind, field(default=default)) for key, kind, default in (*extra, *RUN_FLAGS)],
            (name, type(config.method), field(default=config.method)),
        ],
    )
    parsed = parse(flags, arguments, example, description)
    config = RunConfig(**{**values_of(parsed.settings), "method": getattr(parsed, name)})
    _check_used(arguments, config)
    return config, parsed


def _check_used(arguments: list[str], config: RunConfig) -> None:
    """Raises TenshotError for a setting that was given and changes nothing."""
    given = {word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--")}
    for name, needs in config.idle().items():
        if f"--{name}" in given:
            raise TenshotError(f"--{name} changes nothing without {needs}: leave it out, or give that too")
    if isinstance(config.method, Ada) and config.augment != "ada":
        raise TenshotError(
            f"--augment {config.augment} takes from --method ada all that it adds to fine-tuning: leave it out, or say "
            "--method finetune"
        )


def _check_owner(arguments: list[str], method: str) -> None:
    """Raises TenshotError for a setting of another method than the run's."""
    for word in arguments:
        given = word.partition("=")[0]
        owner = given.removeprefix("--").partition(".")[0]
        if owner in KNOWN and owner != method and given.startswith(f"--{owner}."):
            verb = "tenshot pretrain" if owner == Pretrain.name else f"tenshot adapt --method {owner}"
            raise TenshotError(
                f"{given} belongs to `{verb}`, and the method is {method}: leave it out, or change the method"
            )


def values_of(config: RunConfig) -> dict[str, Any]:
    """Every field, not copied."""
    return {f.name: getattr(config, f.name) for f in fields(RunConfig)}


def peek(arguments: list[str], flag: str) -> str | None:
    """A flag's value, the last one if it is given twice, before it is clear which flags there are."""
    found = None
    for i, word in enumerate(arguments):
        if word == flag and i + 1 < len(arguments):
            found = arguments[i + 1]
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


def carry_out(verb: str, arguments: list[str], config: RunConfig, flags: Any) -> Path | None:
    """Start a run, or resume one, or show what it would do; returns its folder unless nothing was done."""
    with warnings_told(), Signals(Interrupts()) as interrupts:
        if flags.resume:
            return _resume(arguments, flags, interrupts)
        return _start(verb, config, flags, interrupts)


def _resume(arguments: list[str], flags: Any, interrupts: Interrupts) -> Path:
    if others := [a for a in arguments if a not in ("--resume", flags.resume, f"--resume={flags.resume}")]:
        raise TenshotError(
            f"--resume goes on with the run's own settings: leave out {shlex.join(others)}, "
            f"or begin a new run with --config {argument(Path(flags.resume) / 'config.json')}"
        )
    with ProgressLine(Console(highlight=False)) as watch:
        loop.resume(Path(flags.resume), watch=watch, interrupts=interrupts)
    return Path(flags.resume)


def _start(verb: str, config: RunConfig, flags: Any, interrupts: Interrupts) -> Path | None:
    console = Console(highlight=False)
    if not config.shots:
        raise TenshotError(
            f"no images were given: name a folder or zip of them, for example `tenshot {verb} my_images`"
        )
    if flags.out == "":
        raise TenshotError(f"--out is empty: name a folder, or leave it out for {default_out(config.shots)}")
    out = Path(flags.out) if flags.out else default_out(config.shots)
    check_scores(config)
    check_shots(config.shots)
    refusal = _refusal(out, flags.overwrite)  # before the work of loading
    if refusal and not flags.dry_run:
        raise refusal
    source = load_model(config.source)
    intake = load_images(config.shots, source.resolution)
    console.print(intake_table(intake))
    if flags.dry_run:
        plan.show(console, config, source, intake)
        told = f"but as things are the run is refused: {refusal}" if refusal else f"the run's folder: {out}"
        console.print(told, markup=False, soft_wrap=True)
        return None
    with ProgressLine(console) as watch:
        loop.start(config, out=out, overwrite=flags.overwrite, watch=watch, intake=intake, interrupts=interrupts)
    return out


def _refusal(out: Path, overwrite: bool) -> TenshotError | None:
    """Why a new run cannot be in this folder, if it cannot."""
    try:
        RunDir(out).check(overwrite=overwrite)
    except TenshotError as error:
        return error
    return None


def default_out(shots: str) -> Path:
    """`runs/robots` for `examples/robots`, `robots.zip` and, in that folder, `.`"""
    place = Path(os.path.expanduser(shots)).resolve()
    name = place.name if os.path.isdir(place) else place.stem
    return Path("runs") / (name or "run")
