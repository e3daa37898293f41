"""Damaged files of a snapshot: an error that names the file, never a crash; and every flipped bit is found."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from storage_builders import HEAD, block, flip, publish, segment_row, unit_vectors

from mmsearch.checked_json import dump_checked, load_checked
from mmsearch.errors import CollectionDamaged, CollectionError, CollectionMismatch
from mmsearch.npy_files import npy_header
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_manifest import read_current, write_current
from mmsearch.snapshot_writer import SnapshotWriter

QUERY = unit_vectors(1, seed=99)
SEGMENT_FILES = ["rows.npy", "strings.bin", "dirs.npy", "vectors.npy", "tokens.npy"]


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Three publications; so snapshots 2 and 3 stand, with a few dead and missing rows. Pictures have tokens."""
    texts, pictures = (range(start, 60, 2) for start in (1, 2))
    blocks = [block([segment_row(id, kind="text") for id in texts])]
    blocks.append(block([segment_row(id) for id in pictures], tokens=True))
    SnapshotWriter(tmp_path, threads=1).publish(HEAD, previous=None, added=blocks)
    publish(tmp_path, [segment_row(id, missing=id == 60) for id in range(60, 70)], dead=[(4, 1)], tokens=True)
    publish(tmp_path, dead=[(6, 1)])
    return tmp_path


def use(directory: Path) -> None:
    """Open, search, read the catalog: all that a query does."""
    with Snapshot.open(directory) as snapshot:
        for kind in ("image", "text"):
            for near in snapshot.search(QUERY, 100, kind=kind, under=b"/photos/dir1", include_missing={1})[0]:
                snapshot.row(near)
            for near in snapshot.search(QUERY, 100, kind=kind)[0]:
                snapshot.row(near)
        nearest = snapshot.search(QUERY, 100, kind="image")[0]
        snapshot.vectors(nearest)
        snapshot.tokens(nearest)
        snapshot.live_keys()


def verify(directory: Path) -> list[str]:
    with Snapshot.open(directory) as snapshot:
        return snapshot.verify()


@pytest.mark.parametrize("name", ["collection", "indexed"])
def test_undamaged_collection_is_clean(request: pytest.FixtureRequest, name: str) -> None:
    directory = request.getfixturevalue(name)
    use(directory)
    assert verify(directory) == []


@pytest.mark.parametrize("name", [*SEGMENT_FILES, "3.json", "CURRENT"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: data[:-1], lambda data: data + b"\1"],
    ids=["empty", "half", "one byte short", "one byte long"],
)
def test_file_of_another_size_is_named_when_the_snapshot_is_opened(
    collection: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    for path in list(collection.rglob(name)):
        content = path.read_bytes()
        changed = damage(content)
        if name == "CURRENT" and changed == b"3":
            continue
        path.write_bytes(changed)
        with pytest.raises(CollectionDamaged, match=rf"{name}.*mmsearch repair"):
            Snapshot.open(collection)
        path.write_bytes(content)


@pytest.mark.parametrize("name", [*SEGMENT_FILES, "3.json", "CURRENT"])
def test_zeroed_file_is_an_error_or_found_by_verify_and_never_a_crash(collection: Path, name: str) -> None:
    for path in collection.rglob(name):
        content = path.read_bytes()
        path.write_bytes(bytes(len(content)))
        try:
            use(collection)
            assert any(name in sentence for sentence in verify(collection))
        except CollectionDamaged as error:
            assert "mmsearch repair" in str(error)
        path.write_bytes(content)


@pytest.mark.parametrize("name", SEGMENT_FILES)
def test_lost_segment_file_is_named(collection: Path, name: str) -> None:
    path = next(collection.rglob(name))
    path.unlink()
    with pytest.raises(CollectionDamaged, match=rf"{name}: is missing.*mmsearch repair"):
        Snapshot.open(collection)


@pytest.mark.case("F25")
@pytest.mark.promise("R7")
def test_every_kind_of_flipped_bit_is_found(collection: Path) -> None:
    random = np.random.default_rng(0)
    checked = 0
    for path in sorted(path for path in collection.rglob("*") if path.is_file()):
        size = path.stat().st_size
        # Every byte of a header, and a sample of the rest.
        for place in sorted({*range(0, min(size, 128), 3), *random.integers(0, size, 12).tolist(), size - 1}):
            bit = int(random.integers(8))
            flip(path, place, bit)
            assert is_found(collection, path), (path, place, bit)
            flip(path, place, bit)
            checked += 1
    assert verify(collection) == []
    assert checked > 300


def is_found(collection: Path, path: Path) -> bool:
    if path.name == "2.json":
        # The snapshot before the live one is read by nobody; publishing drops it.
        return True
    try:
        use(collection)
        return verify(collection) != []
    except (CollectionDamaged, CollectionMismatch):
        return True


def wild_rows(collection: Path, column: str) -> Iterator[None]:
    """Each segment in turn has a wild number in all rows of `column`."""
    for path in collection.rglob("rows.npy"):
        content = path.read_bytes()
        for value in (-2, -(2**31), 2**31 - 1):
            rows = np.load(path, allow_pickle=False)
            rows[column] = value
            path.write_bytes(content[: -rows.nbytes] + rows.tobytes())
            yield
            assert any("rows.npy" in sentence for sentence in verify(collection))
        path.write_bytes(content)


@pytest.mark.parametrize(
    "column", ["strings", "directory", "name_bytes", "text_bytes", "locator_bytes", "status", "root_id"]
)
def test_wild_number_that_leads_elsewhere_is_an_error(collection: Path, column: str) -> None:
    for _ in wild_rows(collection, column):
        with pytest.raises(CollectionDamaged, match="mmsearch repair"):
            use(collection)


@pytest.mark.parametrize("column", ["id", "revision", "part", "width", "height", "missing"])
def test_wild_number_that_says_only_itself_is_no_crash(collection: Path, column: str) -> None:
    for _ in wild_rows(collection, column):
        use(collection)


@pytest.mark.promise("R10")
def test_array_of_python_objects_is_not_looked_into(collection: Path) -> None:
    path = next(collection.rglob("vectors.npy"))
    header = npy_header(np.dtype(object), (2,))
    path.write_bytes(header + b"cos\nabort\n(tR.".ljust(path.stat().st_size - len(header)))
    with pytest.raises(CollectionDamaged, match=r"vectors\.npy: cannot be mapped"):
        Snapshot.open(collection)


def test_current_that_points_at_a_removed_snapshot_is_damage(collection: Path) -> None:
    write_current(collection, 17)
    with pytest.raises(CollectionDamaged, match=r"17\.json: is missing from snapshot 17"):
        Snapshot.open(collection)


@pytest.mark.case("F27", "S46")
@pytest.mark.parametrize("content", [b"", b"three", b"-3", b"3 4", b"\xb2", "\N{SUPERSCRIPT TWO}".encode(), b"9" * 100])
def test_current_that_holds_anything_but_digits_is_damage(collection: Path, content: bytes) -> None:
    (collection / "CURRENT").write_bytes(content)
    with pytest.raises(CollectionDamaged, match="CURRENT: holds"):
        Snapshot.open(collection)


def test_current_that_fell_back_by_a_flipped_bit_is_found(collection: Path) -> None:
    flip(collection / "CURRENT", 0, 0)
    assert read_current(collection) == 2
    (sentence,) = verify(collection)
    assert "CURRENT names snapshot 2" in sentence


def test_current_that_fell_back_is_found_although_the_one_before_had_to_go(collection: Path) -> None:
    (collection / "snapshots" / "2.json").unlink()
    assert verify(collection) == []
    number = publish(collection, [segment_row(1)])
    assert verify(collection) == []
    write_current(collection, 3)
    (sentence,) = verify(collection)
    assert "CURRENT names snapshot 3" in sentence
    write_current(collection, number)
    assert verify(collection) == []


def test_newer_snapshot_format_is_refused_naming_both(collection: Path) -> None:
    path = collection / "snapshots" / "3.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))
    with pytest.raises(CollectionMismatch, match=r"format 9.*up to 2.*pip install"):
        Snapshot.open(collection)


@pytest.mark.case("S43")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "../../../etc"),
        ("name", "image-1-x/../y"),
        ("kind", "video"),
        ("files", {"../x": {"sha256": "", "bytes": 1}}),
        ("dead", "////fw=="),
        ("vectors", "float8"),
    ],
)
def test_manifest_cannot_lead_out_of_its_directory(collection: Path, key: str, value: object) -> None:
    path = collection / "snapshots" / "3.json"
    body = load_checked(path.read_bytes())
    body["segments"][0][key] = value
    path.write_bytes(dump_checked(body))
    with pytest.raises(CollectionDamaged, match=r"no publisher gives|not known|lies outside"):
        Snapshot.open(collection)


@pytest.mark.case("F27")
def test_next_publication_after_a_lost_or_damaged_current_starts_afresh(collection: Path) -> None:
    (collection / "CURRENT").write_bytes(b"\0")
    with pytest.raises(CollectionDamaged):
        Snapshot.open(collection)
    (collection / "CURRENT").unlink()
    number = publish(collection, [segment_row(1)])
    assert number > 3
    with Snapshot.open(collection) as snapshot:
        assert snapshot.live_keys()[0].tolist() == [1]
        assert snapshot.verify() == []


@pytest.mark.parametrize("name", ["CURRENT", "3.json"])
def test_directory_in_the_place_of_a_file_is_damage(collection: Path, name: str) -> None:
    (path,) = collection.rglob(name)
    path.unlink()
    path.mkdir()
    with pytest.raises(CollectionDamaged, match=rf"{name}: cannot be read \(Is a directory\).*mmsearch repair"):
        Snapshot.open(collection)


@pytest.mark.parametrize("name", ["CURRENT", "3.json", "vectors.npy", "strings.bin"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_file_that_the_system_does_not_give_is_named_with_the_reason(
    collection: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    refused = next(collection.rglob(name))
    real_open = Path.open
    real_memmap = np.memmap

    def refuse(path: object) -> None:
        if path == refused:
            raise OSError(number, os.strerror(number), str(path))

    def open_path(path: Path, *arguments: object, **options: object) -> object:
        refuse(path)
        return real_open(path, *arguments, **options)  # type: ignore[call-overload]

    def read_bytes(path: Path) -> bytes:
        with path.open("rb") as file:
            return file.read()

    def memmap(file: object, *arguments: object, **options: object) -> object:
        refuse(file)
        return real_memmap(file, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", open_path)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(np, "memmap", memmap)
    with pytest.raises(CollectionError, match=rf"{name}: cannot be read \({os.strerror(number)}\)") as caught:
        Snapshot.open(collection)
    assert not isinstance(caught.value, CollectionDamaged)


def test_small_segments_ask_nobody_whom_they_belong_to(collection: Path, caplog: pytest.LogCaptureFixture) -> None:
    collection.chmod(0o777)
    use(collection)
    assert caplog.text == ""
