"""tenshot generate: images from a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from tenshot.cli.common import PathFlag, parse
from tenshot.devices import AUTO, find_device
from tenshot.errors import TenshotError
from tenshot.models import load_model
from tenshot.sampling import check_truncation
from tenshot.sampling import generate as sample
from tenshot.seeds import parse_seeds, write_images
from tenshot.targets import check_images, earlier_images


@dataclass(frozen=True)
class _Generate:
    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A run's folder, a model file, or an embedded source's name."""
    seeds: Annotated[str, arg(metavar="SEEDS")] = "0-15"
    """Seeds, one image each: 7 or 0-99 or 1,5,9-12."""
    out: PathFlag = None
    """A folder for single PNG images, seed000017.png and so on, or a .zip of them. Files of these names are replaced,
    and so is a .zip that holds nothing else."""
    grid: PathFlag = None
    """A .png of all images side by side. Replaces an earlier grid, no other picture."""
    columns: int = 8
    """Images in a row of the grid."""
    truncation: float = 1.0
    """1 = as trained; lower = closer to the mean image, fewer surprises."""
    batch: int = 8
    """Images computed at once."""
    device: str = AUTO
    """Where it computes: auto, a GPU if there is one; cpu; cuda, or cuda:1 for the second."""


def run(arguments: list[str]) -> int:
    """tenshot generate MODEL --seeds 0-99 --out DIR"""
    flags = parse(
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
    check_images(flags.out, flags.grid)
    device = find_device(flags.device)
    model = load_model(flags.model)
    batches = sample(model.generator.to(device), seeds, truncation=flags.truncation, batch=flags.batch)
    images = write_images(batches, seeds, flags.out, flags.grid, flags.columns)
    print(f"{images} {_plural(images)} of {model.resolution} px: {', '.join(filter(None, (flags.out, flags.grid)))}")
    if flags.out and (earlier := earlier_images(flags.out, images)):
        stand = "stands" if earlier == 1 else "stand"
        print(f"{earlier} {_plural(earlier)} of earlier calls {stand} beside them in {flags.out}")
    return 0


def _plural(images: int) -> str:
    return "image" if images == 1 else "images"
