"""A folder of little pictures and captions, what changes in it, and what a collection of it must hold afterwards.

`MMSEARCH_TEST_MODEL` names a model to use instead of the tiny one.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmsearch.manifest import ModelRef
from mmsearch.model import Model
from mmsearch.snapshot import Candidate, Snapshot
from mmsearch.store import Item, Store

MODEL = os.environ.get("MMSEARCH_TEST_MODEL")
LONG_AGO_NS = 1_500_000_000 * 10**9

Facts = tuple[object, ...]
Key = tuple[bytes, int]


@dataclass(frozen=True)
class Outcome:
    """What a collection holds: the facts of each row, and the embeddings that a query finds, with the tokens of those
    that have some.
    """

    rows: dict[Key, Facts]
    embeddings: dict[Key, NDArray[np.float32]]
    tokens: dict[Key, NDArray[np.int8]]


def photo(path: Path, seed: int) -> None:
    """A picture of noise; the same seed gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    age(path, seed)


def captions(path: Path, *texts: str) -> None:
    """A table with one caption a row."""
    path.write_text("\n".join(["caption", *texts]), encoding="utf-8")
    age(path, len(texts))


def age(path: Path, seconds: int) -> None:
    """Makes a file look as if it was written long ago."""
    stamp = LONG_AGO_NS + seconds * 10**9
    os.utime(path, ns=(stamp, stamp))


def fill(folder: Path) -> None:
    """Forty pictures, some of them the same, captions, and files that cannot be read."""
    for place in range(40):
        photo(folder / f"{place % 3}/{place:02}.png", place if place % 10 else 0)
    captions(folder / "some.csv", "a dog", "a cat", "a dog and a cat")
    captions(folder / "more.csv", *(f"caption number {place}" for place in range(30)))
    for name, content in (("empty.jpg", b""), ("page.jpg", b"<html>"), ("cut.png", b"\x89PNG\r\n\x1a\n")):
        (folder / name).write_bytes(content)
        age(folder / name, 1)


def change(folder: Path) -> None:
    """New, changed, moved, copied, repaired and vanished files; captions that grow and shrink."""
    for place in range(0, 12, 3):
        photo(folder / f"0/{place:02}.png", 100 + place)
    (folder / "1").rename(folder / "moved")
    shutil.copy2(folder / "2/02.png", folder / "copy.png")
    for place in (5, 8, 11):
        (folder / f"2/{place:02}.png").unlink()
    photo(folder / "empty.jpg", 200)
    captions(folder / "some.csv", "a dog", "a bird", "a cat", "two dogs", "a dog and a cat", "nothing")
    captions(folder / "more.csv", *(f"caption number {place}" for place in range(5, 12)))


def outcome(collection: Path, model: Model) -> Outcome:
    """What the collection holds now; that no key and no id comes twice is asserted."""
    items = stored_items(collection, model)
    rows = {(item.root_id, item.path, item.part): facts(item) for item in items}
    assert len(rows) == len(items)
    assert len({item.id for item in items}) == len(items)
    embeddings: dict[Key, NDArray[np.float32]] = {}
    tokens: dict[Key, NDArray[np.int8]] = {}
    with Snapshot.open(collection) as snapshot:
        for number, segment in enumerate(snapshot.segments):
            for place in snapshot.live_rows(number).tolist():
                candidate = Candidate(number, place, int(segment.ids[place]), 0.0)
                row = snapshot.row(candidate)
                vector = snapshot.vector(row.id)
                assert vector is not None
                assert (row.path, row.part) not in embeddings
                embeddings[row.path, row.part] = vector.copy()
                if (some := snapshot.tokens([candidate])) is not None:
                    tokens[row.path, row.part] = some[0]
    return Outcome({(path, part): each for (_, path, part), each in rows.items()}, embeddings, tokens)


def stored_items(collection: Path, model: Model) -> list[Item]:
    """Every row of the tables."""
    with Store.open(collection, ModelRef(model.name, model.fingerprint, model.dim)) as store:
        return store.items(store.known_files().ids)


def facts(item: Item) -> Facts:
    """What a row says that does not depend on when and in which order things were done."""
    return (
        item.kind, item.status, item.reason, item.hash, item.size, item.mtime_ns, item.width, item.height,
        item.text, item.locator, item.missing_since is None,
    )  # fmt: skip


def assert_same(found: Outcome, expected: Outcome) -> None:
    """Both hold the same rows, embeddings and tokens."""
    assert found.rows == expected.rows
    assert found.embeddings.keys() == expected.embeddings.keys()
    for key, embedding in expected.embeddings.items():
        assert float(found.embeddings[key] @ embedding) >= 0.9999, key
    assert expected.tokens or MODEL
    assert found.tokens.keys() == expected.tokens.keys()
    for key, tokens in expected.tokens.items():
        # One step of rounding is what another batch may make of the same picture.
        assert np.abs(found.tokens[key].astype(int) - tokens).max() <= 1, key
