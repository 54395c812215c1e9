"""Weight files: where they are looked for, that only genuine ones are read, that nothing in them is executed."""

import hashlib
import http.client
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tenshot.__main__ import main
from tenshot.errors import TenshotError
from tenshot.metrics import weights
from tenshot.metrics.table import EXTRACTORS, METRICS, WEIGHTS_OF
from tenshot.metrics.weights import Place, WeightFile, fetch, find, obtain, read_state

CONTENT = b"the genuine weights"
FILE = WeightFile(
    "net-1234.pth",
    "a network",
    hashlib.sha256(CONTENT).hexdigest(),
    len(CONTENT),
    "https://example.org/net-1234.pth",
    "CC0-1.0",
    aliases=("old-1234.pth",),
)


@pytest.fixture(autouse=True)
def usual_places(tmp_path, monkeypatch):
    """Empty ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(weights.VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


def put(folder, name=FILE.name, content=CONTENT):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def test_the_given_folder_comes_first_then_the_variable_then_the_caches(tmp_path, monkeypatch):
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path / "variable"))
    place = Place(tmp_path / "given")
    order = ["given", "variable", "cache/tenshot/weights", "torch/hub/checkpoints"]
    assert place.folders() == [tmp_path / name for name in order]
    for name in reversed(order):
        path = put(tmp_path / name)
        assert find(FILE, place) == obtain(FILE, place) == path


def test_the_same_file_under_another_librarys_name_is_found(tmp_path):
    path = put(tmp_path, "old-1234.pth")
    assert obtain(FILE, Place(tmp_path)) == path


def test_a_missing_file_is_named_with_its_source_its_hash_and_its_place(tmp_path):
    with pytest.raises(TenshotError) as caught:
        obtain(FILE, Place(tmp_path))
    said = str(caught.value)
    assert said.startswith("the weights net-1234.pth are missing: get https://example.org/net-1234.pth (")
    assert FILE.sha256 in said and said.endswith(f"put it into {tmp_path}")


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path):
    path = put(tmp_path, content=b"other weights")
    with pytest.raises(
        TenshotError, match=rf"{re.escape(str(path))} has SHA-256 .* would not be comparable; remove it"
    ):
        obtain(FILE, Place(tmp_path))


class TestDownload:
    @pytest.fixture
    def published(self, tmp_path):
        return replace(FILE, url=put(tmp_path / "internet").as_uri())

    def test_happens_on_first_use_if_it_may_and_only_then(self, tmp_path, published):
        place = Place(tmp_path / "given", download=True)
        path = obtain(published, place)
        assert path == tmp_path / "given" / FILE.name and path.read_bytes() == CONTENT
        with pytest.raises(TenshotError, match="are missing"):
            obtain(published, Place(tmp_path / "elsewhere", download=False))
        with pytest.raises(TenshotError, match="are missing"):
            obtain(replace(published, on_first_use=False), Place(tmp_path / "elsewhere", download=True))

    def test_leaves_nothing_behind_when_the_content_is_not_the_published_one(self, tmp_path, published):
        with pytest.raises(TenshotError, match=r"has SHA-256 .*: it was thrown away"):
            fetch(replace(published, sha256="0" * 64), tmp_path / "given")
        assert list((tmp_path / "given").iterdir()) == []

    def test_says_what_to_do_when_there_is_no_such_thing_or_no_network(self, tmp_path):
        gone = replace(FILE, url=(tmp_path / "gone.pth").as_uri())
        with pytest.raises(TenshotError, match=r"net-1234\.pth could not be downloaded \(.*\): get file:.* and put it"):
            fetch(gone, tmp_path / "given")
        assert list((tmp_path / "given").iterdir()) == []


class Broken:
    """A connection that ends in the middle."""

    def __init__(self, error):
        self.error, self.pieces = error, [CONTENT[:3]]

    def read(self, size):
        if self.pieces:
            return self.pieces.pop()
        raise self.error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize(
    "error", [TimeoutError("timed out"), http.client.IncompleteRead(b"abc"), ConnectionResetError()]
)
def test_a_download_that_breaks_off_is_no_fault_of_the_disk_and_leaves_nothing(tmp_path, monkeypatch, error):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Broken(error))
    with pytest.raises(TenshotError, match=r"net-1234\.pth could not be downloaded \(.*\): get https:.* and put it"):
        fetch(FILE, tmp_path / "given")
    assert list((tmp_path / "given").iterdir()) == []


class Hostile:
    def __reduce__(self):
        return os.mkdir, (str(Hostile.folder),)


@pytest.mark.parametrize("content", ["code", "noise", "empty", "a list", "a number among tensors"])
def test_what_is_no_plain_state_dict_is_refused_and_not_executed(tmp_path, content):
    path, Hostile.folder = tmp_path / "w.pth", tmp_path / "executed"
    if content in ("noise", "empty"):
        path.write_bytes(b"PK\x03\x04 noise" if content == "noise" else b"")
    else:
        what = {"code": {"a": Hostile()}, "a list": [torch.zeros(1)], "a number among tensors": {"a": 1}}[content]
        torch.save(what, path)
    with pytest.raises(TenshotError, match=r"w\.pth (does not hold plain tensors|is no state dict)"):
        read_state(path)
    assert not Hostile.folder.exists()


def test_published_hashes_begin_as_the_published_names_say():
    for file in weights.FILES:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        for digits in re.findall(r"-([0-9a-f]{8})\.pth", file.name):
            assert file.sha256.startswith(digits)


def test_every_metric_with_a_weight_file_has_a_loader_that_names_it_when_it_is_missing(tmp_path):
    for key, file in WEIGHTS_OF.items():
        with pytest.raises(TenshotError, match=re.escape(f"the weights {file.name} are missing")):
            EXTRACTORS[key](Place(tmp_path))
    assert {metric.extractor for metric in METRICS.values()} == {"efflite", *WEIGHTS_OF}


class TestVerb:
    def test_its_help_asks_for_names_of_metrics(self, capsys):
        with pytest.raises(SystemExit):
            main(["weights", "--help"])
        assert "--get NAMES" in capsys.readouterr().out

    def test_says_which_files_are_missing_where_they_are_looked_for_and_where_to_get_them(self, tmp_path, capsys):
        assert main(["weights", "--weights", str(tmp_path / "mine")]) == 0
        said = capsys.readouterr().out
        state = dict(re.findall(r"^(\S+\.pth)  (\w+)", said, re.MULTILINE))
        assert state.pop("efficientnet-lite0-57934424.pth") == "present"  # its package brings it
        assert state == {file.name: "missing" for file in weights.FILES}
        for file in weights.FILES:
            assert f"  get      {file.url}\n" in said and f"  SHA-256  {file.sha256}\n" in said
        for place in ("mine", "cache/tenshot/weights", "torch/hub/checkpoints"):
            assert f"  {tmp_path / place}\n" in said

    def test_tells_a_genuine_file_from_a_foreign_one(self, tmp_path, capsys, monkeypatch):
        from tenshot.cli import weights as cli

        monkeypatch.setattr(cli, "FILES", (FILE, replace(FILE, name="other.pth", aliases=())))
        put(tmp_path)
        put(tmp_path, "other.pth", b"something else")
        found = hashlib.sha256(b"something else").hexdigest()
        assert main(["weights", "--weights", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert f"{FILE.name}  present\n" in said
        assert "other.pth  foreign: it will be refused\n" in said
        assert f"  path     {tmp_path / 'other.pth'}\n  found    {found}\n" in said

    def test_gets_what_a_metric_needs_and_is_not_there(self, tmp_path, capsys, monkeypatch):
        published = replace(FILE, url=put(tmp_path / "internet").as_uri())
        monkeypatch.setitem(WEIGHTS_OF, "inception", published)
        for _ in range(2):
            assert main(["weights", "--weights", str(tmp_path / "mine"), "--get", "fid_5k, kid_5k"]) == 0
        assert capsys.readouterr().out.count("downloading net-1234.pth") == 1
        assert (tmp_path / "mine" / FILE.name).read_bytes() == CONTENT

    def test_knows_no_file_for_a_metric_that_needs_none(self, capsys):
        assert main(["weights", "--get", "fd_efflite_2k"]) == 1
        assert "the metrics with weight files are fid_5k, kid_5k" in capsys.readouterr().err


def test_weights_may_lie_below_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Place(Path("~/nets")).folders()[0] == tmp_path / "nets"
