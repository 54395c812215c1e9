"""What a user has is not replaced unasked, and what a run keeps never."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from tenshot.__main__ import main
from tenshot.models import load_model, save_model
from tenshot.runs import owner_of
from tenshot.targets import check_numbers, check_page


def test_an_earlier_page_and_earlier_numbers_are_replaced(here):
    page, numbers = Path("earlier.html"), Path("earlier.json")
    page.write_text('<meta charset="utf-8">\n<meta name="generator" content="tenshot">')
    numbers.write_text(json.dumps(dict.fromkeys(("model", "real", "shots", "seeds", "metrics"))))
    check_page(page, Path("run"))
    check_page(Path("run/report.html"), Path("run"))
    check_numbers(numbers)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_model):
    """A folder with a run that is done, a model and what a user may have beside them."""
    monkeypatch.chdir(tmp_path)
    for name in ("shots", "samples", "checkpoints"):
        Path("run", name).mkdir(parents=True)
    Path("run/config.json").write_text('{"shots": "x", "source": "y", "method": "dap"}')
    save_model(Path("run/model.safetensors"), tiny_model)
    save_model(Path("m.safetensors"), tiny_model)
    Path("link.safetensors").symlink_to("m.safetensors")
    Path("mine.json").write_text('{"experiment": "mine", "metrics": {"accuracy": 0.9}}')
    for name in ("mine.safetensors", "mine.onnx", "new.onnx.json", "new.proof.json", "mine.zip"):
        Path(name).write_bytes(b"mine")
    Image.new("RGB", (640, 480)).save("photo.png")
    Image.new("RGB", (512, 512)).save("square.png")  # as large as a grid of one image would be
    for name in ("page.html", "package.json", "mine.gif"):
        Path(name).write_bytes(b"mine")
    Path("other").mkdir()
    Path("other/config.json").write_text('{"shots": "x", "source": "y", "method": "dap"}')
    Path("one").mkdir()
    Image.new("RGB", (16, 16)).save("one/a.png")
    with zipfile.ZipFile("shots.zip", "w") as packed:
        packed.writestr("seed000000.png", b"")
        packed.writestr("notes.txt", b"")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("export run --out run/model.safetensors", "model.safetensors is a file of the run in"),
        ("export run --out run/model.safetensors --overwrite", "model.safetensors is a file of the run in"),
        ("export m.safetensors --out run/best.safetensors", "best.safetensors is a file of the run in"),
        ("export run --out run/checkpoints/000001.safetensors", "is a file of the run in"),
        ("export m.safetensors --out m.safetensors --overwrite", "m.safetensors is the file that is read"),
        ("export m.safetensors --out link.safetensors --overwrite", "is the file that is read"),
        ("export run --out mine.safetensors", "mine.safetensors is there already: replace it (--overwrite)"),
        ("export run --compact --out new.safetensors", "new.proof.json is there already"),
        ("export run --format onnx --out mine.onnx", "mine.onnx is there already"),
        ("export run --format onnx --out new.onnx", "new.onnx.json is there already"),
        ("convert in.pt mine.safetensors", "mine.safetensors is there already"),
        ("convert in.pt photo.safetensors", "photo.png is there already"),
        ("convert mine.safetensors mine.safetensors --overwrite", "mine.safetensors is the file that is read"),
        ("convert in.pt run/sheet.safetensors --overwrite", "sheet.png is a file of the run in"),
        ("generate run --out mine.zip", "mine.zip, which holds more than images of seeds"),
        ("generate run --out shots.zip", "shots.zip, which holds more than images of seeds"),
        ("generate run --out run/shots", "seed000000.png is a file of the run in"),
        ("generate run --out .", "--out is ., a folder with other images in it (mine.gif): choose another folder"),
        ("evaluate m.safetensors --out mine.json", "mine.json, a file that is no result of tenshot evaluate"),
        ("export run --out x.safetensors --real shots", "--real is for --target-ratio: leave it out, or give that too"),
        ("export run --compact --lr 1 --out x.safetensors", "--lr is for --target-ratio"),
        ("export run --compact --unjudged --out x.safetensors", "--unjudged is for --target-ratio"),
        ("export run --target-ratio 0.3 --unjudged --real one --out x.safetensors", "--unjudged leaves nothing to do"),
        ("export run --multiple 7 --out x.safetensors", "--multiple is for --compact or --target-ratio"),
        ("generate run --grid photo.png", "photo.png, a file that is no grid of tenshot's"),
        ("generate run --grid square.png", "square.png, a file that is no grid of tenshot's"),
        ("report run --out page.html", "page.html, a file that is no page of tenshot's"),
        ("report run --out other/report.html", "report.html is a file of the run in"),
        ("evaluate m.safetensors --out package.json", "package.json, a file that is no result of tenshot evaluate"),
        ("interpolate run --out mine.gif", "mine.gif is there already: replace it (--overwrite)"),
        ("export run --compact --format onnx --onnx.truncation 3 --out x.onnx", "truncation is 3.0"),
        ("export run --compact --format onnx --onnx.noise -1 --out x.onnx", "the seed of the noise is -1"),
        ("export run --target-ratio 0.3 --finetune-steps -1 --out x.safetensors", "--finetune-steps is -1"),
        ("export run --target-ratio 0.3 --lr 0 --out x.safetensors", "--lr is 0.0: it must be above 0"),
        ("export run --target-ratio 0.3 --real one --out x.safetensors", "--real one holds one usable image"),
        ("generate run --grid run/sheet.png", "sheet.png is a file of the run in"),
        ("interpolate run --out run/sheet.png", "sheet.png is a file of the run in"),
    ],
)
def test_a_refusal_says_why_and_leaves_all_as_it_was(here, capsys, words, sentence):
    before = contents(here)
    assert main(words.split()) == 1
    assert sentence in capsys.readouterr().err
    assert contents(here) == before


def test_an_export_is_replaced_when_told_to(here, tiny_model):
    assert main(["export", "m.safetensors", "--out", "mine.safetensors", "--overwrite"]) == 0
    assert load_model("mine.safetensors").resolution == tiny_model.resolution
    assert main(["export", "run", "--out", "run/small.safetensors"]) == 0  # in a run's folder, but not the run's


def test_what_generate_made_it_makes_again(here):
    for out in ("images.zip", "images"):
        for seeds in ("0-2", "1-5"):
            assert main(["generate", "run", "--seeds", seeds, "--out", out, "--grid", "grid.png"]) == 0
    assert len(zipfile.ZipFile("images.zip").namelist()) == 5 and len(list(Path("images").iterdir())) == 6
    assert main(["generate", "run", "--seeds", "0-9", "--columns", "4", "--grid", "grid.png"]) == 0


def test_images_of_earlier_calls_are_told_where_they_stand_beside_the_new_ones(here, capsys):
    def told(seeds, out):
        assert main(["generate", "run", "--seeds", seeds, "--out", out, "--batch", "2"]) == 0
        return capsys.readouterr().out.splitlines()

    assert told("0-3", "mix") == ["4 images of 16 px: mix"]
    assert told("3-4", "mix") == ["2 images of 16 px: mix", "3 images of earlier calls stand beside them in mix"]
    Path("mix/notes.txt").touch()
    assert told("0-3", "mix")[1:] == ["1 image of earlier calls stands beside them in mix"]
    assert told("0-4", "mix")[1:] == []
    assert told("0-3", "mix.zip") == told("0-3", "mix.zip") == ["4 images of 16 px: mix.zip"]


def test_a_file_belongs_to_a_run_by_its_name_and_place(here):
    run = (here / "run").resolve()
    assert owner_of(Path("run/model.safetensors")) == owner_of(Path("run/shots/a.png")) == run
    assert owner_of(Path("run/../run/sheet.png")) == run
    assert owner_of(Path("run/mine.png")) is owner_of(Path("model.safetensors")) is owner_of(Path("none/x")) is None


def test_a_converted_checkpoint_is_replaced_when_told_to(here, tiny_model):
    networks = {"g_ema": tiny_model.generator, "d": tiny_model.discriminator}
    states = {
        key: {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(".gate")}
        for key, network in networks.items()
    }
    torch.save({**states, "latent_avg": states["g_ema"].pop("latent_avg")}, "in.pt")
    assert main(["convert", "in.pt", "photo.safetensors", "--overwrite"]) == 0
    assert main(["convert", "in.pt", "photo.safetensors"]) == 1
    assert load_model("photo.safetensors").discriminator is not None


def test_scores_are_not_written_over_a_runs_settings(here, capsys):
    before = Path("run/config.json").read_bytes()
    assert main(["evaluate", "m.safetensors", "--shots", "run/shots", "--out", "run/config.json"]) == 1
    assert "run/config.json is a file of the run in " in capsys.readouterr().err
    assert Path("run/config.json").read_bytes() == before
