"""tenshot bench: a matrix of runs from small specs, and the tables of its results."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from tenshot.bench.processes import Processes
from tenshot.bench.results import Results
from tenshot.bench.sources import source_name, source_sha256
from tenshot.bench.specs import Job, all_jobs, read_spec, selected
from tenshot.bench.spread import Pool, State, spread
from tenshot.bench.tables import Shelf, is_marked, read_page
from tenshot.bench.work import Outcome, Places
from tenshot.cli.common import PathFlag, parse
from tenshot.errors import TenshotError
from tenshot.files import make_folder, told_as_sentence, write_atomically
from tenshot.runs import RunDir

DATA_VARIABLE = "TENSHOT_BENCH_DATA"
SPECS = "benchmarks/quality"
PAGES = ("README.md", "docs/results.md", "docs/ablations.md", "docs/earlier-source.md")


@dataclass(frozen=True)
class _Run:
    specs: Annotated[Positional[tuple[str, ...]], arg(metavar="SPECS")]
    """Spec files; `benchmarks/quality/README.md` says what is in one."""
    data: PathFlag = None
    """Folder of the domains' zips. Default: the environment variable TENSHOT_BENCH_DATA."""
    results: Annotated[str, arg(metavar="PATH")] = f"{SPECS}/results"
    """Folder of result files, one a run; what has one is not run again."""
    work: Annotated[str, arg(metavar="PATH")] = "runs/bench"
    """Folder for the runs under way; processes that share a matrix must share it."""
    workers: int = 0
    """Runs at once, each in a process of its own. Default: one for every processor."""
    threads: int = 1
    """Of each run. Results of other numbers differ in the last bits."""
    only: Annotated[str, arg(metavar="KEY=VALUE,...", help_behavior_hint="")] = ""
    """Only runs of these: variant=, method=, domain=, seed=; a key may be given several values."""
    ray: Annotated[str, arg(metavar="ADDRESS", help_behavior_hint="")] = ""
    """Spread the runs over the Ray cluster at this address instead (install tenshot[cluster])."""
    dry_run: bool = False
    """Say what would be run, in which order."""


@dataclass(frozen=True)
class _Table:
    pages: Annotated[Positional[tuple[str, ...]], arg(metavar="PAGES", help_behavior_hint="")] = ()
    """Markdown files with markers. Default: README.md and, in docs/, results, ablations and earlier-source."""
    specs: Annotated[str, arg(metavar="PATH")] = SPECS
    """Folder of the specs that markers name."""
    results: PathFlag = None
    """Folder of result files. Default: results/ in the folder of specs."""
    check: bool = False
    """Change nothing; exit with 1 if a page is not what the results give."""


def run(arguments: list[str]) -> int:
    """tenshot bench [run] SPECS | tenshot bench table [PAGES]"""
    verb, rest = (arguments[0], arguments[1:]) if arguments[:1] in (["run"], ["table"]) else ("run", arguments)
    if verb == "table":
        return _table(rest)
    flags = parse(
        _Run,
        rest,
        "tenshot bench benchmarks/quality/table.json --data DATA",
        "Run what has no result yet, and write the result of each run. `tenshot bench table` writes the tables.",
    )
    if flags.threads < 1 or flags.workers < 0:
        raise TenshotError(f"--threads is {flags.threads}, --workers {flags.workers}: at least 1 and 0 are needed")
    jobs = selected(all_jobs([read_spec(Path(path)) for path in flags.specs]), flags.only)
    if not jobs:
        raise TenshotError("no spec was given: name a file such as benchmarks/quality/table.json")
    data = flags.data or os.environ.get(DATA_VARIABLE)
    if not data:
        raise TenshotError(f"where the domains lie is not known: give --data DIR, or set {DATA_VARIABLE}")
    places = Places(*(Path(path).expanduser().resolve() for path in (data, flags.work, flags.results)))
    _check_data(jobs, places.data)
    console = Console(highlight=False)
    results = Results(places.results)
    _tell_lacking(console, jobs, places, results)
    if flags.dry_run:
        return _list(console, jobs, places, results)
    for job in jobs:
        if results.find(job, source_sha256(job, places.data)) is None:
            source_name(job, places.data)  # before hours of work: is it there, and the one that is meant?
    for folder in (places.work, places.results):
        make_folder(folder)
    pool = _pool(flags, places)
    with _ended_by_signals(), Board(console, places) as board:
        state = spread(jobs, places, pool, board)
    for name, reason in state.failed.items():
        console.print(f"failed: {name}: {reason}", markup=False, soft_wrap=True, style="red")
    return 1 if state.failed else 0


def _pool(flags: _Run, places: Places) -> Pool:
    if flags.ray:
        from tenshot.bench.cluster import Cluster

        return Cluster(flags.ray, places, flags.threads)
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Processes(places, flags.workers or max(1, there // flags.threads), flags.threads)


def _check_data(jobs: list[Job], data: Path) -> None:
    """Before hours of work: are all zips there?"""
    wanted = {path.partition("/")[0] for job in jobs for path in (job.config.shots, job.held_out)}
    with told_as_sentence("look into", data):
        missing = sorted(name for name in wanted if not (data / name).exists())
    if missing:
        raise TenshotError(f"{data} lacks {', '.join(missing)}: benchmarks/data/README.md says how they are made")


def _tell_lacking(console: Console, jobs: list[Job], places: Places, results: Results) -> None:
    """Results are written once: those from before a spec named another metric will never have it."""
    lacking = [names for job in jobs if (names := results.lacking(job, source_sha256(job, places.data)))]
    if lacking:
        what = ", ".join(dict.fromkeys(name for names in lacking for name in names))
        told = f"note: {len(lacking)} results lack {what} and stay as they are; move them away to have them run anew"
        console.print(told, markup=False, soft_wrap=True)


def _list(console: Console, jobs: list[Job], places: Places, results: Results) -> int:
    for job in jobs:
        is_done = results.find(job, source_sha256(job, places.data)) is not None
        console.print(f"{'done' if is_done else 'to do'}  {_shown(job)}", markup=False, soft_wrap=True)
    return 0


def _table(arguments: list[str]) -> int:
    flags = parse(
        _Table,
        arguments,
        "tenshot bench table",
        "Write the tables between the markers of pages anew, from the results there are.",
    )
    specs = Path(flags.specs)
    shelf = Shelf(specs, Results(Path(flags.results) if flags.results else specs / "results"))
    stale = 0
    for page in map(Path, flags.pages or PAGES):
        if not is_marked(page):
            print(f"no marker  {page}")
            continue
        before = read_page(page)
        after = shelf.fill(before)
        stale += before != after
        if before != after and not flags.check:
            write_atomically(page, after.encode())
        print(f"{'unchanged' if before == after else 'differs' if flags.check else 'written':<10} {page}")
    return 1 if stale and flags.check else 0


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM as Ctrl-C: the workers end at checkpoints first."""

    def end(number: int, frame: Any) -> None:
        stop = KeyboardInterrupt()
        stop.exit_code = 128 + number  # pyright: ignore[reportAttributeAccessIssue]
        raise stop

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Board:
    """The matrix as a live table in a terminal; a line for each beginning and end elsewhere."""

    def __init__(self, console: Console, places: Places) -> None:
        self.console, self.places = console, places
        self.live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        self.started, self.ended = time.monotonic(), 0

    def __enter__(self) -> "Board":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, state: State, job: Job | None, outcome: Outcome | None) -> None:
        if job is not None and (outcome or not self.live):
            self.ended += outcome is not None and outcome.state == "done" and outcome.result is not None
            what = _told(outcome) if outcome else "begins"
            line = f"[{len(state.done)}/{len(state.jobs)}] {_shown(job)}: {what}"
            self.console.print(line, markup=False, soft_wrap=True)
        if self.live:
            self.live.update(Group(grid_of(state), Text(self._under_way(state))))

    def _under_way(self, state: State) -> str:
        lines = [f"{_shown(job)}: {self._progress(job)}" for job in state.running]
        left = len(state.running) + len(state.waiting)
        if self.ended:
            seconds = (time.monotonic() - self.started) / self.ended * left
            lines.append(f"{left} left, about {seconds / 3600:.1f} hours")
        return "\n".join(lines)

    def _progress(self, job: Job) -> str:
        run = RunDir(self.places.run(job))
        if run.model.exists():
            return "scoring"
        try:
            with (run.path / "stats.jsonl").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                step = int(file.read().rsplit(b'"step": ', 1)[1].split(b",")[0])
        except (OSError, IndexError, ValueError):
            return "beginning"
        return f"step {step:,} of {job.config.steps:,}"


def grid_of(state: State) -> Table:
    """Variants x domains: how many runs are done, of how many."""
    domains = list(dict.fromkeys(job.domain for job in state.jobs))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for domain in domains:
        table.add_column(domain, justify="right", no_wrap=True)
    done = {id(job) for job in state.done}
    running = {id(job) for job in state.running}
    for variant in dict.fromkeys(job.variant for job in state.jobs):
        cells = []
        for domain in domains:
            mine = [job for job in state.jobs if (job.variant, job.domain) == (variant, domain)]
            active = "*" * sum(id(job) in running for job in mine)
            cells.append(f"{active}{sum(id(job) in done for job in mine)}/{len(mine)}" if mine else "")
        table.add_row(Text(variant), *cells)
    return table


def _shown(job: Job) -> str:
    return f"{job.variant} on {job.domain}, seed {job.config.seed}"


def _told(outcome: Outcome) -> str:
    if outcome.state == "claimed":
        return "another process is at it"
    if outcome.state != "done" or outcome.result is None:
        return f"{outcome.state}{': ' if outcome.reason else ''}{outcome.reason}"
    main = {name: metric.get("value") for name, metric in outcome.result["metrics"].items()}
    return ", ".join(f"{name} {value:.4g}" for name, value in main.items() if value is not None)
