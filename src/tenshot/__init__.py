"""tenshot: a pretrained GAN and about ten images of a new domain in, a generator of that domain out.

    import tenshot

    model = tenshot.adapt("examples/robots", out="runs/robots")
    images = tenshot.generate(model, seeds=range(16))  # uint8 [16, 3, 64, 64]

The names below are loaded on first use, so that importing tenshot does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tenshot.config import RunConfig as RunConfig
    from tenshot.errors import TenshotError as TenshotError
    from tenshot.loop import adapt as adapt
    from tenshot.metrics import evaluate as evaluate
    from tenshot.models import Model as Model
    from tenshot.models import load_model as load
    from tenshot.models import save_model as save
    from tenshot.sampling import generate_images as generate
    from tenshot.walk import interpolate as interpolate

_HOME = {
    "adapt": ("tenshot.loop", "adapt"),
    "evaluate": ("tenshot.metrics", "evaluate"),
    "generate": ("tenshot.sampling", "generate_images"),
    "interpolate": ("tenshot.walk", "interpolate"),
    "load": ("tenshot.models", "load_model"),
    "save": ("tenshot.models", "save_model"),
    "Model": ("tenshot.models", "Model"),
    "RunConfig": ("tenshot.config", "RunConfig"),
    "TenshotError": ("tenshot.errors", "TenshotError"),
}

__all__ = [
    "Model",
    "RunConfig",
    "TenshotError",
    "__version__",
    "adapt",
    "evaluate",
    "generate",
    "interpolate",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tenshot' has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(module), attribute)
