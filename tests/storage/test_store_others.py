"""Embeddings of several models beside the same items: those that are not in use stay true."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from killed_commits import Killed, killed_after
from storage_builders import MODEL, item, unit_vectors, vector_of

from mmsearch.errors import CollectionError
from mmsearch.manifest import ModelRef
from mmsearch.store import Item, Store
from mmsearch.store_prune import manifests
from mmsearch.store_tables import StoredTable
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


def damage_newest(table: Path) -> None:
    newest = manifests(table)[0]
    newest.write_bytes(bytes(newest.stat().st_size))


def test_embeddings_that_were_dropped_do_not_come_back_with_an_older_version(filled: Path) -> None:
    with Store.open(filled, MODEL) as store:
        store.put(pictures(1, content=b"other"), {1: vector_of(1)})
    damage_newest(filled / "vectors/cafe.lance")
    with Store.open(filled, MODEL) as store:
        (warning,) = store.warnings
        assert "cafe.lance" in warning
        assert "moved to" in warning
        assert "embedded again" in warning
    assert [path.name.split("-")[0] for path in (filled / "quarantine").iterdir()] == ["cafe.lance"]
    assert embedded(filled, MODEL) == [1, 2, 3, 4, 5, 6]
    with Store.open(filled, WIDE) as store:
        assert store.warnings == ()
        assert not store.known_files().has_vector.any()


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ESTALE])
def test_a_table_that_cannot_be_read_just_now_stays_in_its_place(
    filled: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StoredTable._open_as_it_is

    def refused(self: StoredTable) -> object:
        if self.path.name == "cafe.lance":
            with self._reading():
                raise RuntimeError(f"lance error: Unable to open file x: {os.strerror(number)} (os error {number}), /y")
        return real(self)

    with monkeypatch.context() as patched:
        patched.setattr(StoredTable, "_open_as_it_is", refused)
        with pytest.raises(CollectionError, match=rf"cafe\.lance: cannot be read \({os.strerror(number)}\)") as raised:
            Store.open(filled, MODEL)
    assert type(raised.value) is CollectionError
    assert not (filled / "quarantine").exists()
    assert embedded(filled, WIDE) == [1, 2, 3, 4, 5, 6]


def test_a_table_whose_versions_cannot_be_listed_is_not_passed_over(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.listdir

    def locked(path: Path) -> list[str]:
        if Path(path) == filled / "vectors/cafe.lance/_versions":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    monkeypatch.setattr(os, "listdir", locked)
    with pytest.raises(CollectionError, match=r"cafe\.lance: cannot be read \(Permission denied\)"):
        Store.open(filled, MODEL)
    assert not (filled / "quarantine").exists()
