"""The shape of the package: who may import whom, how long things may be, what is loaded only when needed."""

import ast
import json
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"

LEVELS = (
    {"errors", "randomness", "warp", "interrupts", "output", "watch", "tables", "commands"},
    {
        "filters",
        "losses",
        "consistency",
        "augment",
        "ada",
        "files",
        "images",
        "settings",
        "rules",
        "devices",
        "recovery",
        "rounding",
    },
    {"nets", "fisher", "pruning", "kml", "data", "headers", "unpickle", "lock", "aside", "onnx_weights"},
    {"pairs", "compact", "distil", "reach", "lacking"},
    {"shrink", "mend", "sheets"},
    {"methods", "models", "nvidia", "video"},
    {"config", "sampling", "manifest", "seeds"},
    {"runs", "adaptation"},
    {"phases", "targets", "provenance"},
    {"step", "convert", "metrics", "proof", "onnx_export", "walk", "presets", "catalogue"},
    {"checkpoint", "costs", "report", "scoring", "result"},
    {"rollback", "looks"},
    {"loop"},
    {"plan", "progress", "bench", "doctor"},
    {"export"},
    {"cli"},
    {"__main__"},
)
"""Files and folders of the package, low to high. Each may import from lower levels; a folder, also itself."""

SIDEWAYS: frozenset[tuple[str, str]] = frozenset()
"""(importer, imported) of one level, where that is allowed."""

MOST_LINES = 350
MOST_LINES_OF_CODE = 60  # of a function, its docstring not counted

TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SRC.rglob("*.py"))}


def module_of(path):
    """src/tenshot/nets/__init__.py -> tenshot.nets"""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in TREES}


def imports_of(tree):
    """(line, module) of everything imported, also in functions and for type checkers; relative: ".name"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            for alias in node.names:  # `from tenshot import loop` means tenshot.loop, if there is such a file
                name = f"{origin}.{alias.name}"
                yield node.lineno, name if name in MODULES else origin


def unit_of(module):
    """tenshot.nets.layers -> nets; the package itself -> tenshot"""
    return [*module.split("."), module][1]


def shown(path, line=None):
    return f"{path.relative_to(SRC.parent)}{f':{line}' if line else ''}"


def fail_with(faults):
    assert not faults, "\n" + "\n".join(faults)


def test_every_file_has_a_level_and_every_level_has_its_files():
    units = {unit_of(module) for module in MODULES} - {"tenshot"}
    placed = set().union(*LEVELS)
    fail_with(
        [f"src/tenshot/{unit}: not on any level, put it into LEVELS" for unit in sorted(units - placed)]
        + [f"src/tenshot/{unit}: on a level, but there is no such file" for unit in sorted(placed - units)]
    )


def test_imports_point_down():
    level = {unit: i for i, units in enumerate(LEVELS) for unit in units}
    faults = []
    for path, tree in TREES.items():
        here = unit_of(module_of(path))
        if here not in level:  # the package itself: its public names are loaded on first use, see below
            continue
        for line, module in imports_of(tree):
            there = unit_of(module)
            if module.split(".")[0] != "tenshot" or there in (here, "tenshot") or (here, there) in SIDEWAYS:
                continue
            if level.get(there, len(LEVELS)) >= level[here]:
                faults.append(f"{shown(path, line)}: {here} imports {there}, which is not on a lower level")
    fail_with(faults)


def test_imports_are_absolute():
    fail_with(
        [
            f"{shown(path, line)}: imports {module} relative to itself; write tenshot.NAME"
            for path, tree in TREES.items()
            for line, module in imports_of(tree)
            if module.startswith(".")
        ]
    )


def test_no_file_imports_itself_through_others():
    graph = {
        module: {name for _, name in imports_of(TREES[path]) if name in MODULES} - {"tenshot"}
        for module, path in MODULES.items()
        if module != "tenshot"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(("one", "other"), [("metrics", "methods"), ("methods", "metrics")])
def test_metrics_and_methods_never_meet(one, other):
    """Directly or through others: what judges must not know what is judged."""
    reached, waiting = (
        {},
        [(module, shown(path)) for module, path in MODULES.items() if unit_of(module) == one],
    )
    while waiting:
        module, way = waiting.pop()
        if module not in reached and module != "tenshot":
            reached[module] = way
            names = {name for _, name in imports_of(TREES[MODULES[module]]) if name in MODULES}
            waiting += [(name, f"{way} -> {name}") for name in sorted(names)]
    fail_with(
        [f"{way}: {one} and {other} never import each other" for m, way in reached.items() if unit_of(m) == other]
    )


def test_only_the_command_line_prints_and_parses_arguments():
    faults = []
    for path, tree in TREES.items():
        if unit_of(module_of(path)) in ("cli", "__main__"):
            continue
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        faults += [
            f"{shown(path, call.lineno)}: prints; return the text, or raise TenshotError"
            for call in calls
            if isinstance(call.func, ast.Name) and call.func.id == "print"
        ]
        faults += [
            f"{shown(path, line)}: imports tyro; arguments are parsed in cli/"
            for line, module in imports_of(tree)
            if module.split(".")[0] == "tyro"
        ]
    fail_with(faults)


def test_no_file_is_longer_than_a_reader_can_hold():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in TREES}
    fail_with([f"{shown(p)}: {n} lines, at most {MOST_LINES}" for p, n in lengths.items() if n > MOST_LINES])


def test_no_function_is_longer_than_a_screen():
    faults = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = node.body[0] if ast.get_docstring(node, clean=False) else None
                text = (docstring.end_lineno - docstring.lineno + 1) if docstring else 0
                lines = node.end_lineno - node.lineno + 1 - text
                if lines > MOST_LINES_OF_CODE:
                    where = shown(path, node.lineno)
                    faults.append(f"{where}: {node.name} has {lines} lines of code, at most {MOST_LINES_OF_CODE}")
    fail_with(faults)


def test_every_file_says_what_it_is():
    fail_with([f"{shown(p)}: has no docstring" for p, tree in TREES.items() if not ast.get_docstring(tree)])


HEAVY = {"torch", "numpy", "PIL", "safetensors", "tyro", "rich"}


@pytest.mark.parametrize(
    "code",
    [
        "import tenshot",
        "import tenshot.__main__ as shell; assert shell.main(['--help']) == 0",
        "import tenshot.__main__ as shell; assert shell.main(['--version']) == 0",
        "import tenshot.__main__ as shell; assert shell.main(['adpat']) == 2",
    ],
    ids=["import tenshot", "tenshot --help", "tenshot --version", "tenshot adpat"],
)
def test_what_needs_no_tensors_loads_none(code):
    loaded = "import json, sys; print(); print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{loaded}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )
    assert done.returncode == 0, done.stderr
    heavy = sorted(HEAVY & set(json.loads(done.stdout.splitlines()[-1])))
    assert not heavy, f"`{code}` loads {', '.join(heavy)}"


def test_public_names_are_those_that_type_checkers_see():
    """`tenshot/__init__.py` lists them twice, for checkers and for loading on first use, with their homes."""
    import tenshot

    (block,) = (node for node in TREES[MODULES["tenshot"]].body if isinstance(node, ast.If))
    seen = {
        alias.asname: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == tenshot._HOME
    assert set(tenshot.__all__) == {*seen, "__version__"}
    assert all(getattr(tenshot, name) is not None for name in tenshot.__all__)
    with pytest.raises(AttributeError, match="no attribute 'adpat'"):
        tenshot.adpat  # noqa: B018, reading it is the test
