"""Any bytes as a manifest of a collection, a snapshot or a model: our own errors, or a manifest."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_strategies import DEPTHS, changed, damaged, dumped, nested
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from storage_builders import HEAD, MODEL, ROOT, segment_row, vector_of

from mmsearch import manifest, snapshot_manifest
from mmsearch.checked_json import dump_checked, load_checked, parse_object
from mmsearch.errors import CollectionDamaged, CollectionError, MMSearchError, ModelError
from mmsearch.manifest import CollectionManifest, ModelSwitch
from mmsearch.model_manifest import load_model_manifest, parse_manifest, verify
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_writer import Block, SnapshotWriter

pytestmark = [pytest.mark.case("S43"), pytest.mark.usefixtures("bounded")]
FUZZ = settings(settings.get_profile("fuzz"))

COLLECTION: dict[str, Any] = {
    **load_checked(dump_checked({})),
    "format": 2,
    "roots": manifest.roots_to_json((ROOT,)),
    "model": {"name": "mini", "fingerprint": "ab" * 16, "dim": 16, "location": "/models/mini"},
    "next_id": 7,
    "switch": {"to": {"name": "other", "fingerprint": "cd" * 16, "dim": 8}, "keep_old": True},
    "kept_models": [{"name": "old", "fingerprint": "ef" * 16, "dim": 4}],
}


def checked(body: dict[str, Any]) -> bytes:
    """`body` with a checksum that fits, as somebody who means it would write it; plain JSON where that cannot be."""
    try:
        return dump_checked(body)
    except ValueError:
        return dumped(body)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection directory with one published snapshot of two rows."""
    directory = tmp_path_factory.mktemp("published") / "collection"
    manifest.create(directory)
    manifest.write(directory, CollectionManifest((ROOT,), MODEL, 5, ModelSwitch(MODEL), ()))
    rows = [segment_row(1), segment_row(2)]
    block = Block(rows, np.stack([vector_of(1), vector_of(2)]))
    SnapshotWriter(directory).publish(HEAD, previous=None, added=[block])
    return directory


@FUZZ
@given(body=changed(COLLECTION))
@example(body={**COLLECTION, "model": [1]})
@example(body={**COLLECTION, "switch": {"to": [], "keep_old": 1}})
@example(body={**COLLECTION, "kept_models": [[]]})
def test_a_collection_manifest_with_anything_changed_is_read_or_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    (tmp_path / manifest.FILE_NAME).write_bytes(checked(body))
    with contextlib.suppress(CollectionError):
        assert isinstance(manifest.read(tmp_path), CollectionManifest)


@FUZZ
@given(data=st.binary(max_size=200) | damaged(dump_checked(COLLECTION)))
@example(data=nested(DEPTHS[0]))
@example(data=nested(DEPTHS[1]))
@example(data=nested(DEPTHS[2]))
def test_any_bytes_as_a_collection_manifest_are_refused(tmp_path: Path, data: bytes) -> None:
    assume(data != dump_checked(COLLECTION))
    (tmp_path / manifest.FILE_NAME).write_bytes(data)
    with pytest.raises(CollectionError):
        manifest.read(tmp_path)


@pytest.mark.parametrize("depth", range(100, 1_000, 50))
def test_no_depth_of_a_checked_document_is_more_than_can_be_refused(depth: int) -> None:
    data = b'{"a": ' + nested(depth) + b"}"
    with pytest.raises(ValueError, match=r"nested|checksum"):
        load_checked(data)


@FUZZ
@given(data=st.binary(max_size=80))
@example(data=b"9" * 5000)
@example(data=b'{"a": 1e999}')
def test_any_bytes_are_an_object_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_object(data), dict)


@FUZZ
@given(data=st.data())
def test_a_snapshot_manifest_with_anything_changed_opens_or_is_refused(published: Path, data: st.DataObject) -> None:
    number = snapshot_manifest.read_current(published)
    path = snapshot_manifest.manifest_path(published, number)
    sound = path.read_bytes()
    try:
        path.write_bytes(checked(data.draw(changed(load_checked(sound)))))
        with Snapshot.open(published) as snapshot:
            list(snapshot.roots)
    except (CollectionError, FileNotFoundError):
        pass
    finally:
        path.write_bytes(sound)


@pytest.mark.parametrize("name", ["rows.npy", "strings.bin", "dirs.npy", "vectors.npy"])
def test_a_segment_without_one_of_its_files_is_damage(published: Path, name: str) -> None:
    path = snapshot_manifest.manifest_path(published, snapshot_manifest.read_current(published))
    sound = path.read_bytes()
    body = load_checked(sound)
    del body["segments"][0]["files"][name]
    path.write_bytes(dump_checked(body))
    try:
        with pytest.raises(CollectionDamaged, match=f"names no {name}"):
            Snapshot.open(published)
    finally:
        path.write_bytes(sound)


@FUZZ
@given(data=st.data())
def test_a_model_manifest_with_anything_changed_is_read_or_refused(
    tmp_path: Path, tiny_itm_model_dir: Path, data: st.DataObject
) -> None:
    sound = json.loads((tiny_itm_model_dir / "manifest.json").read_bytes())
    table = data.draw(changed(sound))
    try:
        found = parse_manifest(table, tiny_itm_model_dir, file="manifest.json")
        assert len(found.fingerprint) == 32
        verify(found)
    except ModelError:
        pass


@FUZZ
@given(data=st.binary(max_size=100) | damaged(b'{"format": 1, "name": "tiny", "files": {"\\ud800": {"bytes": 1}}}'))
@example(data=nested(DEPTHS[2]))
@example(data=b'{"format": ' + b"9" * 5000 + b"}")
def test_any_bytes_as_a_model_manifest_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(MMSearchError):
        load_model_manifest(tmp_path)


@pytest.mark.parametrize("name", ["\ud800.onnx", "a" * 300, "-", "~", "image.onnx\n"])
def test_a_pinned_name_that_no_file_has_is_a_model_error(tiny_model_dir: Path, name: str) -> None:
    table = json.loads((tiny_model_dir / "manifest.json").read_bytes())
    table["files"][name] = table["files"].pop(table["image"]["file"])
    table["image"]["file"] = name
    with pytest.raises(ModelError):
        verify(parse_manifest(table, tiny_model_dir, file="manifest.json"))
