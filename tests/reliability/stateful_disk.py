"""Two folders of little files that people and accidents change, and a plain record of what lies in them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmsearch.types import Reason

ROOTS = ("one", "two")
# `x.png` is a name for files and for directories.
DIRECTORIES = ("", "d", "d/e", "x.png")
NAMES = ("a.png", "b.bmp", "x.png", "t.csv", "u.csv")
WORDS = ("red", "blue", "a dog", "a cat", "a red dog", "two cats")
LONG_AGO_NS = 1_500_000_000 * 10**9
Away = Literal["gone", "empty"]
Place: TypeAlias = tuple[str, str]
"""The name of a root, and a path below it."""


@dataclass(frozen=True)
class Content:
    """Bytes, and what reading them should give: `pixels`, `captions`, or for neither the reason of the failure."""

    data: bytes
    pixels: NDArray[np.uint8] | None = field(default=None, compare=False)
    captions: tuple[str, ...] = ()
    reason: Reason = Reason.UNIDENTIFIED

    @property
    def digest(self) -> bytes:
        """What identifies it."""
        return hashlib.sha256(self.data).digest()

    def reads_as(self, name: str) -> tuple[bytes | str, ...] | Reason:
        """What there is to embed in a file of that name: the picture of a digest, captions, or why there is nothing."""
        if not self.data.strip():
            return Reason.EMPTY
        if name.endswith(".csv"):
            return tuple(self.captions) or (self.reason if self.pixels is None else Reason.UNIDENTIFIED)
        return (self.digest,) if self.pixels is not None else Reason.UNIDENTIFIED


def picture(seed: int) -> Content:
    """A picture; all have as many bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="BMP")
    return Content(data.getvalue(), pixels=pixels)


def captions(*texts: str) -> Content:
    """A text file with one passage for each of `texts`."""
    return Content("\n".join(["caption", *texts]).encode(), captions=texts)


BROKEN = (Content(b""), Content(b"\x00\x01\xffrubbish\x00" * 20), Content(b"\x00\x01\xffother rubbish\x00" * 20))


@dataclass(frozen=True)
class File:
    """One file as it lies there; `locked` stands for permissions that keep us out."""

    content: Content
    mtime_ns: int
    locked: bool = False

    @property
    def stat(self) -> tuple[int, int]:
        """Size and mtime."""
        return len(self.content.data), self.mtime_ns


class Disk:
    """The two roots below `base`. `files` is everything in them, `away` says which are not there as they should be."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.files: dict[Place, File] = {}
        self.away: dict[str, Away] = {}
        self.closed: set[Place] = set()
        self._clock_ns = LONG_AGO_NS
        for root in ROOTS:
            (base / root).mkdir()

    # -- looking -------------------------------------------------------------------------------------------------

    def path(self, place: Place) -> Path:
        """The absolute path of `place`."""
        root, below = place
        return self.base / root / below

    def trouble(self, root: str) -> bool:
        """Whether nothing can be learnt from `root` about what is gone."""
        return root in self.away or not any((self.base / root).iterdir())

    def reachable(self) -> list[Place]:
        """The files in roots that are there, in a fixed order."""
        return sorted(place for place in self.files if place[0] not in self.away)

    def walked(self, roots: tuple[str, ...]) -> list[Place]:
        """The files that a walk through `roots` comes to."""
        return [place for place in self.reachable() if place[0] in roots and not self.is_closed(place)]

    def is_closed(self, place: Place) -> bool:
        """Whether some directory above `place` cannot be listed."""
        root, below = place
        return any((root, str(parent)) in self.closed for parent in Path(below).parents)

    def is_there(self, place: Place) -> bool:
        """Whether a file stands at `place` now."""
        return place in self.files and place[0] not in self.away

    def is_locked(self, path: bytes) -> bool:
        """Whether the file at the absolute `path` cannot be read."""
        file = self.files.get(self._place(path))
        return file is not None and file.locked

    def is_closed_directory(self, path: bytes) -> bool:
        """Whether the directory at the absolute `path` cannot be listed."""
        return self._place(path) in self.closed

    def directories(self) -> list[Place]:
        """The directories below the roots that are there."""
        return sorted(
            (root, below)
            for root in ROOTS
            if root not in self.away
            for below in DIRECTORIES[1:]
            if (self.base / root / below).is_dir()
        )

    def _place(self, path: bytes) -> Place:
        root, _, below = os.path.relpath(os.fsdecode(path), self.base).partition("/")
        return root, below

    # -- changing ------------------------------------------------------------------------------------------------

    def can_hold(self, place: Place) -> bool:
        """Whether a file can be put at `place`: no directory stands there, and no file where a directory has to be."""
        path = self.path(place)
        parents = path.parents[: len(Path(place[1]).parents)]
        return place[0] not in self.away and not path.is_dir() and not any(each.is_file() for each in parents)

    def write(self, place: Place, content: Content, *, mtime_ns: int | None = None) -> None:
        """A file with `content` at `place`, changed now unless `mtime_ns` says when."""
        path = self.path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.data)
        self.files[place] = File(content, mtime_ns or self.tick())
        self._age(place)

    def touch(self, place: Place) -> None:
        """Another mtime for the same bytes."""
        self.files[place] = replace(self.files[place], mtime_ns=self.tick())
        self._age(place)

    def lock(self, place: Place, *, locked: bool) -> None:
        """Takes away the permission to read a file, or gives it back."""
        self.files[place] = replace(self.files[place], locked=locked)

    def move(self, source: Place, target: Place) -> None:
        """Renames one file; what was at `target` is gone."""
        self.path(target).parent.mkdir(parents=True, exist_ok=True)
        self.path(source).rename(self.path(target))
        self.files[target] = self.files.pop(source)

    def copy(self, source: Place, target: Place) -> None:
        """Copies one file with its mtime."""
        file = self.files[source]
        self.write(target, file.content, mtime_ns=file.mtime_ns)

    def delete(self, place: Place) -> None:
        """Removes one file."""
        self.path(place).unlink()
        del self.files[place]

    def move_directory(self, source: Place, target: Place) -> None:
        """Renames a directory to a name that is free."""
        self.path(target).parent.mkdir(parents=True, exist_ok=True)
        self.path(source).rename(self.path(target))
        for place in self._below(source):
            moved = target[0], f"{target[1]}{place[1].removeprefix(source[1])}"
            self.files[moved] = self.files.pop(place)
        self._open_below(source)

    def delete_directory(self, directory: Place) -> None:
        """Removes a directory with all beneath it."""
        shutil.rmtree(self.path(directory))
        for place in self._below(directory):
            del self.files[place]
        self._open_below(directory)

    def close(self, directory: Place, *, closed: bool) -> None:
        """Takes away the permission to list a directory, or gives it back."""
        (self.closed.add if closed else self.closed.discard)(directory)

    def take_away(self, root: str, how: Away) -> None:
        """The drive of `root` is gone, with or without an empty mount point left behind."""
        (self.base / root).rename(self.base / f"{root} away")
        if how == "empty":
            (self.base / root).mkdir()
        self.away[root] = how

    def bring_back(self, root: str) -> None:
        """The drive of `root` is there again."""
        if self.away.pop(root) == "empty":
            (self.base / root).rmdir()
        (self.base / f"{root} away").rename(self.base / root)

    def tick(self) -> int:
        """A time of change that no other file has."""
        self._clock_ns += 10**9
        return self._clock_ns

    def _age(self, place: Place) -> None:
        stamp = self.files[place].mtime_ns
        os.utime(self.path(place), ns=(stamp, stamp))

    def _below(self, directory: Place) -> list[Place]:
        root, below = directory
        return sorted(place for place in self.files if place[0] == root and place[1].startswith(f"{below}/"))

    def _open_below(self, directory: Place) -> None:
        root, below = directory
        gone = {each for each in self.closed if each[0] == root and f"{each[1]}/".startswith(f"{below}/")}
        self.closed -= gone
