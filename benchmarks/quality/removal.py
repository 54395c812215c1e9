"""Does the Fisher information know which filters matter? Single filters are removed, and what happens is measured.

    python benchmarks/quality/removal.py --data DATA --domain bottts

A source is adapted in memory by DAP with `prune_mass` 0: importance is tracked, nothing is pruned. Then, of every layer
of the averaged generator, some filters drawn at random are switched off one at a time, the same latents are generated
again, and the damage is compared with what each estimator had said. `removal.json` keeps one entry a domain. About
12 minutes of one core. Without `--data`, the tables of what has been measured are printed.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tenshot.adaptation import Adaptation, begin
from tenshot.bench import machine
from tenshot.bench.specs import HELD_OUT, SHOTS
from tenshot.config import RunConfig
from tenshot.data import load_images
from tenshot.files import write_atomically
from tenshot.filters import FilterGroup, gate_of
from tenshot.fisher import Importance, magnitude, weight_fisher
from tenshot.losses import generator_loss
from tenshot.methods import Dap
from tenshot.metrics import efflite
from tenshot.metrics.encode import pooled_features
from tenshot.metrics.extractor import Extractor
from tenshot.metrics.frechet import Moments, factor
from tenshot.models import Model, load_model
from tenshot.nets import Discriminator, Generator
from tenshot.randomness import generator_for
from tenshot.sampling import synthesise, to_uint8
from tenshot.shrink import sensitivity
from tenshot.step import run_step

FIGURES = Path(__file__).parent / "removal.json"
BATCH = 4  # images that D's minibatch statistics see together, as in training

ESTIMATORS = {
    "tracked": "tracked gate Fisher (DAP)",
    "weight": "weight Fisher (RICK)",
    "sensitivity": "sensitivity of the image",
    "magnitude": "mean absolute weight",
    "random": "random numbers",
}
TRUTHS = {
    "image": "image",
    "loss": "D's loss, image by image",
    "mean_loss": "D's loss, mean",
    "fd": "fd",
    "worse": "fd, with its sign",
}
"""What a removal does: mean squared change of a pixel; mean squared and absolute mean change of G's adversarial loss;
absolute change of the Frechet distance; how much it rises, below 0 if the images are better without the filter."""

Columns = dict[str, list]
"""One number for each removed filter, by what it is: layer, filter, estimators, truths."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--domain", default="bottts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--filters", type=int, default=8, help="removed in each layer, one at a time")
    parser.add_argument("--fakes", type=int, default=256, help="images generated without each filter")
    parser.add_argument("--reals", type=int, default=1000, help="held-out images that they are compared with, at most")
    parser.add_argument("--samples", type=int, default=64, help="of the estimators that are measured at the end")
    parser.add_argument("--out", type=Path, default=FIGURES)
    options = parser.parse_args()
    entries = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    if options.data:
        entries[options.domain] = measure(options, load_model("faces64"), efflite.load())
        write_atomically(options.out, as_json(entries).encode())
    for domain, found in entries.items():
        print(f"{domain}\n\n{table(found)}\n")


def measure(options: argparse.Namespace, source: Model, extractor: Extractor) -> dict[str, Any]:
    """Adapt, remove, compare: the entry of one domain."""
    shots, held_out = (place.format(domain=options.domain) for place in (SHOTS, HELD_OUT))
    config = RunConfig(
        shots=shots, method=Dap(prune_mass=0.0), steps=options.steps, seed=options.seed, precision="bfloat16"
    )
    run = begin(config, source, load_images(options.data / shots, source.resolution).images)
    for step in range(options.steps):
        run_step(run, step)
        tell("step", step, options.steps)
    generator, discriminator = run.nets.ema, run.nets.discriminator.requires_grad_(False)
    discriminator.compute = None
    estimates = estimates_of(run, options.samples)

    reals = load_images(options.data / held_out, source.resolution, limit=options.reals).images
    distance = distance_to(pooled_features(extractor, reals, len(reals)))
    whole = look(generator, discriminator, extractor, options.fakes)
    chosen, rows = drawn(groups_of(generator), options.filters, options.seed), []
    for k, (group, index) in enumerate(chosen):
        with without(generator, group, index):
            rows.append(harm(whole, look(generator, discriminator, extractor, options.fakes), distance))
        tell("filter", k, len(chosen))
    columns: Columns = {"layer": [group.name for group, _ in chosen], "filter": [index for _, index in chosen]}
    columns |= {name: [values[g.name][i].item() for g, i in chosen] for name, values in estimates.items()}
    columns |= {name: [row[name] for row in rows] for name in rows[0]}
    return {
        **{name: getattr(options, name) for name in ("steps", "seed", "fakes", "samples")},
        "reals": len(reals),
        "fd": round(distance(whole.features), 3),
        "loss": round(whole.losses.mean().item(), 4),
        **machine.facts(),
        "filters": columns,
    }


def tell(what: str, done: int, total: int) -> None:
    """Now and then, how far it is."""
    if (done + 1) % max(1, total // 20) == 0:
        print(f"{what} {done + 1} of {total}", flush=True)


def groups_of(generator: Generator) -> list[FilterGroup]:
    """The layers whose filters have gates."""
    return [group for group in generator.filter_groups() if group.gated]


def drawn(groups: list[FilterGroup], count: int, seed: int) -> list[tuple[FilterGroup, int]]:
    """At most `count` filters of every layer, by rising index."""
    found = []
    for group in groups:
        order = torch.randperm(group.count, generator=generator_for(seed, "removed", group.name))
        found += [(group, index) for index in sorted(order[:count].tolist())]
    return found


def estimates_of(run: Adaptation, samples: int) -> dict[str, Importance]:
    """By estimator and layer a number for each filter, `[count]`. The first is what training has tracked; all others
    are of the averaged generator as it now is."""
    generator, discriminator, groups = run.nets.ema, run.nets.discriminator, groups_of(run.nets.ema)
    seed = run.config.seed

    def loss_of(k: int) -> Callable[[], Tensor]:
        rng = generator_for(seed, "weight", k)
        z, noise = torch.randn(1, generator.spec.latent_size, generator=rng), generator.draw_noise(1, rng)
        return lambda: generator_loss(discriminator(generator(z, noise)))

    return {
        "tracked": {group.name: run.state[f"generator/{group.name}/importance"] for group in groups},
        "weight": weight_fisher(generator, groups, (loss_of(k) for k in range(samples))),
        "sensitivity": sensitivity(generator, samples, seed=seed),
        "magnitude": {group.name: magnitude(generator, group) for group in groups},
        "random": {g.name: torch.rand(g.count, generator=generator_for(seed, "random", g.name)) for g in groups},
    }


@contextmanager
def without(generator: Generator, group: FilterGroup, index: int) -> Iterator[None]:
    """The generator with one gate closed, and nothing else changed."""
    gate = gate_of(generator, group)
    before = gate[index].item()
    gate[index] = 0.0
    try:
        yield
    finally:
        gate[index] = before


class Look(NamedTuple):
    """What a generator makes of the latents 0, 1, ..., and what is thought of it."""

    images: Tensor
    """float32 `[n 3 r r]`."""
    losses: Tensor
    """G's adversarial loss of each, `[n]`."""
    features: Tensor
    """`[n d]`."""

    def half(self, k: int) -> "Look":
        """Of every second latent."""
        return Look(*(values[k::2] for values in self))


@torch.no_grad()
def look(generator: Generator, discriminator: Discriminator, extractor: Extractor, fakes: int) -> Look:
    """Noise belongs to a latent, so that two looks differ by the generator alone."""
    images = torch.cat(list(synthesise(generator, range(fakes))))
    logits = torch.cat([discriminator(batch) for batch in images.split(BATCH)])
    return Look(images, F.softplus(-logits), pooled_features(extractor, to_uint8(images), fakes))


def harm(before: Look, after: Look, distance: Callable[[Tensor], float]) -> dict[str, float]:
    """What happened to the images, by truth; and to either half of them alone, by truth/0 and truth/1."""

    def changes(before: Look, after: Look) -> dict[str, float]:
        moved = after.losses - before.losses
        farther = distance(after.features) - distance(before.features)
        return {
            "image": (after.images - before.images).square().mean().item(),
            "loss": moved.square().mean().item(),
            "mean_loss": abs(moved.mean().item()),
            "fd": abs(farther),
            "worse": farther,
        }

    halves = {f"{name}/{k}": x for k in (0, 1) for name, x in changes(before.half(k), after.half(k)).items()}
    return {**changes(before, after), **halves}


def distance_to(reals: Tensor) -> Callable[[Tensor], float]:
    """Features `[n d]` -> their Frechet distance to those of the reals, `[m d]`.

    As `frechet_distance`, in a hundredth of the time: the reals are taken apart once, and the fakes, fewer than d, are
    their own factor.
    """
    moments = Moments().update(reals)
    root, trace = factor(moments.cov), moments.cov.trace()

    def distance(fakes: Tensor) -> float:
        wide = fakes.double()
        own = (wide - wide.mean(dim=0)) / (len(wide) - 1) ** 0.5
        cross = torch.linalg.svdvals(own @ root).sum()
        return ((wide.mean(dim=0) - moments.mean).square().sum() + own.square().sum() + trace - 2 * cross).item()

    return distance


def ranks(values: Tensor) -> Tensor:
    """From 1, equal values share their mean rank; along the last axis, `[... n] -> [... n]`."""
    less = (values[..., None, :] < values[..., :, None]).sum(dim=-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(dim=-1)
    return less + (equal + 1) / 2


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of ranks along the last axis, `[... n], [... n] -> [...]`; NaN where all are equal."""
    x, y = (ranks(values).double() for values in (a, b))
    x, y = x - x.mean(dim=-1, keepdim=True), y - y.mean(dim=-1, keepdim=True)
    return (x * y).sum(dim=-1) / (x.square().sum(dim=-1) * y.square().sum(dim=-1)).sqrt()


def correlation(columns: Columns, a: str, b: str, *, within: bool, tries: int = 1000) -> tuple[float, float, float]:
    """Spearman's of two columns, and its 95 % bootstrap interval; within: of each layer, mean over the layers.

    Filters are drawn again layer by layer. A draw that says nothing about a layer, as all are equal, leaves it out.
    """
    layers = [torch.tensor([k for k, x in enumerate(columns["layer"]) if x == name]) for name in unique(columns)]
    rng = generator_for(0, "bootstrap")
    again = [rows[torch.randint(len(rows), (tries, len(rows)), generator=rng)] for rows in layers]
    x, y = (torch.tensor(columns[name], dtype=torch.float64) for name in (a, b))

    def found(rows: list[Tensor]) -> Tensor:
        parts = rows if within else [torch.cat(rows, dim=-1)]
        return torch.stack([spearman(x[part], y[part]) for part in parts]).nanmean(dim=0)

    low, high = torch.nanquantile(found(again), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return found(layers).item(), low, high


def unique(columns: Columns) -> list[str]:
    """The layers' names, in order."""
    return list(dict.fromkeys(columns["layer"]))


def lowest_quarter(columns: Columns, estimator: str, truth: str) -> float:
    """What the quarter of a layer's removed filters that an estimator ranks lowest does of the layer's damage, as a
    share, mean over layers; 0.25 if the estimator knows nothing."""
    shares = []
    for name in unique(columns):
        rows = [k for k, layer in enumerate(columns["layer"]) if layer == name]
        rows.sort(key=lambda k: columns[estimator][k])
        damage = [columns[truth][k] for k in rows]
        shares.append(sum(damage[: max(1, len(rows) // 4)]) / sum(damage))
    return sum(shares) / len(shares)


def table(found: dict[str, Any]) -> str:
    """A domain's tables as Markdown: correlations within layers and over all, and what the lowest quarter does."""
    columns: Columns = found["filters"]

    def grid(caption: str, truths: list[str], cell: Callable[[str, str], str]) -> list[str]:
        rows = [f"| {caption} | {' | '.join(TRUTHS[t] for t in truths)} |", f"|---|{'---|' * len(truths)}"]
        return rows + [f"| {name} | {' | '.join(cell(e, t) for t in truths)} |" for e, name in ESTIMATORS.items()]

    def correlations(caption: str, within: bool) -> list[str]:
        def cell(estimator: str, truth: str) -> str:
            rho, low, high = correlation(columns, estimator, truth, within=within)
            return f"{rho:.2f} ({low:.2f} to {high:.2f})"

        halves = [correlation(columns, f"{t}/0", f"{t}/1", within=within)[0] for t in TRUTHS]
        last = f"| one half of the latents, of the other | {' | '.join(f'{r:.2f}' for r in halves)} |"
        return [*grid(caption, list(TRUTHS), cell), last, ""]

    count, layers = len(columns["layer"]), len(unique(columns))
    lower = [[x < 0 for x in columns[name]] for name in ("worse", "worse/0", "worse/1")]
    both = sum(a and b for a, b in zip(lower[1], lower[2], strict=True))
    lines = correlations(f"within layers ({count} filters, mean of {layers} layers)", True)
    lines += correlations(f"over all layers ({count} filters)", False)
    sizes = [truth for truth in TRUTHS if truth != "worse"]
    caption = "share of a layer's damage that its lowest quarter does"
    lines += grid(caption, sizes, lambda e, t: f"{100 * lowest_quarter(columns, e, t):.0f} %")
    return "\n".join(
        [*lines, "", f"{sum(lower[0])} of {count} removals lower fd, {both} in both halves of the latents."]
    )


def as_json(entries: dict[str, Any]) -> str:
    """Each column on a line."""
    text = json.dumps(entries, indent=1, allow_nan=False)
    return re.sub(r"\[\s+([^\[\]]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


if __name__ == "__main__":
    main()
