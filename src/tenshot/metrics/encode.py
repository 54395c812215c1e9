"""Images -> features: cut into batches, encoded once, and those of reals kept on disk if asked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from tenshot.augment import flip
from tenshot.errors import TenshotError
from tenshot.files import make_folder, write_atomically
from tenshot.metrics.extractor import Extractor, check_images
from tenshot.metrics.intra import IntraDist, descriptors
from tenshot.randomness import generator_for

BATCH = 16  # images
MOST_BYTES = 2**32
"""Of descriptors held at once: 140 images in LPIPS at 256 px, 3,000 in EfficientNet-Lite0 at 64."""

Images = Tensor | Iterable[Tensor]  # [n, 3, h, w], or batches of such


def batches(images: Images, limit: int, what: str = "images", floats: bool = False) -> Iterator[Tensor]:
    """The first `limit` images in batches of `BATCH`, the last one smaller, however they arrive.

    As every image meets the encoder in the same company, features do not depend on the incoming batches, not
    even by rounding. Of an iterator no more is drawn than needed.

    Raises:
        TenshotError: if a batch is not uint8, or with `floats` not float32, `[n, 3, h, w]`.
    """
    waiting: list[Tensor] = []
    count, left = 0, limit
    for batch in (images,) if isinstance(images, Tensor) else images:
        check_images(batch, what, floats)
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


def described(extractor: Extractor, images: Tensor) -> Tensor:
    """Descriptors `[n, d]` (see `intra`) of uint8 `[n, 3, h, w]`. Raises TenshotError if they would take more than
    `MOST_BYTES`."""
    rows = None
    for start in range(0, len(images), extractor.batch):
        stages = extractor(images[start : start + extractor.batch], stages=True).stages
        found = descriptors(stages, extractor.channel_weights)
        if rows is None:  # written to piece by piece: those of one image can have 30 MB
            check_fits(len(images), found[0].nbytes, extractor.name)
            rows = found.new_empty(len(images), found.shape[1])
        rows[start : start + len(found)] = found
    return torch.empty(0, 0) if rows is None else rows


def check_fits(n: int, size: int, name: str) -> None:
    """Raises TenshotError if n descriptors of so many bytes each are too many."""
    if n * size > MOST_BYTES:
        raise TenshotError(
            f"clusters around {n:,} training images need {n * size / 1e9:.0f} GB of {name}'s features: at this size "
            f"they are for at most {MOST_BYTES // size:,}; leave the metric out, or give fewer with --shots"
        )


def pooled_features(
    extractor: Extractor, images: Tensor, limit: int, cache_dir: str | os.PathLike | None = None
) -> Tensor:
    """Pooled features of the first `limit` images, float32 `[n, d]` on the CPU, read from the cache if they
    are there.

    Args:
        extractor: the network; its name, weights and resize are part of the cache key, as are all pixels.
        images: uint8 `[n, 3, h, w]`.
        limit: how many images to use.
        cache_dir: folder of `<key>.safetensors` files, made if missing; one that cannot be written to is left alone.
            None: no cache.
    """
    check_images(images)
    images = images[:limit]
    path = None if cache_dir is None else Path(cache_dir) / f"{cache_key(extractor, images)}.safetensors"
    if path is not None and os.path.isfile(path):
        try:
            return load_file(path)["pooled"]
        except (SafetensorError, KeyError, OSError):
            pass  # a damaged entry is made anew
    features = torch.cat(
        [extractor(piece).pooled.cpu() for batch in batches(images, limit) for piece in batch.split(extractor.batch)]
    )
    if path is not None:
        with suppress(TenshotError):
            make_folder(path.parent)
            write_atomically(path, save({"pooled": features}))  # two runs may share the folder
    return features


def real_features(
    extractor: Extractor, reals: Tensor, limit: int, seed: int, cache_dir: str | os.PathLike | None
) -> Tensor:
    """`pooled_features` of held-out images, half of them mirrored if the extractor's protocol says so."""
    reals = reals[:limit]
    if extractor.mirrors_reals:
        reals = flip(reals, generator_for(seed, "mirrored reals"))
    return pooled_features(extractor, reals, limit, cache_dir)


def cache_key(extractor: Extractor, images: Tensor) -> str:
    """SHA-256 of all that the features depend on: extractor, weights, resize, shape and pixels."""
    facts = (extractor.name, extractor.weights_sha256, extractor.resize, tuple(images.shape))
    digest = hashlib.sha256(repr(facts).encode())
    for batch in images.split(256):
        digest.update(batch.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class FakeFeatures:
    """One extractor's way through the fakes, batch by batch: each is encoded once, whoever reads it.

    Args:
        extractor: the network.
        n: fakes of which pooled features are wanted.
        maps: numbers of fakes of which feature maps are wanted, for the clusters around the shots, an `IntraDist` each.
        clusters: descriptors of the shots, `[s, d]`, if there are such.
        seed: of the clusters' draw.
    """

    def __init__(self, extractor: Extractor, n: int, maps: set[int], clusters: Tensor | None, seed: int):
        self.extractor = extractor
        self.n, self.n_maps = n, max(maps, default=0)
        self.done = 0
        self._pooled: list[Tensor] = []
        self.intra: dict[int, IntraDist] = {}
        if maps and clusters is not None:
            self.keeps_images = extractor.channel_weights is not None  # LPIPS: 32 MB of maps for an image of 256 px
            describe = (lambda images: described(extractor, images)) if self.keeps_images else None
            self.intra = {n: IntraDist(clusters, seed, describe=describe) for n in sorted(maps)}

    def take(self, fakes: Tensor) -> None:
        """Encode the next fakes, `[n, 3, h, w]`, as many of them as are still wanted."""
        for piece in fakes[: max(self.n, self.n_maps) - self.done].split(self.extractor.batch):
            left = self.n_maps - self.done
            encoded = self.extractor(piece, stages=left > 0)
            if self.intra and left > 0:
                found = descriptors([x[:left] for x in encoded.stages], self.extractor.channel_weights)
                for n, intra in self.intra.items():
                    if (more := n - self.done) > 0:
                        intra.update(found[:more], piece[:more] if self.keeps_images else None)
            self._pooled.append(encoded.pooled.cpu())
            self.done += len(piece)

    def pooled(self) -> Tensor:
        """Features of all fakes taken, `[n, d]` on the CPU."""
        return torch.cat(self._pooled) if self._pooled else torch.empty(0, 0)
