"""What is killed in the kill sweep: a command, the collection it meets, and what must be there in the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fault_server import FaultServer
from photo_scenes import Key, Outcome, change, fill, outcome, photo
from tiny_model import write_tiny_model

from mmsearch.model import load_model
from mmsearch.snapshot import Candidate, Snapshot
from mmsearch.snapshot_manifest import read_current
from mmsearch.store_manifest import read_version
from mmsearch.store_prune import manifests as table_manifests

Words = tuple[str, ...]


@dataclass(frozen=True)
class KillScene:
    """A command that is killed on a copy of `start` (None: there is no collection yet), `then` the commands that bring
    it to its end. `events` is how many it has when nobody kills it, `expected` what the collection holds then.

    With `damaged` the collection does not answer before the command has mended it. `ids` are those that were
    acknowledged before the damage, where the photos are out of reach from then on: nothing can come in anew.
    """

    name: str
    start: Path | None
    command: Words
    then: tuple[Words, ...]
    model: Path
    settings: dict[str, str] = field(default_factory=dict)
    damaged: bool = False
    ids: dict[Key, int] = field(default_factory=dict)
    events: int = 0
    expected: Outcome | None = None

    def copy(self, collection: Path) -> None:
        """Makes `collection` what the command meets."""
        if self.start is not None:
            shutil.copytree(self.start, collection)


NAMES = (
    *("first run", "run with changes", "other index", "compaction", "repair", "self-heal", "switch of the model"),
    *("repair without photos", "self-heal without photos"),
)
# Newest versions of a table that are damaged: more than what the last runs have written.
LOST_VERSIONS = 8


class Scenery:
    """All scenes over one folder, in the directory `base`, made when they are first asked for."""

    def __init__(self, base: Path, server: FaultServer) -> None:
        self._base = base
        self._server = server
        self._made: dict[str, KillScene] = {}
        self._photos = base / "photos"
        self._first, self._second = base / "start-first", base / "start-second"
        self._tiny = write_tiny_model(base / "tiny", itm=True)
        self._other = write_tiny_model(base / "other", name="other", seed=1, itm=True)
        fill(self._photos)
        self._index(self._first)

    def __getitem__(self, name: str) -> KillScene:
        if name not in self._made:
            self._made[name] = self._measured(self._scene(name))
        return self._made[name]

    @property
    def photos(self) -> Path:
        """The folder that is indexed."""
        return self._photos

    def _scene(self, name: str) -> KillScene:
        index: Words = ("index", str(self._photos), "--model", str(self._tiny))
        again: Words = ("index", str(self._photos))
        if name == "first run":
            return KillScene(name, None, index, (index,), self._tiny)
        if name == "switch of the model":
            switch: Words = ("index", "--model", str(self._other))
            return KillScene(name, self._first, switch, (switch,), self._other)
        if name == "run with changes":
            # Photos are the same for all scenes: what changes is in a folder of its own.
            return self._changed(name)
        if name == "other index":
            return KillScene(name, self._first, again, (again,), self._tiny, {"MMSEARCH_INDEX": "ivfpq"})
        if name == "compaction":
            return KillScene(name, self._first, ("optimize",), (("optimize",), again), self._tiny)
        if name == "repair":
            damaged = self._damaged("repair")
            (damaged / "CURRENT").unlink()
            return KillScene(name, damaged, ("repair",), (("repair",), again), self._tiny, damaged=True)
        if name == "repair without photos":
            return self._unplugged(name, ("repair",), self._lose_rows)
        if name == "self-heal without photos":
            few = self._base / "few"
            for place in range(3):
                photo(few / f"few-{place}.png", 300 + place)
            return self._unplugged(name, ("index", str(few)), self._lose_versions)
        assert name == "self-heal"
        return KillScene(name, self._damaged("heal"), again, (again,), self._tiny, damaged=True)

    def _changed(self, name: str) -> KillScene:
        photos = self._base / "changing"
        fill(photos)
        self._index(self._second, photos)
        change(photos)
        again: Words = ("index", str(photos))
        return KillScene(name, self._second, again, (again,), self._tiny)

    def _damaged(self, name: str) -> Path:
        """A collection whose newest table manifests were cut, as a power cut leaves them, and a segment too."""
        damaged = self._base / f"start-{name}"
        shutil.copytree(self._first, damaged)
        for table in (damaged / "items.lance", *(damaged / "vectors").iterdir()):
            newest = table_manifests(table)[0]
            newest.write_bytes(newest.read_bytes()[:40])
        vectors = sorted((damaged / "segments").glob("*/vectors.npy"))[0]
        vectors.write_bytes(vectors.read_bytes()[:-8])
        return damaged

    def _unplugged(self, name: str, command: Words, damage: Callable[[Path, Path], None]) -> KillScene:
        """A scene on a collection of photos that cannot be read any more, after `damage` to both of its tables."""
        start, photos = self._base / f"start-{name}", self._base / f"photos-{name}"
        fill(photos)
        self._index(start, photos)
        photos.rename(self._base / f"away-{name}")
        ids = found_ids(start)
        damage(start / "items.lance", next((start / "vectors").iterdir()))
        return KillScene(name, start, command, (command,), self._tiny, damaged=True, ids=ids)

    def _lose_rows(self, items: Path, vectors: Path) -> None:
        """Zeros where most of the items were, and embeddings as they once were."""
        fragment = max(read_version(table_manifests(items)[0]).fragments, key=lambda each: each.rows)
        (data,) = (items / each for each in fragment.data)
        data.write_bytes(bytes(data.stat().st_size))
        for manifest in table_manifests(vectors)[:LOST_VERSIONS]:
            manifest.write_bytes(b"")

    def _lose_versions(self, items: Path, vectors: Path) -> None:
        """Both tables as they once were."""
        for table in (items, vectors):
            for manifest in table_manifests(table)[:LOST_VERSIONS]:
                manifest.write_bytes(b"")

    def _index(self, collection: Path, photos: Path | None = None) -> None:
        words = ("index", str(photos or self._photos), "--model", str(self._tiny), "--collection", str(collection))
        ended = self._server.run(*words)
        assert ended.code == 0, ended.err
        assert read_current(collection) > 3

    def _measured(self, scene: KillScene) -> KillScene:
        collection = self._base / f"uninterrupted {scene.name}"
        scene.copy(collection)
        ended, *after = (
            self._server.run(*words, "--collection", collection, environment=scene.settings)
            for words in (scene.command, *scene.then)
        )
        assert [ended.code, *(each.code for each in after)] == [0] * (1 + len(after)), ended.err
        expected = outcome(collection, load_model(scene.model, threads=1))
        shutil.rmtree(collection)
        return KillScene(
            scene.name, scene.start, scene.command, scene.then, scene.model, scene.settings, scene.damaged, scene.ids,
            len(ended.events), expected,
        )  # fmt: skip


def found_ids(collection: Path) -> dict[Key, int]:
    """The ids of what a query may find."""
    ids: dict[Key, int] = {}
    with Snapshot.open(collection) as snapshot:
        for number, segment in enumerate(snapshot.segments):
            for place in snapshot.live_rows(number).tolist():
                row = snapshot.row(Candidate(number, place, int(segment.ids[place]), 0.0))
                ids[row.path, row.part] = row.id
    return ids
