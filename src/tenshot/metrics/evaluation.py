"""A generator in, its numbers out: images are generated, held-out images loaded, and `score` measures."""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from tenshot.data import ImageSet, load_images
from tenshot.devices import AUTO, find_device
from tenshot.errors import TenshotError
from tenshot.metrics.protocol import check_seed, choose, score
from tenshot.metrics.table import OFFLINE, Metric
from tenshot.metrics.weights import cache_folder
from tenshot.models import Model, file_digest, find_model, loaded
from tenshot.nets import Generator
from tenshot.runs import RunDir
from tenshot.sampling import generate, synthesise
from tenshot.watch import Watch

_Path = str | os.PathLike[str]


def evaluate(
    model: Model | _Path,
    *,
    real: _Path | None = None,
    shots: _Path | ImageSet | None = None,
    metrics: Iterable[str] = OFFLINE,
    seed: int = 0,
    first_seed: int = 0,
    weights: _Path | None = None,
    download: bool = True,
    cache: _Path | None = None,
    device: str | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Measure a generator by the named metrics. One that fails is reported as failed, and the others are measured.

    Args:
        model: a loaded model, or what `tenshot.load` takes: a run's folder, a model file, an embedded source's name.
        real: held-out images of the target domain, a folder or zip, brought to the generator's resolution.
        shots: the training images, loaded already perhaps. None: those that a run keeps, if `model` is its folder.
        metrics: keys of `tenshot.metrics.METRICS`.
        seed: of subsets and clusters.
        first_seed: the generated images are those of the seeds from here on, not truncated.
        weights: folder of weight files, looked into before `TENSHOT_WEIGHTS` and the usual places.
        download: whether weight files that are nowhere may be downloaded (those of `fd_dinov2_5k` never are).
        cache: where features of the held-out images are kept. None: `~/.cache/tenshot/features`.
        device: where networks compute, as in `RunConfig`. None: where a loaded model is, otherwise auto.
        watch: called with what is being encoded, how much of it is done, and how much there is.

    Returns:
        Fit for JSON: `model`, `real` and `shots` (where from, how many, content hash), `seeds` (first and last),
        `seconds`, and `metrics`, by name what `score` returns, or `{"failed": reason}`.

    Raises:
        TenshotError: if a metric's name is unknown, a seed is out of range, or the model or given images cannot be
            read.
    """
    chosen = choose(metrics)
    check_seed(seed)
    if first_seed < 0:
        raise TenshotError(f"the first seed is {first_seed}: it cannot be negative")
    started = time.perf_counter()
    found = loaded(model)
    generator = found.generator
    if device is not None or not isinstance(model, Model):
        generator = copy.deepcopy(generator).to(find_device(device or AUTO))
    if shots is None and not isinstance(model, Model):
        shots = RunDir(Path(model)).kept_shots
    n_real = max(metric.n_real for metric in chosen.values())
    reals = load_images(real, found.resolution, limit=n_real) if real is not None and n_real else None
    given = shots if isinstance(shots, ImageSet | None) else load_images(shots, found.resolution)
    warn_of_shared(reals.images if reals else None, given.images if given else None)
    unclamped = takes_floats(chosen)
    results = score(
        fakes_of(generator, chosen, first_seed, unclamped),
        None if reals is None else reals.images,
        None if given is None else given.images,
        chosen,
        seed,
        cache_folder() / "features" if cache is None else cache,
        weights=weights,
        download=download,
        device=generator.latent_avg.device,
        unclamped=unclamped,
        keep_going=True,
        watch=watch,
    )
    n_fake = max((result.get("n_fake", 0) for result in results.values()), default=0)
    return {
        "model": _model_facts(model, found),
        "real": _facts(real, reals),
        "shots": _facts(None if isinstance(shots, ImageSet) else shots, given),
        "seeds": [first_seed, first_seed + n_fake - 1] if n_fake else None,
        "seconds": round(time.perf_counter() - started, 1),
        "metrics": results,
    }


def takes_floats(chosen: dict[str, Metric]) -> bool:
    """Whether one of the metrics needs images as they leave the generator, not rounded."""
    return any(metric.extractor == "inception-rick" for metric in chosen.values())


def fakes_of(generator: Generator, chosen: dict[str, Metric], first_seed: int, unclamped: bool) -> Iterator[Tensor]:
    """As many images as the metrics read: uint8, or float32 as they leave the generator, in batches."""
    seeds = range(first_seed, first_seed + max(metric.n for metric in chosen.values()))
    return synthesise(generator, seeds) if unclamped else generate(generator, seeds)


class SharedImages(UserWarning):
    """Held-out images are among the shots."""


def warn_of_shared(reals: Tensor | None, shots: Tensor | None) -> None:
    """Warn if one of the held-out images is a shot: copies would then count as real. Both uint8 `[n 3 r r]`."""
    if reals is None or shots is None:
        return
    trained = {image.cpu().numpy().tobytes() for image in shots}
    shared = sum(image.cpu().numpy().tobytes() in trained for image in reals)
    if shared:
        warnings.warn(
            f"{shared} of the {len(reals):,} held-out images {'is' if shared == 1 else 'are'} among the shots: "
            "distances are too small, and copy_rate may miss copies; hold out images that were not trained on",
            SharedImages,
            stacklevel=3,
        )


def _model_facts(given: Model | _Path, found: Model) -> dict[str, Any]:
    facts = {"name": found.card.get("name"), "resolution": found.resolution}
    if not isinstance(given, Model):
        facts |= {"path": str(given), "sha256": file_digest(find_model(str(given)))}
    return facts


def _facts(path: _Path | None, images: ImageSet | None) -> dict[str, Any] | None:
    where = {} if path is None else {"path": str(path)}
    return None if images is None else {**where, "images": len(images), "sha256": images.digest}
