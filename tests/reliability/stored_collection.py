"""A small collection with every kind of file that one can have, and ways to damage its files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from mmsearch import manifest as manifests
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.indexer.switch import Wish
from mmsearch.model import Model
from mmsearch.snapshot import Candidate, Snapshot
from mmsearch.store_manifest import TableVersion, read_version
from mmsearch.store_prune import manifests as table_manifests
from mmsearch.types import IndexReport

Place = tuple[bytes, int]


@dataclass(frozen=True)
class Stored:
    """A collection at `directory`, of the files in `photos`, embedded by `model`."""

    directory: Path
    photos: Path
    model: Model

    def index(self, options: IndexOptions | None = None) -> IndexReport:
        """One run over all photos."""
        return index(self.directory, [self.photos], self.model, options or IndexOptions())

    def copy(self, to: Path) -> Stored:
        """The same collection once more, below `to`, of the same photos."""
        shutil.copytree(self.directory, to / "copy", symlinks=True)
        return replace(self, directory=to / "copy")

    @property
    def tables(self) -> dict[str, Path]:
        """The table of items, and that of the embeddings in use."""
        vectors = self.directory / "vectors" / f"{self.model.fingerprint}.lance"
        return {"items": self.directory / "items.lance", "vectors": vectors}

    def head(self, table: str) -> TableVersion:
        """The newest version of a table."""
        return read_version(table_manifests(self.tables[table])[0])

    def files(self) -> Iterator[Path]:
        """Every file, sorted."""
        yield from sorted(path for path in self.directory.rglob("*") if path.is_file())

    def found(self) -> dict[Place, tuple[int, np.ndarray]]:
        """Id and embedding of whatever a query may find, by path and part."""
        rows: dict[Place, tuple[int, np.ndarray]] = {}
        with Snapshot.open(self.directory) as snapshot:
            for number, segment in enumerate(snapshot.segments):
                for place in snapshot.live_rows(number).tolist():
                    row = snapshot.row(Candidate(number, place, int(segment.ids[place]), 0.0))
                    vector = snapshot.vector(row.id)
                    assert vector is not None and (row.path, row.part) not in rows
                    rows[row.path, row.part] = row.id, vector.copy()
        return rows


def write_photos(folder: Path, numbers: range) -> None:
    """Small pictures, one for each of `numbers`."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


def build(base: Path, model: Model, *, kept: Model | None = None) -> Stored:
    """Runs that add, change and remove; so there are old versions, deletions, two snapshots and several segments. With
    `kept`, that is the model at first, and its embeddings stay.
    """
    stored = Stored(base / "collection", base / "photos", kept or model)
    write_photos(stored.photos, range(8))
    stored.index()
    (stored.photos / "words.csv").write_text("caption\na red square\na blue square\n")
    stored.index()
    if kept is not None:
        stored = replace(stored, model=model)
        stored.index(IndexOptions(models=Wish(switch=True, keep_old=True)))
    (stored.photos / "003.png").unlink()
    (stored.photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    stored.index(IndexOptions(prune=True))
    write_photos(stored.photos, range(20, 24))
    stored.index()
    return stored


def flip(path: Path, place: int, bit: int) -> None:
    """Changes one bit of a file, and its time as little as a failing disk does."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def _zeroed(data: bytes) -> bytes:
    return bytes(len(data))


def _emptied(data: bytes) -> bytes:
    return b""


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": _emptied,
    "cut": _cut,
    "zeros": _zeroed,
    "one bit": _flipped,
}
DAMAGES = (*CHANGES, "gone")


def damage(path: Path, how: str) -> None:
    """Does to a file what `how`, one of `DAMAGES`, says."""
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(CHANGES[how](path.read_bytes()))


def marker(stored: Stored) -> manifests.CollectionManifest:
    """`collection.json`, read."""
    return manifests.read(stored.directory)
