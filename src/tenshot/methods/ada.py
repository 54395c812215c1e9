"""TGAN with adaptive discriminator augmentation."""

from dataclasses import dataclass
from typing import ClassVar

from tenshot.methods.base import Method


@dataclass(frozen=True)
class Ada(Method):
    """Fine-tuning, while D sees augmented images, the more of them the surer it is of the shots (ADA).

    The augmentation is a setting of the run, since it goes with every method: this method's presets say
    `--augment ada`, with `ada_target`, `ada_images` and `ada_legacy` as its controller's settings (`tenshot.ada`).
    """

    name: ClassVar[str] = "ada"
    paper: ClassVar[str] = "Training GANs with limited data, NeurIPS 2020, arXiv:2006.06676"
    adds: ClassVar[str] = "augmentation with adaptive probability in D"
