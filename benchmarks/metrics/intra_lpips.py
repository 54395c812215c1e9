"""How much faster Intra-LPIPS is here than the usual way, and whether both give the same value.

    python benchmarks/metrics/intra_lpips.py [--fakes 1000] [--side 64] [--weights DIR] [--evaluations 40]

The usual way encodes both images of every pair: each fake with each of the 10 shots, then all pairs of a cluster. Here
each image is encoded once, and those kept of a cluster once more. Our CPU time is measured on all fakes. The other is
extrapolated: the mean time of a random sample of its evaluations, times their number, which the clusters fix. It
is given tensors, while the public code also reads two PNG files for each evaluation. Values are compared on the first
`--compare` fakes, where the usual way is run in full.

Without --weights the network has random weights: the time is the same, the value means nothing.
Prints one JSON line.
"""

import argparse
import itertools
import json
import os
import platform
import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.models.vgg import cfgs, make_layers

from tenshot.data import load_images
from tenshot.metrics import vgg
from tenshot.metrics.encode import described
from tenshot.metrics.extractor import resized_bytes
from tenshot.metrics.intra import PER_CLUSTER, IntraDist
from tenshot.metrics.protocol import versions
from tenshot.metrics.weights import Place
from tenshot.models import load_model
from tenshot.sampling import generate, to_unit

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fakes", type=int, default=1000)
    parser.add_argument("--side", type=int, default=64, help="px at which images enter the network; the metric has 256")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--evaluations", type=int, default=40, help="of the usual way, timed")
    parser.add_argument("--compare", type=int, default=20, help="fakes on which the values are compared")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = load(options.weights, options.side)
    source = load_model("faces64")
    generated = torch.cat(list(generate(source.generator, range(options.fakes))))
    fakes = resized_bytes(generated, options.side, Image.Resampling.BILINEAR)
    shots = load_images(ROOT / "examples" / "robots", options.side).images
    ours, seconds = fast(network, fakes, shots)
    evaluations = len(fakes) * len(shots) + sum(n * (n - 1) // 2 for n in (min(n, PER_CLUSTER) for n in ours.sizes))
    each = time_of_one(network, fakes, shots, options.evaluations)
    few, _ = fast(network, fakes[: options.compare], shots)
    print(
        json.dumps(
            {
                "fakes": len(fakes),
                "side": options.side,
                "weights": "random" if options.weights is None else network.weights_sha256,
                "clusters": ours.sizes,
                "cpu_seconds": round(seconds, 1),
                "pairwise_evaluations": evaluations,
                "pairwise_cpu_seconds_each": round(each, 4),
                "pairwise_cpu_seconds_extrapolated": round(each * evaluations),
                "times_faster": round(each * evaluations / seconds, 1),
                "difference_of_values": abs(few.result()["value"] - slow(network, fakes[: options.compare], shots)),
                "threads": options.threads,
                "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
                "versions": versions(network.packages),
            }
        )
    )


def load(weights: Path | None, side: int) -> vgg.LpipsVgg:
    if weights is not None:
        return vgg.load(Place(weights), side)
    torch.manual_seed(0)
    state = {f"features.{name}": tensor for name, tensor in make_layers(cfgs["D"]).state_dict().items()}
    return vgg.build(state, Path("random"), "random", side)


def fast(network: vgg.LpipsVgg, fakes: torch.Tensor, shots: torch.Tensor) -> tuple[IntraDist, float]:
    started = time.process_time()
    intra = IntraDist(described(network, shots), describe=lambda kept: described(network, kept))
    for piece in fakes.split(network.batch):
        intra.update(described(network, piece), piece)
    intra.result()
    return intra, time.process_time() - started


def evaluate(network: vgg.LpipsVgg, x: torch.Tensor, y: torch.Tensor) -> float:
    """LPIPS of two images, as the public code computes it."""
    with torch.inference_mode():
        return network.network(to_unit(x)[None], to_unit(y)[None]).item()


def time_of_one(network: vgg.LpipsVgg, fakes: torch.Tensor, shots: torch.Tensor, count: int) -> float:
    draw = random.Random(0)
    pairs = [(draw.choice(fakes), draw.choice(shots)) for _ in range(count)]
    evaluate(network, *pairs[0])
    started = time.process_time()
    for pair in pairs:
        evaluate(network, *pair)
    return (time.process_time() - started) / count


def slow(network: vgg.LpipsVgg, fakes: torch.Tensor, shots: torch.Tensor) -> float:
    """The usual way in full, for clusters of at most 50."""
    clusters: list[list[torch.Tensor]] = [[] for _ in shots]
    for x in fakes:
        clusters[int(np.argmin([evaluate(network, x, s) for s in shots]))].append(x)
    means = [
        np.mean([evaluate(network, *pair) for pair in itertools.combinations(c, 2)]) for c in clusters if len(c) > 1
    ]
    return float(np.mean(means))


if __name__ == "__main__":
    main()
