"""FreezeD: the discriminator's layers near the image keep what they learnt from the source."""

from dataclasses import dataclass
from typing import ClassVar

from tenshot.errors import TenshotError
from tenshot.methods.base import Method
from tenshot.nets import Discriminator, Generator
from tenshot.settings import check_types, require


@dataclass(frozen=True)
class FreezeD(Method):
    """D's blocks near the image are frozen, those near the logit and all of G train (FreezeD, arXiv:2002.10964).

    The authors' best setting on StyleGAN at 256 px freezes four blocks and leaves those of the smallest sizes; counted
    from the logit, the setting means the same at every resolution. R1 still reaches the image through frozen layers.
    """

    name: ClassVar[str] = "freezed"
    paper: ClassVar[str] = "Freeze the discriminator, CVPR workshops 2020, arXiv:2002.10964"
    changes: ClassVar[str] = "G; D's blocks near the logit"

    trained_blocks: int = 2
    """Residual blocks of D that train, counted from the logit; the final layers always do. At 256 px, where D has six
    blocks, 2 freezes four and fromRGB."""

    def __post_init__(self) -> None:
        check_types(self, self.name)
        require(self, self.name, "trained_blocks", self.trained_blocks >= 0, "at least 0")

    def prepare(self, generator: Generator, discriminator: Discriminator) -> None:
        blocks = len(discriminator.convs) - 1
        if self.trained_blocks > blocks:
            raise TenshotError(f"--freezed.trained-blocks is {self.trained_blocks}: this discriminator has {blocks}")
        for layer in discriminator.convs[: blocks + 1 - self.trained_blocks]:
            layer.requires_grad_(False)
