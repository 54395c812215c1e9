"""Every setting of a run: one frozen dataclass whose fields are the flags, the help texts and the JSON keys."""

import dataclasses
import json
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from tenshot.augment import Augment
from tenshot.errors import TenshotError
from tenshot.methods import METHODS, Dap, Method


@dataclass(frozen=True)
class RunConfig:
    """Settings of one adaptation. Raises TenshotError where values contradict each other or make no sense."""

    shots: str
    """The images of the new domain: a folder, a zip, a folder in a zip (art.zip/shots), or one image."""
    source: str = "faces64"
    """What to start from: an embedded source's name, or a model file with its discriminator."""
    method: Method = Dap()
    """How to adapt; the method's own settings are its fields."""
    steps: int = 600
    """Steps; each trains D on `batch` shots and then G."""
    batch: int = 4
    """Images a step."""
    seed: int = 0
    """Of everything random. The same seed on the same machine gives the same generator."""
    lr: float = 0.002
    """Adam's learning rate of G, before the correction for lazy regularisation."""
    lr_ratio: float = 2.0
    """D's learning rate over G's. The public few-shot code: 1."""
    lr_decay: float = 0.4
    """Share of the run, at its end, over which both learning rates fall to 0. The public few-shot code: 0."""
    beta1: float = 0.0
    """Adam's first-moment decay. The field uses 0."""
    augment: Augment = "diffaug"
    """What is done to images before D sees them. none; flip: mirror half of the shots; diffaug: flip, and
    colour, translation and cutout of shots and generated images alike."""
    augment_p: float = 0.5
    """Share of images that diffaug changes."""
    r1_gamma: float = 10.0
    """Weight of D's R1 penalty."""
    r1_every: int = 16
    """Steps between R1 penalties. 0 = never."""
    path_weight: float = 2.0
    """Weight of G's path-length penalty."""
    path_every: int = 4
    """Steps between path-length penalties. 0 = never."""
    mixing: float = 0.9
    """Probability that a batch mixes two latents at a random layer."""
    ema_half_life: int = 500
    """Images after which the averaged generator has forgotten half. The public few-shot code: 1250 at batch 4."""
    sample_every: int = 100
    """Steps between sample sheets. 0 = only the last."""
    checkpoint_every: int = 200
    """Steps between checkpoints, from which a run can resume. 0 = only the last."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not value >= least:
                raise TenshotError(f"--{name.replace('_', '-')} is {value}: it must be at least {least}")
        for name in ("mixing", "beta1", "augment_p", "lr_decay"):
            if not 0 <= getattr(self, name) <= 1:
                flag = name.replace("_", "-")
                raise TenshotError(f"--{flag} is {getattr(self, name)}: it must be between 0 and 1")

    def to_json(self) -> str:
        """A JSON object: every setting, the method by name and its settings under that name."""
        values = dataclasses.asdict(self)
        values |= {"method": self.method.name, self.method.name: values["method"]}
        return json.dumps(values, indent=2) + "\n"


_LEAST = {
    "steps": 1,
    "batch": 1,
    "seed": 0,
    "lr": 0.0,
    "lr_ratio": 0.0,
    "r1_gamma": 0.0,
    "r1_every": 0,
    "path_weight": 0.0,
    "path_every": 0,
    "ema_half_life": 0,
    "sample_every": 0,
    "checkpoint_every": 0,
}


def read_config(path: Path) -> RunConfig:
    """The settings in a run's config.json, or one written by hand. Raises TenshotError; unknown keys stop."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TenshotError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise TenshotError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise TenshotError(f"{path} holds no JSON object")
    name = values.pop("method", Dap.name)
    method = build_method(name, values.pop(name, {}), str(path))
    return _build(RunConfig, {**values, "method": method}, str(path))


def _build(kind: type, values: Any, where: str) -> Any:
    """A dataclass from JSON values, nested ones too; names what is unknown, missing or of the wrong type."""
    if not isinstance(values, dict):
        raise TenshotError(f"{where}: expected an object of settings for {kind.__name__}, found {values!r}")
    hints, fields = get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - fields.keys()):
        raise TenshotError(f"{where}: unknown setting {', '.join(unknown)}; known are {', '.join(fields)}")
    given: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and not isinstance(value, hint):
            value = _build(hint, value, where)
        elif hint is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        elif not _fits(value, hint):
            raise TenshotError(f"{where}: {name} is {value!r}, which does not fit its type")
        given[name] = value
    missing = [n for n, f in fields.items() if n not in given and f.default is dataclasses.MISSING]
    if missing:
        raise TenshotError(f"{where}: missing setting {', '.join(missing)}")
    return kind(**given)


def _fits(value: Any, hint: Any) -> bool:
    arguments = getattr(hint, "__args__", ())
    if isinstance(hint, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if arguments:  # Literal
        return value in arguments
    if hint is None or hint is type(None):
        return value is None
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def build_method(name: str, settings: dict[str, Any], where: str = "settings") -> Method:
    """A method by name with some of its fields given. Raises TenshotError."""
    if name not in METHODS:
        raise TenshotError(f"{where}: there is no method {name!r}; known are {', '.join(METHODS)}")
    return _build(METHODS[name], settings, where)
