"""What a numbered bad input is: a file, what must become of it, and what it must look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pictures import scene
from PIL import Image

from mmsearch.demo_photos import find_photos
from mmsearch.errors import MissingExtra

Expected = frozenset[str]
OK: Expected = frozenset({"ok"})
PARTIAL: Expected = frozenset({"partial"})
IGNORED: Expected = frozenset({"ignored"})
FOLDER: Expected = frozenset({"folder"})

_TERMINAL = str.maketrans({chr(code): f"<{code:02x}>" for code in (*range(32), 127)})


class UnmakeableError(Exception):
    """This machine cannot make the file; says why."""


@dataclass(frozen=True, slots=True)
class CorpusCase:
    """One file of the numbered case `id` ("C21").

    `name` is its path below the folder of its group, as `os.fsdecode` gives it. `make` writes it. `expected` holds the
    outcomes that are right: "ok", "partial", "error:<reason>", "ignored" (no row, as for every unknown extension), or
    "folder" (its folder cannot be entered and is reported instead). `twin` gives the plain picture that it must look
    like, within `error` levels on average. `row` names columns of its row and what they must hold. `note` says where
    what is documented differs from the design.
    """

    id: str
    name: str
    make: Callable[[Path], object]
    expected: Expected = OK
    twin: Callable[[], Image.Image] | None = None
    error: float = 3.0
    row: Mapping[str, object] = field(default_factory=dict)
    note: str = ""

    @property
    def label(self) -> str:
        """`id` and `name` as a test may be called: printable, and short."""
        shown = self.name.translate(_TERMINAL).encode("ascii", "backslashreplace").decode("ascii")
        return f"{self.id}-{shown if len(shown) < 60 else shown[:40] + '...'}"


def error(*reasons: str) -> Expected:
    """The file costs itself, for one of these reasons."""
    return frozenset(f"error:{reason}" for reason in reasons)


def content(data: Callable[[], bytes]) -> Callable[[Path], object]:
    """Writes what `data` gives, which is asked for when the file is made."""
    return lambda path: path.write_bytes(data())


@cache
def photo() -> Image.Image:
    """A photograph in RGB, 320 x 240, where the demo's packages are installed; else a synthetic scene of that size."""
    try:
        return Image.open(find_photos()[0][1]).convert("RGB").resize((320, 240), Image.Resampling.BICUBIC)
    except MissingExtra:
        return scene(320, 240)
