"""Dataclasses of settings: built from JSON, checked by field; a refusal names the flag, the value and the way out."""

import dataclasses
import sys
import types
from typing import Any, TypeVar, get_type_hints

from tenshot.errors import TenshotError

_T = TypeVar("_T")


def require(settings: Any, prefix: str, name: str, is_met: bool, expectation: str) -> None:
    """Raise "--prefix.name is VALUE: it must be EXPECTATION" unless the condition is met."""
    if not is_met:
        flag = f"{prefix}.{name}".strip(".").replace("_", "-")
        raise TenshotError(f"--{flag} is {getattr(settings, name)!r}: it must be {expectation}")


def check_types(settings: Any, prefix: str = "") -> None:
    """Raise TenshotError where a field's value is not of its declared type, not finite or not one of its choices."""
    for name, hint in _hints(settings).items():
        require(settings, prefix, name, _fits(getattr(settings, name), hint), _describe(hint))


def build(kind: type[_T], values: Any) -> _T:
    """A dataclass from JSON values, nested ones too. Raises TenshotError; unknown and missing keys are named."""
    if not isinstance(values, dict):
        raise TenshotError(f"expected an object of settings for {kind.__name__}, found {values!r}")
    hints = _hints(kind)
    if unknown := sorted(values.keys() - hints.keys()):
        raise TenshotError(f"unknown setting {', '.join(unknown)}; known are {', '.join(hints)}")
    given = dict(values)
    for name, hint in hints.items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(given.get(name), dict):
            given[name] = build(hint, given[name])
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(kind)  # type: ignore[arg-type]
    if missing := [f.name for f in fields if f.name not in given and f.default is dataclasses.MISSING]:
        raise TenshotError(f"missing setting {', '.join(missing)}")
    return kind(**given)


def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind if isinstance(kind, type) else type(kind))
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    arguments = getattr(hint, "__args__", ())
    if isinstance(hint, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if arguments:  # Literal
        return value in arguments
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    if arguments := getattr(hint, "__args__", ()):
        return "one of " + ", ".join(str(argument) for argument in arguments)
    names = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}
    return names.get(hint, f"settings of {getattr(hint, '__name__', hint)}")
