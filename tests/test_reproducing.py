"""docs/reproducing.md: what it prints is understood, at its resolution, without the downloads that it names."""

import re
import shlex
import zipfile
from pathlib import Path

import pytest
import torch

from tenshot.__main__ import main
from tenshot.bench.specs import all_jobs, read_spec
from tenshot.methods import METHODS
from tenshot.metrics import METRICS
from tenshot.models import load_model, save_model
from tenshot.presets import find_preset
from tenshot.sheets import png, to_pillow
from tiny import tiny_model, tiny_shots

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reproducing.md").read_text(encoding="utf-8")
PUBLISHED = ROOT / "benchmarks" / "quality" / "published"
COMMANDS = [
    shlex.split(line.split(" #")[0])[1:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
]


def commands(verb):
    found = [arguments for arguments in COMMANDS if arguments[0] == verb]
    assert found
    return found


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """The folder that the page describes: three domains, and a source of 256 px with few channels."""
    folder = tmp_path_factory.mktemp("reproducing")
    (folder / "DATA").mkdir()
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    for domain in ("babies", "sunglasses", "cats"):
        with zipfile.ZipFile(folder / "DATA" / f"{domain}.zip", "w") as archive:
            for place in ("shots", "heldout"):
                for i, image in enumerate(tiny_shots(10)):
                    archive.writestr(f"{place}/{i}.png", png(to_pillow(image)))
    model = tiny_model(256, (8, 8, 8, 8, 8, 4, 4))
    save_model(folder / "DATA" / "ffhq256.safetensors", model)
    networks = {"g_ema": model.generator, "d": model.discriminator}
    states = {name: {k: v for k, v in n.state_dict().items() if "gate" not in k} for name, n in networks.items()}
    torch.save(states, folder / "550000.pt")
    return folder


@pytest.fixture(autouse=True)
def inside(there, monkeypatch):
    monkeypatch.chdir(there)


def test_a_rosinality_checkpoint_of_256_px_is_converted(there, tmp_path):
    ((verb, checkpoint, out),) = commands("convert")
    target = tmp_path / Path(out).name
    assert main([verb, checkpoint, str(target)]) == 0
    assert load_model(target).resolution == 256 and target.with_suffix(".png").is_file()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arguments", commands("adapt"), ids=lambda arguments: arguments[-1])
def test_every_run_is_planned_with_the_settings_printed(arguments, capsys):
    assert main([*arguments, "--dry-run"]) == 0
    told = capsys.readouterr().out
    method = arguments[arguments.index("--method") + 1]
    steps = find_preset(method, "paper").settings["steps"]
    if "--steps" in arguments:
        steps = int(arguments[arguments.index("--steps") + 1])
    assert f'"method": "{method}"' in told and f"{steps} steps of" in told and "256" in told


def test_the_matrices_are_nine_methods_with_published_settings_on_the_domains_named(capsys):
    for arguments in commands("bench"):
        assert main([*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("to do") == 54 + 27
    jobs = all_jobs([read_spec(PUBLISHED / name) for name in ("near.json", "far.json")])
    assert {job.config.method.name for job in jobs} == set(METHODS)
    assert {job.config.source for job in jobs} == {"ffhq256.safetensors"}
    assert all(job.metrics[:2] == ("fid_5k", "fid_rick_5k") for job in jobs)
    near = {job.config.method.name: job.config for job in jobs if job.domain == "babies"}
    assert (near["rick"].batch, near["rick"].method.prune_scope, near["cdc"].steps) == (2, "weight", 1000)
    far = {job.config.method.name: job.config for job in jobs if job.domain == "cats"}
    assert (far["rick"].method.fisher_quantile, far["adam"].method.percentile) == (85.0, 75.0)
    assert round(far["adam"].method.probe * far["adam"].steps) == 500


def test_the_metrics_printed_exist():
    for arguments in commands("evaluate"):
        assert set(arguments[arguments.index("--metrics") + 1].split(",")) <= METRICS.keys()
