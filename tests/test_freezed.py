"""FreezeD: which parameters of D stand still."""

import pytest
import torch

from tenshot.adaptation import begin
from tenshot.config import RunConfig
from tenshot.errors import TenshotError
from tenshot.methods import METHODS
from tenshot.step import run_step
from tiny import tiny_model, tiny_shots


def begun(blocks):
    config = RunConfig("tiny", method=METHODS["freezed"](trained_blocks=blocks), steps=100, batch=2, r1_every=2)
    return begin(config, tiny_model(), tiny_shots())


@pytest.mark.parametrize(("blocks", "trained"), [(0, ()), (1, ("convs.2.",)), (2, ("convs.1.", "convs.2."))])
def test_only_so_many_blocks_before_the_logit_train(blocks, trained):
    run, source = begun(blocks), tiny_model().discriminator
    for step in range(3):
        run_step(run, step)
    for name, parameter in run.nets.discriminator.named_parameters():
        has_moved = not torch.equal(parameter, source.get_parameter(name))
        assert has_moved == name.startswith((*trained, "final_")), name


def test_more_blocks_than_there_are_is_refused():
    with pytest.raises(TenshotError, match="this discriminator has 2"):
        begun(3)
