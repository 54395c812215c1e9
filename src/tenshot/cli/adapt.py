"""tenshot adapt: a source and a few images to a run."""

from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import arg

from tenshot.cli.common import NameFlag
from tenshot.cli.running import carry_out, flag, parse_run, peek, values_of
from tenshot.commands import argument
from tenshot.config import RunConfig, read_config
from tenshot.errors import TenshotError
from tenshot.methods import METHODS, Dap
from tenshot.methods.pretrain import Pretrain
from tenshot.presets import DEFAULT, preset_config
from tenshot.report import write_and_tell


def run(arguments: list[str]) -> int:
    """tenshot adapt SHOTS [--out RUN] [--method NAME] [--steps N] ..."""
    config = _starting_point(arguments)
    name = config.method.name
    names = f"How to adapt: {', '.join(METHODS)}. Its own settings are below, as --{name}.NAME."
    extra = (
        ("method", Annotated[str, arg(help=names, metavar="NAME")], name),
        flag("preset", NameFlag, "faces64, the default: for the embedded source. paper: as published, for 256 px."),
    )
    example = "tenshot adapt examples/robots --out runs/robots"
    config, flags = parse_run(arguments, config, extra, example, "Adapt a source GAN to a few images of a new domain.")
    out = carry_out("adapt", arguments, config, flags)
    if out is not None:
        _say_what_is_there(out)
    return 0


def _starting_point(arguments: list[str]) -> RunConfig:
    """A first look at the arguments: method, preset and file decide which flags there are, and their defaults."""
    name, preset, file = (peek(arguments, flag) for flag in ("--method", "--preset", "--config"))
    if file and preset:
        raise TenshotError("--config and --preset each say what to start from: give one of them")
    if name == Pretrain.name:
        raise TenshotError("pretraining has a verb of its own: tenshot pretrain")
    config = read_config(Path(file), shots="") if file else preset_config("", name or Dap.name, preset or DEFAULT)
    if file and config.method.name == Pretrain.name:
        raise TenshotError(f"{file} is of a pretraining run: go on with `tenshot pretrain --config {argument(file)}`")
    return config if name in (None, config.method.name) else _as_method(name, config)


def _as_method(name: str, config: RunConfig) -> RunConfig:
    """The preset of another method, with what a configuration has changed of the preset of its own."""
    usual = values_of(preset_config("", config.method.name))
    changed = {key: value for key, value in values_of(config).items() if value != usual[key]}
    return preset_config(config.shots, name, **{k: v for k, v in changed.items() if k not in ("shots", "method")})


def _say_what_is_there(out: Path) -> None:
    report, numbers = write_and_tell(out)
    told = [f"{number.label:<16}{number.value:<12}{number.meaning}" for number in numbers]
    paths = [
        f"{'report':<16}{report}",
        f"{'sheet':<16}{out / 'sheet.png'}",
        f"{'model':<16}{out / 'model.safetensors'}",
        f"{'next':<16}tenshot generate {argument(out)} --seeds 0-99 --out {argument(f'{out}-images')}",
    ]
    Console(highlight=False).print("\n".join(["", *told, "", *paths]), soft_wrap=True, markup=False)
