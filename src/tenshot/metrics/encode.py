"""Images -> pooled features: cut into batches, encoded once, and kept on disk if asked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tenshot.metrics.efflite import EffLite0, check_images

BATCH = 16  # images; larger batches leave the CPU's caches and are slower

Images = Tensor | Iterable[Tensor]  # uint8 [n, 3, h, w], or batches of such


def batches(images: Images, limit: int, what: str = "images") -> Iterator[Tensor]:
    """The first `limit` images in batches of `BATCH`, the last one smaller, however they arrive.

    As every image meets the encoder in the same company, features do not depend on the incoming batches, not
    even by rounding. Of an iterator no more is drawn than needed.

    Raises:
        TenshotError: if a batch is not uint8 `[n, 3, h, w]`.
    """
    waiting: list[Tensor] = []
    count, left = 0, limit
    for batch in (images,) if isinstance(images, Tensor) else images:
        check_images(batch, what)
        for piece in batch[:left].split(BATCH):
            waiting.append(piece)
            count += len(piece)
            left -= len(piece)
            if count >= BATCH:
                joined = torch.cat(waiting)
                yield joined[:BATCH]
                waiting, count = [joined[BATCH:]], count - BATCH
        if left == 0:
            break
    if count:
        yield torch.cat(waiting)


def pooled_features(
    extractor: EffLite0, images: Tensor, limit: int, cache_dir: str | os.PathLike | None = None
) -> Tensor:
    """Pooled features of the first `limit` images, float32 `[n, d]` on the CPU, read from the cache if they
    are there.

    Args:
        extractor: the network; its name, weights and resize are part of the cache key, as are all pixels.
        images: uint8 `[n, 3, h, w]`.
        limit: how many images to use.
        cache_dir: folder of `<key>.safetensors` files, made if missing. None: no cache.
    """
    check_images(images)
    images = images[:limit]
    path = None if cache_dir is None else Path(cache_dir) / f"{cache_key(extractor, images)}.safetensors"
    if path is not None and path.is_file():
        try:
            return load_file(path)["pooled"]
        except (SafetensorError, KeyError):
            pass  # a damaged entry is made anew
    features = torch.cat([extractor(batch).pooled.cpu() for batch in batches(images, limit)])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        save_file({"pooled": features}, partial)
        os.replace(partial, path)  # two runs may share the folder
    return features


def cache_key(extractor: EffLite0, images: Tensor) -> str:
    """SHA-256 of all that the features depend on: extractor, weights, resize, shape and pixels."""
    facts = (extractor.name, extractor.weights_sha256, extractor.resize, tuple(images.shape))
    digest = hashlib.sha256(repr(facts).encode())
    for batch in images.split(256):
        digest.update(batch.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
