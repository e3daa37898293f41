"""docs/RELIABILITY.md, from the cases, the promises, the protections and the tests that are marked with them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MarkedTest:
    """A test function (node id without parameters), what its marks name, and whether it is of the full tier alone."""

    function: str
    names: frozenset[str]
    full: bool


def render(tests: list[MarkedTest]) -> str:
    """The page."""
    return "".join(f"{test.function}: {sorted(test.names)}\n" for test in tests)
