"""Sources there are: those that ship with the package, and official ones to download and convert."""

from dataclasses import dataclass
from pathlib import Path

from tenshot.models import EMBEDDED, embedded_sources, load_model


@dataclass(frozen=True)
class Embedded:
    """A source that ships with the package."""

    name: str
    resolution: int
    megabytes: float
    what: str
    """Of the images, in a few words."""
    licence: str
    card: Path
    """Model card: training data, how it was made, weaknesses."""


@dataclass(frozen=True)
class Official:
    """A published generator that `tenshot convert` reads."""

    name: str
    """Of the file."""
    resolution: int
    what: str
    licence: str
    where: str
    """Address of the file, or how it is made."""


def embedded() -> list[Embedded]:
    """What `tenshot adapt --source NAME` knows without a file."""
    found = []
    for name in embedded_sources():
        model, path = load_model(name), EMBEDDED / f"{name}.safetensors"
        what, licence = (str(model.card.get(key, "see the card")) for key in ("what", "licence"))
        megabytes = round(path.stat().st_size / 1e6, 1)
        found.append(Embedded(name, model.resolution, megabytes, what, licence, path.with_suffix(".md")))
    return found


_NVIDIA = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files/"
_NC = "Nvidia Source Code License-NC"

OFFICIAL = (
    Official("stylegan2-ffhq-256x256.pkl", 256, "faces, FFHQ", f"{_NC}; images CC BY-NC-SA 4.0", _NVIDIA),
    Official("stylegan2-ffhq-512x512.pkl", 512, "faces, FFHQ", f"{_NC}; images CC BY-NC-SA 4.0", _NVIDIA),
    Official("stylegan2-ffhq-1024x1024.pkl", 1024, "faces, FFHQ", f"{_NC}; images CC BY-NC-SA 4.0", _NVIDIA),
    Official("stylegan2-celebahq-256x256.pkl", 256, "faces, CelebA-HQ", f"{_NC}; images CC BY-NC 4.0", _NVIDIA),
    Official("stylegan2-afhqcat-512x512.pkl", 512, "cats, AFHQ", f"{_NC}; images CC BY-NC 4.0", _NVIDIA),
    Official("stylegan2-afhqdog-512x512.pkl", 512, "dogs, AFHQ", f"{_NC}; images CC BY-NC 4.0", _NVIDIA),
    Official("stylegan2-afhqwild-512x512.pkl", 512, "wild animals, AFHQ", f"{_NC}; images CC BY-NC 4.0", _NVIDIA),
    Official("stylegan2-lsundog-256x256.pkl", 256, "dogs, LSUN", f"{_NC}; images for research", _NVIDIA),
    Official("stylegan2-metfaces-1024x1024.pkl", 1024, "portraits, MetFaces", f"{_NC}; images CC BY-NC 2.0", _NVIDIA),
    Official(
        "stylegan2-church-config-f.pkl",
        256,
        "churches, LSUN; likewise horse, cat (256) and car (512)",
        f"{_NC}; images for research",
        "a TensorFlow pickle: turn it into a .pt with convert_weight.py of github.com/rosinality/stylegan2-pytorch, "
        "with its discriminator (--disc)",
    ),
)
"""Files of the StyleGAN2 authors. Addresses and licences as published; tenshot downloads none of them."""
