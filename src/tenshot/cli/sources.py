"""tenshot sources: what one can start from."""

from dataclasses import dataclass

from rich.console import Console

from tenshot.catalogue import OFFICIAL, embedded
from tenshot.cli.common import parse
from tenshot.tables import Named


@dataclass(frozen=True)
class _Sources:
    pass


def run(arguments: list[str]) -> int:
    """tenshot sources"""
    parse(_Sources, arguments, "tenshot sources", "Embedded sources, and official ones to download and convert.")
    console = Console(highlight=False)
    Named(
        "embedded: tenshot adapt my_images --source NAME",
        names=("name",),
        facts=("px", "MB", "what", "licence"),
        rows=[(s.name, str(s.resolution), str(s.megabytes), s.what, s.licence) for s in embedded()],
    ).print(console)
    for source in embedded():
        console.print(f"card of {source.name}: {source.card}", soft_wrap=True)
    Named(
        "official: download, then tenshot convert FILE source.safetensors",
        names=("file",),
        facts=("px", "what", "licence"),
        rows=[(s.name, str(s.resolution), s.what, s.licence) for s in OFFICIAL],
    ).print(console)
    for where in dict.fromkeys(source.where for source in OFFICIAL):
        names = [source.name for source in OFFICIAL if source.where == where]
        console.print(f"{names[0] if len(names) == 1 else 'the others'}: {where}", soft_wrap=True)
    return 0
