"""What holds for every method: it trains, changes only what it says, and resumes as if never stopped."""

import pytest
import torch

from tenshot.ada import adjust
from tenshot.adaptation import begin
from tenshot.augment import Augment
from tenshot.checkpoint import restore, snapshot
from tenshot.config import RunConfig, build_method
from tenshot.methods import METHODS
from tenshot.models import Model, load_model, save_model
from tenshot.presets import PRESETS, preset_config
from tenshot.sampling import generate_images
from tenshot.step import run_step
from tiny import QUICK, tiny_model, tiny_shots

STEPS = 8
ALL = pytest.mark.parametrize("name", METHODS)


def begun(name, *, method=None, **settings):
    settings = {"steps": STEPS, "batch": 2, "r1_every": 3, "path_every": 2, "augment": "flip", **settings}
    built = build_method(name, {**QUICK.get(name, {}), **(method or {})})
    return begin(RunConfig("tiny", method=built, **settings), tiny_model(), tiny_shots())


def took(run, first=0, last=STEPS):
    """Losses of the steps."""
    return [run_step(run, step) for step in range(first, last)]


def are_finite(losses):
    return all(torch.isfinite(torch.tensor(list(stats.values()))).all() for stats in losses)


def images(run):
    return generate_images(Model(run.method.merge(run.nets.ema)), range(3))


@ALL
def test_it_trains(name):
    run = begun(name)
    losses = took(run)
    assert are_finite(losses) and {"d", "g", "r1", "path"} <= set().union(*losses)
    assert not torch.equal(images(run), generate_images(tiny_model(), range(3)))


@ALL
def test_what_it_does_not_train_stays_bit_identical(name):
    run = begun(name)
    networks = {"g": run.nets.generator, "d": run.nets.discriminator, "source": run.nets.source}
    frozen = {
        f"{part}.{key}": (parameter, parameter.detach().clone())
        for part, network in networks.items()
        for key, parameter in network.named_parameters()
        if not parameter.requires_grad
    }
    took(run)
    assert [key for key, (now, before) in frozen.items() if not torch.equal(now, before)] == []
    assert any(key.startswith("source.") for key in frozen)


@ALL
def test_with_a_learning_rate_of_zero_it_returns_the_source(name):
    whole = {"dap": {"prune_mass": 0.0, "mosaic": "free", "gamut": "free"}, "rick": {"prune_quantile": 0.0}}
    run = begun(name, lr=0.0, method=whole.get(name))
    assert are_finite(took(run))
    source, adapted = generate_images(tiny_model(), range(3)), images(run)
    assert (source.int() - adapted.int()).abs().max() <= (1 if name == "adam" else 0)  # adam's u and v begin near 0


@ALL
@pytest.mark.parametrize("stop", [1, 3, 6])
def test_it_goes_on_from_a_snapshot_bit_for_bit(name, stop):
    whole = begun(name)
    took(whole, 0, stop)
    kept = {key: tensor.detach().clone() for key, tensor in snapshot(whole).items()}
    took(whole, stop)
    resumed = begun(name)
    restore(resumed, kept)
    took(resumed, stop)
    one, other = snapshot(whole), snapshot(resumed)
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


@ALL
@pytest.mark.parametrize("augment", Augment.__args__)
def test_it_goes_with_every_augmentation(name, augment):
    run = begun(name, augment=augment, augment_p=0.5)
    assert are_finite(took(run, 0, 4))


@ALL
def test_it_trains_in_bfloat16_close_to_float32(name):
    wide, narrow = begun(name), begun(name, precision="bfloat16")
    losses, rounded = took(wide), took(narrow)
    assert are_finite(rounded)
    first, other = losses[0], rounded[0]
    assert first.keys() == other.keys()
    assert other["d"] == pytest.approx(first["d"], rel=0.05, abs=0.02)
    assert {p.dtype for p in narrow.nets.generator.parameters()} == {torch.float32}


@ALL
def test_its_result_is_a_plain_generator_file(name, tmp_path):
    run = begun(name)
    took(run)
    result = Model(run.method.merge(run.nets.ema), None, {"kind": "adapted"})
    pictures = generate_images(result, range(3))
    save_model(tmp_path / "result.safetensors", result)
    again = load_model(tmp_path / "result.safetensors")
    assert set(again.generator.state_dict()) == set(tiny_model().generator.state_dict())
    assert torch.equal(generate_images(again, range(3)), pictures)


@ALL
def test_the_same_seed_gives_the_same_steps_whatever_torchs_own_generator_says(name):
    torch.manual_seed(1)
    one = took(begun(name), 0, 3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert took(begun(name), 0, 3) == one
    assert torch.equal(torch.get_rng_state(), state)


@ALL
def test_it_has_a_preset_of_its_paper_and_one_for_the_embedded_source(name):
    assert {"faces64", "paper"} <= PRESETS[name].keys()
    for preset, what in PRESETS[name].items():
        config = preset_config("shots", name, preset)
        assert config.method.name == name and what.origin
        for key, value in what.settings.items():
            assert key == name or getattr(config, key) == value


@ALL
def test_it_says_what_trains_and_what_it_adds(name):
    method = METHODS[name]
    assert method.name == name and method.paper and method.changes and method.adds and method.__doc__


@pytest.mark.parametrize("name", PRESETS)
def test_there_is_no_preset_without_a_method(name):
    assert name in METHODS


def test_the_papers_presets_hold_the_numbers_of_the_public_code():
    steps = {"cdc": 1000, "dcl": 1000, "adam": 2000, "rick": 1750, "dap": 1750}
    for name in METHODS:
        config = preset_config("shots", name, "paper")
        wanted = (steps.get(name, 1500), 0.002, 0.0, 2 if name == "rick" else 4)
        assert (config.steps, config.lr, config.lr_decay, config.batch) == wanted
        factor = 0.5 ** (config.batch / config.ema_half_life)  # of the average, a step
        assert factor == pytest.approx(0.5 ** (32 / 10_000), abs=1e-5)
        assert (config.augment, config.augment_p) == ("ada" if name == "ada" else "flip", 0.0)


def test_adas_probability_as_the_public_code_sets_it_hardly_leaves_zero():
    config, p = preset_config("shots", "ada", "paper"), 0.0
    for _ in range(config.steps // config.ada_every):
        p = adjust(p, 1.0, 4 * config.ada_every, config.ada_images, config.ada_target, config.ada_legacy)
    assert 0.0070 < p <= 0.0072
