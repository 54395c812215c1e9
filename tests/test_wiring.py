"""Parts that are right by themselves are also put together right: who is handed what, when, in a run."""

import pytest
import torch

from tenshot import loop, phases, scoring
from tenshot.adaptation import begin, context_of
from tenshot.config import RunConfig
from tenshot.methods import Dap, Finetune
from tenshot.methods import dap as dap_module
from tenshot.pruning import Guards
from tenshot.randomness import generator_for
from tenshot.sampling import generate_images
from tenshot.sheets import grid, save_png
from tenshot.step import run_step
from tiny import tiny_model, tiny_shots


def begun(method, **settings):
    config = RunConfig("tiny", method=method, **{"steps": 100, "batch": 2, **settings})
    return begin(config, tiny_model(), tiny_shots())


@pytest.mark.parametrize("augment", ["diffaug", "ada"])
def test_all_that_d_sees_is_augmented(monkeypatch, augment):
    seen = []
    monkeypatch.setattr(phases, augment, lambda images, rng, p: seen.append((len(images), p)) or images)
    run_step(begun(Finetune(), augment=augment, augment_p=0.3, r1_every=1, path_every=1), 0)
    assert seen == [(4, 0.3), (2, 0.3), (2, 0.3)]  # D's shots and fakes; R1's shots; G's fakes


def test_adas_probability_follows_the_signs_of_ds_logits_of_shots():
    """16 images for the way from 0 to 1, adjusted every 4: by 0.25, up where more than 0.8 of them are above 0."""
    run, found = begun(Finetune(), augment="ada", augment_p=0.5, ada_every=2, ada_images=16, ada_target=0.6), []
    for step, logits in enumerate([[3.0, 1.0], [2.0, 0.1], [-1.0, 2.0], [5.0, 4.0], [1.0, 1.0], [1.0, 1.0]]):
        phases._watch_overfitting(run, context_of(run, step), torch.tensor(logits))
        found.append(run.ada[0].item())
    assert found == [0.5, 0.75, 0.75, 0.5, 0.5, 0.75]


def which(images, shots):
    """Whether each image is one of the shots."""
    return torch.stack([(shots == image).flatten(1).all(1).any() for image in images])


def test_shots_are_mirrored_half_of_the_time():
    run, shots = begun(Finetune(), augment="flip"), tiny_shots().float() / 127.5 - 1
    seen = torch.cat([phases.reals_of(run, step, generator_for(step, "x")) for step in range(30)])
    as_given, mirrored = which(seen, shots), which(seen, shots.flip(3))
    assert (as_given | mirrored).all() and 15 < mirrored.sum() < 45


def test_hooks_are_handed_every_shot_in_the_range_of_the_networks():
    shots = tiny_shots().float() / 127.5 - 1
    found = context_of(begun(Finetune()), 0).reals(60, generator_for(0, "x"))
    assert which(found, shots).all() and which(shots, found).all()


def test_what_is_scored_and_drawn_while_a_run_goes_on_is_what_it_gives(monkeypatch, tmp_path, shots, tiny_source):
    seen = []
    monkeypatch.setattr(scoring, "score", lambda fakes, *_, **__: seen.append(next(iter(fakes))) or {})
    method = Dap(warmup=1.0, settle=1.0, reach=5.0, max_reach=3.0, spread=1.5)  # far from the moving average
    config = RunConfig(str(shots), str(tiny_source), method, steps=3, batch=2, eval_every=3)
    images = generate_images(loop.start(config, out=tmp_path / "run"), range(30))
    assert seen[-1].equal(images[: len(seen[-1])])
    save_png(grid(images, 6, scale=6), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes() == (tmp_path / "run/samples/000003.png").read_bytes()


def test_daps_mass_rises_from_nothing_and_its_decisions_count_from_the_warmup(monkeypatch):
    real, masses, told = dap_module.decide, [], []
    monkeypatch.setattr(dap_module, "decide", lambda *a, **k: masses.append(k["prune_mass"]) or real(*a, **k))
    guards = Guards(min_alive=2)
    run = begun(Dap(warmup=0.1, settle=0.3, every=4, prune_mass=0.1, networks="generator", guards=guards))
    run.record = told.append
    for step in range(18):
        run_step(run, step)
    layers = len(masses) // 3
    assert [entry["step"] for entry in told] == [10, 14, 18]
    assert masses[::layers] == pytest.approx([0.0, 0.1 * (1 - 0.8**3), 0.1 * (1 - 0.6**3)])


def test_daps_weight_estimator_remembers_by_steps_and_takes_each_networks_own_loss(monkeypatch):
    betas, networks, track, loss = set(), set(), dap_module.track, dap_module.sample_loss
    monkeypatch.setattr(dap_module, "track", lambda *a: betas.add(a[3]) or track(*a))
    monkeypatch.setattr(dap_module, "sample_loss", lambda network, *a: networks.add(network) or loss(network, *a))
    run = begun(Dap(estimator="weight", warmup=0.9, settle=1.0, every=2, beta=0.9, fisher_samples=1))
    for step in range(2):
        run_step(run, step)
    assert betas == {0.9**2} and networks == {"generator", "discriminator"}
