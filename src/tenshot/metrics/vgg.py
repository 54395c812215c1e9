"""The network of LPIPS (Zhang et al. 2018, arXiv:1801.03924): VGG-16's five stages and a weight for each channel."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from tenshot.errors import TenshotError
from tenshot.metrics.extractor import ExtractorDefaults, Features, check_images, resized_bytes
from tenshot.metrics.weights import VGG16, Place, fitting, needs, obtain, read_state
from tenshot.models import file_digest
from tenshot.sampling import to_unit

SIDE = 256  # px, as in the Intra-LPIPS code of CDC, AdAM and RICK
STARTS = (0, 4, 9, 16, 23, 30)  # torchvision's layers at which a stage begins, and where the last one ends


class LpipsVgg(nn.Module, ExtractorDefaults):
    """VGG-16 with the channel weights of LPIPS v0.1; use `load` to get it.

    Its stages, scaled to unit length at every position and weighted by `channel_weights`, differ by LPIPS: the sum
    over stages of the mean over positions of the weighted squared difference.

    Args:
        network: an `lpips.LPIPS` with its weights.
        sha256: of VGG-16's file and of the channel weights' file, joined by "+".
        side: to which images are resized, in pixels.
    """

    name = "lpips-vgg-v0.1"
    packages: tuple[str, ...] = ("lpips", "torchvision", "pillow")
    batch = 2  # images; a 256 px image has 8 million features
    network: Any
    channel_weights: Sequence[Tensor] | None

    def __init__(self, network: nn.Module, sha256: str, side: int = SIDE):
        super().__init__()
        self.network = network
        self.side = side
        self.weights_sha256 = sha256
        self.resize = f"bilinear-pil-{side}"
        weights = [line.model[-1].weight.flatten() for line in self.network.lins]
        self.channel_weights = weights
        if any((w < 0).any() for w in weights):
            raise TenshotError("a channel weight of LPIPS is negative, and so would be some distances: reinstall lpips")

    @torch.inference_mode()
    def forward(self, images: Tensor, stages: bool = False) -> Features:
        """Feature maps with 64, 128, 256, 512 and 512 channels (strides 1, 2, 4, 8, 16) of uint8 `[n, 3, h, w]`."""
        check_images(images)
        if not stages:
            return Features(torch.empty(len(images), 0))
        device = next(self.network.net.parameters()).device
        x = to_unit(resized_bytes(images, self.side, Image.Resampling.BILINEAR)).to(device)
        maps = self.network.net(self.network.scaling_layer(x))
        return Features(torch.empty(len(images), 0), tuple(maps))


def load(place: Place, side: int = SIDE) -> LpipsVgg:
    """LPIPS with its weights. Raises TenshotError if they or lpips are missing."""
    needs("lpips", _lpips)
    path = obtain(VGG16, place)
    return build(read_state(path), path, VGG16.sha256, side)


def build(vgg16: dict[str, Tensor], path: Path, sha256: str, side: int = SIDE) -> LpipsVgg:
    """LPIPS around the tensors of torchvision's VGG-16, which came from `path`; the channel weights come with lpips.

    Raises TenshotError if the tensors are not VGG-16's, or lpips is missing.
    """
    lpips = needs("lpips", _lpips)
    lines = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    state = {**_trunk(vgg16), **read_state(lines)}
    with warnings.catch_warnings(), torch.device("meta"):  # no memory for the classifier, which is not used
        warnings.simplefilter("ignore")  # lpips speaks to torchvision in an old dialect
        network = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    network.scaling_layer = lpips.lpips.ScalingLayer()
    with fitting(path, "VGG-16"):
        missing, foreign = network.load_state_dict(state, strict=False, assign=True)
        missing = [name for name in missing if name.startswith(("net.", "lin")) and not name.startswith("lins.")]
        if missing or foreign:  # `lins` are the same tensors as `lin0` to `lin4`
            raise RuntimeError(f"\n{' and '.join([*missing[:3], *foreign[:3]])} missing or unknown")
    return LpipsVgg(network.eval().requires_grad_(False), f"{sha256}+{file_digest(lines)}", side)


def _lpips() -> Any:
    import lpips

    return lpips


def _trunk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names -> those of `lpips.LPIPS`; the classifier is left out."""
    renamed = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part == "features":
            number = int(rest.partition(".")[0])
            stage = sum(number >= start for start in STARTS)
            renamed[f"net.slice{stage}.{rest}"] = tensor
    return renamed
