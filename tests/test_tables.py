"""Tables of names: a name that one would copy is whole at every width, and so is every fact."""

import io
import re

import pytest
from rich.console import Console

from tenshot.__main__ import main
from tenshot.catalogue import OFFICIAL
from tenshot.methods import METHODS
from tenshot.models import embedded_sources
from tenshot.presets import PRESETS
from tenshot.tables import Named

ROWS = [
    ("a-name-that-is-rather-long.pkl", "faces64", "words that may be folded as it comes, [red] or not", "1,234"),
    ("\u4e00\u4e8c\u4e09", "paper", "settings_without_any_space_in_them", ""),
]
TABLE = Named("title", names=("name", "preset"), facts=("what", "count"), rows=ROWS, numbers=("count",))


def printed(table, width):
    console = Console(file=io.StringIO(), width=width)
    table.print(console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [1, 20, 40, *range(60, 80), 200])
def test_no_name_is_broken_and_nothing_is_cut_at_any_width(width):
    said = printed(TABLE, width)
    assert "\u2026" not in said
    for name, preset, what, count in ROWS:
        assert re.search(rf"{re.escape(name)}\W+{preset}\b", said)
        assert count in said
        if width in (1, 200):  # elsewhere it is folded
            assert what in said


def test_it_is_a_table_as_soon_as_the_facts_have_room():
    assert TABLE.least_width == (30 + 7 + 12 + 5) + 3 * 4 + 1
    assert "\u2502" in printed(TABLE, 67) and "\u2502" not in printed(TABLE, 66)
    assert max(map(len, printed(TABLE, 67).splitlines())) == 67


@pytest.mark.parametrize("columns", ["40", "80"])
@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("sources", [*embedded_sources(), *(source.name for source in OFFICIAL)]),
        ("methods", METHODS),
        ("methods --presets", [preset for presets in PRESETS.values() for preset in presets]),
    ],
)
def test_the_names_of_a_verb_stand_whole_on_a_line(capsys, monkeypatch, columns, words, names):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(words.split()) == 0
    said = capsys.readouterr().out
    assert "\u2026" not in said
    assert all(re.search(rf"(?<!\S){re.escape(name)}(?!\S)", said) for name in names)
