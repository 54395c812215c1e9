"""tenshot report: a finished run as one page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from tenshot.cli.common import PathFlag, parse
from tenshot.errors import TenshotError
from tenshot.report import write_and_tell
from tenshot.targets import check_page


@dataclass(frozen=True)
class _Report:
    run: Annotated[Positional[str], arg(metavar="RUN")]
    """The folder of a finished run."""
    out: PathFlag = None
    """The .html file. Default: report.html in the run's folder, comparison.html with --compare."""
    compare: Annotated[tuple[str, ...] | None, arg(metavar="RUN ...", help_behavior_hint="")] = None
    """More finished runs, to be set beside it on the same latents."""


def run(arguments: list[str]) -> int:
    """tenshot report RUN [--out FILE] [--compare RUN RUN ...]"""
    flags = parse(
        _Report,
        arguments,
        "tenshot report runs/robots --compare runs/robots-finetune",
        "A finished run as one HTML file: samples, shots, losses, pruning, settings. It opens offline.",
    )
    if flags.compare == ():
        raise TenshotError("--compare names no run: give the folder of another finished run, or leave it out")
    out = Path(flags.out) if flags.out else None
    if out and out.suffix.lower() not in (".html", ".htm"):
        raise TenshotError(f"--out is {flags.out}: the name must end in .html")
    if out:
        check_page(out, Path(flags.run))
    written, numbers = write_and_tell(Path(flags.run), out, [Path(path) for path in flags.compare or ()])
    for number in numbers:
        print(f"{number.label:<16}{number.value:<14}{number.meaning}")
    print(f"{'report':<16}{written}")
    return 0
