"""A generator with a fifth of every layer pruned, cut against uncut, in turns: how near the ideal is the speed-up?

    python -m benchmarks.speed.compact [--share 0.2] [--multiples 4 8]

The ideal is the ratio of multiply-adds had exactly the pruned channels gone (`--multiple 1`). Which channels are pruned
is drawn at random. The largest difference of pixels is that over the images of 1,000 seeds, in units of [-1, 1].
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.speed.measure import machine, on_threads, parser, publish, ratios, read, spread, take_turns
from tenshot.compact import blocks, compact, kept_channels
from tenshot.models import load_model
from tenshot.nets import Generator
from tenshot.proof import multiply_adds, pixel_differences
from tenshot.randomness import generator_for


def pruned(generator: Generator, share: float) -> Generator:
    """A copy with the gates of a random share of every layer's channels closed."""
    copied = copy.deepcopy(generator).eval()
    for name, block in blocks(copied):
        count = len(block.gate)
        closed = torch.randperm(count, generator=generator_for(0, "pruned", name))[: round(share * count)]
        block.gate[closed] = 0.0
    return copied


@torch.no_grad()
def times_of(generators: dict[str, Generator], batch: int, rounds: int) -> dict[str, list[float]]:
    first = next(iter(generators.values()))
    z = torch.randn(batch, first.spec.latent_size, generator=generator_for(0, "speed"))
    noise = first.draw_noise(batch, generator_for(0, "noise"))
    return take_turns({name: lambda g=g: g(z, noise) for name, g in generators.items()}, rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(__doc__ or "", rounds=41, threads=(1, 2))
    made.add_argument("--share", type=float, default=0.2)
    made.add_argument("--multiples", type=int, nargs="+", default=[4])
    made.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    made.add_argument("--latents", type=int, default=1000)
    flags = read(made, arguments)
    before, dense = machine(), pruned(load_model(flags.source).generator, flags.share)
    latents = 4 if flags.quick else flags.latents
    ideal = multiply_adds(dense) / multiply_adds(compact(dense, kept_channels(dense, 1)))
    small = {multiple: compact(dense, kept_channels(dense, multiple)) for multiple in flags.multiples}
    largest = {multiple: pixel_differences(dense, g, latents)["largest"] for multiple, g in small.items()}
    rows: list[dict[str, Any]] = []
    for threads in flags.threads:
        for batch in flags.batches:
            with on_threads(threads):
                generators = {"dense": dense, **{str(multiple): g for multiple, g in small.items()}}
                taken = times_of(generators, batch, flags.rounds)
            for multiple, g in small.items():
                faster = ratios(taken["dense"], taken[str(multiple)])
                rows.append(
                    {
                        "threads": threads,
                        "batch": batch,
                        "multiple": multiple,
                        "dense ms": spread(taken["dense"], 1000 / batch),
                        "compact ms": spread(taken[str(multiple)], 1000 / batch),
                        "faster": faster,
                        "multiply-adds": round(multiply_adds(g) / multiply_adds(dense), 4),
                        "ideal": round(ideal, 3),
                        "of the ideal": round(faster["median"] / ideal, 3),
                        "largest difference": largest[multiple],
                    }
                )
    publish("compact", flags, rows, share=flags.share, latents=latents, machine=before)


if __name__ == "__main__":
    main()
