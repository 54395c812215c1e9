"""Model files: one .safetensors with a generator, perhaps its discriminator, and a card on both.

Tensors are named `generator.<name>` and `discriminator.<name>` in the rosinality layout, plus `<block>.gate`
where filters are pruned. The metadata holds one JSON text under the key `tenshot`. Nothing in the file is
ever executed.
"""

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tenshot.commands import argument
from tenshot.errors import TenshotError
from tenshot.files import check_reachable, told_as_sentence, write_atomically
from tenshot.headers import check_header
from tenshot.nets import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec, channel_plan
from tenshot.rounding import stored_as

FORMAT = 1
_LARGEST, _DEEPEST = 16384, 64  # channels and mapping layers; a header with more is damaged or hostile
_WIDEST = 2**28  # channels times pixels, eight times those of the published 1024 px
_HEAVIEST = 2**28  # parameters of a network from scratch, where no file's size bounds them
_N = TypeVar("_N", Generator, Discriminator)

EMBEDDED = Path(__file__).parent / "sources"
"""Sources that ship with the package: NAME.safetensors and its card NAME.md."""


class NewerFile(TenshotError):
    """A file of a later tenshot: nothing is wrong with it."""


@dataclass
class Model:
    """A generator, the discriminator it was trained against if known, and where both come from."""

    generator: Generator
    discriminator: Discriminator | None = None
    card: dict[str, Any] = field(default_factory=dict)
    """Free text and numbers: name, kind ("source" or "adapted"), training data, licence, provenance."""

    @property
    def resolution(self) -> int:
        """Height and width of the images, in pixels."""
        return self.generator.spec.resolution


_SCRATCH = re.compile(r"scratch-(\d+)(?:-(\d+)-(\d+)(?:-(\d+)-(\d+))?)?")


def scratch(name: str) -> "Model | None":
    """Untrained networks for names such as `scratch-64`, `scratch-64-2048-256` and `scratch-64-2048-256-512-8`:
    resolution, base and cap of the channels (`nets.channel_plan`), latent size, layers of the mapping network. The same
    weights every time. None for another name. Raises TenshotError."""
    match = _SCRATCH.fullmatch(name)
    if not match:
        return None
    if any(len(number or "") > 9 for number in match.groups()):
        raise TenshotError(f"{name[:40]}...: no network has numbers of so many digits")
    given = [int(number) if number else None for number in match.groups()]
    resolution, base, cap, latent, depth = (
        d if g is None else g for g, d in zip(given, (64, 2048, 256, 512, 8), strict=True)
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would also change those of GPUs
        try:
            channels = channel_plan(resolution, base=base, cap=cap)
            spec = GeneratorSpec(resolution, channels, latent, depth)
            judge = DiscriminatorSpec(resolution, channels)
            plans = (empty(Generator, spec), empty(Discriminator, judge))
            if (most := max(sum(p.numel() for p in plan.parameters()) for plan in plans)) > _HEAVIEST:
                raise ValueError(f"{most:,} parameters; at most {_HEAVIEST:,} are possible")
            generator, discriminator = Generator(spec), Discriminator(judge)
        except ValueError as error:
            raise TenshotError(f"{name}: {error}") from error
    return Model(generator, discriminator, {"kind": "source", "name": name})


def source_digest(name: str | Path) -> str:
    """What changes when a source does: sha256 of its file, or the name of one from scratch. Raises TenshotError."""
    return str(name) if _SCRATCH.fullmatch(str(name)) else file_digest(find_model(name))


def embedded_sources() -> list[str]:
    """Names that `load_model` knows without a path."""
    return sorted(path.stem for path in EMBEDDED.glob("*.safetensors"))


def find_model(name: str | Path) -> Path:
    """The file behind an embedded source's name, a model file, or a run folder. Raises TenshotError."""
    path = Path(name)
    is_folder = os.path.isdir(name)
    path = path / "model.safetensors" if is_folder else path
    if os.path.isfile(path):
        return path
    if str(name) in embedded_sources():
        return EMBEDDED / f"{name}.safetensors"
    check_reachable(path)
    if is_folder and os.path.isfile(path.parent / "config.json"):
        best = path.parent / "best.safetensors"
        way_out = f", or take the best so far, {best}" if os.path.isfile(best) else ""
        command = f"`tenshot adapt --resume {argument(name)}`"
        raise TenshotError(f"{name} is a run that has not finished: go on with {command}{way_out}")
    if is_folder:
        raise TenshotError(f"{name} is a folder without model.safetensors: is it a finished run?")
    known = ", ".join(embedded_sources())
    raise TenshotError(f"there is no model {str(name)!r}: give a .safetensors file, a run folder, or one of: {known}")


def loaded(model: "Model | str | os.PathLike[str]") -> "Model":
    """A model as it is; of anything else what `load_model` reads. Raises TenshotError."""
    return model if isinstance(model, Model) else load_model(model if isinstance(model, Path) else str(model))


def load_model(name: str | Path) -> Model:
    """Read a model: an embedded source's name, a `.safetensors` file of tenshot, or a run folder.

    `scratch-64` gives untrained networks (`scratch`). Every tensor is checked against the shape the file itself
    declares. What a file is, its content decides; of another program's checkpoint the refusal says how to convert
    it. Raises TenshotError.
    """
    if (untrained := scratch(str(name))) is not None:
        return untrained
    path = find_model(name)
    tensors, header = read_tensors(path)
    if is_checkpoint(header):
        raise TenshotError(
            f"{path} is the checkpoint of a run after step {header['step']}, with all that training needs, and no "
            "model: give the run's folder, or its model.safetensors"
        )
    try:
        if (version := header["format"]) > FORMAT:
            raise NewerFile(f"{path} is of format {version}, newer than this tenshot: upgrade tenshot")
        card = dict(header["card"])
        generator = _empty("generator", header["generator"])
        described = header.get("discriminator")
        discriminator = _empty("discriminator", described) if described else None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TenshotError(f"{path} is not a model file of tenshot: its header is damaged ({_fault(error)})") from error
    fill(generator, _part(tensors, "generator"), f"{path}, generator")
    if discriminator is not None:
        fill(discriminator, _part(tensors, "discriminator"), f"{path}, discriminator")
    return check_pair(Model(generator.eval(), discriminator, card), str(path))


def is_checkpoint(header: dict[str, Any]) -> bool:
    """Whether the header of a file of tenshot is that of a run's checkpoint."""
    return "generator" not in header and isinstance(header.get("step"), int)


def check_pair(model: Model, where: str) -> Model:
    """The model, if generator and discriminator are of one resolution. Raises TenshotError."""
    if model.discriminator is not None and model.discriminator.spec.resolution != model.resolution:
        raise TenshotError(
            f"{where}: the generator makes {model.resolution} px, the discriminator judges "
            f"{model.discriminator.spec.resolution} px: they do not belong together"
        )
    return model


def save_model(path: str | Path, model: Model, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a model file, all of it or nothing. float16 halves its size, rounded as in `tenshot.rounding`.

    Raises TenshotError.
    """
    header: dict[str, Any] = {"format": FORMAT, "card": model.card}
    tensors: dict[str, Tensor] = {}
    for key, network in (("generator", model.generator), ("discriminator", model.discriminator)):
        if network is not None:
            header[key] = _declared(network.spec)
            for name, tensor in network.state_dict().items():
                stored = stored_as(tensor.detach().cpu(), dtype, f"{key}.{name}").contiguous()
                tensors[f"{key}.{name}"] = stored
                if not torch.isfinite(stored).all():
                    raise TenshotError(f"cannot write {path}: {key}.{name} {_not_finite(tensor, dtype)}")
    write_tensors(Path(path), tensors, header)


def _declared(spec: GeneratorSpec | DiscriminatorSpec) -> dict[str, Any]:
    """What a file says of a network's shape; of what only some have, nothing where it has not."""
    usual = {"kept": (), "mosaic": 1, "gamut": ()}
    return {name: value for name, value in dataclasses.asdict(spec).items() if value != usual.get(name)}


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """A .safetensors file with a JSON header, written atomically."""
    write_atomically(path, packed(tensors, header))


def packed(tensors: dict[str, Tensor], header: dict[str, Any]) -> bytes:
    """The bytes of a .safetensors file with a JSON header; the same ones for the same values."""
    dense = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    return save(dense, metadata={"tenshot": json.dumps(header, sort_keys=True)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON header of a .safetensors file that tenshot wrote. Raises TenshotError.

    What the file announces is checked against its size before memory is taken for it.
    """
    check_header(path)
    try:
        with told_as_sentence("read", path), path.open("rb") as opened, _opened(path, opened.fileno()) as file:
            text = (file.metadata() or {}).get("tenshot")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        header = json.loads(text) if text is not None else None
    except (SafetensorError, ValueError, RecursionError) as error:
        raise TenshotError(f"{path} is damaged or not a .safetensors file ({error})") from error
    if not isinstance(header, dict):
        raise TenshotError(f"{path} was not written by tenshot: it has no tenshot header")
    return tensors, header


def _opened(path: Path, descriptor: int) -> Any:
    """safetensors' view of a file; by its descriptor where its name is not UTF-8, which safetensors would refuse."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return safe_open(f"/dev/fd/{descriptor}", framework="pt")
    return safe_open(path, framework="pt")


def fill(network: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copy tensors into a network; each must be there, of the right shape, finite, and none left over.

    A network without memory of its own (on the device `meta`) gets some once the shapes are known to fit.
    Raises TenshotError with one sentence per fault, at most five.
    """
    wanted = network.state_dict()
    faults = [f"{name} is missing" for name in wanted.keys() - tensors.keys()]
    faults += [f"{name} is not part of the network" for name in tensors.keys() - wanted.keys()]
    for name in wanted.keys() & tensors.keys():
        given, expected = tuple(tensors[name].shape), tuple(wanted[name].shape)
        if given != expected:
            faults.append(f"{name} has shape {list(given)}, expected {list(expected)}")
        elif not tensors[name].is_floating_point():
            faults.append(f"{name} holds {str(tensors[name].dtype).removeprefix('torch.')}, not real numbers")
        elif not torch.isfinite(tensors[name].float()).all():
            faults.append(f"{name} holds values that are not finite")
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise TenshotError(f"{where}: {'; '.join(sorted(faults)[:5])}{more}")
    if any(tensor.is_meta for tensor in wanted.values()):
        network.to_empty(device="cpu")
    network.load_state_dict(tensors)


def empty(kind: type[_N], spec: GeneratorSpec | DiscriminatorSpec) -> _N:
    """A network without memory (on the device `meta`), to be filled. Raises ValueError for a bad spec."""
    check_size(spec)
    with torch.device("meta"):
        return kind(spec)  # pyright: ignore[reportArgumentType], a network and its own kind of spec


def check_size(spec: GeneratorSpec | DiscriminatorSpec) -> None:
    """Raises ValueError for a network that no one would train: its description is damaged or hostile."""
    numbers = [*spec.channels, *([spec.latent_size] if isinstance(spec, GeneratorSpec) else [])]
    if not all(1 <= number <= _LARGEST for number in numbers):
        raise ValueError(f"layers of {numbers} channels; between 1 and {_LARGEST:,} are possible")
    widest = max(number * (4 * 2**i) ** 2 for i, number in enumerate(spec.channels))
    if widest > _WIDEST:
        raise ValueError(f"{widest:,} numbers in one layer of an image; at most {_WIDEST:,} are possible")
    if isinstance(spec, GeneratorSpec) and not 0 <= spec.mapping_depth <= _DEEPEST:
        raise ValueError(f"{spec.mapping_depth} mapping layers; at most {_DEEPEST} are possible")


def file_digest(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with told_as_sentence("read", path), path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(2**20):
            digest.update(piece)
        return digest.hexdigest()


def _not_finite(tensor: Tensor, dtype: torch.dtype) -> str:
    if torch.isfinite(tensor).all():
        return f"is too large for {str(dtype).removeprefix('torch.')}; save it as float32"
    return "holds values that are not finite: the training diverged"


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


def _empty(key: str, values: dict[str, Any]) -> Any:
    numbers: dict[str, Any] = {k: tuple(map(int, v)) if isinstance(v, list) else int(v) for k, v in values.items()}
    if key == "generator":
        return empty(Generator, GeneratorSpec(**numbers))
    return empty(Discriminator, DiscriminatorSpec(**numbers))


def _fault(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
