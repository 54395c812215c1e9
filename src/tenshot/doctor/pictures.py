"""Images to adapt to: how many can be used."""

import shlex
from pathlib import Path

from tenshot.data import ImageSet, load_images
from tenshot.doctor.finding import Finding, fault, ok, warning
from tenshot.errors import TenshotError


def check_pictures(path: Path, resolution: int) -> tuple[list[Finding], ImageSet | None]:
    """Findings on a folder, zip or image as squares of `resolution` px, and what was taken in."""
    try:
        intake = load_images(path, resolution)
    except TenshotError as error:
        return [fault("images", error)], None
    refused = [record for record in intake.records if record.refused]
    looked_at = [record for record in intake.records if record.warnings]
    findings = [ok("images", f"{len(intake)} of {len(intake.records)} can be used, as squares of {resolution} px")]
    if refused:
        first = "; ".join(f"{record.name}: {record.refused}" for record in refused[:3])
        findings.append(warning("refused", f"{first}{_more(refused)}; the others are used without them"))
    if looked_at:
        first = "; ".join(f"{record.name}: {', '.join(record.warnings)}" for record in looked_at[:3])
        findings.append(warning("look at", f"{first}{_more(looked_at)}; they are used, take out what should not be"))
    name = shlex.quote(str(path))
    findings.append(ok("next", f"`tenshot adapt {name} --out RUN`, or with --dry-run to see what it would take"))
    return findings, intake


def _more(records: list) -> str:
    return f"; and {len(records) - 3:,} more" if len(records) > 3 else ""
