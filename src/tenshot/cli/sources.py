"""tenshot sources: what one can start from."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tenshot.catalogue import OFFICIAL, embedded
from tenshot.cli.common import parse


@dataclass(frozen=True)
class _Sources:
    pass


def run(arguments: list[str]) -> int:
    """tenshot sources"""
    parse(_Sources, arguments, "tenshot sources", "Embedded sources, and official ones to download and convert.")
    console = Console(highlight=False)
    table = Table(title="embedded: tenshot adapt my_images --source NAME")
    for heading in ("name", "px", "MB", "what", "licence"):
        table.add_column(heading)
    for source in embedded():
        table.add_row(source.name, str(source.resolution), str(source.megabytes), source.what, source.licence)
    console.print(table)
    for source in embedded():
        console.print(f"card of {source.name}: {source.card}", soft_wrap=True)
    table = Table(title="official: download, then tenshot convert FILE source.safetensors")
    for heading in ("file", "px", "what", "licence"):
        table.add_column(heading, overflow="fold")
    for source in OFFICIAL:
        table.add_row(source.name, str(source.resolution), source.what, source.licence)
    console.print(table)
    for where in dict.fromkeys(source.where for source in OFFICIAL):
        names = [source.name for source in OFFICIAL if source.where == where]
        console.print(f"{names[0] if len(names) == 1 else 'the others'}: {where}", soft_wrap=True)
    return 0
