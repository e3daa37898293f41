"""Embeddings of several models beside the same items: those that are not in use stay true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from killed_commits import Killed, killed_after
from storage_builders import MODEL, item, unit_vectors, vector_of

from mmsearch.manifest import ModelRef
from mmsearch.store import Item, Store
from mmsearch.types import Reason

WIDE = ModelRef("wide", "cafe", 24)
WIDE_VECTORS = dict(enumerate(unit_vectors(10, dim=24)))


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Pictures 1 to 3 and captions 4 to 6, with the embeddings of both models."""
    with Store.open(tmp_path, MODEL) as store:
        store.put(pictures(1, 2, 3) + captions(4, 5, 6), {id: vector_of(id) for id in range(1, 7)})
    with Store.open(tmp_path, WIDE) as store:
        store.embed({id: WIDE_VECTORS[id] for id in range(1, 7)})
    return tmp_path


def pictures(*numbers: int, content: bytes = b"") -> list[Item]:
    return [item(id, kind="image", hash=content or b"%d" % id) for id in numbers]


def captions(*numbers: int, text: str = "", digest: bytes = b"file") -> list[Item]:
    return [item(id, kind="text", part=id, hash=digest, text=text or f"caption {id}") for id in numbers]


def embedded(directory: Path, model: ModelRef) -> list[int]:
    """Ids of the items that `model` has an embedding for; they are those that were given."""
    with Store.open(directory, model, read_only=True) as store:
        known = store.known_files()
        ids = known.ids[known.has_vector]
        for id, vector in zip(ids.tolist(), store.vectors(ids), strict=True):
            assert vector @ (WIDE_VECTORS[id] if model is WIDE else vector_of(id)) > 0.999
        return [int(id) for id in ids]


def test_only_items_with_another_content_lose_what_other_models_made(filled: Path) -> None:
    with Store.open(filled, MODEL) as store:
        moved = [replace(each, path=b"elsewhere", missing_since=3) for each in pictures(1)]
        store.put(moved, {1: vector_of(1)})
        store.put(pictures(2, content=b"other"), {2: vector_of(2)})
        store.put(captions(4, digest=b"file changed"), {})
        store.put(captions(5, text="another"), {5: vector_of(5)})
        store.put([item(6, status="error", reason=Reason.TRUNCATED)], {})
        store.delete(np.array([3]))
    assert embedded(filled, MODEL) == [1, 2, 4, 5]
    assert embedded(filled, WIDE) == [1, 4]
    with Store.open(filled, WIDE, read_only=True) as store:
        for id in (2, 3, 5, 6):
            with pytest.raises(KeyError):
                store.vectors(np.array([id]))


def test_a_kill_leaves_no_embedding_of_another_model_beside_new_content(filled: Path) -> None:
    for commits in range(4):
        with Store.open(filled, MODEL) as store, killed_after(commits), pytest.raises(Killed):
            store.put(pictures(1, content=b"new"), {1: vector_of(1)})
            raise Killed
        with Store.open(filled, WIDE, read_only=True) as store:
            (row,) = store.items(np.array([1]))
            known = store.known_files()
            assert row.hash != b"new" or 1 not in known.ids[known.has_vector]
    assert embedded(filled, WIDE) == [2, 3, 4, 5, 6]


def test_new_embeddings_leave_rows_and_other_models_as_they_are(filled: Path) -> None:
    with Store.open(filled, WIDE) as store:
        before = store.items(np.arange(1, 7))
        store.embed({1: WIDE_VECTORS[1], 2: WIDE_VECTORS[2]})
        assert store.items(np.arange(1, 7)) == before
        with pytest.raises(ValueError, match="vector 9 belongs to no item"):
            store.embed({9: WIDE_VECTORS[9]})
    assert embedded(filled, MODEL) == [1, 2, 3, 4, 5, 6]


def test_other_models_are_listed_and_removed_also_when_a_removal_was_killed(filled: Path) -> None:
    vectors = filled / "vectors"
    with Store.open(filled, MODEL) as store:
        assert store.other_models() == (ModelRef("cafe", "cafe", 24),)
        store.remove_models_but([WIDE])
        assert len(store.other_models()) == 1
        store.remove_models_but([])
        assert store.other_models() == ()
    assert [path.stem for path in vectors.iterdir()] == [MODEL.fingerprint]
    (vectors / "half.removed/data").mkdir(parents=True)
    Store.open(filled, MODEL).close()
    assert [path.stem for path in vectors.iterdir()] == [MODEL.fingerprint]


def test_items_can_move_before_the_model_in_use_has_embedded_them(filled: Path) -> None:
    with Store.open(filled, ModelRef("third", "beef", 8)) as store:
        store.put([replace(each, path=b"moved") for each in pictures(1)], {})
        assert store.items(np.array([1]))[0].path == b"moved"
    assert 1 in embedded(filled, WIDE)
