"""The figures of docs/results.md, drawn from the results in benchmarks/quality/results and from nothing else.

    python benchmarks/quality/figures.py

`docs/ratios.png`: the share of pruned filters in every layer over the steps of a run, DAP and RICK, from the runs of
`table.json`. `docs/curves.png`: distance and variety over the steps, from the runs of `long.json`. Runs
that are missing are counted, and a figure with no run at all is left as it is. Needs matplotlib.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tenshot.bench.results import Result, Results
from tenshot.bench.sources import source_sha256
from tenshot.bench.specs import read_spec
from tenshot.files import write_atomically

QUALITY = Path(__file__).parent
DOCS = QUALITY.parents[1] / "docs"
DOMAINS = ("bottts", "sketch")
NAMES = {"dap": "DAP", "rick": "RICK", "finetune": "fine-tuning"}
COLOURS = {"dap": "#d55e00", "rick": "#0072b2", "finetune": "#555555"}
"""Vermilion, blue and grey: apart in every kind of colour blindness (Okabe and Ito 2008)."""
MARKS = {"dap": "o", "rick": "s", "finetune": "^"}
SHARE = LinearSegmentedColormap.from_list("share", ["#f4f7fa", "#b9d7ea", "#4a90c2", "#123b6d"])
MOST = 0.10  # share of the darkest colour
INK, FAINT, PALE = "#333333", "#999999", "#dddcd6"

Found = dict[tuple[str, str], list[dict[str, Any]]]
"""(variant, domain) -> the values of its results, by seed."""


class Part(NamedTuple):
    """One kind of layer in a network."""

    title: str
    layers: tuple[tuple[str, int], ...]
    """Name and height of the output in pixels, in the order of the forward pass; for `faces64`."""


_STYLED = [(f"convs.{i}", 8 << i // 2) for i in range(8)]
PARTS = {
    "generator": (
        Part("convolutions", (("conv1", 4), *_STYLED)),
        Part("rows of styles", tuple((f"{name}.conv.modulation", size) for name, size in _STYLED)),
    ),
    "discriminator": (
        Part("convolutions", tuple((f"convs.{i}.conv{k}", 128 >> i + k - 1) for i in range(1, 5) for k in (1, 2))),
        Part("shortcuts", tuple((f"convs.{i}.skip", 64 >> i) for i in range(1, 5))),
    ),
}


class Shares(NamedTuple):
    """What was pruned in one network, mean over the seeds."""

    steps: list[int]
    """Of the decisions; each holds until the next one."""
    layers: dict[str, list[float]]
    """By layer the share after each decision."""


def main() -> None:
    results = Results(QUALITY / "results")
    for draw, spec, variants, name in (
        (ratios, "table", ("dap", "rick"), "ratios.png"),
        (curves, "long", ("finetune", "rick", "dap"), "curves.png"),
    ):
        found, wanted = results_of(results, spec, variants)
        count = sum(map(len, found.values()))
        missing = f"{wanted - count} of the {wanted} runs of {spec} that it shows are missing"
        if not count:
            print(f"docs/{name} is not drawn: {missing}.")
            continue
        write_atomically(DOCS / name, png(draw(found)))
        print(f"docs/{name} shows {count} runs" + (f"; {missing}." if wanted > count else "."))


def results_of(results: Results, spec: str, variants: Sequence[str]) -> tuple[Found, int]:
    """What there is of a spec's variants on `DOMAINS`, and how many runs there are to be."""
    jobs = [j for j in read_spec(QUALITY / f"{spec}.json").jobs if j.variant in variants and j.domain in DOMAINS]
    answers: list[tuple[Any, Result | None]] = [(j, results.find(j, source_sha256(j, None))) for j in jobs]
    found: Found = {}
    for job, result in answers:
        if result is not None:
            found.setdefault((job.variant, job.domain), []).append(result.values)
    return found, len(jobs)


def shares_of(values: Sequence[dict[str, Any]], network: str) -> Shares:
    """Mean over results of the same settings. Raises ValueError if they were decided at different steps."""
    pruned = [each["pruned"][network] for each in values]
    steps = pruned[0]["steps"]
    if any(each["steps"] != steps for each in pruned):
        raise ValueError(f"the runs took their decisions about the {network} at different steps")
    layers = {
        name: [sum(shares) / len(shares) for shares in zip(*(each["layers"][name] for each in pruned), strict=True)]
        for name in pruned[0]["layers"]
    }
    return Shares(steps, layers)


def curve_of(values: Sequence[dict[str, Any]], metric: str) -> tuple[list[int], list[float], list[list[float]]]:
    """Steps at which all results have a look; the mean there; every result's own values."""
    looks = [{look["step"]: look[metric] for look in each.get("looks", ()) if metric in look} for each in values]
    steps = sorted(set.intersection(*map(set, looks)))
    own = [[each[step] for step in steps] for each in looks]
    return steps, [sum(row) / len(row) for row in zip(*own, strict=True)], own


def ratios(found: Found) -> Figure:
    """A map for each domain, network and method: layers from the latent or image downwards, steps to the right."""
    columns = [(domain, method) for domain in DOMAINS for method in ("dap", "rick")]
    heights = [sum(len(part.layers) + 1 for part in parts) for parts in PARTS.values()]
    figure = Figure(figsize=(11.5, 7.6), facecolor="white")
    grid = figure.subplots(2, 4, height_ratios=heights, squeeze=False)
    figure.subplots_adjust(left=0.09, right=0.955, top=0.89, bottom=0.13, wspace=0.3, hspace=0.14)
    for row, (network, parts) in zip(grid, PARTS.items(), strict=True):
        for k, (axes, (domain, method)) in enumerate(zip(row, columns, strict=True)):
            values = found.get((method, domain), [])
            last = values[0]["config"]["steps"] if values else 600
            share_map(axes, parts, shares_of(values, network) if values else None, last)
            axes.tick_params(labelleft=k == 0, labelbottom=network == "discriminator")
            if network == "generator":
                axes.set_title(f"{domain}, {NAMES[method]}", fontsize=11, color=INK, pad=8)
            else:
                axes.set_xlabel("step", fontsize=9, color=INK)
        row[0].set_ylabel(network, fontsize=11, color=INK, labelpad=22)
    title = f"Share of a layer's filters that is pruned ({over_seeds(found)}); numbers: after the last decision"
    figure.suptitle(title, fontsize=12, color=INK, x=0.53, y=0.965)
    colour_scale(figure)
    return figure


def over_seeds(found: Found) -> str:
    """What the numbers are a mean of."""
    seeds = sorted({tuple(sorted(each["seed"] for each in values)) for values in found.values()})
    if len(seeds) > 1:
        return f"mean over {min(map(len, seeds))} to {max(map(len, seeds))} seeds"
    return f"seed {seeds[0][0]}" if len(seeds[0]) == 1 else f"mean over {len(seeds[0])} seeds"


def share_map(axes: Axes, parts: Sequence[Part], shares: Shares | None, last: int) -> None:
    """One map. Layers that have no fates in this run are grey."""
    axes.set(xlim=(0, last), ylim=(sum(len(part.layers) + 1 for part in parts), 0.25))
    ticks, labels, y = [], [], 1
    for part in parts:
        axes.text(0, y - 0.12, part.title, fontsize=8.5, color=INK, va="bottom", style="italic")
        for k, (name, size) in enumerate(part.layers):
            row = shares.layers.get(name) if shares else None
            axes.add_patch(rectangle(0, y, last, PALE if row is None else SHARE(0.0)))
            for begin, end, share in spans(shares.steps, row, last) if shares and row else ():
                axes.add_patch(rectangle(begin, y, end - begin, SHARE(min(share / MOST, 1.0))))
            told = "" if row is None else f"{100 * row[-1]:.1f} %"
            colour = INK if row and row[-1] else FAINT
            axes.text(last * 1.02, y + 0.5, told, fontsize=7.5, color=colour, va="center")
            if k == 0 or part.layers[k - 1][1] != size:
                ticks.append(y + sum(1 for _, other in part.layers if other == size) / 2)
                labels.append(f"{size} px")
            y += 1
        y += 1
    axes.set_yticks(ticks, labels, fontsize=8.5, color=INK)
    axes.set_xticks([0, last // 3, 2 * last // 3, last])
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axes.spines[:].set_visible(False)


def rectangle(x: float, y: float, width: float, colour: Any) -> Rectangle:
    """A layer's row between two steps."""
    return Rectangle((x, y + 0.04), width, 0.92, facecolor=colour, linewidth=0)


def spans(steps: Sequence[int], row: Sequence[float], last: int) -> list[tuple[int, int, float]]:
    """(from, to, share) of every decision that leaves something pruned, up to the last step."""
    ends = [*steps[1:], last]
    return [(begin, end, share) for begin, end, share in zip(steps, ends, row, strict=True) if share > 0]


def colour_scale(figure: Figure) -> None:
    """Below the maps, with a box for what a method does not touch."""
    axes = figure.add_axes((0.36, 0.052, 0.3, 0.016))
    axes.imshow([[k / 255 for k in range(256)]], aspect="auto", cmap=SHARE, extent=(0, 100 * MOST, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([0, 2, 4, 6, 8, 10], ["0 %", "2 %", "4 %", "6 %", "8 %", "10 % and more"], fontsize=8.5, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    box = figure.add_axes((0.74, 0.052, 0.02, 0.016), facecolor=PALE, xticks=[], yticks=[])
    box.spines[:].set_visible(False)
    figure.text(0.767, 0.06, "never pruned by this method", fontsize=8.5, color=INK, va="center")


def curves(found: Found) -> Figure:
    """A column a domain; distance above, variety below. Thick: mean over seeds; thin: each seed."""
    metrics = {"fd_efflite_500": "distance to the domain\n(fd_efflite_500, lower is better)",
               "intra_dist_200": "variety\n(intra_dist_200, higher is better)"}  # fmt: skip
    figure = Figure(figsize=(10, 6.4), facecolor="white")
    grid = figure.subplots(2, 2, sharex=True, squeeze=False)
    for row, (metric, label) in zip(grid, metrics.items(), strict=True):
        for axes, domain in zip(row, DOMAINS, strict=True):
            for method in ("finetune", "rick", "dap"):
                if values := found.get((method, domain)):
                    steps, mean, own = curve_of(values, metric)
                    style: dict[str, Any] = {"color": COLOURS[method]}
                    for each in own if len(own) > 1 else ():
                        axes.plot(steps, each, linewidth=0.8, alpha=0.45, **style)
                    name = NAMES[method]
                    axes.plot(steps, mean, marker=MARKS[method], markersize=4.5, linewidth=2, label=name, **style)
            axes.grid(axis="y", color=PALE, linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=9, labelcolor=INK, color=PALE)
            axes.set_xlim(left=0)
        row[0].set_ylabel(label, fontsize=10, color=INK)
    for top, below, domain in zip(*grid, DOMAINS, strict=True):
        there = {key: values for key, values in found.items() if key[1] == domain}
        top.set_title(f"{domain}, {over_seeds(there) if there else 'no run yet'}", fontsize=11, color=INK)
        below.set_xlabel("step", fontsize=10, color=INK)
        if there:
            top.legend(fontsize=9, frameon=False, labelcolor=INK)
    figure.tight_layout()
    return figure


def png(figure: Figure) -> bytes:
    """The same bytes for the same figure and version of matplotlib."""
    file = io.BytesIO()
    figure.savefig(file, dpi=120, format="png", metadata={"Software": None})
    return file.getvalue()


if __name__ == "__main__":
    main()
