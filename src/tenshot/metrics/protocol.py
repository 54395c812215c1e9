"""From images to numbers: every image is encoded once by each extractor, whoever reads its features.

fakes --+                                   +-- statistics of pooled features
reals --+-> features, once an extractor -->-+-- copies
shots --+                                   +-- clusters of feature maps
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tenshot import __version__
from tenshot.errors import TenshotError
from tenshot.metrics.encode import FakeFeatures, Images, batches, described, pooled_features, real_features
from tenshot.metrics.extractor import Extractor, check_images
from tenshot.metrics.table import EXTRACTORS, METRICS, OFFLINE, Metric, Sets
from tenshot.metrics.weights import Place
from tenshot.sampling import to_uint8
from tenshot.watch import Watch

_T = TypeVar("_T")

MOST_CLUSTERS = 1000
"""Training images around which clusters are made; each has a descriptor of 1.4 MB and more in memory."""


def score(
    fakes: Images,
    reals: Tensor | None = None,
    shots: Tensor | None = None,
    names: Iterable[str] = OFFLINE,
    seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
    *,
    weights: str | os.PathLike | None = None,
    download: bool = False,
    extractors: Mapping[str, Extractor] | None = None,
    device: torch.device | str = "cpu",
    unclamped: bool = False,
    keep_going: bool = False,
    watch: Watch | None = None,
    known: dict[Hashable, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure fakes by the named metrics, encoding every image once an extractor. The offline five take about half
    a minute on 2 cores.

    All images are `[n, 3, h, w]`, RGB, square and of one size: bring reals and shots to the generator's resolution
    first, or their finer detail will be measured as a difference.

    Args:
        fakes: the images to judge, uint8 in [0, 255], or an iterator of batches, of which no more is drawn than needed.
        reals: held-out images of the target domain, never seen in training, uint8.
        shots: the training images, uint8.
        names: keys of `METRICS`.
        seed: of subsets and clusters; the features do not depend on it, but for which reals `fid_rick_5k` mirrors.
        cache_dir: where features of the reals are kept from call to call. None: they are computed anew.
        weights: folder of weight files that is looked into before the usual places.
        download: whether weight files that are nowhere may be downloaded.
        extractors: networks that are loaded already, by their keys in `EXTRACTORS`.
        device: where the others run.
        unclamped: fakes are float32 as they leave the generator, about [-1, 1]; `fid_rick_5k` needs them so. The
            other metrics see them clamped and rounded, as `sampling.generate` would give them.
        keep_going: a metric that fails gives `{"failed": reason}`, and the others are measured.
        watch: called after each batch of fakes and each set of reals.
        known: filled with the networks and with what they found in reals and shots; whoever measures other fakes with
            the same reals, shots and seed, hands it in again.

    Returns:
        By name, a dict fit for JSON: the metric's numbers (`value`, where there is one main number),
        `n_fake`, `n_real`, `n_shots`, `side` (pixels), `seed`, `extractor`, `weights_sha256`, `resize` and
        `versions`.

    Warns:
        UserWarning: if there are fewer images than a name promises. Those at hand are used, and `n_fake` and
            `n_real` tell how many.

    Raises:
        TenshotError: if a name is unknown, the seed is no number of 32 bits, a set is missing or empty, sizes differ,
            images are not uint8 RGB, or the weights are not there; with `keep_going`, only for names, the seed and
            images that fit no metric.
    """
    chosen = choose(names)
    check_seed(seed)
    side = None
    for what, images in (("reals", reals), ("shots", shots)):
        if images is not None:
            side = one_size(images, what, side)
    place = Place(Path(weights) if weights is not None else None, download)
    run = _Run(
        chosen, reals, shots, seed, keep_going, unclamped, watch or (lambda *_: None), {} if known is None else known
    )
    for key in dict.fromkeys(metric.extractor for metric in chosen.values()):
        run.begin(key, lambda key=key: (extractors or {}).get(key) or load(key, place, device), cache_dir)
    side = run.encode(fakes, side)
    warn_if_few(chosen, run)
    return {name: run.result(name, side) for name in chosen}


def load(key: str, place: Place, device: torch.device | str = "cpu") -> Extractor:
    """A network of `EXTRACTORS` on a device. Raises TenshotError if its weights or its package are missing."""
    extractor = EXTRACTORS[key](place)
    return extractor.to(device) if isinstance(extractor, nn.Module) else extractor


class _Run:
    """What `score` knows while it measures: features by extractor, and why a metric failed."""

    def __init__(
        self,
        chosen: dict[str, Metric],
        reals: Tensor | None,
        shots: Tensor | None,
        seed: int,
        keep_going: bool,
        unclamped: bool,
        watch: Watch,
        known: dict[Hashable, Any],
    ):
        self.chosen, self.reals, self.shots = chosen, reals, shots
        self.seed, self.keep_going, self.unclamped, self.watch, self.known = seed, keep_going, unclamped, watch, known
        self.failed: dict[str, str] = {}
        self.fakes: dict[str, FakeFeatures] = {}
        self.real_features: dict[str, Tensor] = {}
        self.shot_features: dict[str, Tensor] = {}
        self.n_fake = 0

    def alive(self, key: str | None = None) -> dict[str, Metric]:
        """The metrics that have not failed: all, or those of an extractor."""
        rows = self.chosen.items()
        return {n: m for n, m in rows if n not in self.failed and key in (None, m.extractor)}

    def once(self, what: Hashable, find: Callable[[], _T]) -> _T:
        """What is found once for all calls of `score` that share what is known."""
        if what not in self.known:
            self.known[what] = find()
        return self.known[what]

    @contextmanager
    def failing(self, names: Iterable[str]) -> Iterator[None]:
        """Whatever goes wrong within is these metrics' failure, and nobody else's."""
        try:
            yield
        except Exception as error:
            if not self.keep_going:
                raise
            reason = str(error) if isinstance(error, TenshotError) else f"{type(error).__name__}: {error}"
            self.failed.update(dict.fromkeys(names, reason))

    def begin(self, key: str, load: Callable[[], Extractor], cache_dir: str | os.PathLike | None) -> None:
        """Load an extractor and encode shots and reals for those of its metrics whose images were given."""
        for name, metric in self.alive(key).items():
            with self.failing([name]):
                check_given(name, metric, self.reals, self.shots)
        metrics = self.alive(key)
        if not metrics:
            return
        with self.failing(metrics):
            extractor = self.once((key, "network"), load)
            if extractor.takes_floats and not self.unclamped:
                raise TenshotError(
                    f"{', '.join(metrics)} needs fakes as the generator gives them, not rounded to uint8"
                )
            maps = {m.n for m in metrics.values() if m.maps}
            n = max((m.n for m in metrics.values() if not m.maps), default=0)
            shots, clusters = self.shots, None
            if shots is not None and maps:
                clusters = self.once((key, "clusters"), functools.partial(described, extractor, shots))
            taken = FakeFeatures(extractor, n, maps, clusters, self.seed)
            if shots is not None and any(m.shots and not m.maps for m in metrics.values()):
                encode = functools.partial(pooled_features, extractor, shots, len(shots))
                self.shot_features[key] = self.once((key, "shots"), encode)
            wanted = max(m.n_real for m in metrics.values())
            if wanted and self.reals is not None:
                multiple = max(m.real_multiple for m in metrics.values())
                n_real = min(wanted, len(self.reals)) // multiple * multiple
                self.watch(f"held-out images, {extractor.name}", 0, n_real)
                encode = functools.partial(real_features, extractor, self.reals, n_real, self.seed, cache_dir)
                self.real_features[key] = self.once((key, "reals", n_real, self.seed), encode)
                self.watch(f"held-out images, {extractor.name}", n_real, n_real)
            self.fakes[key] = taken

    def encode(self, fakes: Images, side: tuple[str, int] | None) -> tuple[str, int]:
        """Draw the fakes once, and let each extractor take as many as it wants; returns (whose size, pixels)."""
        wanted = max((m.n for m in self.alive().values()), default=0)
        for batch in batches(fakes, wanted, "fakes", self.unclamped) if wanted else ():
            side = one_size(batch, "fakes", side)
            rounded = to_uint8(batch) if self.unclamped else batch
            for key, taken in self.fakes.items():
                if metrics := self.alive(key):
                    with self.failing(metrics):
                        taken.take(batch if taken.extractor.takes_floats else rounded)
            self.n_fake += len(batch)
            self.watch("generated images", self.n_fake, wanted)
        if wanted and (side is None or self.n_fake < 2):
            raise TenshotError(f"metrics need at least 2 fakes, {self.n_fake} were given")
        return side or ("fakes", 0)

    def result(self, name: str, side: tuple[str, int]) -> dict[str, Any]:
        """The numbers of a metric with all that they depend on, or why there are none."""
        metric = self.chosen[name]
        with self.failing([name]):
            if name not in self.failed:
                return self._measured(metric, side)
        return {"failed": self.failed[name]}

    def _measured(self, metric: Metric, side: tuple[str, int]) -> dict[str, Any]:
        taken, none = self.fakes[metric.extractor], torch.empty(0, 0)
        sets = Sets(
            taken.pooled()[: metric.n],
            self.real_features.get(metric.extractor, none)[: metric.n_real],
            self.shot_features.get(metric.extractor, none),
            taken.intra[metric.n].result() if metric.maps and taken.intra else {},
            self.seed,
        )
        extractor = taken.extractor
        return {
            **metric.measure(sets),
            "n_fake": min(taken.done, metric.n),
            "n_real": len(sets.reals),
            "n_shots": len(self.shots) if metric.shots and self.shots is not None else 0,
            "side": side[1],
            "seed": self.seed,
            "extractor": extractor.name,
            "weights_sha256": extractor.weights_sha256,
            "resize": extractor.resize,
            "versions": versions(extractor.packages),
        }


def choose(names: Iterable[str]) -> dict[str, Metric]:
    """The named rows of `METRICS`. Raises TenshotError for a name that is not there, or none at all."""
    chosen = {}
    for name in (names,) if isinstance(names, str) else names:
        if name not in METRICS:
            raise TenshotError(f"unknown metric {name!r}; there are {', '.join(METRICS)}")
        chosen[name] = METRICS[name]
    if not chosen:
        raise TenshotError(f"no metric was named; there are {', '.join(METRICS)}")
    return chosen


def check_seed(seed: int) -> None:
    """Raises TenshotError for one that the generators of random numbers behind subsets and clusters do not take."""
    if not 0 <= seed < 2**32:
        raise TenshotError(f"the metrics' seed is {seed}: it must be from 0 to {2**32 - 1:,}")


def check_given(name: str, metric: Metric, reals: Tensor | None, shots: Tensor | None) -> None:
    """Raises TenshotError if images that the metric needs were not given."""
    if metric.n_real and (reals is None or len(reals) == 0):
        raise TenshotError(
            f"{name} compares with held-out images of the domain, and none were given: name them with --real"
        )
    if metric.n_real and reals is not None and len(reals) < metric.least_real:
        raise TenshotError(
            f"{name} needs at least {metric.least_real} held-out images, better {metric.n_real:,}, not {len(reals)}"
        )
    if metric.shots and (shots is None or len(shots) == 0):
        raise TenshotError(f"{name} needs the training images, and none were given: give them with --shots")
    if metric.maps and shots is not None and len(shots) > MOST_CLUSTERS:
        raise TenshotError(
            f"{name} makes a cluster of each training image, and there are {len(shots):,}: it is for few, at most "
            f"{MOST_CLUSTERS:,}; leave it out of the metrics"
        )


def one_size(images: Tensor, what: str, side: tuple[str, int] | None) -> tuple[str, int]:
    """Check that images are square and as large as those before them; returns (whose size, pixels)."""
    check_images(images, what, floats=what == "fakes" and images.dtype != torch.uint8)
    height, width = images.shape[2:]
    if height != width:
        raise TenshotError(f"{what} are {width} x {height} px; metrics take square images, crop them first")
    if side is not None and side[1] != width:
        raise TenshotError(
            f"{what} have {width} px and {side[0]} {side[1]} px: detail would be measured as a difference; "
            "bring reals and shots to the generator's resolution first"
        )
    return side or (what, width)


def warn_if_few(chosen: dict[str, Metric], run: _Run) -> None:
    """One warning that names every metric whose name promises more images than there are."""
    n_real = 0 if run.reals is None else len(run.reals)
    short = [
        f"{name} ({min(run.n_fake, m.n):,} of {m.n:,} fakes, {min(n_real, m.n_real):,} of {m.n_real:,} reals)"
        for name, m in run.alive().items()
        if run.n_fake < m.n or n_real < m.n_real
    ]
    if short:
        warnings.warn(
            f"fewer images than the metric's name promises: {'; '.join(short)}; compare only with values from as many",
            stacklevel=3,
        )


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    found = {"tenshot": __version__}
    for package in ("torch", "numpy", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
