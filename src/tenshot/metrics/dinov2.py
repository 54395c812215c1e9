"""DINOv2's vision transformer as a feature extractor (Oquab et al. 2023, arXiv:2304.07193).

The network is built from the shapes of the official weights, whose names its modules carry; nothing else is needed
from the project that trained it. Images are fed as the code of Stein et al. 2023 (arXiv:2306.04675) does, who
proposed the Frechet distance on these features: Pillow's antialiased bicubic resize to 224 px, ImageNet's mean and
deviation, and the class token after the last norm.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from tenshot.errors import TenshotError
from tenshot.metrics.extractor import ExtractorDefaults, Features, check_images, resized_bytes
from tenshot.metrics.inception import IMAGENET_MEAN, IMAGENET_STD
from tenshot.metrics.weights import DINOV2, Place, fitting, obtain, read_state

SIDE = 224  # px
HEAD = 64  # features of an attention head, in all sizes that were published
OFFSET = 0.1  # added to the grid's side before the position embedding is resized; the weights are used with it


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)  # [n heads tokens 64]
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width))


class Scale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a norm, scaled per feature and added to its input."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width)
        self.ls1 = Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.ls2 = Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1.gamma * self.attn(self.norm1(x))
        return x + self.ls2.gamma * self.mlp(self.norm2(x))


class Dinov2(nn.Module, ExtractorDefaults):
    """The transformer up to its class token; use `load` to get it.

    Args:
        width: features of a token, a multiple of 64.
        depth: blocks.
        patch: side of a patch, in pixels.
        grid: patches on a side of the images it was trained on.
        sha256: of the weights.
    """

    packages: tuple[str, ...] = ("pillow",)
    resize = f"bicubic-pil-{SIDE}"

    def __init__(self, width: int, depth: int, patch: int, grid: int, sha256: str):
        super().__init__()
        self.name = f"dinov2-{width}x{depth}-{patch}"
        self.weights_sha256 = sha256
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # in the file; only training uses it
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @torch.inference_mode()
    def forward(self, images: Tensor, stages: bool = False) -> Features:
        """Class tokens `[n, width]` of uint8 `[n, 3, h, w]`, on the device of the weights."""
        check_images(images)
        device = self.cls_token.device
        mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
        x = resized_bytes(images, SIDE, Image.Resampling.BICUBIC).to(device)
        patches = self.patch_embed["proj"]((x / 255 - mean) / std)  # [n width h w]
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        tokens = tokens + self.positions(patches.shape[-1])
        for block in self.blocks:
            tokens = block(tokens)
        return Features(self.norm(tokens)[:, 0])

    def positions(self, side: int) -> Tensor:
        """The position embedding for side x side patches, `[1, 1 + side^2, width]`."""
        own, patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = math.isqrt(patches.shape[1])
        if side == grid:
            return self.pos_embed
        square = patches.reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        factor = (side + OFFSET) / grid
        resized = F.interpolate(square, scale_factor=(factor, factor), mode="bicubic")
        return torch.cat([own, resized.flatten(2).transpose(1, 2)], 1)


def load(place: Place) -> Dinov2:
    """ViT-L/14 with its weights. Raises TenshotError if they are missing."""
    path = obtain(DINOV2, place)
    return build(read_state(path), path, DINOV2.sha256)


def build(state: dict[str, Tensor], path: Path, sha256: str) -> Dinov2:
    """The network whose tensors `state` holds. Raises TenshotError if it is not one of DINOv2's."""
    try:
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        grid = math.isqrt(state["pos_embed"].shape[1] - 1)
    except (KeyError, IndexError, ValueError) as error:
        raise TenshotError(f"{path} holds no vision transformer of DINOv2") from error
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    with torch.device("meta"):
        network = Dinov2(width, depth, patch, grid, sha256)
    with fitting(path, "DINOv2"):
        network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)
