"""Tables of results in Markdown, written into pages between markers.

<!-- bench:table fd_efflite_2k -->            mean and interval of a metric, variants x domains of table.json
<!-- bench:table fd_efflite_2k over rick -->  the same as a ratio to a variant, seed by seed
<!-- bench:table fd_efflite_2k of dap -->     one variant against each other, pair by pair
<!-- bench:ablations/rule prdc_2k.recall -->  a part of a metric, of ablations/rule.json
<!-- bench:table peak_mb -->                  also best METRIC where runs were scored on their way
<!-- bench:table seconds -->                  the shortest training of each variant
<!-- bench:table facts -->                    versions, machines, commits
<!-- bench:table facts in results-b -->       any of these of the results in another folder beside the specs
<!-- /bench -->
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenshot.bench.duels import Numbers, duels
from tenshot.bench.intervals import Estimate, estimate
from tenshot.bench.results import Result, Results
from tenshot.bench.sources import source_sha256
from tenshot.bench.specs import Job, Spec, read_spec
from tenshot.errors import TenshotError
from tenshot.files import told_as_sentence
from tenshot.metrics import METRICS
from tenshot.metrics.neighbours import PRDC_PARTS

_OPENED = "<!-- bench:"
_MARKED = re.compile(rf"{_OPENED}(?P<name>[^\n]+?) -->\n(?:(?!{_OPENED}).)*?<!-- /bench -->", re.DOTALL)
_PLAIN = ("seconds", "peak_mb")


@dataclass(frozen=True)
class Shelf:
    """A folder of specs with the results that answer them."""

    folder: Path
    results: Results

    def render(self, name: str) -> str:
        """The Markdown that belongs between the markers of a name. Raises TenshotError for what there is not."""
        where, _, quantity = name.strip().partition(" ")
        quantity, _, beside = quantity.partition(" in ")
        spec = read_spec(self.folder / f"{where}.json")
        results = results_in(self.folder / beside) if beside else self.results
        found = {job: result for job in spec.jobs if (result := results.find(job, source_sha256(job, None)))}
        if quantity == "facts":
            return facts(spec, found)
        quantity, _, base = quantity.partition(" over ")
        quantity, _, first = quantity.partition(" of ")
        for variant in filter(None, (base, first)):
            if variant not in spec.variants:
                known = ", ".join(spec.variants)
                raise TenshotError(f"bench:{name}: {where} has no variant {variant!r}; there are {known}")
        read, better, chance = quantity_of(quantity, name)
        numbers: Numbers = {}
        for job, result in found.items():
            if (value := read(result.values)) is not None:
                numbers.setdefault((job.variant, job.domain), {})[job.config.seed] = value
        if first:
            return duels(spec, numbers, first, better)
        if quantity == "seconds" and not base:
            return shortest(spec, numbers)
        return grid(spec, ratios(numbers, base) if base else numbers, better, chance)

    def fill(self, text: str) -> str:
        """A page with all its marked places written anew."""

        return fill_places(text, self.render)


def results_in(folder: Path) -> Results:
    """The results of a folder. Raises TenshotError where there is no such folder."""
    if not folder.is_dir():
        raise TenshotError(f"there is no folder {folder}: after ` in ` stands one beside the specs")
    return Results(folder)


def fill_places(text: str, render: Callable[[str], str]) -> str:
    """A page with what `render` returns for a name between that name's markers. Raises TenshotError where a place does
    not end before the next begins."""

    def written(match: re.Match[str]) -> str:
        return f"<!-- bench:{match['name']} -->\n\n{render(match['name'])}\n\n<!-- /bench -->"

    if opened := re.search(rf"^{_OPENED}[^\n]*-->$", _MARKED.sub("", text), re.MULTILINE):
        raise TenshotError(f"{opened[0]} has no <!-- /bench --> before the next place: write it where the table ends")
    return _MARKED.sub(written, text)


def is_marked(path: Path) -> bool:
    """Whether a page has a place for a table."""
    return bool(_MARKED.search(read_page(path)))


def read_page(path: Path) -> str:
    """A page's text. Raises TenshotError."""
    try:
        with told_as_sentence("read", path):
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TenshotError(f"{path} is no page of text: it is not UTF-8") from error


def quantity_of(quantity: str, name: str) -> tuple[Callable[[dict[str, Any]], float | None], str, float]:
    """How to read a number out of a result, which numbers are better, and what chance gives. Raises TenshotError."""
    if quantity in _PLAIN:
        return lambda values: values[quantity]["train"], "lower", 0.0
    is_best = quantity.startswith("best ")
    metric, _, part = quantity.removeprefix("best ").partition(".")
    if metric not in METRICS or (part and part not in PRDC_PARTS):
        raise TenshotError(f"bench:{name}: there is no quantity {quantity!r} (docs/metrics.md has the metrics)")
    better, chance = METRICS[metric].better, METRICS[metric].chance
    if is_best:
        return lambda values: values.get("best", {}).get(metric, {}).get("value"), better, chance
    return lambda values: values["metrics"].get(metric, {}).get(part or "value"), better, chance


def ratios(numbers: Numbers, base: str) -> Numbers:
    """Each number over that of a variant with the same domain and seed."""
    return {
        (variant, domain): {
            seed: value / numbers[base, domain][seed]
            for seed, value in seeds.items()
            if numbers.get((base, domain), {}).get(seed)
        }
        for (variant, domain), seeds in numbers.items()
    }


def grid(spec: Spec, numbers: Numbers, better: str, chance: float = 0.0) -> str:
    """Variants x domains, mean and half of the interval over seeds, the best mean of a column in bold.

    The last column is the mean over domains, taken seed by seed; only seeds that all domains have count for it.
    """
    have, want = sum(map(len, numbers.values())), len(spec.jobs)
    if not have:
        return f"*No results yet: {want} runs are to be done.*"
    columns = {
        domain: {v: list(numbers.get((v, domain), {}).values()) for v in spec.variants} for domain in spec.domains
    }
    if len(spec.domains) > 1:
        columns["mean"] = {v: over_domains(spec, numbers, v) for v in spec.variants}
    cells = {title: shown_column(column, len(spec.seeds), better, chance) for title, column in columns.items()}
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {variant} | {' | '.join(cells[title][variant] for title in columns)} |" for variant in spec.variants]
    seeds = f"Mean over {len(spec.seeds)} seeds ± half of the 95 % t-interval; {better} is better."
    missing = (
        f" **{want - have} of {want} runs are missing**; n says how many there are where not all."
        if have < want
        else ""
    )
    return "\n".join([*lines, "", seeds + missing])


def over_domains(spec: Spec, numbers: Numbers, variant: str) -> list[float]:
    """One mean over all domains for each seed that all of them have."""
    found = [numbers.get((variant, domain), {}) for domain in spec.domains]
    whole = [seed for seed in spec.seeds if all(seed in seeds for seeds in found)]
    return [math.fsum(seeds[seed] for seeds in found) / len(found) for seed in whole]


def shown_column(column: dict[str, list[float]], want: int, better: str, chance: float = 0.0) -> dict[str, str]:
    """Cells with as many decimals as give the column's largest mean three digits, four at most.

    Means that look the same as the best one are in bold with it; where all look the same, none is. At or below what
    chance gives all are the same.
    """
    estimates = {variant: estimate(values) for variant, values in column.items() if values}
    decimals = decimals_for(max((abs(e.mean) for e in estimates.values()), default=1.0))
    means = {variant: round(max(e.mean, chance), decimals) for variant, e in estimates.items()}
    best = (min if better == "lower" else max)(means.values()) if len(set(means.values())) > 1 else None
    cells = {variant: shown(e, decimals, want) for variant, e in estimates.items()}
    return {v: f"**{cells[v]}**" if best is not None and means.get(v) == best else cells.get(v, "–") for v in column}


def shortest(spec: Spec, numbers: Numbers) -> str:
    """Each variant's shortest run, since other work on the machine makes runs longer and never shorter."""
    found = {v: [n for d in spec.domains for n in numbers.get((v, d), {}).values()] for v in spec.variants}
    least = {variant: min(values) for variant, values in found.items() if values}
    if not least:
        return grid(spec, {}, "lower")
    base = next(iter(least))
    lines = [f"| | shortest, seconds | over {base} | of runs |", "|---|---|---|---|"]
    lines += [f"| {v} | {s:.0f} | {s / least[base]:.2f} | {len(found[v])} |" for v, s in least.items()]
    return "\n".join(lines)


def decimals_for(largest: float) -> int:
    return min(4, max(0, 2 - math.floor(math.log10(largest)))) if largest > 0 else 3


def shown(e: Estimate, decimals: int, want: int) -> str:
    half = "" if e.half is None else f" ± {_half(e.half, decimals)}"
    return f"{e.mean:.{decimals}f}{half}" + (f" (n={e.n})" if e.n < want else "")


def _half(half: float, decimals: int) -> str:
    """With one decimal more where it would look like nothing."""
    told, finer = f"{half:.{decimals}f}", f"{half:.{decimals + 1}f}"
    return finer if float(finer) and not float(told) else told


def facts(spec: Spec, found: dict[Job, Result]) -> str:
    """What the results were measured with, and how many of each there are."""
    values = [result.values for result in found.values()]

    def counted(what: str, texts: Sequence[str]) -> str:
        counts = Counter(texts)
        alike = len(counts) == 1
        return f"| {what} | {'; '.join(t if alike else f'{t} ({n})' for t, n in counts.most_common())} |"

    lines = ["| | |", "|---|---|", f"| runs | {len(found)} of {len(spec.jobs)} |"]
    if values:
        lines += [
            counted("source", [f"{v['config']['source']}, sha256 {v['sha256']['source'][:12]}" for v in values]),
            counted("steps", [f"{v['config']['steps']:,} of {v['config']['batch']} images" for v in values]),
            counted("precision", [v["config"]["precision"] for v in values]),
            counted("torch", [v["versions"]["torch"] for v in values]),
            counted("tenshot", [f"{v['versions']['tenshot']} at {shown_commit(v)}" for v in values]),
            counted("machine", [_machine(v) for v in values]),
            f"| training | {sum(v['seconds']['train'] * v['threads'] for v in values) / 3600:.1f} hours of one thread "
            "in all |",
        ]
    return "\n".join(lines)


def _machine(values: dict[str, Any]) -> str:
    """Processor and threads, or the GPU that computed."""
    if gpu := values["machine"].get("gpu"):
        return gpu
    return f"{values['machine']['processor']}, {values['threads']} thread{'s' * (values['threads'] != 1)}"


def shown_commit(values: dict[str, Any]) -> str:
    return (values["commit"] or "an unknown commit")[:10] + (", changed" if values["changed"] else "")
