"""The table of metrics: a name fixes extractor, resize, statistic and how many images there are.

fd_efflite_2k, kd_efflite_2k, prdc_2k, intra_dist_1k, copy_rate_1k     offline: comparable here, with nothing else
fid_5k, kid_5k, prdc_5k, fid_clean_5k, fid_rick_5k, intra_lpips_1k, fd_dinov2_5k    published: need weight files
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from tenshot.metrics import dinov2, efflite, fidelity, inception, vgg
from tenshot.metrics.extractor import Extractor
from tenshot.metrics.frechet import frechet_distance
from tenshot.metrics.kernel import kernel_distance
from tenshot.metrics.neighbours import PRDC_NEIGHBOURS, copy_rate, prdc
from tenshot.metrics.weights import DINOV2, INCEPTION_TF, INCEPTION_TORCHVISION, VGG16, Place, WeightFile


class Sets(NamedTuple):
    """What a metric may read, already cut to the number of images its name promises.

    Attributes:
        fakes: pooled features `[n, d]`.
        reals: pooled features `[m, d]` of held-out images; empty if no metric asked for them.
        shots: pooled features `[s, d]` of the training images; empty if no metric asked for them.
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
        what: what it measures, in a few words; docs/metrics.md has the protocol.
        better: "lower" or "higher".
        extractor: key of `EXTRACTORS`.
        n: fakes used, the first so many.
        n_real: held-out reals used, the first so many; 0 = none needed.
        shots: whether the training images are needed.
        measure: `Sets` -> the metric's numbers by name.
        maps: whether it reads feature maps (`Sets.intra`).
        real_multiple: reals beyond a multiple of this number are left out.
        is_number: whether it is one number, `value`, by which two generators can be ordered.
        chance: what it gives where there is nothing to find; below that, lower is not better.
        least_real: held-out reals without which there is no number.
    """

    what: str
    better: str
    extractor: str
    n: int
    n_real: int
    shots: bool
    measure: Callable[[Sets], dict[str, Any]]
    maps: bool = False
    real_multiple: int = 1
    is_number: bool = True
    chance: float = 0.0
    least_real: int = 2


EXTRACTORS: dict[str, Callable[[Place], Extractor]] = {
    "efflite": lambda place: efflite.load(),
    "inception": lambda place: inception.load_tf(place),
    "inception-clean": lambda place: inception.load_tf(place, clean=True),
    "inception-rick": lambda place: inception.load_rick(place),
    "lpips": lambda place: vgg.load(place),
    "dinov2": lambda place: dinov2.load(place),
}
"""How each extractor is loaded; a `TenshotError` tells what is missing."""

WEIGHTS_OF: dict[str, WeightFile] = {
    "inception": INCEPTION_TF,
    "inception-clean": INCEPTION_TF,
    "inception-rick": INCEPTION_TORCHVISION,
    "lpips": VGG16,
    "dinov2": DINOV2,
}
"""The weight file that an extractor needs; `efflite` finds its own in a package."""


def _frechet(sets: Sets) -> dict[str, Any]:
    return {"value": frechet_distance(sets.fakes, sets.reals)}


def _frechet_rick(sets: Sets) -> dict[str, Any]:
    """With few images the original's matrix root may fail; it then adds 1e-6 to the diagonals, or not, as its SciPy
    decides. So both values are given."""
    found = _frechet(sets)
    if min(len(sets.fakes), len(sets.reals)) <= sets.fakes.shape[1]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # once is enough
            found["value_with_offset"] = frechet_distance(sets.fakes, sets.reals, offset=1e-6)
    return found


METRICS: dict[str, Metric] = {
    "fd_efflite_2k": Metric(
        "Frechet distance to held-out images; 0 for the same set",
        "lower", "efflite", 2000, 2000, False, _frechet,
    ),
    "kd_efflite_2k": Metric(
        "kernel distance to held-out images; around 0 if alike",
        "lower", "efflite", 2000, 2000, False, lambda s: kernel_distance(s.fakes, s.reals, seed=s.seed),
    ),
    "prdc_2k": Metric(
        "precision, recall, density, coverage: realism and variety",
        "higher", "efflite", 2000, 2000, False, lambda s: prdc(s.fakes, s.reals), is_number=False,
        least_real=PRDC_NEIGHBOURS + 1,
    ),
    "intra_dist_1k": Metric(
        "variety in clusters around the shots; 0 if all are alike",
        "higher", "efflite", 1000, 0, True, lambda s: s.intra, maps=True,
    ),
    "copy_rate_1k": Metric(
        "share nearer to a shot than 99 % of real images; 0.01 is chance",
        "lower", "efflite", 1000, 2000, True, lambda s: copy_rate(s.fakes, s.reals, s.shots), chance=0.01,
    ),
    "fd_efflite_500": Metric(
        "a quick look while a run goes on: as fd_efflite_2k with fewer images, and so larger",
        "lower", "efflite", 500, 500, False, _frechet,
    ),
    "intra_dist_200": Metric(
        "a quick look at variety: as intra_dist_1k with fewer images",
        "higher", "efflite", 200, 0, True, lambda s: s.intra, maps=True,
    ),
    "copy_rate_200": Metric(
        "a quick look for copies: as copy_rate_1k with fewer images",
        "lower", "efflite", 200, 500, True, lambda s: copy_rate(s.fakes, s.reals, s.shots), chance=0.01,
    ),
    "fid_5k": Metric(
        "FID as torch-fidelity computes it",
        "lower", "inception", 5000, 5000, False, lambda s: fidelity.fid(s.fakes, s.reals),
    ),
    "kid_5k": Metric(
        "KID as torch-fidelity computes it",
        "lower", "inception", 5000, 5000, False, lambda s: fidelity.kid(s.fakes, s.reals, s.seed),
    ),
    "prdc_5k": Metric(
        "precision, recall, density, coverage on the FID's features",
        "higher", "inception", 5000, 5000, False, lambda s: prdc(s.fakes, s.reals), is_number=False,
        least_real=PRDC_NEIGHBOURS + 1,
    ),
    "fid_clean_5k": Metric(
        "FID with clean-fid's antialiased resize",
        "lower", "inception-clean", 5000, 5000, False, _frechet,
    ),
    "fid_rick_5k": Metric(
        "FID as AdAM's and RICK's code computes it, like no other",
        "lower", "inception-rick", 5000, 5000, False, _frechet_rick, real_multiple=2,  # they fill batches of 2
    ),
    "intra_lpips_1k": Metric(
        "Intra-LPIPS: variety in clusters around the shots",
        "higher", "lpips", 1000, 0, True, lambda s: s.intra, maps=True,
    ),
    "fd_dinov2_5k": Metric(
        "Frechet distance on DINOv2 ViT-L/14 features",
        "lower", "dinov2", 5000, 5000, False, _frechet,
    ),
}  # fmt: skip

OFFLINE = ("fd_efflite_2k", "kd_efflite_2k", "prdc_2k", "intra_dist_1k", "copy_rate_1k")
"""The offline protocol: metrics that need no download beyond the extra `bench`."""
QUICK = ("fd_efflite_500", "copy_rate_200", "intra_dist_200")
"""Offline metrics on fewer images, for scores while a run goes on."""
