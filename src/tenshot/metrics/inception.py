"""Inception v3 in the two forms in which the field measures FID.

* The network of the original FID (Heusel et al. 2017, arXiv:1706.08500), as torch-fidelity keeps it, fed either as
  torch-fidelity does (TensorFlow 1's bilinear resize) or as clean-fid does (antialiased bicubic in float).
* torchvision's network with the input map of the evaluation code of AdAM and RICK, for comparison with their papers.
"""

from __future__ import annotations

import io
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from tenshot.metrics.extractor import ExtractorDefaults, Features, check_images, resized_floats
from tenshot.metrics.weights import (
    INCEPTION_TF,
    INCEPTION_TORCHVISION,
    Place,
    fitting,
    needs,
    obtain,
    read_state,
)
from tenshot.sampling import to_unit

SIDE = 299  # px
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class TfInception(nn.Module, ExtractorDefaults):
    """torch-fidelity's `inception-v3-compat` up to its 2,048 pooled features; use `load_tf` to get it.

    Args:
        network: torch-fidelity's extractor.
        clean: resize as clean-fid does; the rest of the network is the same.
        sha256: of the weights.
    """

    name = "inception-v3-compat"
    packages: tuple[str, ...] = ("torch-fidelity", "pillow")

    def __init__(self, network: nn.Module, clean: bool, sha256: str):
        super().__init__()
        self.network = network
        self.clean = clean
        self.weights_sha256 = sha256
        self.resize = f"bicubic-pil-float-{SIDE}" if clean else f"bilinear-tf1-{SIDE}"

    @torch.inference_mode()
    def forward(self, images: Tensor, stages: bool = False) -> Features:
        """Pooled features `[n, 2048]` of uint8 `[n, 3, h, w]`, on the device of the weights."""
        check_images(images)
        device = next(self.network.parameters()).device
        if not self.clean:
            return Features(self.network(images.to(device))[0])
        x = resized_floats(images, SIDE, Image.Resampling.BICUBIC).to(device)
        return Features(trunk(self.network, (x - 128) / 128))


class RickInception(nn.Module, ExtractorDefaults):
    """torchvision's network as AdAM's and RICK's code feeds it; use `load_rick` to get it.

    Images in [-1, 1], not clamped, are resized (bilinear, not antialiased) and then mapped, channel by channel, by
    x std / 0.5 + (mean - 0.5) / 0.5 with ImageNet's mean and deviation. That map belongs to inputs which were
    normalised by them, and these were not, so contrast is lost (a factor of 0.45). It is kept: the published
    numbers have it.
    """

    name = "inception-v3-torchvision"
    resize = f"bilinear-{SIDE}-then-imagenet-map"
    packages: tuple[str, ...] = ("torchvision",)
    takes_floats = True
    mirrors_reals = True
    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, sha256: str):
        super().__init__()
        self.network = network
        self.weights_sha256 = sha256
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("scale", (std / 0.5)[:, None, None])
        self.register_buffer("shift", ((mean - 0.5) / 0.5)[:, None, None])

    @torch.inference_mode()
    def forward(self, images: Tensor, stages: bool = False) -> Features:
        """Pooled features `[n, 2048]` of float32 in about [-1, 1], or of uint8, `[n, 3, h, w]`."""
        check_images(images, floats=images.dtype != torch.uint8)
        x = to_unit(images) if images.dtype == torch.uint8 else images
        x = F.interpolate(x.to(self.scale.device), size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        return Features(trunk(self.network, x * self.scale + self.shift))


def trunk(network: nn.Module, x: Tensor) -> Tensor:
    """`x` `[n, 3, 299, 299]` through either Inception's layers up to the average pooling: `[n, 2048]`."""
    for name, layer in network.named_children():
        if name in ("fc", "dropout"):
            break
        if name != "AuxLogits":  # a side branch that only training uses
            x = layer(x)
    return x.flatten(1)


def load_tf(place: Place, clean: bool = False) -> TfInception:
    """The FID's network with its weights. Raises TenshotError if they or torch-fidelity are missing."""

    def load() -> Any:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        return FeatureExtractorInceptionV3

    network = needs("torch-fidelity", load)
    path = obtain(INCEPTION_TF, place)
    # torch-fidelity unpickles what it is given, so it is given a copy of the tensors that were read safely.
    copy = io.BytesIO()
    torch.save(read_state(path), copy)
    copy.seek(0)
    with fitting(path, "the FID's Inception v3"):
        built = network("inception-v3-compat", ["2048"], feature_extractor_weights_path=copy)
    return TfInception(built, clean, INCEPTION_TF.sha256)


def load_rick(place: Place) -> RickInception:
    """torchvision's network with its weights. Raises TenshotError if they or torchvision are missing."""

    def load() -> Any:
        from torchvision.models import inception_v3

        return inception_v3

    build = needs("torchvision", load)
    path = obtain(INCEPTION_TORCHVISION, place)
    network = build(weights=None, aux_logits=True, init_weights=False)
    with fitting(path, "torchvision's Inception v3"):
        network.load_state_dict(read_state(path))
    return RickInception(network.eval().requires_grad_(False), INCEPTION_TORCHVISION.sha256)
