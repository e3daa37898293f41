"""C75 to C92: names that promise something else, names that are hard to carry, and things that are no small file."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path

from corpus_case import FOLDER, IGNORED, OK, CorpusCase, Expected, content, error, photo
from pictures import encode, scene
from rubbish import rubbish

SPECIAL_NAMES = ("-dash.jpg", "it's.jpg", "100%.jpg", "under_score.jpg", "star*.jpg", "what?.jpg", '"quoted".jpg')
NEAR_SPECIAL_NAMES = ("1000.jpg", "underXscore.jpg", "starry.jpg", "whatX.jpg")  # what a pattern would match as well
HUGE_BYTES = 50 * 1024**3
_REFUSED = "what the design calls skipped is an error with a reason: nothing is passed over in silence"
_NO_EXTENSION = "files without a known extension are ignored and counted"
_TOO_DEEP = "a folder whose path the operating system refuses is skipped, and named in every run"
_FOLDER_NAMED = "a folder named like a picture is a folder: what is in it is indexed"
_OVER_THE_CAP = "beyond 32 MiB a text is refused as too large rather than read in part"
_TEXT = "A caption about nothing in particular.\n"


def name_cases() -> list[CorpusCase]:
    """The cases of this group."""
    return [*_misnamed(), *_hard_to_carry(), *_no_usual_file(), *_texts()]


def _case(number: int, name: str, data: Callable[[], bytes], expected: Expected = OK, note: str = "") -> CorpusCase:
    return CorpusCase(f"C{number}", name, content(data), expected, note=note)


def _picture(number: int, name: str) -> CorpusCase:
    return _case(number, name, _small_picture)


def _misnamed() -> list[CorpusCase]:
    jpeg = content(lambda: encode(photo(), "JPEG"))
    return [
        CorpusCase("C75", "jpeg_named.heic", jpeg, twin=photo),
        CorpusCase("C76", "png_named.jpg", content(lambda: encode(photo(), "PNG")), twin=photo),
        _case(77, "eps.jpg", lambda: _rubbish()["eps.jpg"], error("unsupported_inside"), _REFUSED),
        _case(78, "svg.png", lambda: _rubbish()["svg.png"], error("unsupported_inside"), _REFUSED),
        _case(79, "pdf.jpg", lambda: _rubbish()["pdf.jpg"], error("unsupported_inside"), _REFUSED),
        _case(80, "no_extension", _small_picture, IGNORED, _NO_EXTENSION),
        _picture(81, "UPPER.JPG"),
        _picture(81, "mixed.JpEg"),
    ]


def _hard_to_carry() -> list[CorpusCase]:
    names = {
        82: (os.fsdecode(b"\xff.jpg"),),
        83: ("new\nline.jpg", "tab\tstop.jpg", "esc\x1b[2Jape.jpg"),
        84: (*SPECIAL_NAMES, *NEAR_SPECIAL_NAMES),
        85: ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        86: ("A.jpg", "a.jpg"),
        87: ("n" * 251 + ".jpg",),
        89: ("\u05e9\u05dc\u05d5\u05dd.jpg", "\U0001f600.jpg", "z\u0351\u036b\u0343.jpg", "\u202egpj.jpg"),
    }
    cases = [_picture(number, name) for number, group in names.items() for name in group]
    return [*cases, CorpusCase("C88", "deep", _write_deep, FOLDER, note=_TOO_DEEP)]


def _no_usual_file() -> list[CorpusCase]:
    special = error("unidentified")
    return [
        CorpusCase("C90", "fifo.jpg", os.mkfifo, special, note=_REFUSED),
        CorpusCase("C90", "socket.jpg", _make_socket, special, note=_REFUSED),
        CorpusCase("C90", "device.jpg", lambda path: os.mknod(path, stat.S_IFCHR, os.makedev(1, 3)), special),
        CorpusCase("C90", "folder.jpg/inside.jpg", _write_inside, note=_FOLDER_NAMED),
        CorpusCase("C91", "sparse.tif", lambda path: _write_sparse(path, HUGE_BYTES), error("too_large")),
    ]


def _texts() -> list[CorpusCase]:
    broken = _TEXT.encode() * 20 + b"\xff\xfe\xfd here\n"
    return [
        CorpusCase("C92", "two_gigabytes.txt", lambda path: _write_sparse(path, 2 * 1024**3), error("too_large")),
        _case(92, "utf_16.txt", lambda: _TEXT.encode("utf-16")),
        _case(92, "not_utf_8.txt", lambda: broken),
        _case(92, "line_of_100_megabytes.txt", lambda: b"word " * 20_000_000, error("too_large"), _OVER_THE_CAP),
        _case(92, "line_of_100_kilobytes.txt", lambda: b"word " * 20_000),
        _case(92, "some_nuls.txt", lambda: _TEXT.encode() * 20 + bytes(3)),
        _case(92, "all_nuls.txt", lambda: bytes(5000), error("unidentified", "empty")),
    ]


@cache
def _rubbish() -> dict[str, bytes]:
    return {each.name: each.data for each in rubbish()}


@cache
def _small_picture() -> bytes:
    return encode(scene(), "JPEG")


def _write_inside(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(_small_picture())


def _write_deep(path: Path) -> None:
    """Folders beyond the longest path that the operating system takes, with a picture in the last."""
    path.mkdir()
    folder = os.open(path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=folder)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    file = os.open("unreached.jpg", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=folder)
    os.write(file, _small_picture())
    os.close(file)
    os.close(folder)


def _make_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")  # the full path may be longer than a socket's may be
    finally:
        os.close(folder)


def _write_sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def raise_deep(path: Path) -> Path:
    """Move what is too deep below `path` up beside it, where it can be reached; return where the picture is then."""
    raised = path.with_name("raised")
    folder = os.open(path, os.O_RDONLY)
    for _ in range(9):
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.rename("d" * 250, raised, src_dir_fd=folder)
    os.close(folder)
    return Path(raised, *["d" * 250] * 10, "unreached.jpg")
