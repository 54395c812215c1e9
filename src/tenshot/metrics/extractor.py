"""What every feature extractor is: images in, features out, and a name for all that the features depend on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tenshot.errors import TenshotError


class Features(NamedTuple):
    """What an extractor returns for a batch of n images.

    Attributes:
        pooled: float32 `[n, d]`, one vector an image; `[n, 0]` of an extractor that has only maps.
        stages: float32 feature maps `[n, c_s, h_s, w_s]`. Empty unless asked for.
    """

    pooled: Tensor
    stages: tuple[Tensor, ...] = ()


class Extractor(Protocol):
    """A network with its weights, called as `extractor(images, stages=False) -> Features`.

    It takes uint8 `[n, 3, h, w]` in [0, 255], RGB, of any size, and with `takes_floats` also float32 in about
    [-1, 1] as a generator gives them.

    Attributes:
        name: of the network, in results and cache keys.
        weights_sha256: of the file or files its weights came from.
        resize: what is done to an image before the network sees it.
        packages: those its features depend on, besides torch and numpy.
        batch: images it is given at once.
        channel_weights: a weight `[c_s]` for each channel of each stage; None: all alike.
        takes_floats: whether fakes are to reach it unclamped and unrounded.
        mirrors_reals: whether each real is mirrored with probability one half first.
    """

    name: str
    weights_sha256: str
    resize: str
    packages: tuple[str, ...]
    batch: int
    channel_weights: Sequence[Tensor] | None
    takes_floats: bool
    mirrors_reals: bool

    def __call__(self, images: Tensor, stages: bool = False) -> Features: ...


class ExtractorDefaults:
    """Attributes of an extractor that has nothing unusual to say."""

    packages: tuple[str, ...] = ()
    batch = 16  # images; larger batches leave the CPU's caches and are slower
    channel_weights: Sequence[Tensor] | None = None
    takes_floats = False
    mirrors_reals = False


def check_images(images: Tensor, what: str = "images", floats: bool = False) -> None:
    """Refuse anything but uint8 `[n, 3, h, w]`: floats in [-1, 1] would give numbers, and wrong ones.

    With `floats`, anything but float32 `[n, 3, h, w]` is refused.
    """
    wanted = torch.float32 if floats else torch.uint8
    if images.dtype != wanted or images.ndim != 4 or images.shape[1] != 3:
        got = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        kind = "float32 [n, 3, h, w] in about [-1, 1]" if floats else "uint8 [n, 3, h, w] in [0, 255]"
        raise TenshotError(f"metrics take {what} as {kind}, not {got}")


def resized_bytes(images: Tensor, side: int, how: Image.Resampling) -> Tensor:
    """uint8 `[n, 3, h, w]` resized by Pillow, antialiased and rounded: uint8 `[n, 3, side, side]` on the CPU."""
    if images.shape[2:] == (side, side):
        return images.cpu()
    pictures = (Image.fromarray(x).resize((side, side), how) for x in images.permute(0, 2, 3, 1).cpu().numpy())
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


def resized_floats(images: Tensor, side: int, how: Image.Resampling) -> Tensor:
    """uint8 `[n, 3, h, w]` resized by Pillow channel by channel in float, antialiased, clipped to [0, 255] and not
    rounded: float32 `[n, 3, side, side]` on the CPU (clean-fid, Parmar et al. 2022, arXiv:2104.11222)."""
    planes = images.flatten(0, 1).cpu().float().numpy()
    resized = [np.asarray(Image.fromarray(plane).resize((side, side), how)) for plane in planes]
    return torch.from_numpy(np.stack(resized)).clamp_(0, 255).view(len(images), 3, side, side)
