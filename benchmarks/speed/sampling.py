"""Images a second at batches of 1, 8 and 64: `tenshot generate`'s sampler against the reference twin, in turns.

    python -m benchmarks.speed.sampling [--compile]

Both begin at seeds or latents and end at 8-bit images; only ours draws every seed's own latent and noise. --compile
adds our synthesis network through `torch.compile`, whose preparation is told apart.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.speed.baseline import images_of, leaves, noise_of
from benchmarks.speed.measure import machine, on_threads, parser, publish, ratios, read, spread, take_turns
from tenshot.models import Model, load_model
from tenshot.randomness import generator_for
from tenshot.sampling import generate, latents, noises, to_uint8

BATCHES = (1, 8, 64)


def ways_of(model: Model, batch: int) -> dict[str, Callable[[], object]]:
    generator = model.generator.eval()
    spec, state, rng = generator.spec, leaves(generator), generator_for(0, "speed")

    def twin():
        z = torch.randn(batch, spec.latent_size, generator=rng)
        return to_uint8(images_of(state, spec.resolution, z, noise_of(spec.resolution, batch, rng)))

    return {"ours": lambda: list(generate(generator, range(batch), batch=batch)), "twin": twin}


def compiled(model: Model, batch: int) -> tuple[Callable[[], object], float]:
    """A way through `torch.compile`, and the seconds that its first call took."""
    generator = model.generator.eval()
    synthesise = torch.compile(generator.synthesise, dynamic=False)

    @torch.no_grad()
    def way():
        w = generator.spread(generator.map(latents(range(batch), generator.spec.latent_size)))
        return to_uint8(synthesise(w, noises(range(batch), generator)))

    start = time.perf_counter()
    way()
    return way, time.perf_counter() - start


def row(model: Model, threads: int, batch: int, rounds: int, *, with_compile: bool) -> dict[str, Any]:
    ways, told = ways_of(model, batch), {}
    if with_compile:
        ways["compiled"], seconds = compiled(model, batch)
        told["seconds to compile"] = round(seconds, 1)
    taken = take_turns(ways, rounds)
    rates = {name: spread([batch / seconds for seconds in times]) for name, times in taken.items()}
    faster = {f"ours over {name}": ratios(taken[name], taken["ours"]) for name in ways if name != "ours"}
    return {"threads": threads, "batch": batch, "images a second": rates, **faster, **told}


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(__doc__ or "", rounds=9, threads=(1, 2))
    made.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    made.add_argument("--compile", action="store_true")
    flags = read(made, arguments)
    before, rows, model = machine(), [], load_model(flags.source)
    for threads in flags.threads:
        with on_threads(threads):
            rows += [row(model, threads, b, flags.rounds, with_compile=flags.compile) for b in flags.batches]
    publish("compiled" if flags.compile else "sampling", flags, rows, machine=before)


if __name__ == "__main__":
    main()
