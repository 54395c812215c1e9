"""tenshot pretrain: many images to a source that can be adapted."""

from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import arg

from tenshot.cli.running import Flag, carry_out, parse_run, peek, values_of
from tenshot.commands import argument
from tenshot.config import RunConfig, read_config
from tenshot.errors import TenshotError
from tenshot.methods.pretrain import Pretrain
from tenshot.presets import PRETRAINING

_RESOLUTION = "Pixels of the images, when the source is scratch: 16 to 1024."


def run(arguments: list[str]) -> int:
    """tenshot pretrain IMAGES --resolution 64 --out RUN"""
    file = peek(arguments, "--config")
    scratch = RunConfig("", source="scratch", method=Pretrain(), **PRETRAINING)
    config = read_config(Path(file), shots="") if file else scratch
    if not isinstance(config.method, Pretrain):
        raise TenshotError(f"{file} is of a run of `tenshot adapt`: give it to that")
    extra: tuple[Flag, ...] = (
        (
            "resolution",
            Annotated[int | None, arg(help=_RESOLUTION, metavar="INT", help_behavior_hint="(default: 64)")],
            None,
        ),
    )
    example = "tenshot pretrain faces.zip --resolution 64 --out runs/faces"
    config, flags = parse_run(
        arguments, config, extra, example, "Train a source from scratch, or go on with one (--source)."
    )
    if flags.resolution is not None and not 16 <= flags.resolution <= 1024:
        raise TenshotError(f"--resolution is {flags.resolution}: it must be a power of two from 16 to 1024")
    if config.source == "scratch":
        config = RunConfig(**{**values_of(config), "source": f"scratch-{flags.resolution or 64}"})
    elif flags.resolution is not None:
        raise TenshotError(
            f"--resolution is for a source from scratch, and the source is {config.source}: leave it out"
        )
    out = carry_out("pretrain", arguments, config, flags)
    if out is not None:
        model = out / "model.safetensors"
        lines = (f"\nmodel  {model}", f"next   tenshot adapt my_images --source {argument(model)}")
        Console(highlight=False).print("\n".join(lines), soft_wrap=True, markup=False)
    return 0
