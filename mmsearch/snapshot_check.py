"""Are the snapshots what was published? `CURRENT`, the manifests, and the files of all segments they name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmsearch.errors import CollectionError, CollectionNotFound
from mmsearch.examination import REPAIR, Examination, Expected
from mmsearch.segment import INDEX_FILE
from mmsearch.snapshot import Ids, Snapshot
from mmsearch.snapshot_manifest import (
    CURRENT_FILE,
    SEGMENTS_DIRECTORY,
    SnapshotHead,
    SnapshotManifest,
    manifest_path,
    read_current,
    read_manifest,
)
from mmsearch.snapshot_unfinished import current_went_back, snapshot_numbers

_ANEW = f"{REPAIR} publishes it anew from the tables"
_AGAIN = f"{REPAIR} names the newest snapshot again, or publishes one from the tables"
_UNUSED = f"{REPAIR} puts that older snapshot aside: queries do without"
_INDEX_AGAIN = f"{REPAIR} makes it anew: until then queries take longer"


@dataclass(frozen=True, slots=True)
class Live:
    """The snapshot that queries open: what it says of the collection, and ids and revisions of its rows by id."""

    number: int
    head: SnapshotHead
    ids: Ids
    revisions: Ids


def examine_snapshots(directory: Path, found: Examination) -> Live | None:
    """The live snapshot, None where nothing has been published or it cannot be opened; notes in `found` what is wrong
    with any snapshot, and what has to be compared.
    """
    numbers = snapshot_numbers(directory)
    current = _current(directory, numbers, found)
    manifests = {number: manifest for number in numbers if (manifest := _manifest(directory, number, current, found))}
    expected: dict[Path, Expected] = {}
    # A file of the live snapshot is more than the same file of the one before.
    for number, manifest in sorted(manifests.items(), key=lambda each: each[0] == current):
        for info in manifest.segments:
            for name, file in info.files.items():
                path = directory / SEGMENTS_DIRECTORY / info.name / name
                remedy = _UNUSED if number != current else _INDEX_AGAIN if name == INDEX_FILE else _ANEW
                expected[path] = Expected(path, file, remedy)
    found.expected.extend(expected.values())
    return None if current is None else _live(directory, current, found)


def _current(directory: Path, numbers: list[int], found: Examination) -> int | None:
    """The number of the live snapshot, None, and noted, where there is none."""
    path = directory / CURRENT_FILE
    try:
        number = read_current(directory)
        content = path.read_bytes()
    except CollectionNotFound:
        return None
    except (OSError, CollectionError) as error:
        found.blame(path, _bare(path, error), _AGAIN)
        return None
    if content != f"{number}\n".encode("ascii"):
        found.blame(path, f"holds {content[:20]!r}, not {number} as it would be written", _AGAIN)
    elif number not in numbers:
        found.blame(path, f"names snapshot {number}, which is not there", _AGAIN)
    elif current_went_back(directory, number, numbers):
        found.blame(path, f"names snapshot {number}, and a newer one was published", _AGAIN)
    else:
        found.saw(len(content))
    return number


def _manifest(directory: Path, number: int, current: int | None, found: Examination) -> SnapshotManifest | None:
    path = manifest_path(directory, number)
    try:
        manifest = read_manifest(directory, number)
        found.saw(path.stat().st_size)
        return manifest
    except FileNotFoundError:
        return None  # removed by a publisher since it was listed
    except (OSError, CollectionError) as error:
        found.blame(path, _bare(path, error), _ANEW if number == current else _UNUSED)
        return None


def _live(directory: Path, number: int, found: Examination) -> Live | None:
    """The snapshot with the number `number`, opened as a query does; None, and noted, when it cannot be."""
    try:
        with Snapshot.open(directory) as snapshot:
            ids, revisions = (column.copy() for column in snapshot.live_keys())
            head = snapshot.head
    except (OSError, CollectionError) as error:
        name = str(error).split(": ", 1)[0]
        found.blame(Path(name) if name.startswith("/") else directory / CURRENT_FILE, _bare(Path(name), error), _ANEW)
        return None
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        found.blame(manifest_path(directory, number), f"holds {len(twice):,} ids twice (first: {twice[0]})", _ANEW)
    return Live(number, head, ids, np.asarray(revisions))


def _bare(path: Path, error: Exception) -> str:
    """The complaint without the name of the file and without advice."""
    return str(error).removeprefix(f"{path}: ").removesuffix("; run `mmsearch repair`")
