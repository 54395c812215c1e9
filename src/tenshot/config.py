"""Every setting of a run: one frozen dataclass whose fields are the flags, the help texts and the JSON keys."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tenshot.augment import Augment
from tenshot.devices import AUTO, is_device_name
from tenshot.errors import TenshotError
from tenshot.files import told_as_sentence
from tenshot.methods import KNOWN, METHODS, Dap, Method
from tenshot.randomness import LARGEST_SEED
from tenshot.rules import parse_rule
from tenshot.settings import build, check_types, require


@dataclass(frozen=True)
class RunConfig:
    """Settings of one adaptation. Raises TenshotError where values contradict each other or make no sense."""

    shots: str
    """The images of the new domain: a folder, a zip, a folder in a zip (art.zip/shots), or one image."""
    source: str = "faces64"
    """What to start from: an embedded source's name, or a model file with its discriminator."""
    method: Method = Dap()
    """How to adapt; the method's own settings are its fields."""
    steps: int = 1000
    """Steps; each trains D on `batch` shots and then G."""
    batch: int = 4
    """Images a step."""
    seed: int = 0
    """Of everything random. The same seed on the same machine gives the same generator."""
    lr: float = 0.004
    """Adam's learning rate of G, before the correction for lazy regularisation. The public few-shot code: 0.002."""
    lr_ratio: float = 1.0
    """D's learning rate over G's."""
    lr_decay: float = 0.1
    """Share of the run, at its end, over which both learning rates fall to 0. The public few-shot code: 0."""
    beta1: float = 0.0
    """Adam's first-moment decay. The field uses 0."""
    augment: Augment = "diffaug"
    """What is done to images before D sees them. none; flip: mirror half of the shots; diffaug: flip, and
    colour, translation and cutout of shots and generated images alike; ada: flip, and geometry and colour with a
    probability that rises while D is too sure of the shots."""
    augment_p: float = 0.5
    """Share of images that diffaug changes; for ada, the probability it begins with."""
    ada_target: float = 0.6
    """What ada keeps E[sign(D(x))] of the shots at."""
    ada_images: int = 10000
    """Images in which ada's probability can rise from 0 to 1. ADA's own code: 500,000, or 100,000 for transfer."""
    ada_every: int = 4
    """Steps between adjustments of ada's probability."""
    ada_legacy: bool = False
    """Adjust as the public few-shot code does: each adjustment is multiplied by ada_target."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the activations while training; the averaged generator is always computed in float32."""
    device: str = AUTO
    """Where it computes: auto, a GPU if there is one; cpu; cuda, or cuda:1 for the second."""
    micro_batch: int = 0
    """Images that pass through a network at once: fewer need less memory and more time and give the same gradients.
    0 = all, and fewer only when memory runs out."""
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
    sample_every: int = 200
    """Steps between sample sheets. 0 = only the last."""
    checkpoint_every: int = 200
    """Steps between checkpoints, from which a run can resume. 0 = only the last."""
    keep_last: int = 2
    """Checkpoints that stay, the newest ones; should one be damaged, the run resumes from the one before."""
    eval_every: int = 0
    """Steps between scores of the averaged generator. 0 = never."""
    eval_real: str = ""
    """Held-out images of the new domain to score against, never trained on: a folder or zip."""
    eval_metrics: str = ""
    """Metrics to score, with commas between. Default: quick ones, more of them with `eval_real`."""
    keep_best: str = ""
    """Metric by whose value best.safetensors is kept beside the last generator. Default: the first that is scored
    against `eval_real`."""
    stop: str = ""
    """End the run early when a score says so, for example copy_rate>0.2. Needs `eval_every`, and copy_rate
    `eval_real`: the metric must be among those that are scored."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, least in _LEAST.items():
            require(self, "", name, getattr(self, name) >= least, f"at least {least}")
        require(self, "", "seed", self.seed <= LARGEST_SEED, f"at most {LARGEST_SEED:,}")
        for name in ("mixing", "augment_p", "lr_decay", "ada_target"):
            require(self, "", name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        is_seen = self.augment != "diffaug" or self.augment_p > 0
        require(self, "", "augment_p", is_seen, "above 0 with --augment diffaug, such as 0.5, or nothing is augmented")
        require(self, "", "device", is_device_name(self.device), "auto, cpu, cuda or cuda:1")
        if self.stop:
            parse_rule(self.stop)
            require(self, "", "stop", self.eval_every > 0, "left out, or --eval-every must say when to score")
        if self.keep_best:
            require(self, "", "keep_best", self.eval_every > 0, "left out, or --eval-every must say when to score")
        require(self, "", "beta1", 0 <= self.beta1 < 1, "at least 0 and below 1")

    def idle(self) -> dict[str, str]:
        """Settings on which nothing depends, as the others are, as they are written on the command line without dashes,
        and what would change that."""
        found: dict[str, str] = {}
        if self.augment != "ada":
            found |= dict.fromkeys(("ada-target", "ada-images", "ada-every", "ada-legacy"), "--augment ada")
        if self.augment in ("none", "flip"):
            found["augment-p"] = "--augment diffaug or ada"
        if not self.r1_every:
            found["r1-gamma"] = "--r1-every above 0"
        if not self.path_every:
            found["path-weight"] = "--path-every above 0"
        own = {f"{self.method.name}.{name}".replace("_", "-"): needs for name, needs in self.method.idle().items()}
        return found | own

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
    "ada_images": 1,
    "ada_every": 1,
    "micro_batch": 0,
    "sample_every": 0,
    "checkpoint_every": 0,
    "keep_last": 1,
    "eval_every": 0,
}


def read_config(path: Path, **missing: Any) -> RunConfig:
    """The settings in a run's config.json, or one written by hand; `missing` where it has none. Raises TenshotError;
    unknown keys stop."""
    with told_as_sentence("read", path):
        content = path.read_bytes()
    try:
        values = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise TenshotError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise TenshotError(f"{path} holds no JSON object")
    try:
        return parse_config({**missing, **values})
    except TenshotError as error:
        raise TenshotError(f"{path}: {error}") from error


def parse_config(values: dict[str, Any]) -> RunConfig:
    """Settings from `to_json`'s object; what it does not name is the default. Raises TenshotError."""
    name = values.get("method", Dap.name)
    rest = {key: value for key, value in values.items() if key not in ("method", str(name))}
    return build(RunConfig, {**rest, "method": build_method(name, values.get(str(name), {}))})


def differences(now: Any, before: Any, prefix: str = "") -> list[str]:
    """`batch: 2 now, 4 before` for each setting in which two objects of `to_json` differ; a method's: `dap.every`."""
    if isinstance(now, dict) and isinstance(before, dict):
        names = [*now, *(name for name in before if name not in now)]
        return [text for name in names for text in differences(now.get(name), before.get(name), f"{prefix}.{name}")]
    if now == before or isinstance(now, dict) or isinstance(before, dict):  # of another method its name says enough
        return []
    return [f"{prefix[1:]}: {json.dumps(now)} now, {json.dumps(before)} before"]


def build_method(name: str, settings: dict[str, Any]) -> Method:
    """A method by name with some of its fields given. Raises TenshotError."""
    if not isinstance(name, str) or name not in KNOWN:
        raise TenshotError(
            f"there is no method {name!r}; known are {', '.join(METHODS)}, and of your own those whose class has been "
            "defined in this process (docs/adding-a-method.md)"
        )
    return build(KNOWN[name], settings)
