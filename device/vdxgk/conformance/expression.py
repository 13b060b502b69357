"""Values and conditions as the vector files write them.

A value is a sum of terms: ``64K``, ``0xfff``, ``4G-4K``, ``MDL``,
``RequireContiguous|PreferContiguous``, ``$adapter``,
``$object.hPhysicalMemoryObject+1``.  A condition is an operator and a value:
``!= 0``, ``>= 4K``, ``multiple of 64K``; a bare value means equality.
Conditions joined by commas must all hold.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MASK = (1 << 64) - 1
"""Values are 64 bits wide and wrap."""

Scope = Mapping[str, int]
"""References: ``name`` or ``saved.Field``."""

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_TERM = re.compile(
    r"(?P<number>0x[0-9a-fA-F]+|[0-9]+)(?P<unit>[KMGT]?)"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|\$(?P<reference>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)"
)
_AROUND_JOINERS = re.compile(r"\s*([-+|])\s*")
_JOINERS: dict[str, Callable[[int, int], int]] = {
    "": operator.add,
    "+": operator.add,
    "-": operator.sub,
    "|": operator.or_,
}


@dataclass(frozen=True, slots=True)
class Value:
    """A parsed value.  ``text`` is how the file has it."""

    text: str
    _terms: tuple[tuple[str, int | str], ...]  # joiner, number or reference

    @property
    def references(self) -> frozenset[str]:
        """What it refers to."""
        return frozenset(term for _, term in self._terms if isinstance(term, str))

    def evaluate(self, scope: Scope) -> int:
        """The number, modulo 2^64.  Raises KeyError for an unknown reference."""
        result = 0
        for joiner, term in self._terms:
            number = scope[term] if isinstance(term, str) else term
            result = _JOINERS[joiner](result, number)
        return result & MASK


def parse_value(raw: object, names: Mapping[str, int]) -> Value:
    """Parse what TOML gave: an integer or a string.  Raises ValueError with a sentence."""
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise ValueError(f"{raw!r} is neither a number nor a string")
    text = _AROUND_JOINERS.sub(r"\1", str(raw).strip())
    terms: list[tuple[str, int | str]] = []
    position = 0
    while position < len(text) or not terms:
        joiner = ""
        if terms:
            joiner, position = text[position], position + 1
        match = _TERM.match(text, position)
        if joiner not in _JOINERS or (terms and not joiner) or match is None:
            raise ValueError(f"{raw!r} is not a sum of numbers, names and $references")
        position = match.end()
        terms.append((joiner, _term(match, names)))
    return Value(str(raw), tuple(terms))


def _term(match: re.Match[str], names: Mapping[str, int]) -> int | str:
    if match["reference"]:
        return match["reference"]
    if match["number"]:
        return int(match["number"], 0) << _UNITS[match["unit"]]
    try:
        return names[match["name"]]
    except KeyError:
        known = ", ".join(sorted(names))
        raise ValueError(f"{match['name']} is none of {known}") from None


_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "multiple of": lambda found, unit: unit != 0 and found % unit == 0,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison with a value."""

    operator: str
    value: Value

    @property
    def text(self) -> str:
        """As a reader wants to see it."""
        return f"{self.operator} {self.value.text}"

    def holds(self, found: int, scope: Scope) -> bool:
        """Whether ``found`` satisfies it."""
        return _OPERATORS[self.operator](found, self.value.evaluate(scope))


def parse_conditions(raw: object, names: Mapping[str, int]) -> tuple[Condition, ...]:
    """Parse one or several conditions.  Raises ValueError with a sentence."""
    if not isinstance(raw, str):
        return (Condition("==", parse_value(raw, names)),)
    conditions = []
    for part in raw.split(","):
        text = part.strip()
        sign = next((sign for sign in _OPERATORS if text.startswith(sign)), "")
        conditions.append(Condition(sign or "==", parse_value(text[len(sign) :].strip(), names)))
    return tuple(conditions)
