"""How near samples come to the shots, and how varied they are: what ten images of training data make one ask first."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.metrics import efflite
from tenshot.metrics.neighbours import squared_distances

FEATURES = "EfficientNet-Lite0 features of unit length"
PIXELS = "images reduced to 16 x 16 pixels, as root mean square on a scale of 0 to 1"
_SIDE = 16
_BATCH = 16
_SAME = 1e-3  # a network's last bits depend on the batch, so even a picture and its copy are not quite at 0


@dataclass(frozen=True)
class Likeness:
    """Distances between samples and shots. Shots count both as they are and mirrored: training shows D both."""

    space: str
    """What is compared: `FEATURES` or `PIXELS`."""
    nearest: tuple[int, ...]
    """Index of each sample's nearest shot."""
    mirrored: tuple[bool, ...]
    """Whether it is the shot's mirror image that is nearest."""
    distance: tuple[float, ...]
    """To it."""
    distinct: int
    """Shots that are no repetition of another; threshold and variety are theirs."""
    threshold: float | None
    """Distance of the two shots that are most alike; None if there is only one, or one and repetitions of it."""
    variety: float | None
    """Mean distance of two samples over the mean distance of two shots; None as above."""

    @property
    def copies(self) -> int | None:
        """Samples that are nearer to a shot than any two shots are to each other."""
        return None if self.threshold is None else sum(d < self.threshold for d in self.distance)


class Eye:
    """Images `uint8 [n 3 r r]` to points `[n d]` whose euclidean distance is likeness.

    EfficientNet-Lite0 where the extra `bench` is installed, else small images: these notice copies of layout and
    colour, the network also those of content.
    """

    def __init__(self) -> None:
        try:
            self.extractor = efflite.load()
        except TenshotError:
            self.extractor = None
        self.space = FEATURES if self.extractor else PIXELS

    def see(self, images: Tensor) -> Tensor:
        if self.extractor:
            seen = torch.cat([self.extractor(batch).pooled for batch in images.split(_BATCH)])
            return F.normalize(seen.double(), dim=1)
        small = F.interpolate(images.double() / 255, size=(_SIDE, _SIDE), mode="area")
        return small.flatten(1) / small[0].numel() ** 0.5


def compare(samples: Tensor, shots: Tensor, eye: Eye) -> Likeness:
    """samples, shots: `uint8 [n 3 r r]`, at least two samples and one shot."""
    seen, given, flipped = eye.see(samples), eye.see(shots), eye.see(shots.flip(3))
    plain, mirror = _distances(seen, given), _distances(seen, flipped)
    distance, nearest = torch.minimum(plain, mirror).min(dim=1)
    mirrored = (mirror < plain).gather(1, nearest[:, None])[:, 0]
    alike = torch.minimum(_distances(given, given), _distances(given, flipped)).fill_diagonal_(torch.inf)
    alike = torch.minimum(alike, alike.T)
    is_distinct = ~(alike <= _SAME).tril().any(dim=1)
    distinct = int(is_distinct.sum())
    threshold = variety = None
    if distinct > 1:
        threshold = alike[is_distinct][:, is_distinct].min().item()
        variety = (_mean_distance(seen) / _mean_distance(given[is_distinct])).item()
    return Likeness(
        eye.space,
        tuple(nearest.tolist()),
        tuple(mirrored.tolist()),
        tuple(distance.tolist()),
        distinct,
        threshold,
        variety,
    )


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return squared_distances(a, b).sqrt()


def _mean_distance(points: Tensor) -> Tensor:
    """Over all pairs of different points."""
    n = len(points)
    return _distances(points, points).fill_diagonal_(0.0).sum() / (n * (n - 1))
