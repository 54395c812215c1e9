"""Pretraining on the loop of adaptation: from scratch, from a source, from images with known latents."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tenshot import loop
from tenshot.__main__ import main
from tenshot.adaptation import begin, context_of
from tenshot.config import RunConfig
from tenshot.errors import TenshotError
from tenshot.methods import Finetune
from tenshot.methods.base import Batch
from tenshot.methods.pretrain import Pretrain
from tenshot.models import load_model, save_model, scratch
from tenshot.nets import channel_plan
from tenshot.pairs import Pairs, load_pairs
from tenshot.sampling import generate_images
from tenshot.step import run_step
from tiny import tiny_model, tiny_shots

LATENT = 16


@pytest.fixture
def pairs(tmp_path):
    """Six images of the tiny generator in two blocks of latents, truncated to 0.5 as if a teacher had."""
    folder = tmp_path / "pairs"
    (folder / "img").mkdir(parents=True)
    rng = np.random.default_rng(0)
    mean, latents = rng.normal(size=(1, LATENT)), rng.normal(size=(6, LATENT))
    np.save(folder / "w_mean.npy", mean)
    np.save(folder / "w_000000.npy", (mean + 0.5 * (latents[:4] - mean)).astype("f2"))
    np.save(folder / "w_000100.npy", (mean + 0.5 * (latents[4:] - mean)).astype("f2"))
    for number, image in zip([0, 1, 2, 3, 100, 101], tiny_shots(6), strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "img" / f"{number:06d}.png")
    return folder, latents.astype("f4")


def test_every_image_gets_the_latent_of_its_number_stretched_back(pairs):
    folder, latents = pairs
    found = load_pairs(str(folder), 16, 0.5)
    assert torch.equal(found.images, tiny_shots(6))
    torch.testing.assert_close(found.ws, torch.from_numpy(latents), atol=5e-3, rtol=0)


def test_a_zip_holds_the_same_pairs_as_its_folder(pairs, tmp_path):
    folder, _ = pairs
    with zipfile.ZipFile(tmp_path / "pairs.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    one, other = load_pairs(str(folder), 16, 0.5), load_pairs(str(tmp_path / "pairs.zip"), 16, 0.5)
    assert torch.equal(one.images, other.images) and torch.equal(one.ws, other.ws)


def test_pairs_in_a_folder_of_a_zip_are_those_below_it(pairs, tmp_path):
    folder, _ = pairs
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, Path("train") / path.relative_to(folder))
        archive.writestr("test/w_000000.npy", b"other")
    one, other = load_pairs(str(folder), 16, 0.5), load_pairs(str(tmp_path / "all.zip" / "train"), 16, 0.5)
    assert torch.equal(one.images, other.images) and torch.equal(one.ws, other.ws)
    with pytest.raises(TenshotError, match=r"holds two files w_000000\.npy"):
        load_pairs(str(tmp_path / "all.zip"), 16, 0.5)


def test_pairs_that_are_one_image_or_latents_too_large_to_read_are_refused(pairs, monkeypatch):
    folder, _ = pairs
    with pytest.raises(TenshotError, match=r"000000\.png is an image: pairs are a folder or a zip"):
        load_pairs(str(folder / "img" / "000000.png"), 16)
    monkeypatch.setattr("tenshot.pairs.MOST_BYTES", 200)
    with pytest.raises(TenshotError, match=r"w_0\d+\.npy has \d+ bytes: split it, latents are read up to 200 a file"):
        load_pairs(str(folder), 16, 0.5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w_000100.npy", None, "there is no latent for img/000100.png"),
        ("w_mean.npy", None, "holds no w_mean.npy: latents truncated to 0.5 need the mean"),
        ("w_000000.npy", b"no array", "w_000000.npy is no array of numbers"),
        ("w_000000.npy", np.array([{}], dtype=object), "w_000000.npy is no array of numbers"),
        ("w_000000.npy", np.full((4, LATENT), np.inf), "values that are not finite"),
        ("w_000000.npy", np.zeros((4, 5)), "latents have 5 and 16 numbers"),
        ("w_mean.npy", np.zeros(5), "w_mean.npy has 5 numbers, latents have 16"),
    ],
)
def test_pairs_that_do_not_belong_together_are_refused(pairs, name, content, message):
    folder, _ = pairs
    if content is None:
        (folder / name).unlink()
    elif isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        np.save(folder / name, content, allow_pickle=True)
    with pytest.raises(TenshotError, match=message):
        load_pairs(str(folder), 16, 0.5)


def npy(header, content=b""):
    """A file in numpy's format, version 1."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


SHAPE = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no array of numbers"),
        (b"PK\3\4", "is no array of numbers"),
        (b"\x80\2}q\0.", "is no array of numbers"),
        (npy(b"((((((((("), "is no array of numbers"),
        (npy(b"__import__('os').system('true')\n"), "is no array of numbers"),
        (npy((SHAPE % "(1099511627776,)").encode()), "promises 4,398,046,511,104 bytes, and 0 follow"),
        (npy((SHAPE % "(4, 16)").encode(), bytes(255)), "promises 256 bytes, and 255 follow"),
        (npy((SHAPE % "(4, 16)").encode(), bytes(257)), "promises 256 bytes, and 257 follow"),
        (npy((SHAPE % "(-4, -16)").encode(), bytes(256)), "is no array of numbers"),
    ],
)
def test_latents_that_lie_about_their_size_are_refused_before_memory_is_taken(pairs, content, message):
    folder, _ = pairs
    (folder / "w_000000.npy").write_bytes(content)
    with pytest.raises(TenshotError, match=r"w_000000\.npy is no array of numbers: ") as told:
        load_pairs(str(folder), 16, 0.5)
    assert message in str(told.value)


def test_latents_in_a_zip_that_are_damaged_or_a_bomb_are_refused(pairs, tmp_path):
    folder, _ = pairs
    (folder / "w_000000.npy").unlink()
    for name, content, message in (
        (
            "damaged",
            npy((SHAPE % "(4, 16)").encode(), bytes(range(256))),
            "w_000000.npy cannot be unpacked: Bad CRC-32",
        ),
        ("bomb", bytes(2**24), "w_000000.npy unpacks to more than 200 times its size"),
    ):
        path = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.rglob("*"):
                archive.write(file, file.relative_to(folder))
            method = zipfile.ZIP_DEFLATED if name == "bomb" else zipfile.ZIP_STORED
            archive.writestr("w_000000.npy", content, method)
        path.write_bytes(path.read_bytes().replace(bytes(range(100, 200)), bytes(100)))
        with pytest.raises(TenshotError, match=message):
            load_pairs(str(path), 16, 0.5)


def begun(method, **settings):
    return begin(RunConfig("tiny", method=method, steps=4, batch=2, **settings), tiny_model(), tiny_shots())


def test_without_pairs_it_takes_the_steps_of_fine_tuning():
    one, other = begun(Pretrain()), begun(Finetune())
    assert [run_step(one, step) for step in range(3)] == [run_step(other, step) for step in range(3)]


def test_the_pairs_terms_are_l1_at_the_images_size_and_below_and_the_distance_of_ds_features(monkeypatch):
    pairs = Pairs(tiny_shots(3), torch.randn(3, LATENT, generator=torch.Generator().manual_seed(3)))
    monkeypatch.setattr("tenshot.methods.pretrain.load_pairs", lambda *_: pairs)
    run = begun(Pretrain(pairs="p", pair_batch=3, pair_l1=2.0, pair_coarse=3.0, pair_features=0.5))
    rng, model = torch.Generator().manual_seed(1), tiny_model()
    told = run.method.extra_losses("g", context_of(run, 0), {}, Batch(None, None, torch.Generator().manual_seed(1)))
    chosen = torch.randint(3, (3,), generator=rng)
    made = model.generator.synthesise(model.generator.spread(pairs.ws[chosen]), model.generator.draw_noise(3, rng))
    wanted = tiny_shots(3)[chosen] / 127.5 - 1
    a, b = (dict(model.discriminator.maps(images)) for images in (made, wanted))
    apart = [(a[name] - b[name]).abs().mean() / b[name].abs().mean() for name in ("convs.0", "convs.1", "convs.2")]
    assert told["pair_l1"].item() == pytest.approx(2 * (made - wanted).abs().mean().item(), rel=1e-5)
    small = [x.unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean((3, 5)) for x in (made, wanted)]  # 16 px to 8, the least
    assert told["pair_coarse"].item() == pytest.approx(3 * (small[0] - small[1]).abs().mean().item(), rel=1e-5)
    assert told["pair_features"].item() == pytest.approx(0.5 * sum(apart).item() / 3, rel=1e-5)


def test_distilling_makes_images_of_the_pairs_latents_more_alike(pairs):
    folder, _ = pairs
    method = Pretrain(pairs=str(folder), pair_truncation=0.5, pair_batch=6, pair_l1=100.0, pair_features=0.0)
    run = begin(RunConfig("tiny", method=method, steps=40, batch=2, path_every=0), tiny_model(), tiny_shots())
    losses = [run_step(run, step)["pair_l1"] for step in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_latents_of_another_size_are_refused_before_the_first_step(pairs):
    folder, _ = pairs
    np.save(folder / "w_000000.npy", np.zeros((4, 5)))
    np.save(folder / "w_000100.npy", np.zeros((4, 5)))
    with pytest.raises(TenshotError, match="has latents of 5 numbers, the generator takes 16"):
        begun(Pretrain(pairs=str(folder)))


def test_pairs_of_no_weight_are_refused():
    with pytest.raises(TenshotError, match=r"pair-l1 is 0\.0: it must be above 0, or another weight of the pairs"):
        Pretrain(pairs="p", pair_l1=0.0, pair_features=0.0)


def test_a_source_from_scratch_is_the_same_every_time_and_of_the_plan_its_name_says():
    one, other = scratch("scratch-16-256-32"), scratch("scratch-16-256-32")
    assert one and other and one.generator.spec.channels == channel_plan(16, base=256, cap=32)
    state = other.generator.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in one.generator.state_dict().items())
    assert scratch("faces64") is None


@pytest.mark.parametrize(
    "name",
    ["scratch-48", "scratch-16-8-0", "scratch-16-1-99999", "scratch-16-16-1-16384-64", "scratch-999999999999"],
)
def test_a_source_from_scratch_that_cannot_be_is_refused(name):
    with pytest.raises(TenshotError, match=name):
        load_model(name)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--resolution", "0"], "--resolution is 0: it must be a power of two from 16 to 1024"),
        (["--resolution", "-5"], "--resolution is -5"),
        (["--resolution", "64", "--source", "faces64"], "--resolution is for a source from scratch"),
        (["--resolution", "48"], "scratch-48"),
    ],
)
def test_a_resolution_that_cannot_be_or_would_not_count_is_refused(shots, capsys, flags, sentence):
    assert main(["pretrain", str(shots), "--dry-run", *flags]) == 1
    assert sentence in capsys.readouterr().err


def test_the_result_is_a_source_that_can_be_adapted_and_resumes_exactly(tmp_path, shots):
    fixed = ["--resolution", "16", "--steps", "4", "--batch", "2", "--checkpoint-every", "2", "--sample-every", "0"]
    assert main(["pretrain", str(shots), "--out", str(tmp_path / "source"), *fixed]) == 0
    model = load_model(tmp_path / "source")
    assert model.card["kind"] == "source" and model.discriminator is not None

    config = loop.read_config(tmp_path / "source" / "config.json")
    with pytest.raises(loop.Stopped):
        loop.start(config, out=tmp_path / "again", watch=lambda now: now.step == 2)
    again = loop.resume(tmp_path / "again")
    assert torch.equal(generate_images(again, range(3)), generate_images(model, range(3)))

    assert main(["adapt", str(shots), "--source", str(tmp_path / "source"), "--out", str(tmp_path / "run"),
                 "--steps", "2", "--batch", "2", "--sample-every", "0"]) == 0  # fmt: skip


def test_many_images_are_read_again_from_where_they_came_not_copied(tmp_path, monkeypatch, shots):
    monkeypatch.setattr(loop, "KEPT_SHOTS", 5)
    save_model(tmp_path / "tiny.safetensors", tiny_model())
    config = RunConfig(str(shots), str(tmp_path / "tiny.safetensors"), Pretrain(), steps=3, batch=2, sample_every=0)
    with pytest.raises(loop.Stopped):
        loop.start(config, out=tmp_path / "run", watch=lambda now: now.step == 1)
    assert not list((tmp_path / "run" / "shots").iterdir())
    loop.resume(tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_run_of_adapt_is_no_starting_point_for_pretraining(tmp_path, capsys):
    (tmp_path / "config.json").write_text(RunConfig("shots").to_json())
    assert main(["pretrain", "images", "--config", str(tmp_path / "config.json")]) == 1
    assert "is of a run of `tenshot adapt`: give it to that" in capsys.readouterr().err


def test_pairs_may_move_while_a_run_rests_and_others_are_refused(tmp_path, pairs, shots):
    folder, _ = pairs
    save_model(tmp_path / "tiny.safetensors", tiny_model())
    method = Pretrain(pairs=str(folder), pair_truncation=0.5, pair_batch=2)
    config = RunConfig(str(shots), str(tmp_path / "tiny.safetensors"), method, steps=3, batch=2, sample_every=0)
    with pytest.raises(loop.Stopped):
        loop.start(config, out=tmp_path / "run", watch=lambda now: now.step == 1)
    folder.rename(tmp_path / "moved")
    written = tmp_path / "run" / "config.json"
    written.write_text(written.read_text().replace(str(folder), str(tmp_path / "moved")))
    (tmp_path / "moved" / "img" / "000000.png").rename(tmp_path / "one.png")
    load_pairs.cache_clear()
    with pytest.raises(TenshotError, match=r"the pairs of .*run changed since the run began"):
        loop.resume(tmp_path / "run")
    (tmp_path / "one.png").rename(tmp_path / "moved" / "img" / "000000.png")
    load_pairs.cache_clear()
    assert loop.resume(tmp_path / "run").card["steps"] == 3


def test_adapt_does_not_pretrain(tmp_path, capsys):
    assert main(["adapt", "images", "--method", "pretrain"]) == 1
    assert "pretraining has a verb of its own: tenshot pretrain" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(RunConfig("shots", method=Pretrain()).to_json())
    assert main(["adapt", "images", "--config", str(tmp_path / "config.json")]) == 1
    assert "is of a pretraining run: go on with `tenshot pretrain --config" in capsys.readouterr().err


def test_a_result_in_memory_computes_as_the_same_one_from_its_file(shots):
    config = RunConfig(str(shots), "scratch-16-64-8-16-2", Pretrain(), steps=1, batch=2, precision="bfloat16")
    model = loop.start(config, out=None)
    assert model.discriminator.compute is None and model.discriminator(torch.zeros(2, 3, 16, 16)).dtype == torch.float32
