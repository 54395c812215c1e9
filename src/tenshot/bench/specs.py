"""Specs: small JSON files that name variants, domains and seeds, and the jobs they stand for.

    {
      "settings": {"precision": "bfloat16"},
      "variants": {"finetune": {}, "weight Fisher": {"method": "dap", "dap": {"estimator": "weight"}}},
      "domains": ["sketch", "bottts"],
      "seeds": [0, 1, 2]
    }

A variant holds what differs from the preset of its method, which is its own name if it gives none: settings of a run,
those of the method under the method's name, `preset`, `shots` (where "{domain}" stands for the domain), `first`, how
many of the shots are used, and `source_sha256`, the file that the source must be: results on it stay what the spec
asks for when another file takes the source's name. `settings` are those of all variants; a method's among them those
of its variants alone. `metrics` names what is measured, the offline metrics if it is missing. A spec without `variants`
is one run: its keys are the variant's, with `domain` and `seed`.
"""

import hashlib
import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from tenshot.config import RunConfig, build_method
from tenshot.errors import TenshotError
from tenshot.files import told_as_sentence
from tenshot.methods import KNOWN
from tenshot.metrics import METRICS, OFFLINE
from tenshot.presets import DEFAULT, find_preset
from tenshot.settings import build

_T = TypeVar("_T")

SHOTS, HELD_OUT = "{domain}.zip/shots", "{domain}.zip/heldout"
"""Where a domain's images lie in the folder of data."""
LEFT_TO_THE_MATRIX = ("seed", "eval_real")
_NEUTRAL = {f.name: f.default for f in fields(RunConfig) if f.name in ("sample_every", "checkpoint_every", "keep_last")}
"""Settings on which no number of a result depends."""
_KINDS: dict[type, str] = {str: "a name", dict: "an object of settings"}
_MATRIX = {"what", "settings", "variants", "domains", "seeds", "metrics"}


def subject(domain: str, config: RunConfig | None, first: int) -> tuple[Any, ...]:
    """Of all that a job is, what its result depends on."""
    return domain, config and replace(config, **_NEUTRAL), first


@dataclass(frozen=True)
class Job:
    """One run of a matrix. Two jobs are the same if all but their variant's name is."""

    variant: str
    """What the spec calls it."""
    domain: str
    config: RunConfig
    """Its paths are relative to the folder of data."""
    first: int = 0
    """How many of the shots are used, in order of name. 0 = all."""
    metrics: tuple[str, ...] = OFFLINE
    source_sha256: str = ""
    """Of the file that the source must be; "" = whatever file has its name."""

    @property
    def held_out(self) -> str:
        """The images that it is scored against, relative to the folder of data."""
        return HELD_OUT.format(domain=self.domain)

    @property
    def subject(self) -> tuple[Any, ...]:
        """What a result must share with the job to answer it, beside the source's file."""
        return subject(self.domain, self.config, self.first)

    def name(self, source: str) -> str:
        """`bottts/dap-0-1f2e3d4c`: method and seed for readers, a hash of everything. source: sha256 of the source."""
        facts = {"config": json.loads(self.config.to_json()), "first": self.first, "source": source}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.domain}/{self.config.method.name}-{self.config.seed}-{digest}"


@dataclass(frozen=True)
class Spec:
    """A matrix: the rows and columns of its tables, and its jobs."""

    variants: tuple[str, ...]
    domains: tuple[str, ...]
    seeds: tuple[int, ...]
    jobs: tuple[Job, ...]
    """By seed, then domain, then variant, so that a matrix that is half done compares all variants."""


def read_spec(path: Path) -> Spec:
    """The matrix in a spec file. Raises TenshotError that names file and fault."""
    with told_as_sentence("read", path):
        content = path.read_bytes()
    try:
        values = json.loads(content.decode())
        if not isinstance(values, dict):
            raise TenshotError("it holds no JSON object")
        return _spec(values if "variants" in values else _single(values))
    except ValueError as error:
        raise TenshotError(f"{path} is not JSON: {error}") from error
    except TenshotError as error:
        raise TenshotError(f"{path}: {error}") from error


def all_jobs(specs: list[Spec]) -> list[Job]:
    """The jobs of several matrices, each once, with the metrics of all: by seed first, then in the order of the
    specs."""
    found: dict[tuple[Any, ...], Job] = {}
    for job in (job for spec in specs for job in spec.jobs):
        key = job.subject, job.source_sha256
        first = found.setdefault(key, job)
        found[key] = replace(first, metrics=tuple(dict.fromkeys(first.metrics + job.metrics)))
    return sorted(found.values(), key=lambda job: job.config.seed)


def selected(jobs: list[Job], only: str) -> list[Job]:
    """Those that a filter such as `method=dap,method=rick,domain=bottts` lets through: of each key one of its values.

    Keys: variant, method, domain, seed. Raises TenshotError for another, and if nothing is left.
    """
    wanted: dict[str, set[str]] = {}
    for part in filter(None, (part.strip() for part in only.split(","))):
        key, sign, value = part.partition("=")
        if not sign or key not in ("variant", "method", "domain", "seed"):
            raise TenshotError(f"--only has {part!r}: write variant=, method=, domain= or seed= and a value")
        wanted.setdefault(key, set()).add(value)
    kept = [job for job in jobs if all(_facts(job)[key] in values for key, values in wanted.items())]
    if jobs and not kept:
        raise TenshotError(f"--only {only} leaves no run of the {len(jobs)} that the specs name")
    return kept


def _facts(job: Job) -> dict[str, str]:
    config = job.config
    return {"variant": job.variant, "method": config.method.name, "domain": job.domain, "seed": str(config.seed)}


def _single(values: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in values.items() if key != "what"}
    try:
        domain, seed, name = rest.pop("domain"), rest.pop("seed", 0), _checked(str, "method", values["method"])
    except KeyError as error:
        raise TenshotError(f"it has no {error}: a spec has variants, domains and seeds, or is one run") from error
    metrics = {"metrics": rest.pop("metrics")} if "metrics" in rest else {}
    return {"variants": {name: rest}, "domains": [domain], "seeds": [seed], **metrics}


def _spec(values: dict[str, Any]) -> Spec:
    if unknown := sorted(values.keys() - _MATRIX):
        raise TenshotError(f"unknown key {', '.join(unknown)}; known are {', '.join(sorted(_MATRIX))}")
    variants, domains, seeds = (_once(values.get(key)) for key in ("variants", "domains", "seeds"))
    shared = values.get("settings", {})
    if not (isinstance(variants, dict) and isinstance(shared, dict)):
        raise TenshotError("variants and settings must be objects")
    if not (isinstance(domains, list) and isinstance(seeds, list) and variants and domains and seeds):
        raise TenshotError("domains and seeds must be lists, and nothing may be empty")
    metrics = _metrics(values.get("metrics", list(OFFLINE)))
    jobs = [
        _job(variant, domain, seed, _merged(_shared_by(variant, given, shared), given), metrics)
        for seed in seeds
        for domain in domains
        for variant, given in variants.items()
    ]
    return Spec(tuple(variants), tuple(domains), tuple(seeds), tuple(jobs))


def _metrics(names: Any) -> tuple[str, ...]:
    if not (isinstance(names, list) and names):
        raise TenshotError(f"metrics is {names!r}: it must be a list of names")
    if unknown := [str(name) for name in names if not isinstance(name, str) or name not in METRICS]:
        raise TenshotError(f"metrics has {', '.join(unknown)}; known are {', '.join(METRICS)}")
    return tuple(names)


def _once(values: Any) -> Any:
    """A list without what it holds twice: a run is done once. Anything else as it is."""
    return [value for i, value in enumerate(values) if value not in values[:i]] if isinstance(values, list) else values


def _shared_by(variant: str, given: Any, shared: dict[str, Any]) -> dict[str, Any]:
    """Of the settings of all variants those that this one has: not those of another method."""
    method = given.get("method", variant) if isinstance(given, dict) else variant
    return {key: value for key, value in shared.items() if key == method or key not in KNOWN}


def _merged(shared: dict[str, Any], given: Any) -> dict[str, Any]:
    """All settings of a variant; of objects that both have, the method's settings, each key."""
    if not isinstance(given, dict):
        raise TenshotError(f"a variant is {given!r}: it must be an object of settings")
    both = [key for key, value in given.items() if isinstance(value, dict) and isinstance(shared.get(key), dict)]
    return {**shared, **given, **{key: {**shared[key], **given[key]} for key in both}}


def _checked(kind: type[_T], what: str, value: Any) -> _T:
    if not isinstance(value, kind):
        raise TenshotError(f"{what} is {value!r}: it must be {_KINDS[kind]}")
    return value


def _job(variant: str, domain: str, seed: int, settings: dict[str, Any], metrics: tuple[str, ...]) -> Job:
    rest = dict(settings)
    name = _checked(str, "method", rest.pop("method", variant))
    preset = _checked(str, "preset", rest.pop("preset", DEFAULT))
    own = _checked(dict, name, rest.pop(name, {}))
    values = dict(find_preset(name, preset).settings)
    method = build_method(name, {**values.pop(name, {}), **own})
    shots, first = rest.pop("shots", SHOTS), rest.pop("first", 0)
    pinned = _checked(str, "source_sha256", rest.pop("source_sha256", ""))
    if not (isinstance(first, int) and first >= 0):
        raise TenshotError(f"first is {first!r}: it must be a number of shots, or 0 for all")
    if pinned and not re.fullmatch("[0-9a-f]{64}", pinned):
        raise TenshotError(f"source_sha256 is {pinned!r}: it must be the 64 hexadecimal digits of a file's sha256")
    known = {field.name for field in fields(RunConfig)} - set(LEFT_TO_THE_MATRIX)
    if unknown := sorted(rest.keys() - known):
        raise TenshotError(f"{variant} has {', '.join(unknown)}, which is no setting of a run or of {name}")
    values |= rest
    if values.get("eval_every"):
        values["eval_real"] = HELD_OUT.format(domain=domain)
    if Path(_checked(str, "domain", domain)).name != domain or "\\" in domain:
        raise TenshotError(f"domain is {domain!r}: it must be the name of a zip without .zip, not a path")
    values |= {"shots": str(shots).replace("{domain}", domain), "method": method, "seed": seed}
    return Job(variant, domain, build(RunConfig, values), first, metrics, pinned)
