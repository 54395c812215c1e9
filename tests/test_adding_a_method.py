"""The example of docs/adding-a-method.md is a complete method and does what it says."""

import re
from pathlib import Path

import pytest
import torch

from tenshot import loop
from tenshot.adaptation import begin
from tenshot.checkpoint import restore, snapshot
from tenshot.config import RunConfig
from tenshot.errors import TenshotError
from tenshot.methods import KNOWN, METHODS
from tenshot.methods.base import Method
from tenshot.models import save_model
from tenshot.report import write_report
from tenshot.sheets import grid, save_png
from tenshot.step import run_step
from tiny import tiny_model, tiny_shots

DOC = (Path(__file__).parents[1] / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
CODE = re.search(r"```python\n(.*?)```", DOC, re.DOTALL)[1]


@pytest.fixture(scope="module")
def example():
    names: dict = {"__name__": "example"}
    exec(compile(CODE, "docs/adding-a-method.md", "exec"), names)
    return names["L2SP"]


def begun(method):
    return begin(RunConfig("tiny", method=method, steps=4, batch=2, path_every=2), tiny_model(), tiny_shots())


def test_the_example_is_shorter_than_sixty_lines():
    assert len(CODE.splitlines()) < 60


def test_the_example_adds_its_penalty_and_freezes_the_mapping_network(example):
    run = begun(example(weight=0.5))
    terms = []
    for step in range(4):
        before = [p.detach().clone() for p in run.nets.generator.parameters()]
        squares = sum((a - b).square().sum() for a, b in zip(before, run.nets.source.parameters(), strict=True))
        stats = run_step(run, step)
        assert stats["l2sp"] == pytest.approx(0.5 * (1 - step / 4) * squares.item(), rel=1e-5)
        terms.append(stats["l2sp"])
    assert terms[0] == 0 and terms[1] > 0
    mapping = zip(run.nets.generator.style.parameters(), run.nets.source.style.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in mapping)


def test_the_example_resumes_exactly(example):
    whole, resumed = begun(example()), begun(example())
    run_step(whole, 0)
    run_step(whole, 1)
    restore(resumed, {key: tensor.detach().clone() for key, tensor in snapshot(whole).items()})
    for run in (whole, resumed):
        run_step(run, 2)
    one, other = snapshot(whole), snapshot(resumed)
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert one["state/steps_of_g"] > 0


@pytest.mark.parametrize("hook", re.findall(r"`(\w+)`", DOC.split("## Which hook for what")[1].split("Rules that")[0]))
def test_every_hook_the_table_names_exists(hook):
    assert hook in dir(Method) or hook.endswith("_") or hook in ("filters", "context", "record")


def test_the_example_runs_from_python_with_a_folder_and_is_resumed(example, tmp_path):
    save_model(tmp_path / "tiny.safetensors", tiny_model())
    save_png(grid(tiny_shots(), 1), tmp_path / "shot.png")
    config = RunConfig(
        str(tmp_path / "shot.png"), str(tmp_path / "tiny.safetensors"), example(weight=0.02), steps=3, batch=2
    )
    with pytest.raises(loop.Stopped):
        loop.start(config, out=tmp_path / "run", watch=lambda now: now.step == 2)
    assert loop.resume(tmp_path / "run").card["method"]["weight"] == 0.02
    assert "l2sp" in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_a_method_cannot_take_the_name_of_one_of_tenshots(example):
    with pytest.raises(TenshotError, match=r"Mine\.name is 'dap', which is a method of tenshot: choose another name"):
        type("Mine", (Method,), {"name": "dap", "__module__": "mine"})
    assert KNOWN["dap"] is METHODS["dap"]
