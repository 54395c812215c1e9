"""No file that tenshot reads is executed: hostile files under an audit hook, and mutations of good ones."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hostile
import tiny
from reference.nvidia_pickle import contents, dump, networks
from tenshot.convert import model_of
from tenshot.errors import TenshotError
from tenshot.models import Model, load_model
from tenshot.unpickle import read
from test_convert import rosinality

TESTS = Path(__file__).parent


def new_file(checkpoint):
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


CHECKPOINT = rosinality(tiny.tiny_model(channels=(8, 8, 8)))
GOOD = {
    "nvidia.pkl": dump(contents(*networks(16, 128, 8, w_dim=16))),
    "nvidia-2021.pkl": dump(contents(*networks(16, 128, 8, w_dim=16)), protocol=3, is_old=True),
    "new.pt": new_file(CHECKPOINT),
    "old.pt": hostile.old_file(CHECKPOINT),
}
CORPUS = hostile.corpus(GOOD["nvidia.pkl"], GOOD["new.pt"])


def guarded(mode, good, bad):
    """What each file led to, in a process under watch."""
    done = subprocess.run(
        [sys.executable, TESTS / "guarded.py", mode, *good, "--", *bad],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent / "src"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def written(folder, files):
    paths = {}
    for i, (title, data) in enumerate(files.items()):
        (folder / f"{i}.bin").write_bytes(data)
        paths[title] = str(folder / f"{i}.bin")
    return paths


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Title of a hostile file, or name of a good one and where it is cut off -> (path, what was said)."""
    good = written(tmp_path_factory.mktemp("good"), GOOD)
    bad = written(tmp_path_factory.mktemp("bad"), {title: data for title, (data, _) in CORPUS.items()})
    said = guarded("convert", good.values(), bad.values())
    cuts = {f"{name}[:{cut}]": path for name, path in good.items() for cut in range(0, len(GOOD[name]), 1024)}
    found = {title: (path, said.pop(path)) for title, path in bad.items()}
    for title, path in cuts.items():
        found[title] = path, said.pop(path + title[title.rindex("[") :])
    assert not said
    return found


def test_the_corpus_is_large_and_of_every_kind():
    kinds = {title.partition(", ")[0] for title in CORPUS}
    assert kinds == {"pkl", "pt", "old pt", "zip", "safetensors", "other"}
    assert len(CORPUS) >= 250


def test_every_hostile_file_is_refused_with_its_sentence_and_nothing_is_done(answers):
    """Nothing: no import, no exec or compile, no file but the one read, no process, no socket, 1 GiB at most."""
    faults = []
    for title, (_, words) in CORPUS.items():
        path, sentence = answers[title]
        is_sentence = sentence.startswith(path) and sentence.isprintable() and len(sentence) < len(path) + 500
        if not is_sentence or words not in sentence:
            faults.append(f"{title}: expected {words!r}, got {sentence}")
    assert not faults, "\n".join(faults)


def test_the_watch_sees_what_pythons_own_unpickler_would_do(tmp_path):
    """The traps are armed: without our reader each of these files does something."""
    armed = {title: hostile.framed(body, 4) for title, body, _ in hostile.calls() if title != "dotted name"}
    paths = written(tmp_path, armed)
    said = guarded("unpickle", [], paths.values())
    events = {title: said[paths[title]] for title in armed}
    quiet = [f"{title}: {event}" for title, event in events.items() if not re.fullmatch(r"![a-z_]+(\.\w+)?", event)]
    assert not quiet, "\n".join(quiet)
    assert [events[title] for title in ("os.system", "popen", "socket", "pickle in a pickle")] == [
        "!os.system", "!subprocess.Popen", "!socket.getaddrinfo", "!os.system"
    ]  # fmt: skip


def test_every_file_cut_off_at_any_kilobyte_is_refused(answers):
    cuts = {title: answer for title, answer in answers.items() if title.endswith("]")}
    assert len(cuts) > 100
    for title, (path, sentence) in cuts.items():
        assert sentence.startswith(f"{path} ") and sentence.isprintable(), f"{title}: {sentence}"


@pytest.mark.parametrize("kind", ["header of 2^60", "shape of 2^40", "tensors that overlap", "a name twice", "deep"])
def test_model_files_with_lying_headers_are_refused_where_models_are_loaded(tmp_path, kind):
    data, words = CORPUS[f"safetensors, {kind}"]
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(TenshotError, match=re.escape(words)):
        load_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", GOOD)
def test_a_checkpoint_under_a_model_files_name_is_known_by_its_content(tmp_path, name):
    (tmp_path / "a.safetensors").write_bytes(GOOD[name])
    with pytest.raises(
        TenshotError, match=r"a checkpoint of another program \(a (zip|pickle)\): first run `tenshot con"
    ):
        load_model(tmp_path / "a.safetensors")


def outcome(data):
    """A model or a sentence; anything else is a fault of the reader."""
    try:
        return model_of(read(data, "in"), Path("in"))
    except TenshotError as error:
        sentence = str(error)
        assert sentence.startswith("in") and sentence.isprintable()
        return sentence


def test_good_files_are_read():
    assert all(isinstance(outcome(data), Model) for data in GOOD.values())


SHORT = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@SHORT
@given(
    st.sampled_from(sorted(GOOD)), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=9)), min_size=1, max_size=6)
)
def test_good_files_with_bytes_exchanged_end_in_a_model_or_a_sentence(name, changes):
    data = bytearray(GOOD[name])
    for where, new in changes:
        at = int(where * len(data))
        data[at : at + len(new)] = new
    outcome(bytes(data))


@SHORT
@given(st.sampled_from(sorted(GOOD)), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_good_files_with_parts_moved_end_in_a_model_or_a_sentence(name, first, second, third):
    data = GOOD[name]
    a, b, c = sorted(int(share * len(data)) for share in (first, second, third))
    outcome(data[:a] + data[b:c] + data[a:b] + data[c:])


OPCODES = b"N\x88\x89JKM\x8aGX\x8cBC}])\x8f(t\x85\x86\x87aesu\x90qr\x94hjcR\x81bQ.\x95\x930io2Pp\x82\x92\x97"
PIECES = st.one_of(
    st.sampled_from([bytes([code]) for code in OPCODES]),
    st.sampled_from([hostile.name(*pair) for pair in read.__globals__["_ALL"]]),
    st.sampled_from([hostile.text(word) for word in ("storage", "0", "state", "_modules", "type", "class")]),
    st.integers(-(2**40), 2**40).map(hostile.number),
    st.binary(max_size=4),
)


@SHORT
@given(st.lists(PIECES, max_size=40), st.booleans())
def test_pickles_made_of_allowed_pieces_end_in_a_sentence(pieces, is_zip):
    pickled = hostile.framed(b"".join(pieces))
    assert isinstance(outcome(hostile.torch_zip(pickled) if is_zip else pickled), str)
