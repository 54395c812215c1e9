"""Checkpoints are loaded whole or not at all, and a damaged one costs no more than the steps since the one before."""

import hashlib
import json
import random
import re

import pytest
import torch

from tenshot.files import write_atomically
from tenshot.manifest import Checkpoints, NoCheckpoint


def tensors_of(step):
    return {"weights": torch.arange(200.0) + step, "names/bias": torch.full((3,), float(step))}


@pytest.fixture
def saved(tmp_path):
    """Checkpoints after 2, 4 and 6 steps."""
    shelf = Checkpoints(tmp_path / "run" / "checkpoints")
    shelf.folder.mkdir(parents=True)
    for step in (2, 4, 6):
        shelf.save(step, tensors_of(step), {"source": "x"}, keep=3)
    return shelf


def loads(shelf, step):
    tensors, header = shelf.load()
    assert header == {"source": "x", "step": step}
    return all(torch.equal(tensors[name], tensor) for name, tensor in tensors_of(step).items())


def test_the_manifest_holds_the_hash_of_every_checkpoint(saved):
    noted = json.loads(saved.manifest.read_text())
    for path in saved.folder.glob("*.safetensors"):
        data = path.read_bytes()
        assert noted[path.name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert noted.keys() == {"000002.safetensors", "000004.safetensors", "000006.safetensors"}
    assert loads(saved, 6)


def told_while(load):
    """The warnings of a load that must go well."""
    with pytest.warns(UserWarning) as told:
        assert load() in (True, None)
    return [str(warning.message) for warning in told]


def flip(data, place):
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "empty": lambda path: path.write_bytes(b""),
    "a bit of a weight flipped": lambda path: path.write_bytes(flip(path.read_bytes(), -40)),
    "a bit of the header flipped": lambda path: path.write_bytes(flip(path.read_bytes(), 30)),
    "zeros at the end": lambda path: path.write_bytes(path.read_bytes()[:-64] + bytes(64)),
    "another checkpoint": lambda path: path.write_bytes((path.parent / "000002.safetensors").read_bytes()),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_the_warning_names_it(saved, damage):
    damage(saved.path(6))
    with pytest.warns(
        UserWarning, match=r"000006\.safetensors is (damaged|not there).*the checkpoint before it is taken"
    ):
        assert loads(saved, 4)


def test_whatever_bit_is_flipped_the_values_are_those_that_were_saved(saved):
    good, rng = saved.path(6).read_bytes(), random.Random(0)
    for _ in range(60):
        place = rng.randrange(len(good))
        saved.path(6).write_bytes(flip(good, place))
        with pytest.warns(UserWarning, match="000006"):
            assert loads(saved, 4), place


def test_two_damaged_ones_cost_two_and_none_whole_is_told(saved):
    for step in (6, 4):
        DAMAGES["truncated"](saved.path(step))
    assert [name for text in told_while(lambda: loads(saved, 2)) for name in re.findall(r"\d{6}", text)] == [
        "000006",
        "000004",
    ]
    DAMAGES["missing"](saved.path(2))

    def load():
        with pytest.raises(NoCheckpoint, match="none of its checkpoints is whole"):
            saved.load()

    assert "000002.safetensors is not there" in told_while(load)[2]


def test_an_older_checkpoint_can_be_asked_for(saved):
    assert saved.load(5)[1]["step"] == 4
    with pytest.raises(NoCheckpoint):
        saved.load(1)


@pytest.mark.parametrize(
    "text",
    [None, "{", "[]", '{"x": 1}', '{"000006.safetensors": {"bytes": "1"}}', "[" * 100_000],
    ids=["none", "cut off", "list", "no name", "no number", "deep"],
)
def test_without_its_manifest_a_checkpoint_is_checked_for_its_form_only(saved, text):
    """As after an upgrade, or damage to the manifest itself."""
    saved.manifest.unlink() if text is None else saved.manifest.write_text(text)
    (told,) = told_while(lambda: loads(saved, 6))
    assert told.endswith("manifest.json is missing or damaged: hashes were not compared")
    DAMAGES["truncated"](saved.path(6))
    assert "000006.safetensors is damaged" in told_while(lambda: loads(saved, 4))[1]


def test_a_checkpoint_under_another_ones_name_is_not_taken(saved):
    saved.manifest.unlink()
    saved.path(4).rename(saved.path(8))
    assert "is not the checkpoint after step 8" in told_while(lambda: loads(saved, 6))[1]


def test_a_save_in_another_ones_place_is_whole_before_and_after(saved):
    """The manifest knows both; killed between the two writes, the older one still counts."""
    older = saved.path(6).read_bytes()
    saved.save(6, tensors_of(60), {"source": "x"}, keep=3)
    assert torch.equal(saved.load()[0]["weights"], tensors_of(60)["weights"])
    saved.path(6).write_bytes(older)
    assert loads(saved, 6)


@pytest.mark.parametrize(
    ("keep", "every", "stay"),
    [(1, 1, [9]), (2, 1, [8, 9]), (9, 1, [2, 4, 6, 8, 9]), (1, 2, [8, 9]), (2, 4, [4, 8, 9]), (2, 0, [8, 9])],
)
def test_the_newest_stay_and_the_newest_due_ones(tmp_path, keep, every, stay):
    shelf = Checkpoints(tmp_path)
    for step in (2, 4, 6, 8, 9):
        shelf.save(step, tensors_of(step), {}, keep=keep, every=every)
    assert shelf.steps() == stay
    assert {f"{step:06d}.safetensors" for step in stay} <= json.loads(shelf.manifest.read_text()).keys()


@pytest.mark.parametrize(
    ("keep", "every", "steps", "stay"),
    [
        (3, 200, (10, 50), [10, 50]),
        (3, 0, (100, 200), [100, 200]),
        (4, 200, (10, 20, 30), [10, 20, 30]),
        (5, 200, (10, 200, 230, 240, 250), [10, 200, 230, 240, 250]),
        (2, 200, (10, 50, 70), [50, 70]),
    ],
)
def test_while_fewer_are_due_than_are_kept_the_others_fill_up(tmp_path, keep, every, steps, stay):
    shelf = Checkpoints(tmp_path)
    for step in steps:
        shelf.save(step, tensors_of(step), {}, keep=keep, every=every)
    assert shelf.steps() == stay


def test_two_kills_while_a_checkpoint_is_written_over_leave_it_whole(saved, monkeypatch):
    def killed(path, data):
        if path.suffix == ".safetensors":
            raise KeyboardInterrupt
        write_atomically(path, data)

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("tenshot.manifest.write_atomically", killed)
            saved.save(6, tensors_of(7), {"source": "x"}, keep=3)
        assert saved.faults()[6] is None and loads(saved, 6)
    saved.save(6, tensors_of(6), {"source": "x"}, keep=3)
    assert loads(saved, 6)


def test_what_a_kill_before_the_deleting_left_is_tidied(saved):
    saved.tidy(6, keep=1, every=2, is_last=True)
    assert saved.steps() == [6]


def test_later_ones_are_dropped_when_a_run_goes_back(saved):
    saved.drop_after(4)
    assert saved.steps() == [2, 4]
