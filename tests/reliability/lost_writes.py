"""A disk that forgets: what a run wrote, renamed, linked and pushed to it, and what a power cut may leave of that.

Read from a trace of strace. What was not pushed is not safe: neither the bytes of a file, nor a name in a directory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from photo_scenes import Key

CALLS = (
    *("openat", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "lseek", "link", "linkat"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"),
)
# What would bypass the record.
UNREAD = ("writev", "pwritev", "sendfile", "copy_file_range", "truncate", "fallocate")
OPTIONS = ("-y", "-xx", "-s", "16000000")

Loss = Literal["all", "bytes", "half", "some"]
LOSSES: tuple[Loss, ...] = ("all", "bytes", "half", "some")

_LINE = re.compile(r"^(\d+) +(?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))$")
_HEX = re.compile(r"(?:\\x[0-9a-f]{2})+")
_DESCRIPTOR = re.compile(r"(\d+|AT_FDCWD)<([^>]*)>")


@dataclass(frozen=True)
class Call:
    """One system call that succeeded: the paths in it, in order; the number of its descriptor; its bytes and result."""

    name: str
    paths: tuple[str, ...]
    descriptor: str
    data: bytes
    words: tuple[str, ...]
    result: int


def calls_in(lines: list[str]) -> Iterator[Call]:
    """The calls of a trace in the order in which they ended."""
    begun: dict[str, tuple[str, str]] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        thread, name, rest, resumed, end = match.groups()
        if name is not None and rest.endswith("<unfinished ...>"):
            begun[thread] = name, rest.removesuffix("<unfinished ...>")
            continue
        if resumed is not None:
            name, start = begun.pop(thread, (resumed, ""))
            rest = start + end
        if (call := _call(name, rest)) is not None:
            yield call


def _call(name: str, rest: str) -> Call | None:
    arguments, _, answer = rest.rpartition(") ")
    number = re.match(r"\s*= (-?\d+)", answer)
    if number is None or int(number[1]) < 0:
        return None
    descriptors = [(each[1], _bytes(each[2])) for each in _DESCRIPTOR.finditer(arguments)]
    strings = [_bytes(each) for each in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
    words = tuple(each.strip() for each in re.sub(r'"[^"]*"|<[^>]*>', "", arguments).split(","))
    if name in ("write", "pwrite64", "ftruncate", "fsync", "fdatasync", "lseek"):
        descriptor, path = descriptors[0] if descriptors else (words[0], b"")
        return Call(name, (_text(path),), descriptor, b"".join(strings), words, int(number[1]))
    base = [path for _, path in descriptors] or [b""]
    paths = tuple(_text(base[min(place, len(base) - 1)] + b"/" + each if each[:1] != b"/" else each)
                  for place, each in enumerate(strings))  # fmt: skip
    return Call(name, paths, number[1], b"", words, int(number[1]))


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


@dataclass
class File:
    """What a file holds, and what of that is on the disk: None before it was ever pushed."""

    data: bytearray
    safe: bytes | None = None


@dataclass
class Disk:
    """The files and directories below `top`, as programs see them and as a power cut would leave them.

    `acknowledged` are the rows that were said to be safe by now.
    """

    top: str
    names: dict[str, File | None] = field(default_factory=dict)
    safe_names: dict[str, File | None] = field(default_factory=dict)
    acknowledged: set[Key] = field(default_factory=set)
    _offsets: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path) -> Disk:
        """The directory as it is, all of it safe."""
        disk = cls(str(directory))
        disk.names[disk.top] = None
        for path in directory.rglob("*"):
            content = None if path.is_dir() else path.read_bytes()
            disk.names[str(path)] = None if content is None else File(bytearray(content), content)
        disk.safe_names = dict(disk.names)
        return disk

    def apply(self, call: Call) -> bool:
        """Does what the call did; whether it changed anything."""
        if call.name == "write" and call.paths[0].endswith("-published"):
            rows = json.loads(call.data)["rows"]
            self.acknowledged = {(bytes.fromhex(path), part) for path, part in rows}
            return False
        if not all(path == self.top or path.startswith(self.top + "/") for path in call.paths):
            return False
        return bool(getattr(self, f"_{call.name.removesuffix('at').removesuffix('at2').removesuffix('64')}")(call))

    def _open(self, call: Call) -> bool:
        path = call.paths[0]
        self._offsets[call.descriptor] = 0
        flags = " ".join(call.words)
        existing = self.names.get(path)
        if "O_CREAT" in flags and path not in self.names:
            self.names[path] = File(bytearray())
            return True
        if "O_TRUNC" in flags and existing is not None:
            existing.data.clear()
            return True
        return False

    def _write(self, call: Call) -> bool:
        offset = self._offsets.get(call.descriptor, 0)
        self._offsets[call.descriptor] = offset + call.result
        return self._put(call, offset)

    def _pwrite(self, call: Call) -> bool:
        return self._put(call, int(call.words[-1]))

    def _put(self, call: Call, offset: int) -> bool:
        file = self.names.get(call.paths[0])
        if file is not None:
            file.data.extend(bytes(max(offset - len(file.data), 0)))
            file.data[offset : offset + call.result] = call.data[: call.result]
        return file is not None

    def _lseek(self, call: Call) -> bool:
        self._offsets[call.descriptor] = call.result
        return False

    def _ftruncate(self, call: Call) -> bool:
        file = self.names.get(call.paths[0])
        if file is not None:
            size = int(call.words[-1])
            file.data.extend(bytes(max(size - len(file.data), 0)))
            del file.data[size:]
        return file is not None

    def _fsync(self, call: Call) -> bool:
        path = call.paths[0]
        file = self.names.get(path)
        if file is not None:
            file.safe = bytes(file.data)
        elif path in self.names:
            for name in [name for name in self.safe_names if _parent(name) == path]:
                del self.safe_names[name]
            self.safe_names |= {name: what for name, what in self.names.items() if _parent(name) == path}
        return True

    _fdatasync = _fsync

    def _rename(self, call: Call) -> bool:
        old, new = call.paths
        for name in [name for name in self.names if name == old or name.startswith(old + "/")]:
            self.names[new + name[len(old) :]] = self.names.pop(name)
        return True

    def _link(self, call: Call) -> bool:
        self.names[call.paths[1]] = self.names[call.paths[0]]
        return True

    def _unlink(self, call: Call) -> bool:
        return self.names.pop(call.paths[0], self) is not self

    _rmdir = _unlink

    def _mkdir(self, call: Call) -> bool:
        self.names[call.paths[0]] = None
        return True

    def left_by_a_power_cut(self, loss: Loss, target: Path) -> None:
        """Makes `target` what a cut now may leave: without anything that was not pushed; with all names, but without
        the bytes that were not, or with half of them; or with some of the names and bytes.
        """
        names = dict(self.safe_names if loss == "all" else self.names)
        if loss == "some":
            for name in {*self.names, *self.safe_names}:
                if _coin(name):
                    names.pop(name, None)
                    if name in self.safe_names:
                        names[name] = self.safe_names[name]
        target.mkdir(parents=True)
        for name in sorted(names, key=lambda name: name.count("/")):
            path = target / name[len(self.top) :].lstrip("/")
            if not path.parent.is_dir():
                continue  # the directory that would hold it was lost
            file = names[name]
            if file is None:
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(_left(file, loss, name))


def _left(file: File, loss: Loss, name: str) -> bytes:
    if bytes(file.data) == file.safe:
        return file.safe
    if loss == "half" or (loss == "some" and _coin(name + "?")):
        return bytes(file.data[: len(file.data) // 2])
    return file.safe or b""


def _coin(text: str) -> bool:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[0] % 2 == 0


def _parent(name: str) -> str:
    return name.rpartition("/")[0]
