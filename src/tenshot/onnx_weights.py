"""An ONNX file's weights in fewer bits: float16, or int8 with a scale per channel, computed with in float32.

Only what is stored changes. Each large tensor becomes a small one and the operation that widens it again, Cast or
DequantizeLinear; the graph behind it stays as it was. onnxruntime's own dynamic quantisation rounds the activations
too, which in a generator is seen, and has no transposed convolution.

How float16 is rounded: `tenshot.rounding`.
"""

import importlib
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tenshot.errors import TenshotError
from tenshot.rounding import stored_as

Weights = Literal["float32", "float16", "int8"]

PARAMETERS, MAPPING = "generator.", "generator.style."
"""What the names of the generator's parameters begin with, and those of its mapping network."""
SMALLEST = 1024
"""Tensors of fewer numbers stay float32: biases, gates and gains weigh nothing."""


def store_as_(proto: Any, weights: Weights) -> None:
    """Change the large float32 tensors of an onnx.ModelProto.

    int8 is for the weights of the synthesis network. The mapping network, on which all of an image depends, becomes
    float16 then, and so does what is no weight: noise and the constant input, `[1 c h w]`, whose rounding would be seen
    in every image, and the low-pass filters, which float16 holds exactly.
    Raises TenshotError for numbers too large for float16.
    """
    if weights == "float32":
        return
    onnx: Any = importlib.import_module("onnx")
    widening = []
    for tensor in list(proto.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        small = f"{tensor.name}.{weights}"
        is_map = values.ndim == 4 and len(values) == 1
        is_weight = tensor.name.startswith(PARAMETERS) and not tensor.name.startswith(MAPPING) and not is_map
        if weights == "float16" or not is_weight:
            packed = {small: _half(values, tensor.name)}
            node = onnx.helper.make_node("Cast", [small], [tensor.name], to=onnx.TensorProto.FLOAT)
        else:
            whole, scale, axis = quantised(values)
            packed = {small: whole, f"{tensor.name}.scale": scale}
            node = onnx.helper.make_node("DequantizeLinear", list(packed), [tensor.name], axis=axis)
        proto.graph.initializer.remove(tensor)
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in packed.items())
        widening.append(node)
    nodes = [*widening, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def quantised(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32], int]:
    """Whole numbers from -127 to 127, a scale per slice along an axis, and the axis; values = whole x scale.

    The axis is the one that loses least in the sum of squares, which is usually the output channel.
    """
    found = []
    for axis in (k for k, size in enumerate(values.shape) if size > 1):
        others = tuple(k for k in range(values.ndim) if k != axis)
        largest = np.abs(values).max(axis=others, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        whole = np.rint(values / scale).astype(np.int8)
        loss = float(np.square(whole * scale - values, dtype=np.float64).sum())
        found.append((loss, axis, whole, scale.reshape(-1)))
    _, axis, whole, scale = min(found, key=lambda each: each[:2])
    return whole, scale, axis


def _half(values: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    half = stored_as(torch.from_numpy(values.copy()), torch.float16, name)
    if not half.isfinite().all():
        raise TenshotError(f"{name} is too large for float16: store the weights as float32")
    return half.numpy()
