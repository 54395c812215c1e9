"""A rule that ends a run early: a metric, a comparison, a number."""

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tenshot.errors import TenshotError

_OPERATORS = {">": operator.gt, "<": operator.lt}
_RULE = re.compile(r"\s*([a-z][a-z0-9_]*)\s*([<>])\s*([-+.0-9e]+)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class StopRule:
    """Ends a run when `metric` compares with `limit` as said."""

    metric: str
    """A metric's name, or how it begins: copy_rate for copy_rate_1k."""
    comparison: str
    """> or <."""
    limit: float

    def reads(self, name: str) -> bool:
        """Whether the rule is about the metric of this name."""
        return name.startswith(self.metric)

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether a measured value meets the rule; one that was not measured never does."""
        compare = _OPERATORS[self.comparison]
        return any(self.reads(name) and compare(value, self.limit) for name, value in values.items())

    def __str__(self) -> str:
        return f"{self.metric}{self.comparison}{self.limit:g}"


def parse_rule(text: str) -> StopRule:
    """`"copy_rate>0.2"` to a rule. Raises TenshotError."""
    match = _RULE.fullmatch(text)
    try:
        limit = float(match[3]) if match else math.nan
    except ValueError:
        limit = math.nan
    if not match or not math.isfinite(limit):
        raise TenshotError(f"--stop is {text!r}: write a metric, > or <, and a number, for example copy_rate>0.2")
    return StopRule(match[1].lower(), match[2], limit)
