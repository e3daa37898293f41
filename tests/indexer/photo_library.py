"""Folders of little pictures and texts, the collection made of them, and what its tables and its snapshot hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmsearch import manifest as manifests
from mmsearch.indexer.decode import DecodePool
from mmsearch.indexer.discover import join_path
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.manifest import CollectionManifest, ModelRef
from mmsearch.model import Model, load_model
from mmsearch.snapshot import Candidate, Snapshot
from mmsearch.store import Item, Store
from mmsearch.types import IndexReport

# Long enough ago that nothing is read twice for having been written just now.
LONG_AGO_NS = 1_500_000_000 * 10**9

Key = tuple[bytes, int]


class Library:
    """`photos` is the folder, `collection` the directory of the collection; `warm_pool` decodes in all runs."""

    def __init__(self, base: Path, model_directory: Path, warm_pool: DecodePool) -> None:
        self.photos = base / "photos"
        self.photos.mkdir()
        self.collection = base / "collection"
        self.model: Model = load_model(model_directory, threads=1)
        self.warm_pool = warm_pool
        self._clock_ns = LONG_AGO_NS

    # -- files ---------------------------------------------------------------------------------------------------

    def photo(self, name: str | bytes, seed: int) -> Path:
        """A picture at `name`; those with the same seed are the same bytes."""
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        path = self._place(name)
        Image.fromarray(pixels).save(path, format="PNG")
        return self._age(path)

    def captions(self, name: str | bytes, *texts: str) -> Path:
        """A text file with one passage for each of `texts`."""
        return self.data(name, "\n".join(["caption", *texts]).encode())

    def data(self, name: str | bytes, content: bytes) -> Path:
        """A file with any content."""
        path = self._place(name)
        path.write_bytes(content)
        return self._age(path)

    def _place(self, name: str | bytes) -> Path:
        path = Path(os.fsdecode(os.path.join(os.fsencode(self.photos), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _age(self, path: Path) -> Path:
        self._clock_ns += 10**9
        os.utime(path, ns=(self._clock_ns, self._clock_ns))
        return path

    # -- the collection ------------------------------------------------------------------------------------------

    def index(self, *paths: Path, options: IndexOptions | None = None) -> IndexReport:
        """One run over `paths`, by default over all photos."""
        return index(self.collection, paths or [self.photos], self.model, options or IndexOptions())

    @property
    def manifest(self) -> CollectionManifest:
        """`collection.json` as it stands."""
        return manifests.read(self.collection)

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The tables."""
        with Store.open(self.collection, ModelRef(self.model.name, self.model.fingerprint, self.model.dim)) as store:
            yield store

    def items(self) -> dict[Key, Item]:
        """Every row of the tables, by absolute path and part."""
        roots = {root.id: root.path for root in self.manifest.roots}
        with self.store() as store:
            items = store.items(store.known_files().ids)
        by_key = {(join_path(roots[each.root_id], each.path), each.part): each for each in items}
        assert len(by_key) == len(items), "two rows have the same key"
        return by_key

    def names(self) -> list[str]:
        """The names of the files that can be found, below `photos`, sorted; one for each row."""
        return sorted(os.path.relpath(os.fsdecode(path), self.photos) for path, _ in self.found())

    def item(self, name: str, part: int = 0) -> Item:
        """The row of one file."""
        return self.items()[os.fsencode(self.photos / name), part]

    def found(self) -> dict[Key, NDArray[np.float32]]:
        """What a query may find, missing items left out: embeddings in the snapshot by absolute path and part."""
        rows: dict[Key, NDArray[np.float32]] = {}
        with Snapshot.open(self.collection) as snapshot:
            for number, segment in enumerate(snapshot.segments):
                for place in snapshot.live_rows(number).tolist():
                    row = snapshot.row(Candidate(number, place, int(segment.ids[place]), 0.0))
                    vector = snapshot.vector(row.id)
                    assert vector is not None
                    assert (row.path, row.part) not in rows, "two rows have the same key"
                    if not row.missing:
                        rows[row.path, row.part] = vector.copy()  # it may be a view of the mapped file
        return rows

    def tokens(self) -> dict[str, NDArray[np.int8] | None]:
        """The tokens in the snapshot of all pictures that can be found, by name below `photos`."""
        found: dict[str, NDArray[np.int8] | None] = {}
        with Snapshot.open(self.collection) as snapshot:
            anything = np.eye(1, snapshot.dim, dtype=np.float32)
            for near in snapshot.search(anything, 1000, kind="image")[0]:
                path = os.fsdecode(snapshot.row(near).path)
                tokens = snapshot.tokens([near])
                found[os.path.relpath(path, self.photos)] = None if tokens is None else tokens[0]
        return found

    def assert_tokens(self, *names: str) -> None:
        """The pictures that can be found are these, and their tokens are what the model makes of them now."""
        found = self.tokens()
        assert sorted(found) == sorted(names)
        _, expected = self.model.encode_images_with_tokens([self.photos / name for name in names])
        assert expected is not None
        for name, tokens in zip(names, expected, strict=True):
            some = found[name]
            assert some is not None, name
            # One step of rounding is what another batch may make of the same picture.
            np.testing.assert_allclose(some.astype(int), tokens, atol=1, err_msg=name)

    def embeddings(self, *names: str) -> NDArray[np.float32]:
        """What the model makes of these pictures now."""
        return self.model.encode_images([self.photos / name for name in names])
