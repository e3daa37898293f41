"""Tokens of pictures, for a model with a matching head, go wherever their embeddings go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from index_reports import counts
from photo_library import Library

from mmsearch.encoder import OnnxEncoder
from mmsearch.errors import ModelError
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.indexer.repair import repair
from mmsearch.indexer.space import require_space
from mmsearch.indexer.write import BatchLimits
from mmsearch.model import load_model


def test_every_picture_gets_its_own_tokens_and_no_sentence_any(itm_library: Library) -> None:
    names = [f"{number}.png" for number in range(20)]
    for number, name in enumerate(names):
        itm_library.photo(name, number)
    itm_library.captions("notes.csv", "one", "two")
    assert counts(itm_library.index()) == {"indexed": 21, "items": 22}
    itm_library.assert_tokens(*names)
    with itm_library.store() as store:
        items = store.items(store.known_files().ids)
        for item, tokens in zip(items, store.tokens(store.known_files().ids), strict=True):
            assert (tokens is not None) == (item.kind == "image")


def test_moves_copies_and_swaps_take_tokens_along(itm_library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(["a.png", "b.png", "c.png"]):
        itm_library.photo(name, number)
    itm_library.index()
    photos = itm_library.photos
    (photos / "a.png").rename(photos / "moved.png")
    shutil.copy2(photos / "b.png", photos / "copy.png")
    (photos / "b.png").rename(photos / "aside.png")
    (photos / "c.png").rename(photos / "b.png")
    (photos / "aside.png").rename(photos / "c.png")
    with monkeypatch.context() as patched:
        patched.setattr(OnnxEncoder, "_session", None)
        itm_library.index()
    itm_library.assert_tokens("moved.png", "b.png", "c.png", "copy.png")


def test_the_same_content_in_one_run_is_embedded_once_with_its_tokens(itm_library: Library) -> None:
    for name in ["a.png", "b.png", "deep/c.png"]:
        itm_library.photo(name, 5)
    itm_library.index(options=IndexOptions(batch=BatchLimits(files=1)))
    itm_library.assert_tokens("a.png", "b.png", "deep/c.png")


def test_new_content_gets_new_tokens_and_a_file_that_fails_loses_them(itm_library: Library) -> None:
    itm_library.photo("a.png", 1)
    itm_library.photo("b.png", 2)
    itm_library.index()
    itm_library.photo("a.png", 3)
    itm_library.data("b.png", b"\x89PNG and no more")
    itm_library.index()
    itm_library.assert_tokens("a.png")


def test_a_picture_that_the_model_fails_on_costs_that_picture_alone(
    itm_library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        itm_library.photo(f"{number}.png", number)
    real, bad = OnnxEncoder.encode_pixels_with_tokens, _pixels_of(itm_library, "2.png")

    def encode(self: OnnxEncoder, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        if any((each == bad).all() for each in pixels):
            raise ModelError("gave tokens of the wrong kind")
        return real(self, pixels)

    monkeypatch.setattr(OnnxEncoder, "encode_pixels_with_tokens", encode)
    report = itm_library.index()
    assert [Path(each.path).name for each in report.skipped] == ["2.png"]
    monkeypatch.undo()
    assert sorted(itm_library.tokens()) == ["0.png", "1.png", "3.png"]


def _pixels_of(library: Library, name: str) -> np.ndarray:
    from mmsearch.image_input import input_pixels

    return input_pixels(library.photos / name, library.model.preprocess, number=None)


def test_pictures_of_a_time_without_a_head_stay_findable_beside_those_with_tokens(
    itm_library: Library, tiny_itm_model_dir: Path, tmp_path: Path
) -> None:
    headless = shutil.copytree(tiny_itm_model_dir, tmp_path / "headless")
    table = json.loads((headless / "manifest.json").read_text("utf-8"))
    del table["itm"]
    (headless / "manifest.json").write_text(json.dumps(table), "utf-8")
    with_head, itm_library.model = itm_library.model, load_model(headless, threads=1)
    assert itm_library.model.fingerprint == with_head.fingerprint
    itm_library.photo("old.png", 1)
    itm_library.index()
    itm_library.model = with_head
    itm_library.photo("new.png", 2)
    itm_library.index()
    for _ in range(2):
        found = itm_library.tokens()
        assert sorted(found) == ["new.png", "old.png"]
        assert found["old.png"] is None
        assert found["new.png"] is not None
        # Published anew, both come in one go.
        (itm_library.collection / "CURRENT").unlink()
        repair(itm_library.collection)


def test_room_on_the_disk_is_asked_for_tokens_too(itm_library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(directory: Path, *, items: int, embedding_bytes: int) -> None:
        asked.append(embedding_bytes)
        require_space(directory, items=items, embedding_bytes=embedding_bytes)

    monkeypatch.setattr("mmsearch.indexer.pipeline.require_space", note)
    itm_library.photo("a.png", 1)
    itm_library.index()
    assert set(asked) == {2 * 16 + 4 * 8}
