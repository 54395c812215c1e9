"""The offline protocol: a table of metrics whose names fix what is measured, and one function that measures.

    fakes --+                      +-- fd_efflite_2k, kd_efflite_2k, prdc_2k
    reals --+-> features, once -->-+-- copy_rate_1k
    shots --+                      +-- intra_dist_1k

The numbers compare methods with each other under this protocol, never with published FIDs or Intra-LPIPS.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.metrics import efflite
from tenshot.metrics.encode import Images, batches, pooled_features
from tenshot.metrics.frechet import frechet_distance
from tenshot.metrics.intra import IntraDist, descriptors
from tenshot.metrics.kernel import kernel_distance
from tenshot.metrics.neighbours import copy_rate, prdc


class Sets(NamedTuple):
    """What a metric may read, already cut to the number of images its name promises.

    Attributes:
        fakes: pooled features `[n, 1280]`.
        reals: pooled features `[m, 1280]` of held-out images; empty if no metric asked for them.
        shots: pooled features `[s, 1280]` of the training images; empty if no metric asked for them.
        intra: what `IntraDist` found in the fakes' feature maps; empty if no metric asked for it.
        seed: of every random draw.
    """

    fakes: Tensor
    reals: Tensor
    shots: Tensor
    intra: dict[str, Any]
    seed: int


class Metric(NamedTuple):
    """A row of `METRICS`.

    Attributes:
        what: the protocol in a sentence.
        n: fakes used, the first so many.
        n_real: held-out reals used, the first so many; 0 = none needed.
        shots: whether the training images are needed.
        measure: `Sets` -> the metric's numbers by name.
        maps: whether it reads feature maps (`Sets.intra`).
    """

    what: str
    n: int
    n_real: int
    shots: bool
    measure: Callable[[Sets], dict[str, Any]]
    maps: bool = False


METRICS: dict[str, Metric] = {
    "fd_efflite_2k": Metric(
        "Frechet distance of pooled features, 2,000 fakes against 2,000 held-out reals; lower is better",
        2000, 2000, False, lambda s: {"value": frechet_distance(s.fakes, s.reals)},
    ),
    "kd_efflite_2k": Metric(
        "unbiased squared MMD of pooled features, cubic kernel, 100 subsets of 1,000; lower is better",
        2000, 2000, False, lambda s: kernel_distance(s.fakes, s.reals, seed=s.seed),
    ),
    "prdc_2k": Metric(
        "precision, recall, density and coverage of pooled features, 5 neighbours; higher is better",
        2000, 2000, False, lambda s: prdc(s.fakes, s.reals),
    ),
    "intra_dist_1k": Metric(
        "mean distance of feature maps in clusters around the shots, up to 50 each; higher is more varied",
        1000, 0, True, lambda s: s.intra, maps=True,
    ),
    "copy_rate_1k": Metric(
        "share of fakes nearer to a shot than 99 % of held-out reals; 0.01 is chance, higher is copying",
        1000, 2000, True, lambda s: copy_rate(s.fakes, s.reals, s.shots),
    ),
}  # fmt: skip


def score(
    fakes: Images,
    reals: Tensor | None = None,
    shots: Tensor | None = None,
    names: Iterable[str] = tuple(METRICS),
    seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
    extractor: efflite.EffLite0 | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure fakes by the named metrics, encoding every image once. 2,000 fakes take about half a minute on
    2 cores.

    All images are uint8 `[n, 3, h, w]` in [0, 255], RGB, of one size: bring reals and shots to the
    generator's resolution first, or their finer detail will be measured as a difference.

    Args:
        fakes: the images to judge, or an iterator of batches, of which no more is drawn than needed.
        reals: held-out images of the target domain, never seen in training.
        shots: the training images.
        names: keys of `METRICS`.
        seed: of subsets and clusters; the features do not depend on it.
        cache_dir: where features of the reals are kept from call to call. None: they are computed anew.
        extractor: a loaded network, to save the loading or to run elsewhere, `efflite.load("cuda")`. None: on
            the CPU.

    Returns:
        By name, a dict fit for JSON: the metric's numbers (`value`, where there is one main number),
        `n_fake`, `n_real`, `n_shots`, `side` (pixels), `seed`, `extractor`, `weights_sha256`, `resize` and
        `versions`.

    Warns:
        UserWarning: if there are fewer images than a name promises. Those at hand are used, and `n_fake` and
            `n_real` tell how many.

    Raises:
        TenshotError: if a name is unknown, a set is missing or empty, sizes differ, images are not uint8 RGB,
            or the weights are not installed.
    """
    chosen = choose(names, reals, shots)
    extractor = extractor or efflite.load()
    side = None
    for what, images in (("reals", reals), ("shots", shots)):
        if images is not None:
            side = one_size(images, what, side)
    shot_features, intra = encode_shots(extractor, shots, chosen, seed)
    real_limit = max(metric.n_real for metric in chosen.values())
    real_features = torch.empty(0, 0)
    if real_limit and reals is not None:
        real_features = pooled_features(extractor, reals, real_limit, cache_dir)
    fake_features, side = encode_fakes(extractor, fakes, chosen, intra, side)
    warn_if_few(chosen, len(fake_features), len(real_features))

    intra_result = intra.result() if intra else {}
    results = {}
    for name, metric in chosen.items():
        sets = Sets(fake_features[: metric.n], real_features[: metric.n_real], shot_features, intra_result, seed)
        results[name] = {
            **metric.measure(sets),
            "n_fake": len(sets.fakes),
            "n_real": len(sets.reals),
            "n_shots": len(sets.shots) if metric.shots else 0,
            "side": side[1],
            "seed": seed,
            "extractor": extractor.name,
            "weights_sha256": extractor.weights_sha256,
            "resize": extractor.resize,
            "versions": versions(),
        }
    return results


def choose(names: Iterable[str], reals: Tensor | None, shots: Tensor | None) -> dict[str, Metric]:
    """The named rows of `METRICS`, once it is clear that the images they need were given."""
    if isinstance(names, str):
        names = (names,)
    chosen = {}
    for name in names:
        if name not in METRICS:
            raise TenshotError(f"unknown metric {name!r}; there are {', '.join(METRICS)}")
        metric = chosen[name] = METRICS[name]
        if metric.n_real and (reals is None or len(reals) == 0):
            raise TenshotError(f"{name} compares with held-out images of the target domain, and none were given")
        if metric.shots and (shots is None or len(shots) == 0):
            raise TenshotError(f"{name} needs the training images (shots), and none were given")
    if not chosen:
        raise TenshotError(f"no metric was named; there are {', '.join(METRICS)}")
    return chosen


def one_size(images: Tensor, what: str, side: tuple[str, int] | None) -> tuple[str, int]:
    """Check that images are square and as large as those before them; returns (whose size, pixels)."""
    efflite.check_images(images, what)
    height, width = images.shape[2:]
    if height != width:
        raise TenshotError(f"{what} are {width} x {height} px; metrics take square images, crop them first")
    if side is not None and side[1] != width:
        raise TenshotError(
            f"{what} have {width} px and {side[0]} {side[1]} px: detail would be measured as a difference; "
            "bring reals and shots to the generator's resolution first"
        )
    return side or (what, width)


def encode_shots(
    extractor: efflite.EffLite0, shots: Tensor | None, chosen: dict[str, Metric], seed: int
) -> tuple[Tensor, IntraDist | None]:
    """Pooled features of the shots and, if a metric reads maps, an accumulator with a cluster per shot."""
    if shots is None or not any(metric.shots for metric in chosen.values()):
        return torch.empty(0, 0), None
    maps = any(metric.maps for metric in chosen.values())
    encoded = [extractor(batch, stages=maps) for batch in batches(shots, len(shots), "shots")]
    intra = IntraDist(torch.cat([descriptors(e.stages) for e in encoded]), seed) if maps else None
    return torch.cat([e.pooled for e in encoded]).cpu(), intra


def encode_fakes(
    extractor: efflite.EffLite0,
    fakes: Images,
    chosen: dict[str, Metric],
    intra: IntraDist | None,
    side: tuple[str, int] | None,
) -> tuple[Tensor, tuple[str, int]]:
    """Pooled features `[n, 1280]` of as many fakes as the metrics read; their maps go to `intra`."""
    pooled, done = [], 0
    with_maps = max((metric.n for metric in chosen.values() if metric.maps), default=0)
    for batch in batches(fakes, max(metric.n for metric in chosen.values()), "fakes"):
        side = one_size(batch, "fakes", side)
        encoded = extractor(batch, stages=done < with_maps)
        if intra is not None and done < with_maps:
            intra.update(descriptors([x[: with_maps - done] for x in encoded.stages]))
        pooled.append(encoded.pooled.cpu())
        done += len(batch)
    if side is None or done < 2:
        raise TenshotError(f"metrics need at least 2 fakes, {done} were given")
    return torch.cat(pooled), side


def warn_if_few(chosen: dict[str, Metric], n_fake: int, n_real: int) -> None:
    """One warning that names every metric whose name promises more images than there are."""
    short = [
        f"{name} ({min(n_fake, m.n):,} of {m.n:,} fakes, {min(n_real, m.n_real):,} of {m.n_real:,} reals)"
        for name, m in chosen.items()
        if n_fake < m.n or n_real < m.n_real
    ]
    if short:
        warnings.warn(
            f"fewer images than the metric's name promises: {'; '.join(short)}; compare only with values from as many",
            stacklevel=3,
        )


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    found = {}
    for package in ("tenshot", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
