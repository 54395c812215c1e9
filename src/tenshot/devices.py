"""Where networks compute: the CPU, or a GPU that torch can use."""

import re

import torch

from tenshot.errors import TenshotError

AUTO = "auto"
_NAMES = re.compile(r"auto|cpu|cuda(:\d+)?")


def is_device_name(name: str) -> bool:
    """Whether it is one of auto, cpu, cuda, cuda:0, cuda:1, ...; a GPU need not be there."""
    return _NAMES.fullmatch(name) is not None


def find_device(name: str) -> torch.device:
    """The device of that name. auto: the first GPU, or the CPU if there is none. Raises TenshotError.

    cuda is CUDA, or ROCm where torch was built for it. There, convolutions of float32 are then computed in float32:
    torch would take TensorFloat-32, whose ten bits of mantissa are too few for the differences that losses are made of.
    """
    if not is_device_name(name):
        raise TenshotError(f"there is no device {name!r}: give auto, cpu, cuda or cuda:1")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == AUTO:
        name = "cuda" if there else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= there:
        gpus = f"{there} GPU" if there == 1 else f"{there or 'no'} GPUs"
        raise TenshotError(f"the device {name} is not there: torch {torch.__version__} finds {gpus}; give --device cpu")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return device
