"""tenshot evaluate: a model's numbers, as a table and a JSON file."""

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from tenshot.cli.common import Bar, PathFlag, parse
from tenshot.devices import AUTO
from tenshot.errors import TenshotError
from tenshot.files import check_writable, write_atomically
from tenshot.metrics import METRICS, OFFLINE, evaluate
from tenshot.metrics.neighbours import PRDC_PARTS
from tenshot.metrics.protocol import choose
from tenshot.output import printable
from tenshot.runs import RunDir
from tenshot.targets import check_numbers

_NAMES = (
    f"Separated by commas. Without a download: {', '.join(n for n in METRICS if METRICS[n].extractor == 'efflite')}. "
    f"With weight files, see `tenshot weights`: {', '.join(n for n in METRICS if METRICS[n].extractor != 'efflite')}."
)
_DEFAULT = "(default: of the first five those for which images are given)"
_WANTS = "need held-out images (--real DIR_OR_ZIP) or the images trained on (--shots DIR_OR_ZIP)"


@dataclass(frozen=True)
class _Evaluate:
    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A run's folder, a model file, or an embedded source's name."""
    real: PathFlag = None
    """Held-out images of the domain, never trained on: a folder, a zip, or a folder in a zip."""
    shots: PathFlag = None
    """The images that were trained on. Default: those kept in the run's folder."""
    metrics: Annotated[str | None, arg(metavar="NAMES", help=_NAMES, help_behavior_hint=_DEFAULT)] = None
    out: PathFlag = None
    """A .json for the numbers and all that they depend on."""
    seed: int = 0
    """Of subsets and clusters."""
    first_seed: int = 0
    """The images judged are those of the seeds from here on."""
    weights: PathFlag = None
    """Folder of weight files, looked into before the usual places."""
    download: Annotated[bool, arg(help_behavior_hint="")] = True
    """Use only weight files that are there, instead of downloading missing ones."""
    device: str = AUTO
    """Where it computes: auto, a GPU if there is one; cpu; cuda, or cuda:1 for the second."""
    cache: PathFlag = None
    """Folder for features of the held-out images. Default: ~/.cache/tenshot/features."""


def run(arguments: list[str]) -> int:
    """tenshot evaluate MODEL --real DIR_OR_ZIP --shots DIR [--metrics fid_5k,kid_5k] [--out result.json]"""
    flags = parse(
        _Evaluate,
        arguments,
        "tenshot evaluate runs/robots --real robots.zip/heldout --out robots.json",
        "How near a model's images are to held-out ones, how varied, and whether they are copies.",
    )
    given = flags.metrics is not None
    names = [name.strip() for name in (flags.metrics or "").split(",") if name.strip()]
    if given:
        choose(names)
    if flags.out:
        check_target(Path(flags.out))
    names = names if given else _usual(flags)
    console = Console(highlight=False)
    with warnings.catch_warnings(record=True) as cautions, Bar(console) as watch:
        warnings.simplefilter("always", UserWarning)
        found = evaluate(
            flags.model,
            real=flags.real,
            shots=flags.shots,
            metrics=names,
            seed=flags.seed,
            first_seed=flags.first_seed,
            weights=flags.weights,
            download=flags.download,
            cache=flags.cache,
            device=flags.device,
            watch=watch,
        )
    console.print(table_of(found))
    for text in dict.fromkeys(str(caution.message) for caution in cautions):
        console.print(f"note: {text}", markup=False, soft_wrap=True)
    if left_out := [] if given else [name for name in OFFLINE if name not in names]:
        console.print(f"note: left out: {', '.join(left_out)}, which {_WANTS}", markup=False, soft_wrap=True)
    failed = {name: result["failed"] for name, result in found["metrics"].items() if "failed" in result}
    for name, reason in failed.items():
        told = reason if reason.startswith(f"{name} ") else f"{name}: {reason}"
        console.print(f"failed: {told}", markup=False, soft_wrap=True, style="red")
    if flags.out:
        write_atomically(Path(flags.out), (json.dumps(found, indent=2) + "\n").encode())
        console.print(flags.out, markup=False, soft_wrap=True)
    return 1 if failed else 0


def _usual(flags: _Evaluate) -> list[str]:
    """The default metrics, as far as the images that they need are given or kept. Raises TenshotError if none is."""
    has_shots = flags.shots is not None or RunDir(Path(flags.model)).kept_shots is not None
    found = [
        name
        for name in OFFLINE
        if (flags.real is not None or not METRICS[name].n_real) and (has_shots or not METRICS[name].shots)
    ]
    if not found:
        raise TenshotError(f"there is nothing to measure {flags.model} by: {', '.join(OFFLINE)} {_WANTS}")
    return found


def check_target(out: Path) -> None:
    """Before the minutes of work: raises TenshotError if the file could not be written at the end."""
    if out.suffix.lower() != ".json":
        raise TenshotError(f"--out is {out}: the name must end in .json")
    if os.path.isdir(out):
        raise TenshotError(f"--out is {out}, which is a folder: give the name of a file")
    check_numbers(out)
    check_writable(out)


def table_of(found: dict[str, Any]) -> Table:
    """One row a metric; fits 80 columns."""
    model = found["model"]
    name = model.get("name") or model.get("path") or "model"
    table = Table(
        title=Text(printable(f"{name}, {model['resolution']} px")),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("better", no_wrap=True)
    table.add_column("fakes, reals", no_wrap=True)
    table.add_column("what it measures", overflow="fold")
    for name, result in found["metrics"].items():
        counts = (f"{result[key]:,}" for key in ("n_fake", "n_real") if result.get(key))
        table.add_row(name, shown(result), METRICS[name].better, ", ".join(counts), METRICS[name].what)
    return table


def shown(result: dict[str, Any]) -> str:
    """The number or numbers of a metric in a cell."""
    if "failed" in result:
        return "failed"
    if "precision" in result:
        return "\n".join(f"{part} {result[part]:.3f}" for part in PRDC_PARTS)
    value = result["value"]
    return "none" if value is None else f"{value:.4g}" if abs(value) < 100 else f"{value:.1f}"
