"""One protection of the product: how to switch it off in the source, and the test that must then fail."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protection:
    """A textual change that takes a protection away. `old` stands exactly once in `file`; `new` takes its place.

    `file` is a path from the root of the tree, `test` a pytest node id from there (a function stands for all its
    parameters). The test passes in the tree as it is and fails in a copy with the change.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
