"""Tables whose names can be copied: no name is ever broken, whatever the width."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_LEAST = 12  # characters of a fact on a line; where there is less room a list reads better


@dataclass(frozen=True)
class Named:
    """What is known of things with names; a name may have parts, such as a method and its preset."""

    title: str
    names: Sequence[str]
    """Headings of the names."""
    facts: Sequence[str]
    """Headings of what is known."""
    rows: Sequence[Sequence[str]]
    """A cell for every heading, those of the names first."""
    numbers: Sequence[str] = ()
    """Headings of the facts that stand to the right of their column."""

    def print(self, console: Console) -> None:
        """A table; where it would leave the facts too little room, a list."""
        if self.least_width <= console.width:
            console.print(self._table())
        else:
            for line in self._lines():
                console.print(line, soft_wrap=True)

    @property
    def least_width(self) -> int:
        """Of a table that can be read: characters of the names, some of the facts, and three between columns."""
        columns = zip((*self.names, *self.facts), *self.rows, strict=True)
        widths = [max(map(cell_len, column)) for column in columns]
        of_names, of_facts = widths[: len(self.names)], widths[len(self.names) :]
        return sum(of_names) + sum(min(width, _LEAST) for width in of_facts) + 3 * len(widths) + 1

    def _table(self) -> Table:
        table = Table(title=self.title)
        for heading in self.names:
            table.add_column(heading, no_wrap=True)
        for heading in self.facts:
            table.add_column(heading, overflow="fold", justify="right" if heading in self.numbers else "left")
        for row in self.rows:
            table.add_row(*map(Text, row))  # Text, not str: brackets are no markup
        return table

    def _lines(self) -> list[Text]:
        lines = [Text(self.title, "italic")]
        parts = len(self.names)
        for row in self.rows:
            lines.append(Text("  ".join(row[:parts]), "bold"))
            lines += [Text(f"  {key}: {fact}") for key, fact in zip(self.facts, row[parts:], strict=True) if fact]
        return lines
