"""From a run to its page: what goes into which section, and the one file that is written."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tenshot.errors import TenshotError
from tenshot.files import make_folder, write_atomically
from tenshot.models import Model
from tenshot.report import drawings, words
from tenshot.report.charts import Svg
from tenshot.report.comparison import LETTERS, compare_runs
from tenshot.report.likeness import Eye
from tenshot.report.pictures import Picture, picture
from tenshot.report.subject import PAIRS, Subject, film, read_run, source_images

_SHOTS = 40
_NEAREST = 12
_HERE = Path(__file__).parent


def write_report(
    run: Path,
    out: Path | None = None,
    compare: Sequence[Path] = (),
    *,
    unfinished: Model | None = None,
    note: str = "",
) -> Path:
    """Write a finished run's report, one HTML file that needs no network, and return its path.

    out: by default `report.html` in the run's folder, `comparison.html` when there are others. compare: finished runs
    to set beside it, drawn from the same latents; the run itself and repetitions are passed over, but one other there
    must be. unfinished: shown in place of the result of a run that has none. note: a sentence that the report closes
    with. Raises TenshotError.
    """
    return write_and_tell(run, out, compare, unfinished=unfinished, note=note)[0]


def write_and_tell(
    run: Path,
    out: Path | None = None,
    compare: Sequence[Path] = (),
    *,
    unfinished: Model | None = None,
    note: str = "",
) -> tuple[Path, list[words.KeyNumber]]:
    """`write_report`, and the numbers that stand at the top of the page, for those who read no further."""
    others = {path.resolve(): path for path in reversed(compare) if path.resolve() != run.resolve()}
    if compare and not others:
        raise TenshotError(
            f"{run} would be compared with itself alone: name another finished run, or compare with none"
        )
    if len(others) >= len(LETTERS):
        raise TenshotError(f"{len(others) + 1} runs do not fit side by side: compare at most {len(LETTERS)}")
    out = out or run / ("comparison.html" if others else "report.html")
    eye = Eye()
    subject = read_run(run, eye, unfinished)
    subject.notes.extend([note] if note else [])
    html = render(subject, [read_run(path, eye) for path in reversed(others.values())])
    make_folder(out.parent)
    write_atomically(out, html.encode("utf-8", "replace"))
    return out, words.key_numbers(subject)


def render(subject: Subject, others: Sequence[Subject] = ()) -> str:
    """The page of a run, and of others beside it. Raises TenshotError if jinja2 is missing."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise TenshotError("a report needs jinja2, which is not installed: pip install jinja2") from error
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": words.number, "percent": words.percent}
    style = (_HERE / "style.css").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        style=Svg(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii"),
        comparison=compare_runs([subject, *others]) if others else None,
        **_contents(subject),
    )


def _contents(subject: Subject) -> dict[str, Any]:
    """What the template names; an empty value leaves its section out."""
    source = source_images(subject)
    before = _pictures(source, "source, seed", PAIRS)
    after = _pictures(subject.samples[: len(before)], "result, seed", PAIRS)
    settings = words.settings(subject.config)
    return {
        "subject": subject,
        "source_name": words.named(subject.config.source),
        "shots_name": words.named(subject.config.shots),
        "time": None if subject.seconds is None else words.duration(subject.seconds),
        "numbers": words.key_numbers(subject),
        "shots": _pictures(subject.shots, "shot", _SHOTS, first=1),
        "pairs": list(zip(before, after, strict=True)),
        "samples": _pictures(subject.samples, "sample, seed", len(subject.samples)),
        "nearest": _nearest(subject),
        "film": [
            (step, [picture(tile, f"seed {seed} at step {step}") for seed, tile in enumerate(tiles)])
            for step, tiles in film(subject)
        ],
        "losses": drawings.losses(subject.stats),
        "metrics": list(drawings.metrics(subject.metrics)),
        "last_metrics": words.last_metrics(subject),
        "what": words.what_is,
        "maps": [drawings.fate_map(history, subject.steps) for history in subject.histories],
        "settings": settings,
        "changed": [setting for setting in settings if setting.default is not None],
        "environment": words.environment(subject),
        "hashes": words.hashes(subject),
        "licences": words.licences(subject),
    }


def _pictures(images: Tensor | None, what: str, most: int, first: int = 0) -> list[Picture]:
    shown = [] if images is None else images[:most]
    return [picture(image, f"{what} {i}") for i, image in enumerate(shown, start=first)]


def _nearest(subject: Subject) -> list[dict[str, Any]]:
    """The samples that are nearest to a shot, the nearest first, each with its shot turned as it matches."""
    likeness, shots = subject.likeness, subject.shots
    if likeness is None or shots is None:
        return []
    order = sorted(range(len(likeness.distance)), key=lambda i: likeness.distance[i])
    found = []
    for seed in order[:_NEAREST]:
        index, mirrored, distance = likeness.nearest[seed], likeness.mirrored[seed], likeness.distance[seed]
        shot = shots[index].flip(2) if mirrored else shots[index]
        found.append(
            {
                "seed": seed,
                "sample": picture(subject.samples[seed], f"sample, seed {seed}"),
                "shot": picture(shot, f"its nearest shot, number {index + 1}{', mirrored' * mirrored}"),
                "distance": f"{distance:.2f}",
                "is_copy": likeness.threshold is not None and distance < likeness.threshold,
            }
        )
    return found
