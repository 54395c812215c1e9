"""The journals in a run's folder: readable line by line, every step once."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenshot.doctor.finding import Finding, fault, ok, warning
from tenshot.errors import TenshotError
from tenshot.files import told_as_sentence

_MOST = 2**53  # a count beyond is damaged


@dataclass(frozen=True)
class Journal:
    """What is in the file."""

    entries: tuple[tuple[int, dict[str, Any]], ...]
    """Number of the line, from 1, and what it says."""
    damaged: tuple[int, ...]
    """Numbers of lines that say nothing that can be read."""
    is_cut: bool
    """Whether something stands behind the last whole line."""


def read_journal(path: Path) -> Journal:
    """Raises TenshotError where the file cannot be opened."""
    with told_as_sentence("read", path):
        *lines, rest = path.read_bytes().split(b"\n")
    entries, damaged = [], []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, dict) and type(entry.get("step")) is int:
            entries.append((number, entry))
        else:
            damaged.append(number)
    return Journal(tuple(entries), tuple(damaged), bool(rest))


def check_journal(path: Path, *, is_every_step: bool, is_in_order: bool = True, least: int = 0) -> Finding:
    """is_every_step: it has one line for each step from the first, without gaps, to `least` at the least. is_in_order:
    no line is of an earlier step than the one before."""
    check = path.name
    if not path.is_file():
        if is_every_step and least:
            return warning(check, f"{path} is missing: a report has no curves; the training does not depend on it")
        return ok(check, "there is none yet")
    try:
        journal = read_journal(path)
    except TenshotError as error:
        return fault(check, error)
    if journal.damaged:
        first, number = journal.damaged[0], len(journal.damaged)
        text = f"line {first} of {path} cannot be read ({number} in all), so a report leaves the journal out"
        return fault(check, f"{text}: delete the line; it only keeps a record")
    if gap := _gap(journal, is_every_step) if is_in_order else None:
        return warning(check, f"{path} {gap}: a report shows it so; the training does not depend on it")
    last = journal.entries[-1][1]["step"] if journal.entries else 0
    if is_every_step and last < least:
        text = f"{path} ends at step {last}, the newest checkpoint is after step {least}: the lines between are lost"
        return warning(check, f"{text} to the report, not to the training")
    return ok(check, _summary(journal, last, is_every_step))


def _gap(journal: Journal, is_every_step: bool) -> str | None:
    """Where the steps do not follow one another."""
    before = 0
    for number, entry in journal.entries:
        step = entry["step"]
        if (is_every_step and step != before + 1) or step < before:
            return f"goes from step {before} to step {step} in line {number}"
        before = step
    return None


def _summary(journal: Journal, last: int, is_every_step: bool) -> str:
    told = (
        f"steps 1 to {last} without a gap"
        if is_every_step
        else f"{len(journal.entries)} lines, the last of step {last}"
    )
    if not journal.entries:
        told = "no line yet"
    told += "; a last line that was cut off is left out" * journal.is_cut
    skipped = sum(_count(entry.get("skipped")) for _, entry in journal.entries)
    return f"{told}; {skipped} updates were left out because their numbers were not finite" if skipped else told


def _count(value: Any) -> int:
    """How many updates; journals write 1.0."""
    return int(value) if isinstance(value, int | float) and 0 <= value <= _MOST and math.isfinite(value) else 0
