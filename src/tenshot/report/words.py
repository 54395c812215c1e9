"""What a report says in words and numbers: the sentence, the key numbers, settings, where everything comes from."""

import json
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tenshot.config import RunConfig
from tenshot.methods import Pretrain
from tenshot.metrics import METRICS
from tenshot.models import file_digest
from tenshot.output import printable
from tenshot.presets import PRESETS, PRETRAINING, preset_config
from tenshot.report.journal import pruned_filters
from tenshot.report.subject import Subject

_NBSP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class KeyNumber:
    """One of the numbers at the top."""

    value: str
    label: str
    meaning: str


@dataclass(frozen=True)
class Setting:
    """A setting as the command line writes it."""

    flag: str
    value: str
    default: str | None
    """Where the value differs from it."""


def duration(seconds: float) -> str:
    """8.4 s, 2 min 6 s, 3 h 20 min; a number and its unit never part."""
    if seconds < 59.95:
        return f"{seconds:.1f}{_NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_NBSP}min {rest}{_NBSP}s"
    return f"{minutes // 60}{_NBSP}h {minutes % 60}{_NBSP}min"


def number(value: float) -> str:
    """A measured number with three digits that count: 0.0123, 1.85, 220, 12,345."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(share: float) -> str:
    """0 %, 0.4 %, 12.0 %; the space never breaks."""
    return f"{100 * share:.1f}{_NBSP}%" if share else f"0{_NBSP}%"


def named(path: str) -> str:
    """What a path is called: its last part."""
    return printable(PurePath(path).name) or printable(path)


def key_numbers(subject: Subject) -> list[KeyNumber]:
    """Three numbers: how good if that was measured, whether the shots are copied, how varied; else what it took."""
    likeness, steps, found = subject.likeness, subject.steps, []
    if distance := _distance_to_reals(subject):
        found.append(distance)
    if likeness and likeness.copies is None:
        meaning = "nor is variety: both are measured by how far two different shots are apart, and there is only one"
        found.append(KeyNumber("not known", "near copies", meaning))
    elif likeness:
        meaning = "samples nearer to a shot than any two shots are to each other"
        found.append(KeyNumber(f"{likeness.copies} of {len(likeness.distance)}", "near copies", meaning))
    if likeness and likeness.variety is not None:
        meaning = "mean distance between two samples over that between two shots; 1 is as varied as the shots"
        found.append(KeyNumber(f"{likeness.variety:.2f}", "variety", meaning))
    for history in subject.histories:
        if counted := pruned_filters(history):
            pruned, filters = counted
            meaning = f"of the {history.network}’s filters: {pruned:,} of {filters:,}"
            found.append(KeyNumber(percent(pruned / filters), "pruned", meaning))
            break
    if subject.seconds is not None:
        threads = subject.card.get("threads")
        on = f" on {threads} thread{'s' * (threads != 1)}" if isinstance(threads, int) else ""
        found.append(KeyNumber(duration(subject.seconds), "training", f"{steps:,} steps{on}"))
    found.append(KeyNumber(f"{subject.model.resolution} px", "image size", "height and width of what it draws"))
    return found[:3]


def _distance_to_reals(subject: Subject) -> KeyNumber | None:
    """The last value of the first Frechet distance in the journal."""
    for entry in reversed(subject.metrics):
        for name, value in entry.items():
            if name.startswith(("fd_", "fid_")):
                return KeyNumber(number(value), name, what_is(name) or "distance to held-out images; lower is better")
    return None


def what_is(metric: str) -> str:
    """A metric's protocol in a sentence; of one part of a metric, the whole's. Empty if it is not known here."""
    known = METRICS.get(metric.partition(" ")[0])
    return f"{known.what}; {known.better} is better" if known else ""


def last_metrics(subject: Subject) -> dict[str, float]:
    """Every metric's last value."""
    return {name: value for entry in subject.metrics for name, value in entry.items() if name != "step"}


def settings(config: RunConfig) -> list[Setting]:
    """Every setting, flattened to flags, with what `tenshot adapt --method NAME` or `pretrain` sets by itself where it
    differs."""
    name = config.method.name
    begun = PRETRAINING if isinstance(config.method, Pretrain) else {}
    usual = preset_config("", name) if name in PRESETS else RunConfig(shots="", method=type(config.method)(), **begun)
    defaults = _flat(json.loads(usual.to_json())) | {"--method": RunConfig(shots="").method.name}
    rows = []
    for flag, value in _flat(json.loads(config.to_json())).items():
        differs = flag != "--shots" and value != defaults[flag]
        rows.append(Setting(flag, _shown(value), _shown(defaults[flag]) if differs else None))
    return rows


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flag = f"{prefix}{name}".replace("_", "-")
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"--{flag}": value}
    return flat


def _shown(value: Any) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value)


def environment(subject: Subject) -> list[tuple[str, str]]:
    """What the run ran on, from the model's card."""
    names = ("tenshot", "torch", "machine", "threads")
    rows = [(name, _shown(subject.card[name])) for name in names if name in subject.card]
    return [*rows, ("distances", subject.likeness.space)] if subject.likeness else rows


def hashes(subject: Subject) -> list[tuple[str, str]]:
    """SHA-256 of what went in and what came out."""
    source = subject.card.get("source")
    rows = [("model.safetensors", file_digest(subject.run.model))] if subject.run.model.is_file() else []
    if isinstance(source, dict) and isinstance(source.get("sha256"), str):
        rows.append((f"source {_shown(source.get('name', ''))}", printable(source["sha256"])))
    return [*rows, ("shots, as prepared", subject.shots_digest)] if subject.shots_digest else rows


def licences(subject: Subject) -> list[tuple[str, str]]:
    """What the cards say on terms and origins, from the model back through its sources."""
    rows: list[tuple[str, str]] = []
    card, what = subject.card, "model"
    for _ in range(8):  # a source may have been adapted from another one
        name = card.get("name")
        title = f"{what} {_shown(name)}" if name is not None else what
        for key in ("licence", "training_data"):
            if key in card:
                rows.append((f"{title}: {key.replace('_', ' ')}", _shown(card[key])))
        source = card.get("source")
        if not isinstance(source, dict) or not isinstance(source.get("card"), dict):
            break
        card, what = source["card"], "source"
    rows.append(("shots", "remain under their makers’ terms, which tenshot does not know"))
    return rows
