"""Settings that belong together: for every method those of its paper, and those for the embedded source.

A preset holds only what differs from the defaults of `RunConfig` and of the method.
"""

from dataclasses import dataclass, field
from typing import Any

from tenshot.config import RunConfig, build_method
from tenshot.errors import TenshotError
from tenshot.methods import KNOWN
from tenshot.settings import build

_PUBLIC_CODE = {
    "augment": "flip",
    "augment_p": 0.0,
    "lr": 0.002,
    "lr_decay": 0.0,
    "ema_half_life": 1250,
    "steps": 1500,
}
"""What the public few-shot code shares at 256 px; 0.5 ** (32 / 10000) a step of 4 images is a half-life of 1,250."""


@dataclass(frozen=True)
class Preset:
    """What to set, and where that comes from."""

    origin: str
    """Of the values, in a sentence."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of `RunConfig`; those of the method under its name."""


_TUNED = "tuned at 64 px, mostly on bottts (docs/methods.md)"
_TRIED = "the loop's settings as tuned with finetune and dap; the method's own the best of those tried on bottts"

PRESETS: dict[str, dict[str, Preset]] = {
    "finetune": {
        "faces64": Preset(_TUNED),
        "paper": Preset("the comparisons of CDC, AdAM and RICK", _PUBLIC_CODE),
    },
    "ada": {
        "faces64": Preset(_TRIED, {"augment": "ada", "augment_p": 0.0, "ada_images": 4000}),
        "paper": Preset(
            "the code that CDC, AdAM and RICK ran: p cannot pass 0.0072",
            {**_PUBLIC_CODE, "augment": "ada", "ada_images": 500_000, "ada_every": 64, "ada_legacy": True},
        ),
    },
    "freezed": {
        "faces64": Preset(_TRIED),
        "paper": Preset("four of six blocks frozen, as published for 256 px", _PUBLIC_CODE),
    },
    "ewc": {
        "faces64": Preset(_TRIED, {"ewc": {"weight": 5.0}}),
        "paper": Preset("the paper's weight, on the sum", {**_PUBLIC_CODE, "ewc": {"fisher_samples": 1000}}),
    },
    "cdc": {
        "faces64": Preset(_TRIED),
        "paper": Preset("code and paper, near domains; 4,000 to 5,000 steps for art", {**_PUBLIC_CODE, "steps": 1000}),
    },
    "dcl": {
        "faces64": Preset(_TRIED, {"dcl": {"lambda1": 0.5, "lambda2": 0.1}}),
        "paper": Preset("paper; its training code was never released", {**_PUBLIC_CODE, "steps": 1000}),
    },
    "adam": {
        "faces64": Preset(_TRIED),
        "paper": Preset(
            "code, FFHQ to Babies: 500 of 2,000 steps probe; percentile 75 for cats",
            {**_PUBLIC_CODE, "steps": 2000, "adam": {"fisher_samples": 1000}},
        ),
    },
    "rick": {
        "faces64": Preset(_TRIED, {"rick": {"fisher_quantile": 85.0}}),
        "paper": Preset(
            "code, FFHQ to Babies; fisher_quantile 85, prune_quantile 0.075 and 2,250 steps for cats",
            {
                **_PUBLIC_CODE,
                "steps": 1750,
                "batch": 2,
                "ema_half_life": 625,
                "rick": {"mask_ema": False, "prune_scope": "weight", "max_new_per_update": 1.0},
            },
        ),
    },
    "dap": {
        "faces64": Preset(
            _TUNED,
            {
                "ema_half_life": 200,
                "dap": {
                    "reach": 38.0,
                    "reach_mean": "geometric",
                    "spread": 1.65,
                    "spread_below": "place",
                    "palette": "shots",
                    "grain": "shots",
                    "mosaic": "shots",
                },
            },
        ),
        "paper": Preset(
            "the public code's loop, iterations as RICK's; the paper publishes none", {**_PUBLIC_CODE, "steps": 1750}
        ),
    },
}  # fmt: skip
"""By method, then by name: `faces64` for the embedded source, `paper` as published for 256 px."""

DEFAULT = "faces64"

PRETRAINING: dict[str, Any] = {
    "steps": 20_000,
    "batch": 16,
    "lr": 0.002,
    "lr_decay": 0.3,
    "augment": "ada",
    "augment_p": 0.0,
    "ada_images": 100_000,
    "r1_gamma": 0.1,
    "mixing": 0.0,
    "path_every": 0,
    "ema_half_life": 10_000,
    "sample_every": 500,
    "checkpoint_every": 500,
}
"""Where pretraining differs from adaptation: more images a step, a longer memory of the average, a sharper D.

On faces at 64 px a tenth of the R1 weight gave better images, and a thirtieth without style mixing and path lengths
better ones still (sources/faces64.md).
"""


def find_preset(method: str, name: str = DEFAULT) -> Preset:
    """Raises TenshotError for a method or a name there is none of."""
    build_method(method, {})  # the sentence about methods that do not exist
    if method not in PRESETS:
        raise TenshotError(
            f"{method} has no presets: give an instance of {KNOWN[method].__name__} instead of its name; methods with "
            f"presets are {', '.join(PRESETS)}"
        )
    if name not in PRESETS[method]:
        raise TenshotError(f"{method} has no preset {name!r}; there are {', '.join(PRESETS[method])}")
    return PRESETS[method][name]


def preset_config(shots: str, method: str, name: str = DEFAULT, **settings: Any) -> RunConfig:
    """The configuration of a preset, with further `settings` of `RunConfig` on top. Raises TenshotError."""
    values = dict(find_preset(method, name).settings)
    built = build_method(method, values.pop(method, {}))
    return build(RunConfig, {**values, **settings, "shots": shots, "method": built})
