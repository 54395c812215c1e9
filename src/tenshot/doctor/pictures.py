"""Images to adapt to: how many can be used."""

import shlex
from pathlib import Path

from tenshot.config import RunConfig
from tenshot.data import ImageSet, load_images
from tenshot.doctor.finding import Finding, fault, ok, warning
from tenshot.errors import TenshotError
from tenshot.models import load_model


def check_pictures(path: Path, source: str) -> tuple[list[Finding], ImageSet | None]:
    """Findings on a folder, zip or image that is to adapt a source, and what was taken in: squares of its resolution.
    Raises TenshotError for a source that cannot be read."""
    model = load_model(source)
    resolution = model.resolution
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
    if model.discriminator is None:
        findings.append(
            fault("source", f"{source} has no discriminator, so it cannot be adapted; name another --source")
        )
    else:
        given = "" if source == RunConfig.source else f" --source {shlex.quote(source)}"
        command = f"`tenshot adapt {name}{given} --out RUN`"
        findings.append(ok("next", f"{command}, or with --dry-run to see what it would take"))
    return findings, intake


def _more(records: list) -> str:
    return f"; and {len(records) - 3:,} more" if len(records) > 3 else ""
