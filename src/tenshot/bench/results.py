"""Results: one JSON file a run, written once; and which of them answers a job."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenshot.bench.specs import Job, subject
from tenshot.config import RunConfig, build_method
from tenshot.errors import TenshotError
from tenshot.files import make_folder, told_as_sentence, write_atomically
from tenshot.settings import build

FORMAT = 1


@dataclass(frozen=True)
class Result:
    """A result file's content; `values` as benchmarks/quality/README.md describes it."""

    path: Path
    values: dict[str, Any]
    config: RunConfig | None
    """What it was measured with; None where this tenshot no longer has such a setting."""

    @property
    def subject(self) -> tuple[Any, ...]:
        """As `Job.subject`."""
        return subject(self.values["domain"], self.config, self.values["first"])

    @property
    def source(self) -> str:
        """sha256 of the source."""
        return self.values["sha256"]["source"]


class Results:
    """A folder of results, as it is when read."""

    def __init__(self, folder: Path) -> None:
        """Raises TenshotError for a file that is no result."""
        self._answers: dict[tuple[Any, ...], list[Result]] = {}
        for path in sorted(folder.glob("*/*.json")):
            result = read_result(path)
            self._answers.setdefault(result.subject, []).append(result)

    def find(self, job: Job, source: str | None) -> Result | None:
        """The result of a job on a source of that sha256 (None: any). Settings that did not exist when it was measured
        count as their defaults. Raises TenshotError if there are several."""
        found = [r for r in self._answers.get(job.subject, []) if source in (None, r.source)]
        if len(found) > 1:
            raise TenshotError(f"{found[0].path} and {found[1].path} are results of the same run: one must go")
        return found[0] if found else None

    def lacking(self, job: Job, source: str | None) -> list[str]:
        """The metrics that a job wants and its result has not; none where there is no result."""
        found = self.find(job, source)
        return [name for name in job.metrics if name not in found.values["metrics"]] if found else []


def read_result(path: Path) -> Result:
    """Raises TenshotError for a file that is no result."""
    try:
        with told_as_sentence("read", path):
            values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise TenshotError(f"{path} is of format {values['format']}, this tenshot reads {FORMAT}")
        given = dict(values["config"])
        name = given.pop("method")
        method = given.pop(name)
        _ = values["domain"], values["first"], values["sha256"]["source"], values["metrics"]
    except (ValueError, KeyError, TypeError) as error:
        raise TenshotError(f"{path} is no result of tenshot bench ({type(error).__name__}: {error})") from error
    try:
        config = build(RunConfig, {**given, "method": build_method(name, method)})
    except TenshotError:
        config = None
    return Result(path, values, config)


def write_result(path: Path, values: dict[str, Any]) -> None:
    """A new file; one that is there already stays as it is. Raises TenshotError."""
    make_folder(path.parent)
    if not path.exists():
        text = json.dumps({"format": FORMAT, **values}, indent=1, allow_nan=False)
        write_atomically(path, (_rows_on_lines(text) + "\n").encode())


def _rows_on_lines(text: str) -> str:
    """Lists of numbers on one line each."""
    return re.sub(r"\[\s+([-+.\deE,\s]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
