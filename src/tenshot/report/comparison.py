"""Several runs side by side: the same latents, their losses over each other, their numbers in one table."""

from collections.abc import Sequence
from dataclasses import dataclass

from tenshot.report import words
from tenshot.report.charts import Svg, swatch
from tenshot.report.drawings import Chart, over_steps
from tenshot.report.journal import curve, names_in, pruned_filters
from tenshot.report.pictures import Picture, picture
from tenshot.report.subject import Subject

LETTERS = "ABCDEFGH"
"""Names of the columns; as many runs fit on a page."""
SEEDS = 8


@dataclass(frozen=True)
class Column:
    """One run of a comparison."""

    letter: str
    swatch: Svg
    name: str
    method: str
    images: tuple[Picture, ...]
    """Of seeds 0, 1, ..."""
    numbers: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """All of a comparison's columns, charts and rows."""

    runs: tuple[Column, ...]
    charts: tuple[Chart, ...]
    """Of what at least two of the runs wrote down."""
    rows: tuple[str, ...]
    """Names of the numbers that any run has."""
    same_latents: bool
    """Whether a seed is the same latent in all runs: their sources take latents of one size."""


def compare_runs(subjects: Sequence[Subject]) -> Comparison:
    """At most as many subjects as there are `LETTERS`."""
    runs = tuple(
        Column(
            letter,
            swatch(f"s{i}"),
            subject.name,
            subject.config.method.name,
            tuple(picture(image, f"run {letter}, seed {seed}") for seed, image in enumerate(subject.samples[:SEEDS])),
            _numbers(subject),
        )
        for i, (letter, subject) in enumerate(zip(LETTERS, subjects, strict=False))
    )
    measured = dict.fromkeys(name for s in subjects for name in names_in(s.metrics) if name != "step")
    wanted = [("Loss of G", "g", "stats"), ("Loss of D", "d", "stats"), *((name, name, "metrics") for name in measured)]
    charts = []
    for title, name, journal in wanted:
        found = [(LETTERS[i], curve(getattr(s, journal), name), f"s{i}") for i, s in enumerate(subjects)]
        curves = [(letter, c, style) for letter, c, style in found if c]
        if len(curves) > 1:
            charts.append(over_steps(title, curves))
    rows = dict.fromkeys(name for run in runs for name in run.numbers)
    sizes = {subject.model.generator.spec.latent_size for subject in subjects}
    return Comparison(runs, tuple(charts), tuple(rows), len(sizes) == 1)


def _numbers(subject: Subject) -> dict[str, str]:
    likeness, cells = subject.likeness, {"steps": f"{subject.steps:,}"}
    if subject.seconds is not None:
        cells["time"] = words.duration(subject.seconds)
    for history in subject.histories:
        if counted := pruned_filters(history):
            cells[f"pruned, {history.network}"] = words.percent(counted[0] / counted[1])
    if likeness and likeness.copies is not None:
        cells["near copies"] = f"{likeness.copies} of {len(likeness.distance)}"
    if likeness and likeness.variety is not None:
        cells["variety"] = f"{likeness.variety:.2f}"
    return cells | {name: words.number(value) for name, value in words.last_metrics(subject).items()}
