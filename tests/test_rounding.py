"""Numbers in fewer bits."""

import copy

import numpy as np
import torch

from tenshot.models import load_model, save_model
from tenshot.rounding import stored_as


def test_float16_rounds_up_or_down_so_that_the_mean_stays():
    """The nearest float16 to all of these is 100, and what training has added would be gone."""
    values = torch.full([400, 400], 100 + 0.01)
    half = stored_as(values, torch.float16, "a")
    assert set(half.unique().tolist()) == {100, 100.0625}
    assert abs(half.double().mean().item() - 100.01) < 5e-4
    assert stored_as(values, torch.float16, "a").equal(half)
    assert not stored_as(values, torch.float16, "b").equal(half)


def test_every_number_becomes_one_of_its_two_neighbours():
    values = torch.from_numpy(np.random.default_rng(0).normal(size=2000).astype(np.float32)) * 1e-3
    half = stored_as(values, torch.float16, "c").numpy()
    nearest = values.numpy().astype(np.float16)
    sides = [np.nextafter(nearest, np.float16(end)) for end in (-np.inf, np.inf)]
    is_above = values.numpy() > nearest
    other = np.where(is_above, sides[1], sides[0])
    assert ((half == nearest) | (half == other)).all() and (half == other).mean() > 0.1


def test_what_float16_holds_stays_and_what_is_too_large_is_infinite():
    exact = torch.tensor([0, -0.5, 65504, -100.0625])
    assert stored_as(exact, torch.float16, "a").equal(exact.half())
    assert stored_as(torch.tensor([1e6, -1e6]), torch.float16, "a").tolist() == [torch.inf, -torch.inf]
    assert stored_as(exact, torch.float32, "a").equal(exact)


def test_a_small_step_of_all_weights_survives_a_file_of_half_the_size(tmp_path, tiny_model):
    """Each moves by a fiftieth of float16's step at 100, and so does the mean of what comes back."""
    moved = copy.deepcopy(tiny_model)
    for model, by in ((tiny_model, 0.0), (moved, 0.00125)):
        for name, parameter in model.generator.named_parameters():
            if name.startswith("style."):
                parameter.data.fill_(100.0 + by)
    save_model(tmp_path / "half.safetensors", moved, dtype=torch.float16)
    found = load_model(tmp_path / "half.safetensors").generator.style
    mean = torch.cat([parameter.flatten() for parameter in found.parameters()]).double().mean().item()
    assert 100.0003 < mean < 100.003
