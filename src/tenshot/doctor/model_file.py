"""A model file or another program's checkpoint: what it is, and what can be done with it. Nothing in it is executed."""

from pathlib import Path

import torch

from tenshot import nvidia
from tenshot.commands import argument
from tenshot.convert import model_of
from tenshot.doctor.finding import Finding, fault, ok, warning
from tenshot.errors import TenshotError
from tenshot.headers import is_safetensors
from tenshot.models import Model, is_checkpoint, load_model, read_tensors
from tenshot.nets.gamut import share_within
from tenshot.sampling import synthesise
from tenshot.unpickle import read_checkpoint


def check_model_file(path: Path, name: str = "") -> list[Finding]:
    """Findings on a file, whatever it is called. name: what to call it in commands; default: its path."""
    try:
        if not is_safetensors(path):
            return _foreign(path)
        _, header = read_tensors(path)
        if is_checkpoint(header):
            return [
                ok("file", f"{_size(path)}: the checkpoint of a run after step {header['step']}"),
                warning("next", "a checkpoint is no model: give the run's folder, `tenshot doctor RUN`"),
            ]
        model = load_model(path)
    except TenshotError as error:
        return [fault("file", error)]
    kind = str(model.card.get("kind", "model"))
    told = ", ".join(f"{key} {model.card[key]}" for key in ("name", "licence") if model.card.get(key))
    findings = [ok("file", f"{_size(path)}: a model file of tenshot, {kind}{f', {told}' if told else ''}")]
    return [*findings, *networks(model), _use(model, name or argument(path))]


def networks(model: Model) -> list[Finding]:
    """On a model's networks, whose tensors were found finite when they were read."""
    spec = model.generator.spec
    gates = torch.cat([buffer for key, buffer in model.generator.named_buffers() if key.endswith("gate")])
    pruned = f", {1 - gates.mean().item():.1%} of its channels are pruned" if (gates == 0).any() else ""
    pruned += ", compact: pruned channels are cut out" if spec.kept else ""
    pruned += f", images in squares of {spec.mosaic} px" if spec.mosaic > 1 else ""
    pruned += f", colours within {share_within(spec.gamut):.1%} of all" if spec.gamut else ""
    plan = f"channels {', '.join(map(str, spec.channels))} from 4 px up"
    size = f"{spec.resolution} px, RGB, {plan}, latent {spec.latent_size}, mapping of {spec.mapping_depth} layers"
    (image,) = synthesise(model.generator, [0], batch=1)
    is_fine = bool(torch.isfinite(image).all())
    drawn = ok("image", "seed 0 draws finite numbers")
    if not is_fine:
        drawn = fault("image", "what it draws for seed 0 is not finite: its training diverged; take an earlier state")
    judged = "included, all tensors finite" if model.discriminator else "not included"
    return [
        ok("generator", f"{size}{pruned}, all tensors finite"),
        ok("discriminator", judged),
        drawn,
    ]


def _use(model: Model, name: str) -> Finding:
    """What to type next."""
    draw = f"`tenshot generate {name} --seeds 0-15 --grid grid.png`"
    if model.generator.spec.kept:
        return warning("next", f"it is compact, so it cannot be adapted, only its origin can; it draws: {draw}")
    if model.discriminator is None:
        return warning(
            "next", f"it has no discriminator, so it cannot be adapted, only its source can; it draws: {draw}"
        )
    return ok("next", f"`tenshot adapt IMAGES --source {name} --out RUN`, or {draw}")


def _foreign(path: Path) -> list[Finding]:
    """Another program's checkpoint, read as `tenshot convert` reads it. Raises TenshotError."""
    content = read_checkpoint(path)
    layout = "a pickle of NVIDIA's" if nvidia.is_nvidia(content) else "rosinality's layout"
    with path.open("rb") as file:
        kind = "torch's zip format" if file.read(2) == b"PK" else "pickle"
    model = model_of(content, path)
    out = argument(f"{path.stem}.safetensors")
    return [
        ok("file", f"{_size(path)}: another program's checkpoint, {layout}, {kind}; nothing in it was executed"),
        *networks(model),
        *(warning("note", note) for note in model.card.get("notes", [])),
        ok("next", f"`tenshot convert {argument(path)} {out}`, then give {out} to `tenshot adapt --source`"),
    ]


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
