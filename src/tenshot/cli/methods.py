"""tenshot methods: the table of methods, and their presets."""

from dataclasses import dataclass
from typing import Annotated

from rich.console import Console
from rich.table import Table
from tyro.conf import arg

from tenshot import costs
from tenshot.cli.common import parse
from tenshot.methods import METHODS
from tenshot.presets import PRESETS


@dataclass(frozen=True)
class _Methods:
    measure: bool = False
    """Measure here what a step costs, on the embedded source, instead of showing the kept figures (a minute)."""
    presets: Annotated[bool, arg(help="Show every preset's settings.")] = False


def run(arguments: list[str]) -> int:
    """tenshot methods [--measure] [--presets]"""
    flags = parse(_Methods, arguments, "tenshot methods --presets", "The methods of `tenshot adapt`.")
    console = Console(highlight=False)
    measured = costs.measure() if flags.measure else costs.kept()
    console.print(_methods(measured))
    console.print(f"step: time of a step relative to finetune's, {measured.where}", soft_wrap=True)
    if flags.presets:
        console.print(_presets())
    return 0


def _methods(measured: costs.Costs) -> Table:
    table = Table(title="tenshot adapt --method NAME")
    for heading in ("name", "paper", "trains", "adds to the losses"):
        table.add_column(heading)
    table.add_column("step", justify="right")
    for name, method in METHODS.items():
        table.add_row(name, method.paper, method.changes, method.adds, f"{measured.relative[name]:.2f}")
    return table


def _presets() -> Table:
    table = Table(title="tenshot adapt --method NAME --preset PRESET")
    for heading in ("name", "preset", "from", "settings that differ from the defaults"):
        table.add_column(heading)
    for name, presets in PRESETS.items():
        for preset, what in presets.items():
            settings = ", ".join(f"{key} {value}" for key, value in what.settings.items())
            table.add_row(name, preset, what.origin, settings or "none")
    return table
