"""Strict reading of a parsed JSON table: every field is asked for by name and kind, and none may be left over."""

from __future__ import annotations

import difflib
import re
from typing import Any

from mmsearch.safe_text import safe_text


class Fields:
    """One table of a JSON file. Each method takes a field out; `end` refuses what nobody asked for.

    `file` is what messages call the file, `error` what they are raised as, `at` the dotted place of this table in it.
    """

    def __init__(self, value: object, *, file: str, error: type[Exception], at: str = "") -> None:
        self._file, self._error, self._at = file, error, at
        if not isinstance(value, dict):
            raise error(f"{file}: {at or 'the whole file'} is not a table of fields")
        self._values: dict[str, Any] = dict(value)
        self._asked: list[str] = []

    def complaint(self, key: str, what: str) -> Exception:
        """The error that says `what` is wrong with the field `key`."""
        return self._error(f"{self._file}: field {safe_text(self._at + key)} {what}")

    def table(self, key: str) -> Fields:
        """A nested table."""
        return Fields(self._take(key), file=self._file, error=self._error, at=f"{self._at}{key}.")

    def optional_table(self, key: str) -> Fields | None:
        """A nested table, None where the field is absent."""
        if key not in self._values:
            self._asked.append(key)
            return None
        return self.table(key)

    def text(self, key: str, pattern: re.Pattern[str] | None = None) -> str:
        """Text that is not empty, all of it matching `pattern`."""
        value = self._take(key)
        if not isinstance(value, str) or not value or (pattern and not pattern.fullmatch(value)):
            wanted = f"text like {pattern.pattern}" if pattern else "text"
            raise self.complaint(key, f"is {_shown(value)}: expected {wanted}")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """One of `choices`."""
        value = self._take(key)
        if value not in choices:
            raise self.complaint(key, f"is {_shown(value)}: expected {' or '.join(choices)}")
        return str(value)

    def integer(self, key: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._take(key)
        if not _is_integer(value, low, high):
            raise self.complaint(key, f"is {_shown(value)}: expected a whole number from {low} to {high}")
        return int(value)

    def integers(self, key: str, *, count: int, low: int, high: int) -> list[int]:
        """A list of exactly `count` whole numbers from `low` to `high`."""
        value = self._take(key)
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(_is_integer(each, low, high) for each in value)
        ):
            raise self.complaint(key, f"is {_shown(value)}: expected {count} whole numbers from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        value = self._take(key)
        if not _is_number(value, low, high):
            raise self.complaint(key, f"is {_shown(value)}: expected a number from {low} to {high}")
        return float(value)

    def numbers(self, key: str, *, count: int, low: float, high: float) -> tuple[float, ...]:
        """A list of exactly `count` numbers from `low` to `high`."""
        value = self._take(key)
        if not isinstance(value, list) or len(value) != count or not all(_is_number(each, low, high) for each in value):
            raise self.complaint(key, f"is {_shown(value)}: expected {count} numbers from {low:g} to {high:g}")
        return tuple(map(float, value))

    def has(self, key: str) -> bool:
        """Whether the field is there and not yet taken."""
        self._asked.append(key)
        return key in self._values

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false, `default` where the field is absent."""
        if key not in self._values:
            self._asked.append(key)
            return default
        value = self._take(key)
        if not isinstance(value, bool):
            raise self.complaint(key, f"is {_shown(value)}: expected true or false")
        return value

    def rest(self) -> dict[str, Any]:
        """Every field not yet taken, left in place, for tables whose keys are free."""
        return dict(self._values)

    def end(self) -> None:
        """Nothing may be left: what is left was misspelt, or means something that would be ignored."""
        for key in self._values:
            nearest = difflib.get_close_matches(key, self._asked, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise self.complaint(key, f"is unknown{hint}")

    def _take(self, key: str) -> Any:
        self._asked.append(key)
        if key not in self._values:
            raise self.complaint(key, "is missing")
        return self._values.pop(key)


def _is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _shown(value: object) -> str:
    text = safe_text(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
