"""The tables of docs/performance.md, written between its markers from results/*.json.

    python -m benchmarks.speed.table [--check]

<!-- bench:step-64 --> and so on, one for each file of results/; FIGURES has their columns.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.measure import RESULTS, ROOT
from tenshot.bench.tables import fill_places
from tenshot.errors import TenshotError
from tenshot.files import write_atomically

PAGE = ROOT / "docs" / "performance.md"
Row = Mapping[str, Any]
Column = Callable[[Row], str]


def told(values: Mapping[str, float] | None, digits: int = 3) -> str:
    """Median and quartiles; the median alone of a single value."""
    if values is None:
        return "–"
    median, low, high = (number(values[key], digits) for key in ("median", "q1", "q3"))
    return median if values["n"] == 1 else f"{median} ({low}–{high})"


def number(value: float, digits: int = 3) -> str:
    """So many digits at least, none of them an exponent."""
    if not value:
        return "0"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    shown = f"{value:.{max(0, digits - whole)}f}" if abs(value) >= 0.001 else f"{value:.{digits}g}"
    return f"{float(shown):,.0f}" if whole >= digits else shown


def spread_of(*path: str, digits: int = 3) -> Column:
    """The spread at a place of the row."""

    def column(row: Row) -> str:
        value: Any = row
        for key in path:
            value = value.get(key) if value is not None else None
        return told(value, digits)

    return column


def plain(key: str, digits: int = 3) -> Column:
    def column(row: Row) -> str:
        value = row.get(key)
        if value is None:
            return "–"
        if isinstance(value, bool):
            return "yes" if value else "no"
        return number(value, digits) if isinstance(value, float) else str(value)

    return column


@dataclass(frozen=True)
class Figure:
    """What makes a file of results/, and what its table shows."""

    command: str
    columns: dict[str, Column]


def _step(more: str = "") -> Figure:
    return Figure(
        f"step{more}",
        {
            "threads": plain("threads"),
            "part": lambda row: {
                "d": "D",
                "r1": "R1",
                "g": "G",
                "path": "path length",
                "sum": "D + R1/16 + G + path/4",
            }.get(row["part"], "mean step"),
            "ours, ms": spread_of("ms", "ours"),
            "ours bfloat16, ms": spread_of("ms", "bfloat16"),
            "plain, ms": spread_of("ms", "plain"),
            "public, ms": spread_of("ms", "public"),
            "ours / plain": spread_of("ours over plain", digits=2),
            "ours / public": spread_of("ours over public", digits=2),
            "bfloat16 / plain": spread_of("bfloat16 over plain", digits=2),
        },
    )


_PROFILE = {
    "operation": lambda row: f"`{row['operation']}`",
    "share": lambda row: f"{100 * row['share']:.1f} %",
    "ms a step": plain("ms a step"),
    "calls a step": plain("calls a step"),
}
_SAMPLING = {
    "threads": plain("threads"),
    "batch": plain("batch"),
    "ours, images/s": spread_of("images a second", "ours"),
    "twin, images/s": spread_of("images a second", "twin"),
    "times as fast": spread_of("ours over twin"),
}

FIGURES: dict[str, Figure] = {
    "step-64": _step(),
    "step-128": _step(" --resolution 128 --rounds 3"),
    "step-256": _step(" --resolution 256 --rounds 3"),
    "sampling": Figure("sampling", _SAMPLING),
    "compiled": Figure(
        "sampling --compile",
        {
            **_SAMPLING,
            "compiled, images/s": spread_of("images a second", "compiled"),
            "seconds to compile": plain("seconds to compile"),
        },
    ),
    "fisher": Figure(
        "fisher",
        {
            "way": plain("way"),
            "ms a step": spread_of("ms"),
            "over without, same step": spread_of("over without", digits=4),
            "total over without": plain("total over without", 4),
        },
    ),
    "startup": Figure(
        "startup", {"command": plain("command"), "ms": spread_of("ms"), "imports torch": plain("imports torch")}
    ),
    "memory": Figure("memory", {"way": plain("way"), "peak, MB": spread_of("MB")}),
    "data": Figure(
        "data", {"way": plain("way"), "ms": spread_of("ms"), "over none": spread_of("over none")}
    ),
    "compact": Figure(
        "compact --multiples 4 8",
        {
            "threads": plain("threads"),
            "batch": plain("batch"),
            "multiple": plain("multiple"),
            "dense, ms an image": spread_of("dense ms"),
            "compact, ms an image": spread_of("compact ms"),
            "times as fast": spread_of("faster"),
            "ideal": plain("ideal"),
            "of the ideal": plain("of the ideal", 2),
            "largest difference": lambda row: f"{row['largest difference']:.1e}",
        },
    ),
    "floor": Figure(
        "floor",
        {
            "threads": plain("threads"),
            "part": _step().columns["part"],
            "multiply-adds, billions": plain("multiply-adds, billions"),
            "measured, ms": spread_of("ms"),
            "products alone, ms": plain("products ms"),
            "low-pass filters alone, ms": plain("filters ms"),
            "at the forward rate, ms": plain("forward rate ms"),
            "at the peak rate, ms": plain("peak ms"),
            "measured / products": lambda row: number(row["ms"]["median"] / row["products ms"]),
            "measured / forward rate": lambda row: number(row["ms"]["median"] / row["forward rate ms"]),
        },
    ),
    "profile": Figure("profile", _PROFILE),
    "profile-bfloat16": Figure("profile --precision bfloat16", _PROFILE),
    "onnx": Figure(
        "onnx MODEL FILE.onnx FILE-f16.onnx --threads 1",
        {
            "threads": plain("threads"),
            "batch": plain("batch"),
            "way": plain("way"),
            "ms an image": spread_of("ms"),
            "over torch": spread_of("over torch"),
        },
    ),
}  # fmt: skip


def render(name: str, results: Path = RESULTS) -> str:
    """The table of a figure, how to repeat it, and where it was measured. Raises TenshotError for no such figure."""
    if name not in FIGURES:
        raise TenshotError(f"bench:{name}: there is no such figure; there are {', '.join(FIGURES)}")
    figure, path = FIGURES[name], results / f"{name}.json"
    command = f"`python -m benchmarks.speed.{figure.command}`"
    if not path.exists():
        return f"*Not measured yet: {command}.*"
    values = json.loads(path.read_text(encoding="utf-8"))
    lines = [f"| {' | '.join(figure.columns)} |", "|---" * len(figure.columns) + "|"]
    lines += [f"| {' | '.join(column(row) for column in figure.columns.values())} |" for row in values["rows"]]
    return "\n".join([*lines, "", f"{command}: {where(values)}."])


def where(values: Mapping[str, Any]) -> str:
    """Settings, machine and versions in a line."""
    settings, machine = values["settings"], values["machine"]
    units = [machine["vectors"] or "", "AMX" if machine["amx"] else "", "bfloat16" if machine["bfloat16"] else ""]
    threads = "/".join(map(str, settings["threads"]))
    return ", ".join(
        [
            settings["source"],
            *([f"batch {settings['batch']}"] if "batch" in settings else []),
            f"{settings['rounds']} rounds",
            f"{threads} thread{'' if threads == '1' else 's'} of {machine['processor']} ({machine['cores']} cores; "
            f"{', '.join(filter(None, units))})",
            f"load {machine['load']} before",
            f"torch {values['versions']['torch']}",
            f"commit {(values['commit'] or 'unknown')[:10]}{', changed' if values['changed'] else ''}",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page differs")
    flags = made.parse_args(arguments)
    before = PAGE.read_text(encoding="utf-8")
    after = fill_places(before, render)
    if after != before and not flags.check:
        write_atomically(PAGE, after.encode())
    return int(flags.check and after != before)


if __name__ == "__main__":
    raise SystemExit(main())
