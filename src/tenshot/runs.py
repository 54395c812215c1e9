"""A run's folder: settings, shots as they were used, journals, sample sheets, checkpoints, the result.

config.json        every setting; a valid input for the next run
shots/             the prepared images, if they are not many (`loop.KEPT_SHOTS`), so that resuming needs no others
stats.jsonl        one line a step: losses, seconds
decisions.jsonl    one line a decision of a pruning method: every layer's ratios and importances
metrics.jsonl      one line a look at the averaged generator: every metric's numbers (`eval_every`)
recovery.jsonl     one line a return to a checkpoint because numbers were not finite
samples/           one sheet of the same latents every `sample_every` steps
checkpoints/       the newest `keep_last`, each enough to resume exactly, and manifest.json with their hashes
best.safetensors   the averaged generator at its best score (`keep_best`); a model like the next
model.safetensors  the adapted generator, written when the run is done
sheet.png          shots, source and result, side by side
report.html        all of it on one page
.replaced/         the run that this one replaces, until it has a checkpoint (`aside`)
run.lock           there while a process is at work here, or after it was killed
"""

import json
import os
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from tenshot.aside import NAMES, Aside
from tenshot.commands import argument
from tenshot.errors import TenshotError
from tenshot.files import (
    check_reachable,
    is_temporary,
    make_folder,
    remove_temporaries,
    told_as_sentence,
    write_atomically,
)
from tenshot.lock import Lock
from tenshot.manifest import Checkpoints

_JOURNALS = ("stats", "decisions", "metrics", "recovery")
_FILES = (
    "config.json",
    *(f"{journal}.jsonl" for journal in _JOURNALS),
    "best.safetensors",
    "model.safetensors",
    "sheet.png",
    "report.html",
)


def check_shots(shots: str) -> None:
    """Raises TenshotError where a folder of images is a run's, or holds runs: sheets and samples are no shots."""
    if not os.path.isdir(shots):
        return
    with told_as_sentence("look into", Path(shots)):
        inside = sorted(path for path in Path(shots).iterdir() if os.path.isdir(path))
    for folder in (Path(shots), *inside):
        run = RunDir(folder)
        if run.is_begun():
            raise TenshotError(
                f"{folder} is a run's folder, and its sheets are no images to train on: go on with it by "
                f"{run.way_on}, or give the folder of the images, such as {argument(run.shots)}"
            )


class RunDir:
    """Paths of a run's folder, and the few things that are done there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.shots = path / "shots"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best.safetensors"
        self.model = path / "model.safetensors"
        self.sheet = path / "sheet.png"
        self.lock = Lock(path / "run.lock")
        self.saved = Checkpoints(self.checkpoints)
        self.aside = Aside(path, (*_FILES, self.shots.name, self.samples.name, self.checkpoints.name))
        self._made: list[Path] = []  # folders that were not there before, the innermost first

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False) -> "RunDir":
        """A new run's folder, locked. One that holds a run already is refused; with `overwrite` that run is set aside
        until the new one has a checkpoint. What is left of one that was killed before it had a config.json is
        cleared."""
        run = cls(path)
        run.check(overwrite=overwrite)
        made = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
        make_folder(path)
        run.lock.take()
        run._made = made
        try:
            run._settle(anew=overwrite)
            run.check(overwrite=overwrite, locked=True)  # another process may have been faster
            if os.path.isfile(run.config):
                run.aside.set()
        except BaseException:
            run.lock.release()
            raise
        try:
            run._clear()
            run.make_folders()
        except BaseException:
            run.discard()
            raise
        return run

    @property
    def kept_shots(self) -> Path | None:
        """The folder of the prepared images; None where the run keeps none, or has lost them."""
        return self.shots if any(self.shots.glob("*.png")) else None

    @property
    def way_on(self) -> str:
        """What one types to go on with the run."""
        return f"`tenshot adapt --resume {argument(self.path)}`"

    def check_begun(self) -> None:
        """Raises TenshotError where there is no run to go on with."""
        check_reachable(self.config)
        if os.path.isfile(self.config):
            return
        if not os.path.lexists(self.path):
            raise TenshotError(f"{self.path} does not exist: check the spelling, or the folder you are in")
        if not os.path.isdir(self.path):
            raise TenshotError(f"{self.path} is not a run's folder but a file: give the folder that holds config.json")
        if os.path.isdir(self.path) and (self.saved.steps() or self.has_steps()):
            raise TenshotError(
                f"{self.path} has lost its config.json, without which the run cannot go on: put back a copy, or begin "
                "a new run in another folder"
            )
        if os.path.isfile(self.lock.path) and self._is_free():
            raise TenshotError(
                f"the run in {self.path} was killed before it had a config.json: start it anew, as it was started"
            )
        raise TenshotError(
            f"{self.path} is not a run's folder: it has no config.json; give the folder that `tenshot adapt` wrote"
        )

    def open(self) -> None:
        """Lock a run to go on with it, and clear away what a killed process left. Raises TenshotError."""
        self.check_own()
        self.lock.take()
        self._settle()
        for folder in (self.path, self.shots, self.samples, self.checkpoints):
            remove_temporaries(folder)
        self.make_folders()

    def check_own(self) -> None:
        """Raises TenshotError where a part of the folder is a link: writing and deleting there would be elsewhere."""
        journals = (self.path / f"{journal}.jsonl" for journal in _JOURNALS)
        for part in (self.shots, self.samples, self.checkpoints, *journals):
            if os.path.islink(part):
                raise TenshotError(f"{part} is a link, and a run's files lie in its own folder: put them there instead")

    def _settle(self, *, anew: bool = False) -> None:
        """What a killed process left of a run that was being replaced: it goes, stays, or comes back, which it does
        where its successor has no checkpoint and is none (no config.json) or is to be replaced itself (anew)."""
        self.aside.mend()
        if self.aside.is_there:
            if any(self.saved.steps()) or os.path.isfile(self.model):
                self.aside.drop()
            elif anew or not os.path.isfile(self.config):
                self._clear()
                self.aside.put_back()

    def make_folders(self) -> None:
        for folder in (self.shots, self.samples, self.checkpoints):
            make_folder(folder)

    def check(self, *, overwrite: bool, locked: bool = False) -> None:
        """Raises TenshotError where `create` would refuse. locked: this process holds the lock."""
        self.check_own()
        if not locked:
            self.lock.check_free()
        if os.path.isfile(self.config):  # unlike pathlib, False where a name is too long or a folder is closed
            if not overwrite:
                raise TenshotError(
                    f"{self.path} holds a run already: resume it (--resume {argument(self.path)}), replace it "
                    "(--overwrite), or choose another --out"
                )
            if not self.is_begun():
                raise TenshotError(f"{self.path} has a config.json that is not a run's: choose another --out")
        elif not self._is_free():
            raise TenshotError(f"{self.path} is a folder with other things in it: choose another --out")

    def _is_free(self) -> bool:
        """Whether there is no folder, or an empty one, or what is left of a run that was killed as it began: a lock
        and other files of a run's, but nothing that a run comes to by its steps."""
        with told_as_sentence("look into", self.path):
            found = {path.name for path in self.path.iterdir()} if os.path.isdir(self.path) else set()
        ours = {*_FILES, self.shots.name, self.samples.name, self.checkpoints.name, self.lock.path.name, *NAMES}
        if not found or self.aside.holds:
            return True
        is_left = self.lock.path.name in found and all(n in ours or is_temporary(n) for n in found)
        return is_left and not (self.saved.steps() or self.has_steps() or os.path.isfile(self.model))

    def is_begun(self) -> bool:
        """Whether the folder has a config.json that is a run's."""
        try:
            values = json.loads(self.config.read_text(encoding="utf-8")) if os.path.isfile(self.config) else None
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(values, dict) and {"shots", "source", "method"} <= values.keys()

    def _clear(self) -> None:
        with told_as_sentence("clear", self.path):
            for name in _FILES:  # config.json first: without it, what is left is no run
                (self.path / name).unlink(missing_ok=True)
            for folder in (self.shots, self.samples, self.checkpoints):
                shutil.rmtree(folder, ignore_errors=True)
        remove_temporaries(self.path)

    def write_config(self, text: str) -> None:
        """Written last of what a run begins with: a folder with a config.json is a run."""
        write_atomically(self.config, text.encode())

    def discard(self) -> None:
        """Take back what `create` did, for a run that failed before its first step and checkpoint."""
        if self.lock.is_held and not self.saved.steps() and not self.has_steps():
            with suppress(TenshotError, OSError):  # a folder that is not empty stays; why the run failed matters more
                self._clear()
                if self.aside.is_there:
                    self.aside.put_back()
                self.lock.release()
                for folder in self._made:
                    folder.rmdir()

    def has_steps(self) -> bool:
        """Whether the run has taken a step: its journal is not empty."""
        path = self.path / "stats.jsonl"
        return path.is_file() and path.stat().st_size > 0

    def sample(self, step: int) -> Path:
        """The sheet of the averaged generator after a step."""
        return self.samples / f"{step:06d}.png"

    def append(self, journal: str, entry: dict[str, Any]) -> None:
        """One JSON line to `<journal>.jsonl`."""
        self.lock.check_place()
        path = self.path / f"{journal}.jsonl"
        with told_as_sentence("write", path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read(self, journal: str) -> list[dict[str, Any]]:
        """A journal's entries; a last line cut off by a crash is left out. Raises TenshotError for a damaged one."""
        path = self.path / f"{journal}.jsonl"
        if not path.is_file():
            return []
        try:
            return [json.loads(line) for line in _lines(path)]
        except (ValueError, RecursionError) as error:
            raise TenshotError(f"{path} is damaged ({error}): delete it, it only keeps a record") from error

    def rewind(self, step: int, returns: int = 0) -> None:
        """Drop what was written after a step, so that a run that goes on from it writes each once: entries of journals
        and checkpoints. Of the returns to checkpoints the first so many stay, wherever they led. Lines of a journal
        that are damaged are dropped with a warning."""
        self.saved.drop_after(step)
        for journal in _JOURNALS:
            path = self.path / f"{journal}.jsonl"
            if path.is_file():
                entries = [_entry(line) for line in _lines(path)]
                if damaged := entries.count(None):
                    warnings.warn(f"{path}: {damaged} damaged lines are left out", stacklevel=2)
                last, key = (returns, "returns") if journal == "recovery" else (step, "step")
                kept = [entry for entry in entries if entry is not None and _number(entry.get(key), last) <= last]
                write_atomically(path, "".join(json.dumps(entry) + "\n" for entry in kept).encode())

    def save_checkpoint(
        self,
        step: int,
        tensors: dict[str, Tensor],
        header: dict[str, Any],
        *,
        keep: int = 2,
        every: int = 1,
        is_last: bool = False,
    ) -> None:
        """All of a run's state after `step` steps (`Checkpoints.save`). What the journals say is on the disk then."""
        self.lock.check_place()
        for journal in _JOURNALS:
            path = self.path / f"{journal}.jsonl"
            if path.is_file():
                with told_as_sentence("write", path), path.open("rb+") as file:
                    os.fsync(file.fileno())
        self.saved.save(step, tensors, header, keep=keep, every=every, is_last=is_last)
        if step and self.aside.is_there:
            self.aside.drop()

    def latest_checkpoint(self) -> Path | None:
        """The newest one's file, whole or not."""
        steps = self.saved.steps()
        return self.saved.path(steps[-1]) if steps else None

    def load_checkpoint(self, step: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and header of the newest whole checkpoint, perhaps up to a step. Raises NoCheckpoint."""
        return self.saved.load(step)


def owner_of(path: Path) -> Path | None:
    """The folder of the run that keeps a file of this name in this place, there or not; None if there is no run."""
    folder = Path(os.path.realpath(path.parent))
    above = RunDir(folder.parent)
    if folder in (above.shots, above.samples, above.checkpoints) and above.is_begun():
        return above.path
    return folder if path.name in _FILES and RunDir(folder).is_begun() else None


def _lines(path: Path) -> list[bytes]:
    """Without the last one if it was cut off."""
    with told_as_sentence("read", path):
        return path.read_bytes().split(b"\n")[:-1]


def _number(value: Any, default: int) -> int:
    return value if type(value) is int else default


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and type(entry.get("step")) is int else None
