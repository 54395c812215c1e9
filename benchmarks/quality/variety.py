"""How varied the held-out images of a matrix's domains are themselves, by the metric that measures generated ones.

    python benchmarks/quality/variety.py benchmarks/quality/table.json --data DATA

One thousand of them, drawn at random with seed 0, as the metric takes a generator's; clusters are those around the
shots. Half a minute a domain.
"""

import argparse
from pathlib import Path

import torch

from tenshot.bench.specs import HELD_OUT, read_spec
from tenshot.data import load_images
from tenshot.metrics.protocol import score
from tenshot.models import load_model
from tenshot.randomness import generator_for

METRIC = "intra_dist_1k"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    for domain, job in {job.domain: job for job in read_spec(options.spec).jobs}.items():
        resolution = load_model(job.config.source).resolution
        shots, reals = (
            load_images(options.data / path, resolution).images
            for path in (job.config.shots, HELD_OUT.format(domain=domain))
        )
        drawn = reals[torch.randperm(len(reals), generator=generator_for(0, "variety"))]
        print(f"{domain:<16}{score(drawn, shots=shots, names=[METRIC])[METRIC]['value']:.3f}", flush=True)


if __name__ == "__main__":
    main()
