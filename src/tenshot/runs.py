"""A run's folder: settings, shots as they were used, journals, sample sheets, checkpoints, the result.

config.json        every setting; a valid input for the next run
shots/             the prepared images, so that resuming needs nothing from outside
stats.jsonl        one line a step: losses, seconds
decisions.jsonl    one line a decision of a pruning method: every layer's ratios and importances
metrics.jsonl      one line a look at the averaged generator: every metric's numbers (`eval_every`)
samples/           one sheet of the same latents every `sample_every` steps
checkpoints/       the newest two; each is enough to resume exactly
model.safetensors  the adapted generator
sheet.png          shots, source and result, side by side
report.html        all of it on one page
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.files import make_folder, told_as_sentence, write_atomically
from tenshot.models import read_tensors, write_tensors

KEEP = 2
"""Checkpoints that stay."""

_JOURNALS = ("stats", "decisions", "metrics")
_FILES = (
    "config.json",
    *(f"{journal}.jsonl" for journal in _JOURNALS),
    "model.safetensors",
    "sheet.png",
    "report.html",
)


class RunDir:
    """Paths of a run's folder, and the few things that are done there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.shots = path / "shots"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model.safetensors"
        self.sheet = path / "sheet.png"
        self._made: list[Path] = []  # folders that were not there before, the innermost first

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False) -> "RunDir":
        """A new run's folder. One that holds a run already is refused, or emptied of it with `overwrite`."""
        run = cls(path)
        run.check(overwrite=overwrite)
        if os.path.isfile(run.config):
            run._clear()
        run._made = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
        try:
            for folder in (run.shots, run.samples, run.checkpoints):
                make_folder(folder)
        except TenshotError:
            run.discard()
            raise
        return run

    def check(self, *, overwrite: bool) -> None:
        """Raises TenshotError where `create` would refuse."""
        if os.path.isfile(self.config):  # unlike pathlib, False where a name is too long or a folder is closed
            if not overwrite:
                raise TenshotError(
                    f"{self.path} holds a run already: resume it (--resume {self.path}), replace it (--overwrite), "
                    "or choose another --out"
                )
            if not self._is_ours():
                raise TenshotError(f"{self.path} has a config.json that is not a run's: choose another --out")
        with told_as_sentence("look into", self.path):
            is_taken = not os.path.isfile(self.config) and os.path.isdir(self.path) and any(self.path.iterdir())
        if is_taken:
            raise TenshotError(f"{self.path} is a folder with other things in it: choose another --out")

    def _is_ours(self) -> bool:
        try:
            values = json.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(values, dict) and {"shots", "source", "method"} <= values.keys()

    def _clear(self) -> None:
        with told_as_sentence("clear", self.path):
            for folder in (self.shots, self.samples, self.checkpoints):
                shutil.rmtree(folder, ignore_errors=True)
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)

    def write_config(self, text: str) -> None:
        """Written last of what a run begins with: a folder with a config.json is a run."""
        write_atomically(self.config, text.encode())

    def discard(self) -> None:
        """Take back what `create` made: for a run that failed before its first checkpoint."""
        if not self.latest_checkpoint():
            with suppress(TenshotError, OSError):  # a folder that is not empty stays; why the run failed matters more
                self._clear()
                for folder in self._made:
                    folder.rmdir()

    def append(self, journal: str, entry: dict[str, Any]) -> None:
        """One JSON line to `<journal>.jsonl`."""
        path = self.path / f"{journal}.jsonl"
        with told_as_sentence("write", path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read(self, journal: str) -> list[dict[str, Any]]:
        """A journal's entries; a last line cut off by a crash is left out."""
        path = self.path / f"{journal}.jsonl"
        if not path.is_file():
            return []
        with told_as_sentence("read", path):
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise TenshotError(f"{path} is damaged ({error}): delete it, it only keeps a record") from error

    def rewind(self, step: int) -> None:
        """Drop journal entries after a step, so that a resumed run writes each once."""
        for journal in _JOURNALS:
            path = self.path / f"{journal}.jsonl"
            if path.is_file():
                kept = [entry for entry in self.read(journal) if entry["step"] <= step]
                write_atomically(path, "".join(json.dumps(entry) + "\n" for entry in kept).encode())

    def save_checkpoint(self, step: int, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """All of a run's state after `step` steps; older ones beyond `KEEP` are deleted."""
        write_tensors(self.checkpoints / f"{step:06d}.safetensors", tensors, {**header, "step": step})
        for old in self._checkpoints()[:-KEEP]:
            old.unlink(missing_ok=True)

    def latest_checkpoint(self) -> Path | None:
        return next(reversed(self._checkpoints()), None)

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The newest checkpoint's tensors and header. Raises TenshotError if there is none."""
        path = self.latest_checkpoint()
        if path is None:
            raise TenshotError(f"{self.path} has no checkpoint: there is nothing to resume")
        return read_tensors(path)

    def _checkpoints(self) -> list[Path]:
        found = self.checkpoints.glob("*.safetensors")
        return sorted((path for path in found if path.stem.isdecimal()), key=lambda path: int(path.stem))
