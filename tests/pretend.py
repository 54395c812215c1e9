"""A device that is not there: tensors that say they are elsewhere, compute on the CPU, and refuse to meet the CPU's.

Code that forgets to move a tensor fails here as it would on a GPU. The name of the device is `meta`, because autograd
runs its nodes on the thread that asks, as for the CPU's; the numbers are real.
"""

import contextlib
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

AWAY = torch.device("meta")
_MOVES = {"aten._to_copy.default", "aten.copy_.default", "aten._copy_from.default"}


class Away(torch.Tensor):
    """A tensor whose numbers lie in `.near` on the CPU, and which says that it is elsewhere."""

    @staticmethod
    def __new__(cls, near, requires_grad=False):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=AWAY,
            requires_grad=requires_grad,
        )

    def __init__(self, near, requires_grad=False):
        self.near = near

    @property
    def is_meta(self):
        return False  # its numbers are real

    def __repr__(self):
        return f"Away({self.near!r})"

    def __deepcopy__(self, memo):
        copied = Away(self.near.detach().clone(), self.requires_grad)
        return torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return carry_out(function, args, kwargs or {})


class _Elsewhere(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return carry_out(function, args, kwargs or {})


def carry_out(function, args, kwargs):
    """Run an operation on the numbers; what comes out is where its inputs are, or where `device` says."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    is_away = [isinstance(x, Away) for x in tensors]
    if any(is_away) and str(function) not in _MOVES:
        strays = [x for x, away in zip(tensors, is_away, strict=True) if not away and x.dim()]
        assert not strays, f"{function} mixes devices: a CPU tensor of shape {list(strays[0].shape)}"
    goes_to = kwargs.get("device")
    result_is_away = any(is_away) if goes_to is None else torch.device(goes_to) == AWAY
    if str(function) == "aten.copy_.default":
        result_is_away = is_away[0]
    if goes_to is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    near_args, near_kwargs = tree_map_only(Away, lambda x: x.near, (args, kwargs))
    out = function(*near_args, **near_kwargs)
    if not result_is_away:
        return out
    known = {id(x.near): x for x in tensors if isinstance(x, Away)}  # in-place: the same tensor comes back
    return tree_map_only(torch.Tensor, lambda x: known.get(id(x)) if id(x) in known else Away(x), out)


def _new_tensor(self, data, *, dtype=None):
    """As torch's, which makes its tensor below the dispatcher, where it would miss the pretence."""
    made = torch.tensor(data, dtype=dtype or self.dtype)
    return made.to(AWAY) if isinstance(self, Away) else made


@contextlib.contextmanager
def pretended():
    """Within, tensors can be sent to `AWAY` and come back."""
    fused = mock.patch("torch.optim.adam._device_dtype_check_for_fused", lambda parameter: None)
    with fused, mock.patch.object(torch.Tensor, "new_tensor", _new_tensor), _Elsewhere():
        yield AWAY
