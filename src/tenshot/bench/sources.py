"""Which file a job's source is: embedded, or in the folder of data; the very one that a spec names by its sha256."""

import functools
from collections.abc import Iterator
from pathlib import Path

from tenshot.bench.specs import Job
from tenshot.errors import TenshotError
from tenshot.models import embedded_sources, file_digest, find_model


def source_sha256(job: Job, data: Path | None) -> str | None:
    """What the spec names, else that of the file there is; None if that is not known or lacks."""
    return job.source_sha256 or next((_digest(path) for _, path in _places(job, data)), None)


def source_name(job: Job, data: Path) -> str:
    """What `load_model` finds it by from within the folder of data. Raises TenshotError if it is nowhere, or if what is
    there is not what the spec names."""
    found = [(name, path, _digest(path)) for name, path in _places(job, data)]
    for name, _, digest in found:
        if job.source_sha256 in ("", digest):
            return name
    wanted = job.config.source
    if not found:
        raise TenshotError(f"the source {wanted} is neither embedded nor in {data}")
    others = ", ".join(f"{path} is {digest[:12]}..." for _, path, digest in found)
    raise TenshotError(
        f"the runs are about the {wanted} of sha256 {job.source_sha256[:12]}..., and {others}: "
        f"put that one into {data} as {Path(wanted).with_suffix('.safetensors')}"
    )


def _places(job: Job, data: Path | None) -> Iterator[tuple[str, Path]]:
    """Files of the source's name with what they are loaded by, embedded ones first."""
    name = job.config.source
    if name in embedded_sources():
        yield name, find_model(name)
    if data is not None:
        inside = (name, f"{name}.safetensors")
        yield from ((place, data / place) for place in inside if (data / place).is_file())


def _digest(path: Path) -> str:
    return _digest_of(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest_of(path: Path, changed: int) -> str:
    return file_digest(path)
