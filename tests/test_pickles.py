"""The reader of pickles: what it gives back, what it never does, and what it may take."""

import argparse
import io
import pickle
import sys
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile
from reference.nvidia_pickle import EasyDict, dump, module
from tenshot.errors import TenshotError
from tenshot.unpickle import Record, StoredTensor, read, read_checkpoint
from tenshot.unpickle.reading import SPARE, TIMES, shown, some


def saved(content, **how):
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.floats(allow_nan=False) | st.text(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=9) | st.integers(-(2**31) + 1, 2**31 - 1), inner, max_size=5)
        | st.sets(st.text(max_size=9), max_size=5)
    ),
    max_leaves=30,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(PLAIN, st.integers(2, 5))
def test_plain_data_comes_back_as_pythons_own_unpickler_gives_it(content, protocol):
    data = pickle.dumps(content, protocol)
    assert read(data, "in") == pickle.loads(data) == content


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_bytes_stay_in_the_file(protocol):
    data = pickle.dumps([b"", b"ab", bytes(70_000)], protocol)
    found = read(data, "in")
    assert all(isinstance(part, memoryview) and part.obj is data for part in found)
    assert [bytes(part) for part in found] == [b"", b"ab", bytes(70_000)]
    assert read(pickle.dumps([b"\xffab"], 2), "in") == [b"\xffab"]  # protocol 2 writes them as text


FORMS = {"zip": {}, "old": {"_use_new_zipfile_serialization": False}}
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
]
DTYPES += [torch.uint8, torch.bool]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_tensors_come_back_as_torch_gives_them(form):
    rng = torch.Generator().manual_seed(0)
    base = torch.randn(5, 6, 4, 4, generator=rng)
    content = {str(dtype): (torch.randn(3, 7, generator=rng) * 9).to(dtype) for dtype in DTYPES}
    content |= {
        "part": base[1:3, 2:5],
        "turned": base.transpose(0, 1),
        "channels last": base.to(memory_format=torch.channels_last),
        "every second": base.flatten()[1::2],
        "one number": torch.tensor(2.5),
        "none": torch.empty(0, 3),
        "one column": base[:, :1, :1, :1],
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }
    found = read(saved(content, **form), "in")
    expected = torch.load(io.BytesIO(saved(content, **form)), weights_only=True)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tuple(tensor.shape)
        assert found[name].read().equal(tensor), name
        assert found[name].read().is_contiguous()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_what_a_training_script_saves_comes_back(form):
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.randn(4, 3)).sum().backward()
    optimiser.step()
    content = {
        "model": network.state_dict(),  # an OrderedDict with _metadata
        "optimiser": optimiser.state_dict(),
        "args": argparse.Namespace(size=256, names=["a"], rate=0.002),
        "numbers": [np.float64(0.5), np.float32(0.25), np.int64(-3), np.bool_(True), 10**30],
        "names": {"a", "b"},
        "array": np.arange(3.0),
    }
    found = read(saved(content, **form), "in")
    assert list(found["model"]) == list(network.state_dict())
    assert all(found["model"][name].read().equal(tensor) for name, tensor in network.state_dict().items())
    assert found["optimiser"]["state"][0]["exp_avg"].read().equal(optimiser.state_dict()["state"][0]["exp_avg"])
    assert found["optimiser"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert (found["args"].name, found["args"].state) == ("argparse.Namespace", vars(content["args"]))
    assert found["numbers"] == [0.5, 0.25, -3, True, 10**30] and found["names"] == {"a", "b"}
    assert found["array"].name == "numpy.ndarray"  # stays closed


def test_a_persistent_module_becomes_a_record_without_its_source():
    layer = module("SomeLayer", parameters={"weight": torch.ones(2, 3)}, buffers={"f": torch.zeros(4)}, gain=np.sqrt(2))
    layer.options = EasyDict(a=1, b=EasyDict(c=[2]))
    found = read(dump({"G": layer}), "in")["G"]
    assert isinstance(found, Record) and found.name == "SomeLayer"
    assert found.state["_parameters"]["weight"].read().equal(torch.ones(2, 3))
    assert found.state["_buffers"]["f"].shape == (4,)
    assert found.state["gain"] == 2**0.5 and type(found.state["gain"]) is float
    assert found.state["options"] == {"a": 1, "b": {"c": [2]}}
    assert "exit" not in str(vars(found))


def test_reading_a_tensor_copies_it_out_of_the_file():
    data = saved({"a": torch.ones(4)})
    found = read(data, "in")["a"]
    assert isinstance(found, StoredTensor) and found.storage.data.obj is data
    found.read().zero_()
    assert found.read().equal(torch.ones(4))


def test_only_names_of_the_list_are_known():
    """The list is short, and each of its names is there because a checkpoint needs it."""
    from tenshot.unpickle.checkpoint import _ALL

    assert sorted(".".join(name) for name in _ALL) == sorted(
        [
            "torch.DoubleStorage",
            "torch.FloatStorage",
            "torch.HalfStorage",
            "torch.BFloat16Storage",
            "torch.LongStorage",
            "torch.IntStorage",
            "torch.ShortStorage",
            "torch.CharStorage",
            "torch.ByteStorage",
            "torch.BoolStorage",
            "torch._utils._rebuild_tensor_v2",
            "torch._utils._rebuild_parameter",
            "torch.storage._load_from_bytes",
            "torch_utils.persistence._reconstruct_persistent_obj",
            "dnnlib.util.EasyDict",
            "collections.OrderedDict",
            "argparse.Namespace",
            "builtins.set",
            "__builtin__.set",
            "_codecs.encode",
            "numpy.dtype",
            "numpy.ndarray",
            "numpy.core.multiarray.scalar",
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray.scalar",
            "numpy._core.multiarray._reconstruct",
        ]
    )


def test_a_name_of_the_list_is_no_way_to_what_bears_it():
    """What stands for a name is never the thing itself, so nothing can be reached through it."""
    for (owner, attribute), stand_in in read.__globals__["_ALL"].items():
        thing = getattr(sys.modules.get(owner), attribute, None)
        assert stand_in is not thing and stand_in.build is not thing


BOMBS = {
    title: data
    for title, (data, words) in hostile.corpus(b"", b"PK").items()
    if words == hostile.MEMORY and title.endswith(("dictionaries", "sets", "far memos", "views", "20,000 times"))
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_takes_no_more_than_the_promise(data):
    tracemalloc.start()
    try:
        with pytest.raises(TenshotError, match="asks for far more memory than a file of its size may need"):
            read(data, "in")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < SPARE + TIMES * len(data)


def test_a_file_larger_than_any_checkpoint_is_refused_unread(tmp_path):
    with (tmp_path / "sparse.pt").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(TenshotError, match=r"sparse.pt has 1,099,511,627,776 bytes, more than any checkpoint"):
        read_checkpoint(tmp_path / "sparse.pt")


@pytest.mark.parametrize("content", [[], (), "text", 3, None, OrderedDict()])
def test_any_plain_content_can_be_told(content):
    assert shown(content) and some([content])


def test_what_is_shown_of_a_file_cannot_reach_the_terminal():
    assert shown("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    assert len(shown("x" * 10**6)) == 80 and shown("x" * 10**6).endswith("...")
    nested = []
    for _ in range(100_000):
        nested = [nested]
    assert shown(nested) == "a list"
    assert some(str(i) for i in range(10**6)) == "0, 1, 2, 3, 4, 5, 6, 7, ..." and some([]) == "nothing"
