"""The checkpoints in a run's folder, and the manifest of their hashes.

manifest.json      {"000200.safetensors": {"bytes": ..., "sha256": ...}, ...}
000200.safetensors

A checkpoint is in the manifest before it is on the disk. Whenever a process is killed, every whole file has its hash;
an entry may lack its file, and is then passed over. Where a file takes another's place, its entry tells both hashes,
the older one under "before".
"""

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.files import told_as_sentence, write_atomically
from tenshot.models import file_digest, packed, read_tensors

Entry = dict[str, Any]


class NoCheckpoint(TenshotError):
    """There is none, or none that is whole."""


class Checkpoints:
    """The files of a folder that are named by how many steps were done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "manifest.json"

    def steps(self) -> list[int]:
        """After how many steps there are files, rising; nothing is said about what is in them."""
        return sorted(int(path.stem) for path in self.folder.glob("*.safetensors") if _is_name(path.stem))

    def path(self, step: int) -> Path:
        return self.folder / f"{step:06d}.safetensors"

    def save(
        self,
        step: int,
        tensors: dict[str, Tensor],
        header: dict[str, Any],
        *,
        keep: int,
        every: int = 1,
        is_last: bool = False,
    ) -> None:
        """Write a checkpoint and its hash, then delete older ones. Raises TenshotError.

        The newest `keep` of those that are due stay, at multiples of `every` (0 = none) and after the last step, and
        the new one. Others, written because of a signal, stay as long as fewer are due, and push none of these out.
        """
        data = packed(tensors, {**header, "step": step})
        there = {self.path(other).name for other in self.steps()}
        entries = {name: entry for name, entry in self._entries().items() if name in there}
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        older = entries.get(self.path(step).name)
        entries[self.path(step).name] = {**entry, "before": self._held(step, older)} if older else entry
        write_atomically(self.manifest, (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode())
        write_atomically(self.path(step), data)
        self.tidy(step, keep=keep, every=every, is_last=is_last)

    def _held(self, step: int, entry: Entry) -> str:
        """Which of the hashes in its entry a file has that is to be written over: the older one, where a process was
        killed before it had replaced it."""
        path, before = self.path(step), entry.get("before")
        return before if before and os.path.isfile(path) and file_digest(path) == before else entry["sha256"]

    def tidy(self, step: int, *, keep: int, every: int, is_last: bool) -> None:
        """Delete the checkpoints that `save` would delete after that of a step. Raises TenshotError."""
        steps = self.steps()
        due = [other for other in steps if (every and other % every == 0) or (is_last and other == step)]
        others = [other for other in steps if other not in due]
        self._delete(set(steps) - {step, *due[-keep:], *others[max(0, len(others) - max(0, keep - len(due))) :]})

    def load(self, step: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and header of the newest whole checkpoint, or of the newest up to a step. One that is damaged or
        missing is passed over with a warning. Raises NoCheckpoint."""
        entries = self._entries(warn=True)
        named = {int(name.partition(".")[0]) for name in entries}
        steps = sorted(other for other in {*self.steps(), *named} if step is None or other <= step)
        for other in reversed(steps):
            path = self.path(other)
            try:
                return self._read(path, other, entries.get(path.name))
            except TenshotError as error:
                warnings.warn(f"{error}; it is passed over, the checkpoint before it is taken", stacklevel=3)
        which = "none of its checkpoints is whole" if steps else "it has no checkpoint"
        raise NoCheckpoint(f"{self.folder.parent} cannot be continued: {which}")

    def faults(self) -> dict[int, str | None]:
        """What is wrong with every checkpoint that is there, and with later ones that are only noted; None: nothing. By
        step, rising. Older ones that are not there were deleted, as is usual."""
        entries, there = self._entries(), self.steps()
        newest = max(there, default=-1)
        noted = {int(name.partition(".")[0]) for name in entries}
        found: dict[int, str | None] = {}
        for step in sorted({*there, *(step for step in noted if step > newest)}):
            try:
                self._read(self.path(step), step, entries.get(self.path(step).name))
                found[step] = None
            except TenshotError as error:
                found[step] = str(error)
        return found

    def without_hash(self) -> list[int]:
        """Steps of the checkpoints that the manifest does not know: it is missing, damaged or older than they are."""
        entries = self._entries()
        return [step for step in self.steps() if self.path(step).name not in entries]

    def drop_after(self, step: int) -> None:
        """Delete the checkpoints of later steps: a run that went back makes them anew. Raises TenshotError."""
        self._delete({other for other in self.steps() if other > step})

    def _read(self, path: Path, step: int, entry: Entry | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if not os.path.isfile(path):
            raise TenshotError(f"{path} is not there: it was deleted, or its writing was cut short")
        if entry is not None and file_digest(path) not in (entry["sha256"], entry.get("before")):
            with told_as_sentence("read", path):
                size = path.stat().st_size
            told = f"it has {size:,} of {entry['bytes']:,} bytes" if size != entry["bytes"] else "its bytes changed"
            raise TenshotError(f"{path} is damaged: {told} (the sha256 is not that in manifest.json)")
        tensors, header = read_tensors(path)
        if header.get("step") != step:
            raise TenshotError(f"{path} is not the checkpoint after step {step}")
        return tensors, header

    def _entries(self, *, warn: bool = False) -> dict[str, Entry]:
        """What the manifest says; nothing, with a warning, where it is damaged or checkpoints have none."""
        try:
            is_file = os.path.isfile(self.manifest)  # and no pipe or device, which has no end
            found: Any = json.loads(self.manifest.read_text(encoding="utf-8")) if is_file else None
        except (OSError, ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and all(_is_entry(name, entry) for name, entry in found.items()):
            return found
        if warn and self.steps():
            warnings.warn(f"{self.manifest} is missing or damaged: hashes were not compared", stacklevel=4)
        return {}

    def _delete(self, steps: set[int]) -> None:
        for step in steps:
            with told_as_sentence("delete", self.path(step)):
                self.path(step).unlink(missing_ok=True)


def _is_name(stem: str) -> bool:
    """Whether a file of that name, without its ending, is a checkpoint's."""
    return stem.isascii() and stem.isdecimal() and len(stem) < 20 and f"{int(stem):06d}" == stem


def _is_entry(name: str, entry: Any) -> bool:
    stem, _, kind = name.partition(".")
    is_noted = isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("sha256"), str)
    return _is_name(stem) and kind == "safetensors" and is_noted
