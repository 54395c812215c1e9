"""Transferring GANs: train everything on the new images."""

from dataclasses import dataclass
from typing import ClassVar

from tenshot.methods.base import Method


@dataclass(frozen=True)
class Finetune(Method):
    """Every parameter of both networks trains on the shots; nothing is added to the loss (TGAN, arXiv:1805.01677)."""

    name: ClassVar[str] = "finetune"
    paper: ClassVar[str] = "Transferring GANs, ECCV 2018, arXiv:1805.01677"
