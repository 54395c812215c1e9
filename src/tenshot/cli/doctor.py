"""tenshot doctor: what is wrong with an installation, a run's folder, a model file, or images."""

from collections.abc import Iterable
from dataclasses import dataclass

from tenshot.doctor.finding import Finding, fault, ok
from tenshot.doctor.packages import check_packages
from tenshot.output import printable


def run(arguments: list[str]) -> int:
    """tenshot doctor [PATH] [--source NAME]"""
    findings = check_packages()
    if any(finding.level == "fault" for finding in findings):
        return _told(findings)  # what follows needs them
    try:
        import tenshot.doctor.machine as machine
    except (ImportError, OSError) as error:
        return _told([*findings, fault("imports", f"{error}: a package is damaged, install tenshot again")])
    given, source = _parse(arguments)
    if given is None:
        from tenshot import __version__

        return _told([ok("tenshot", __version__), *findings, *machine.check_machine()])

    from rich.console import Console

    from tenshot.data import intake_table
    from tenshot.doctor.inspection import inspect

    found = inspect(given, source)
    if found.intake:
        Console(highlight=False).print(intake_table(found.intake))
    taken_for = [ok("path", f"{given}: {found.what}")] if found.what else []
    return _told([*taken_for, *found.findings])


def _parse(arguments: list[str]) -> tuple[str | None, str]:
    """The path, and the source that images would adapt."""
    from typing import Annotated

    from tyro.conf import Positional, arg

    from tenshot.cli.common import parse
    from tenshot.config import RunConfig

    @dataclass(frozen=True)
    class Doctor:
        path: Annotated[Positional[str | None], arg(metavar="[PATH]", help_behavior_hint="")] = None
        """A run's folder, a model file, another program's checkpoint, or images. Left out: the installation."""
        source: Annotated[str, arg(metavar="NAME")] = RunConfig.source
        """What images are to adapt; its resolution decides whether they are large enough."""

    description = "What is wrong, line by line: ok, warning, or fault with a way out. Nothing is changed."
    flags = parse(Doctor, arguments, "tenshot doctor runs/robots", description)
    return flags.path, flags.source


def _told(findings: Iterable[Finding]) -> int:
    """Print one line a finding; 1 if there is a fault."""
    findings = list(findings)
    for finding in findings:
        text = printable(finding.text)
        print(f"{finding.level:<9}{finding.check:<15} {text}")
    faults, warnings = (sum(finding.level == level for finding in findings) for level in ("fault", "warning"))
    print(f"{_counted(len(findings), 'check')}, {_counted(faults, 'fault')}, {_counted(warnings, 'warning')}")
    return 1 if faults else 0


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' * (number != 1)}"
