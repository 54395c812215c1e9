"""tenshot convert: another program's checkpoint to a model file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from tenshot import sheets
from tenshot.cli.common import parse
from tenshot.convert import convert
from tenshot.errors import TenshotError
from tenshot.files import make_folder
from tenshot.models import save_model
from tenshot.sampling import generate as sample
from tenshot.targets import check_free


@dataclass(frozen=True)
class _Convert:
    checkpoint: Annotated[Positional[str], arg(metavar="IN")]
    """A rosinality-style .pt with the state dicts g_ema and d, or a .pkl of StyleGAN2 or StyleGAN2-ADA (PyTorch)."""
    out: Annotated[Positional[str], arg(metavar="OUT.safetensors")]
    """The .safetensors to write; a grid of its images goes beside it."""
    half: bool = False
    """Store float16: half the size."""
    overwrite: bool = False
    """Replace OUT.safetensors and the grid beside it if they are there."""


def run(arguments: list[str]) -> int:
    """tenshot convert IN.pt OUT.safetensors"""
    import torch

    flags = parse(
        _Convert,
        arguments,
        "tenshot convert 550000.pt church256.safetensors",
        "Another program's StyleGAN2 checkpoint to a model file of tenshot.",
    )
    out = Path(flags.out)
    if out.suffix != ".safetensors":
        raise TenshotError(f"the output {out} must end in .safetensors")
    picture = out.with_suffix(".png")
    check_free([out, picture], [Path(flags.checkpoint)], overwrite=flags.overwrite)
    model = convert(Path(flags.checkpoint))
    make_folder(out.parent)
    save_model(out, model, dtype=torch.float16 if flags.half else torch.float32)
    images = torch.cat(list(sample(model.generator, range(24), batch=1)))
    sheets.save_png(sheets.grid(images, 6), picture)
    spec = model.generator.spec
    channels = ", ".join(map(str, spec.channels))
    print(f"{out}: {spec.resolution} px, channels {channels} from 4 px up,", end=" ")
    print(f"latent {spec.latent_size}, mapping of {spec.mapping_depth} layers")
    for note in model.card.get("notes", []):
        print(f"note: {note}")
    print(f"look at {picture}: the images should be as you know them from the original")
    return 0
