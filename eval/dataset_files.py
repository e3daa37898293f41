"""Readers of a CSV and of a folder of pictures with sidecars. Each returns a `Listing`."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmsearch.errors import DatasetError
from mmsearch.eval.dataset_entries import Listing, Pair, Problem, plain_name
from mmsearch.image_formats import IMAGE_EXTENSIONS
from mmsearch.safe_text import safe_path

COLUMNS = ("image", "caption")


def read_csv(source: Path) -> Listing:
    """Return the rows of a CSV with a header that has `image` and `caption`; UTF-8, with or without a byte order mark.

    Raises:
        DatasetError: it is not UTF-8 or not a CSV, lacks a column, or a row has another number of fields; with the
        line.
    """
    data = source.read_bytes()
    rows = _csv_rows(source.name, data)
    _, header = next(rows, (1, []))
    if not set(COLUMNS) <= set(header):
        raise DatasetError(f"{source.name} has the header {header}, expected the columns image,caption")
    at_image, at_caption = (header.index(column) for column in COLUMNS)
    pairs: list[Pair] = []
    problems: list[Problem] = []
    seen: set[tuple[str, str]] = set()
    for line, row in rows:
        if not row:
            continue
        if len(row) != len(header):
            raise DatasetError(
                f"{source.name} line {line} has {len(row)} fields, expected {len(header)}; quote a caption with a comma"
            )
        where, image, caption = f"line {line}", plain_name(row[at_image].strip()), row[at_caption].strip()
        if not row[at_image].strip():
            raise DatasetError(f"{source.name} {where} names no image, expected a path relative to the CSV")
        if not caption:
            problems.append(Problem("blank captions", where, image))
        elif (image, caption) in seen:
            problems.append(Problem("doubled rows", where, image))
        else:
            pairs.append(Pair(image, caption, f"{image}#{_short_hash(caption)}", where))
        seen.add((image, caption))
    return Listing("csv", None, hashlib.sha256(data).hexdigest(), tuple(pairs), tuple(problems))


def read_folder(folder: Path) -> Listing:
    """Return the pictures below `folder` with the captions of their sidecars: x.jpg and x.txt, one caption a line.

    A picture without a sidecar stays in the gallery as a distractor. A sidecar belongs to every picture of its name.
    Hidden files and folders are left out, and folders that are links are not entered.

    Raises:
        DatasetError: there is no picture, or a sidecar is not UTF-8, no regular file, or a link to outside.
    """
    pictures, sidecars = _files_below(folder)
    if not pictures:
        raise DatasetError(f"{folder} holds no picture, expected x.jpg with x.txt beside it")
    _require_inside(folder, sidecars.values())
    digest = hashlib.sha256()
    pairs: list[Pair] = []
    stems = set(pictures.values())
    alone = [name for stem, name in sidecars.items() if stem not in stems]
    problems = [Problem("sidecars without a picture", name, "") for name in alone]
    captions = {stem: _sidecar_lines(folder / name, name, digest) for stem, name in sidecars.items()}
    for image, stem in pictures.items():
        digest.update(os.fsencode(image) + b"\0")
        lines = captions.get(stem)
        if not lines:
            if lines is not None:
                problems.append(Problem("blank captions", sidecars[stem], ""))
            pairs.append(Pair(image, None, "", image))
            continue
        pairs.extend(Pair(image, text, f"{sidecars[stem]}#{line:05d}", image) for line, text in lines)
    bare = sum(pair.caption is None for pair in pairs)
    notes = (f"{bare} images have no captions and stay in the gallery as distractors",) if bare else ()
    return Listing("folder", None, digest.hexdigest(), tuple(pairs), tuple(problems), notes)


def _csv_rows(name: str, data: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield every row with the number of the line it starts on."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(f"{name} line {line} is not UTF-8 ({error.reason}); save the file as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(
            f"{name} line {line} is not CSV: {error}; double the quotes inside a quoted field"
        ) from error


def _files_below(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the pictures as name -> stem and the sidecars as stem -> name, relative with '/', in order of names."""
    pictures: dict[str, str] = {}
    sidecars: dict[str, str] = {}
    for directory, subfolders, names in os.walk(folder, onerror=_refuse_unlistable):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):  # macOS puts ._x.jpg beside x.jpg
            relative = (Path(directory) / name).relative_to(folder)
            stem = relative.with_suffix("").as_posix()
            if relative.suffix.lower() in IMAGE_EXTENSIONS:
                pictures[relative.as_posix()] = stem
            elif relative.suffix.lower() == ".txt":
                sidecars[stem] = relative.as_posix()
    return dict(sorted(pictures.items())), dict(sorted(sidecars.items()))


def _refuse_unlistable(error: OSError) -> None:
    raise DatasetError(
        f"{error.filename}: cannot be listed ({error.strerror}); its pictures would be left out"
    ) from error


def _require_inside(folder: Path, sidecars: Iterable[str]) -> None:
    """Refuse a sidecar that is a link to outside, whose text is not ours to show, or a pipe, which never ends."""
    resolved = folder.resolve()
    for name in sidecars:
        sidecar = folder / name
        if not sidecar.is_file() or not sidecar.resolve().is_relative_to(resolved):
            raise DatasetError(
                f"{safe_path(name)} is no regular file below {safe_path(str(folder))}, expected captions"
            )


def _sidecar_lines(path: Path, name: str, digest: hashlib._Hash) -> list[tuple[int, str]]:
    """Return the lines that are not blank, stripped, with their numbers."""
    data = path.read_bytes()
    digest.update(os.fsencode(name) + b"\0" + data + b"\0")
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{name} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
