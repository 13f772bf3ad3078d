"""What a field of a message may hold: rules, and the limits that they share, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "COMPONENTS_MAX",
    "DESCRIBED",
    "INT64_MAX",
    "NAME_CHARS_MAX",
    "RANK_MAX",
    "TEXT_CHARS_MAX",
    "Flag",
    "Int",
    "Listed",
    "Maybe",
    "Number",
    "Record",
    "Rule",
    "Text",
]

# Names are typed by people; the longest file path is 4,096 bytes, and a name is shorter than that.
NAME_CHARS_MAX = 1024
# A traceback of a deep recursion is a few hundred KiB; the header frame holds 64 KiB in all.
TEXT_CHARS_MAX = 32_768
# Components of an element: the widest tables seen have a few hundred columns.
COMPONENTS_MAX = 1024
# NumPy's own limit of dimensions, that of the rows included.
RANK_MAX = 64
INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Int:
    """An integer from `low` to `high`."""

    low: int = 0
    high: int = INT64_MAX

    def admits(self, value: Any) -> bool:
        """Whether a value is allowed."""
        if type(value) is not int and (isinstance(value, bool) or not isinstance(value, int)):
            return False
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"an integer from {self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number of seconds, 0 or more."""

    def admits(self, value: Any) -> bool:
        """Whether a value is allowed."""
        return isinstance(value, (int, float)) and 0 <= value <= INT64_MAX and not isinstance(value, bool)

    def __str__(self) -> str:
        return "a finite number of at least 0"


@dataclass(frozen=True, slots=True)
class Text:
    """A string of `chars_min` to `chars_max` characters."""

    chars_max: int = NAME_CHARS_MAX
    chars_min: int = 0

    def admits(self, value: Any) -> bool:
        """Whether a value is allowed."""
        return isinstance(value, str) and self.chars_min <= len(value) <= self.chars_max

    def __str__(self) -> str:
        return f"a string of {self.chars_min} to {self.chars_max} characters"


@dataclass(frozen=True, slots=True)
class Flag:
    """True or False."""

    def admits(self, value: Any) -> bool:
        """Whether a value is allowed."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value of a rule, or None."""

    rule: Rule

    def admits(self, value: Any) -> bool:
        """Whether a value is allowed."""
        return value is None or self.rule.admits(value)

    def __str__(self) -> str:
        return f"nil or {self.rule}"


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of at most `count_max` values of a rule."""

    rule: Rule
    count_max: int = COMPONENTS_MAX

    def admits(self, value: Any) -> bool:
        """Whether a value is allowed."""
        return isinstance(value, list) and len(value) <= self.count_max and all(map(self.rule.admits, value))

    def __str__(self) -> str:
        return f"a list of at most {self.count_max}, each {self.rule}"


@dataclass(frozen=True, slots=True)
class Record:
    """A list with one value for each rule."""

    rules: tuple[Rule, ...]

    def admits(self, value: Any) -> bool:
        """Whether a value is allowed."""
        if not isinstance(value, list) or len(value) != len(self.rules):
            return False
        for rule, item in zip(self.rules, value, strict=True):  # noqa: SIM110 - quicker than all(): it is in every put
            if not rule.admits(item):
                return False
        return True

    def __str__(self) -> str:
        return f"a list of [{', '.join(map(str, self.rules))}]"


class _Described(Listed):
    """As the list that it is, in one call: it is in every put, and in every answer with rows."""

    __slots__ = ()

    def admits(self, value: Any) -> bool:
        """Whether a value is allowed."""
        if type(value) is not list or len(value) > self.count_max:
            return False
        for column in value:
            if type(column) is not list or len(column) != 2:  # noqa: PLR2004 - as said
                return False
            dtype, shape = column
            if type(dtype) is not str or len(dtype) > NAME_CHARS_MAX or type(shape) is not list:
                return False
            if len(shape) > RANK_MAX:
                return False
            for size in shape:
                if size is not None and (type(size) is not int or not 0 <= size <= INT64_MAX):
                    return False
        return True


Rule = Int | Number | Text | Flag | Maybe | Listed | Record

# Dtype and shape of each column, rows in front; nil for every other size where rows differ in shape.
DESCRIBED = _Described(Record((Text(), Listed(Maybe(Int()), RANK_MAX))))
