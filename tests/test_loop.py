"""A run from start to finish, and the promise that a resumed run equals the unbroken one."""

import json

import pytest
import torch
from PIL import Image

from tenshot import loop
from tenshot.config import RunConfig, read_config
from tenshot.errors import TenshotError
from tenshot.methods import Dap, Finetune
from tenshot.models import load_model, read_tensors, save_model
from tenshot.pruning import Guards
from tenshot.runs import RunDir
from tenshot.sampling import generate_images
from tiny import tiny_model, tiny_shots

STEPS = 9
PRUNING = Dap(warmup=0.2, settle=0.6, every=2, prune_mass=0.1, preserve_mass=0.2, guards=Guards(min_alive=2))
METHODS = {
    "finetune": Finetune(),
    "dap": PRUNING,
    "dap by weights": Dap(
        estimator="weight",
        warmup=0.2,
        settle=0.6,
        every=2,
        prune_mass=0.1,
        fisher_samples=2,
        guards=Guards(min_alive=2),
    ),
}


@pytest.fixture
def given(tmp_path):
    """A source file and a folder of shots."""
    save_model(tmp_path / "tiny.safetensors", tiny_model())
    (tmp_path / "shots").mkdir()
    for i, shot in enumerate(tiny_shots()):
        Image.fromarray(shot.permute(1, 2, 0).numpy()).save(tmp_path / "shots" / f"{i}.png")
    return tmp_path


def config(given, method=PRUNING, **settings):
    paths = {"shots": str(given / "shots"), "source": str(given / "tiny.safetensors")}
    defaults = {
        "steps": STEPS,
        "batch": 2,
        "path_every": 2,
        "r1_every": 3,
        "sample_every": 4,
        "checkpoint_every": 0,
    }
    return RunConfig(**paths, method=method, **{**defaults, **settings})


def stop_after(step):
    return lambda now: now.step == step


@pytest.mark.parametrize("augment", ["flip", "diffaug"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_run_stopped_at_any_step_and_resumed_equals_the_unbroken_run_bit_for_bit(given, method, augment):
    settings = config(given, method, augment=augment)
    loop.start(settings, out=given / "whole")
    for stop in (1, 4, 8):
        out = given / f"stopped-{stop}"
        with pytest.raises(loop.Stopped, match=rf"stopped after step {stop} of {STEPS}; go on with .*--resume"):
            loop.start(settings, out=out, watch=stop_after(stop))
        loop.resume(out)
        for name in ("model.safetensors", f"checkpoints/{STEPS:06d}.safetensors"):
            whole, resumed = read_tensors(given / "whole" / name)[0], read_tensors(out / name)[0]
            assert whole.keys() == resumed.keys()
            assert [k for k in whole if not torch.equal(whole[k], resumed[k])] == []
        assert (out / "decisions.jsonl").exists() == (method.name == "dap")
        for journal in ("stats.jsonl", "decisions.jsonl") if method.name == "dap" else ("stats.jsonl",):
            whole, resumed = (without_seconds(folder / journal) for folder in (given / "whole", out))
            assert whole == resumed
        assert (out / "sheet.png").read_bytes() == (given / "whole" / "sheet.png").read_bytes()


def without_seconds(path):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def test_entries_written_after_the_checkpoint_are_written_once(given):
    """As after a crash: the journals are ahead of the newest checkpoint."""
    with pytest.raises(loop.Stopped):
        loop.start(config(given, checkpoint_every=4), out=given / "run", watch=stop_after(6))
    (given / "run/checkpoints/000006.safetensors").unlink()
    with (given / "run/stats.jsonl").open("a") as file:
        file.write('{"step": 7, "d": 0.')  # cut off in the middle of a line
    with pytest.warns(UserWarning, match=r"000006\.safetensors is not there"):
        loop.resume(given / "run")
    assert [entry["step"] for entry in without_seconds(given / "run/stats.jsonl")] == list(range(1, STEPS + 1))


def test_a_finished_run_has_everything_its_folder_promises(given):
    model = loop.start(config(given), out=given / "run")
    names = {path.relative_to(given / "run").as_posix() for path in (given / "run").rglob("*") if path.is_file()}
    assert names == {
        "config.json", "stats.jsonl", "decisions.jsonl", "model.safetensors", "sheet.png",
        "checkpoints/000009.safetensors", "checkpoints/manifest.json",
        *(f"samples/{step:06d}.png" for step in (0, 4, 8, 9)),
        *(f"shots/{i:06d}.png" for i in range(6)),
    }  # fmt: skip
    saved = load_model(given / "run")
    assert torch.equal(generate_images(model, [3]), generate_images(saved, [3]))
    assert saved.card["method"]["name"] == "dap" and saved.card["source"]["name"] == "tiny"


def test_the_config_of_a_run_is_the_config_that_made_it(given):
    settings = config(given)
    loop.start(settings, out=given / "run")
    assert read_config(given / "run/config.json") == settings


def test_a_run_without_a_folder_returns_the_same_generator(given):
    kept, free = loop.start(config(given), out=given / "run"), loop.start(config(given), out=None)
    a, b = kept.generator.state_dict(), free.generator.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_only_the_newest_two_checkpoints_stay(given):
    loop.start(config(given, checkpoint_every=2), out=given / "run")
    assert sorted(p.name for p in (given / "run/checkpoints").glob("*.safetensors")) == [
        "000008.safetensors",
        "000009.safetensors",
    ]


def test_another_seed_gives_another_generator_and_the_same_seed_the_same(given):
    one, same, other = (loop.start(config(given, seed=s), out=None).generator.conv1.conv.weight for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_losses_of_every_step_are_in_the_journal(given):
    seen = []
    loop.start(config(given), out=given / "run", watch=lambda now: seen.append(now.stats))
    entries = without_seconds(given / "run/stats.jsonl")
    assert len(entries) == len(seen) == STEPS
    assert [e["d"] for e in entries] == pytest.approx([s["d"] for s in seen], rel=1e-5)
    assert [("r1" in e, "path" in e) for e in entries] == [(s % 3 == 0, s % 2 == 0) for s in range(STEPS)]


def test_one_shot_is_enough_and_a_batch_may_be_larger_than_the_shots(given):
    for path in sorted((given / "shots").iterdir())[1:]:
        path.unlink()
    model = loop.start(config(given, steps=2, batch=3), out=None)
    assert torch.isfinite(model.generator(torch.randn(1, 16))).all()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda given: None, "run does not exist: check the spelling"),
        (lambda given: (given / "run").mkdir(), "is not a run's folder: it has no config.json"),
        (lambda given: loop.start(config(given), out=given / "run"), "has finished, its result is model.safetensors"),
        (lambda given: vanish(given, "source"), "there is no model"),
        (lambda given: vanish(given, "changed source"), "the source of .* changed since the run began"),
        (lambda given: vanish(given, "changed settings"), r"settings of .* changed .* \(lr: 0.5 now, 0.\d+ before\)"),
        (lambda given: vanish(given, "changed shots"), "the shots of .* changed since the run began"),
    ],
    ids=["nothing", "no run", "finished", "no source", "another source", "other settings", "other shots"],
)
def test_a_run_that_cannot_be_resumed_says_why(given, prepare, message):
    prepare(given)
    with pytest.raises(TenshotError, match=message):
        loop.resume(given / "run")


def vanish(given, what):
    with pytest.raises(loop.Stopped):
        loop.start(config(given), out=given / "run", watch=stop_after(3))
    if what == "changed settings":
        (given / "run/config.json").write_text(config(given, lr=0.5).to_json())
    if what == "changed shots":
        (given / "run/shots/000003.png").unlink()
    if what == "source":
        (given / "tiny.safetensors").unlink()
    if what == "changed source":
        save_model(given / "tiny.safetensors", tiny_model(seed=5))


def test_weights_that_are_no_longer_numbers_are_never_saved(given):
    def spoil(now):
        if now.step == 5:
            adaptations[0].nets.generator.conv1.conv.weight.data[0, 0, 0, 0, 0] = float("nan")

    adaptations = []
    begin = loop.begin
    try:
        loop.begin = lambda *a: adaptations.append(begin(*a)) or adaptations[0]
        sentence = r"weights are not finite after step 5; going back 3 times.* try a lower --lr"
        with pytest.warns(UserWarning, match="back to step 4"), pytest.raises(loop.Diverged, match=sentence):
            loop.start(config(given, checkpoint_every=1), out=given / "run", watch=spoil)
    finally:
        loop.begin = begin
    assert RunDir(given / "run").saved.steps() == [3, 4]


def test_the_newest_checkpoint_is_the_one_with_the_largest_step(given):
    run = RunDir(given / "many")
    run.checkpoints.mkdir(parents=True)
    for step in (999_900, 1_000_000):
        run.save_checkpoint(step, {"a": torch.zeros(1)}, {})
    assert run.load_checkpoint()[1]["step"] == 1_000_000


def test_the_loop_leaves_the_random_state_and_the_source_alone(given):
    source, random = load_model(given / "tiny.safetensors"), torch.get_rng_state()
    before = {k: v.clone() for k, v in source.generator.state_dict().items()}
    adaptation = loop.begin(config(given), source, tiny_shots())
    for step in range(3):
        loop.run_step(adaptation, step)
    assert torch.equal(random, torch.get_rng_state())
    for network in (source.generator, adaptation.nets.source):
        assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_a_learning_rate_of_zero_is_the_identity(given):
    model = loop.start(config(given, Finetune(), lr=0.0), out=None)
    source = load_model(given / "tiny.safetensors").generator.state_dict()
    assert [
        k for k, v in model.generator.state_dict().items() if k != "latent_avg" and not torch.equal(v, source[k])
    ] == []
