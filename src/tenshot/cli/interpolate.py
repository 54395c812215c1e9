"""tenshot interpolate: a smooth walk from seed to seed, as a video or a strip."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.progress import track
from torch import Tensor
from tyro.conf import Positional, arg

from tenshot import video, walk
from tenshot.cli.common import PathFlag, parse
from tenshot.devices import AUTO, find_device
from tenshot.errors import TenshotError
from tenshot.models import load_model
from tenshot.seeds import parse_way
from tenshot.targets import check_free

_SMALL = 256  # px, a side; below it images are enlarged
_MOVING, _STILL = 60, 4  # frames from one seed to the next


@dataclass(frozen=True)
class _Interpolate:
    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A run's folder, a model file, or an embedded source's name."""
    seeds: Annotated[str, arg(metavar="SEEDS")] = "1,5,9"
    """Seeds to pass through, in this order: 1,5,9 or 0-7."""
    out: PathFlag = None
    """An .mp4, .gif or .webp that moves, or a .png with all frames side by side."""
    pair: Annotated[str | None, arg(metavar="SOURCE", help_behavior_hint="")] = None
    """A second model that moves from the same latents: to the left, in a .png above."""
    frames: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint=f"(default: {_MOVING}, in a .png {_STILL})")
    ] = None
    """Frames from one seed to the next."""
    fps: int = 30
    """Frames per second."""
    truncation: float = 1.0
    """1 = as trained; lower = closer to the mean image, fewer surprises."""
    loop: Annotated[bool, arg(help_behavior_hint="")] = True
    """End at the last seed, and play once, instead of coming back to the first."""
    size: Annotated[
        int | None, arg(metavar="PIXELS", help_behavior_hint=f"(default: the model's, enlarged to at least {_SMALL})")
    ] = None
    """Height and width of one image."""
    batch: int = 8
    """Images computed at once."""
    overwrite: bool = False
    """Replace the file if it is there."""
    device: str = AUTO
    """Where it computes: auto, a GPU if there is one; cpu; cuda, or cuda:1 for the second."""


def run(arguments: list[str]) -> int:
    """tenshot interpolate MODEL --seeds 1,5,9 --out walk.mp4"""
    flags = parse(
        _Interpolate,
        arguments,
        "tenshot interpolate runs/robots --pair faces64 --seeds 1,5,9 --out walk.mp4",
        "A smooth walk through the images of seeds: a video, or a strip of its frames.",
    )
    if not flags.out:
        raise TenshotError("where to? give --out FILE.mp4, FILE.gif or FILE.webp, or FILE.png for a strip")
    if flags.batch < 1:
        raise TenshotError(f"--batch is {flags.batch}: it must be at least 1")
    out = Path(flags.out)
    check_free([out], [Path(name) for name in (flags.model, flags.pair) if name], overwrite=flags.overwrite)
    device = find_device(flags.device)
    is_strip = out.suffix.lower() == ".png"
    frames = flags.frames if flags.frames is not None else _STILL if is_strip else _MOVING
    way = walk.Walk(tuple(parse_way(flags.seeds)), frames, flags.loop)
    models = [load_model(name) for name in (flags.pair, flags.model) if name is not None]
    for model in models:
        model.generator.to(device)
    side = _side(flags.size, max(model.resolution for model in models))
    if is_strip:
        video.check_strip(out, len(way), side)
    else:
        video.check_video(out, flags.fps, side * len(models), side)
    panels = walk.panels(models, way, side, truncation=flags.truncation, batch=flags.batch)
    shown = _watched(panels, -(-len(way) // flags.batch))
    if is_strip:
        count = video.write_strip(out, shown)
        print(f"{out}: {count} images of {side} px side by side")
    else:
        count = video.write_video(out, map(walk.beside, shown), flags.fps, forever=flags.loop)
        print(f"{out}: {count} frames of {side * len(models)} x {side} px, {count / flags.fps:.1f} s")
    return 0


def _side(size: int | None, resolution: int) -> int:
    """Pixels of one image: as asked for, else the smallest multiple of the model's that is not small."""
    if size is None:
        return resolution * -(-_SMALL // resolution)
    if size < 16:
        raise TenshotError(f"--size is {size}: it must be at least 16")
    return size


def _watched(panels: Iterable[Tensor], total: int) -> Iterable[Tensor]:
    """The same, with a bar in a terminal."""
    console = Console(stderr=True)
    return track(panels, "frames", total, console=console, transient=True, disable=not console.is_terminal)
