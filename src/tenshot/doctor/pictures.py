"""Images to adapt to: how many can be used, and whether a source can be adapted to them."""

import os
from pathlib import Path

from tenshot.commands import argument
from tenshot.config import RunConfig
from tenshot.data import ImageSet, load_images
from tenshot.doctor.finding import Finding, fault, ok, warning
from tenshot.errors import TenshotError
from tenshot.images import REPEATED, ImageRecord
from tenshot.models import load_model

FEW = 5
"""Different images below which a warning says that about ten are wanted."""


def check_pictures(path: Path, source: str) -> tuple[list[Finding], ImageSet | None]:
    """Findings on a folder, zip or image that is to adapt a source, and what was taken in: squares of its resolution.
    Where the source cannot be read, the images are looked at as the default source takes them."""
    source_faults: list[Finding] = []
    try:
        model = load_model(source)
    except TenshotError as error:
        source_faults.append(fault("source", error))
        model = load_model(RunConfig.source)
    resolution = model.resolution
    try:
        intake = load_images(path, resolution)
    except TenshotError as error:
        return [fault("images" if os.path.lexists(path) else "path", error), *source_faults], None
    refused = [record for record in intake.records if record.refused]
    looked_at = [record for record in intake.records if record.warnings]
    findings = [ok("images", f"{len(intake)} of {len(intake.records)} can be used, as squares of {resolution} px")]
    if refused:
        first = "; ".join(f"{record.name}: {record.refused}" for record in refused[:3])
        findings.append(warning("refused", f"{first}{_more(refused)}; the others are used without them"))
    if looked_at:
        first = "; ".join(f"{record.name}: {', '.join(record.warnings)}" for record in looked_at[:3])
        findings.append(warning("look at", f"{first}{_more(looked_at)}; they are used, take out what should not be"))
    different = sum(_is_new(record) for record in intake.records)
    if different < FEW:
        counted = f"there {'is' if different == 1 else 'are'} {different}"
        text = (
            f"about ten different images are wanted, and {counted}: add others, or what is drawn comes close to copies"
        )
        findings.append(warning("few", text))
    findings += source_faults or [_next(path, source, can_be_adapted=model.discriminator is not None)]
    return findings, intake


def _next(path: Path, source: str, *, can_be_adapted: bool) -> Finding:
    if not can_be_adapted:
        return fault("source", f"{source} has no discriminator, so it cannot be adapted; name another --source")
    given = "" if source == RunConfig.source else f" --source {argument(source)}"
    command = f"`tenshot adapt {argument(path)}{given} --out RUN`"
    return ok("next", f"{command}, or with --dry-run to see what it would take")


def _is_new(record: ImageRecord) -> bool:
    """Whether a picture is used and no repetition of an earlier one."""
    return record.refused is None and not any(REPEATED in text for text in record.warnings)


def _more(records: list) -> str:
    return f"; and {len(records) - 3:,} more" if len(records) > 3 else ""
