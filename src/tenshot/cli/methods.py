"""tenshot methods: the table of methods, and their presets."""

from dataclasses import dataclass
from typing import Annotated

from rich.console import Console
from tyro.conf import arg

from tenshot import costs
from tenshot.cli.common import parse
from tenshot.methods import METHODS
from tenshot.presets import PRESETS
from tenshot.tables import Named


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
    _methods(measured).print(console)
    console.print(f"step: time of a step relative to finetune's, {measured.where}", soft_wrap=True)
    if flags.presets:
        _presets().print(console)
    return 0


def _methods(measured: costs.Costs) -> Named:
    return Named(
        "tenshot adapt --method NAME",
        names=("name",),
        facts=("paper", "trains", "adds to the losses", "step"),
        rows=[(name, m.paper, m.changes, m.adds, f"{measured.relative[name]:.2f}") for name, m in METHODS.items()],
        numbers=("step",),
    )


def _presets() -> Named:
    rows = []
    for name, presets in PRESETS.items():
        for preset, what in presets.items():
            settings = ", ".join(f"{key} {value}" for key, value in what.settings.items())
            rows.append((name, preset, what.origin, settings or "none"))
    return Named(
        "tenshot adapt --method NAME --preset PRESET",
        names=("name", "preset"),
        facts=("from", "settings that differ from the defaults"),
        rows=rows,
    )
