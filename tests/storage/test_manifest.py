"""collection.json: create, read, refuse; roots and ids."""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from mmsearch import manifest as manifests
from mmsearch.durable import WriterLock
from mmsearch.errors import CollectionDamaged, CollectionError, CollectionMismatch, CollectionNotFound, UsageError
from mmsearch.manifest import CollectionManifest, ModelRef, ModelSwitch, Root

MODEL = ModelRef("mini", "0123abcd", 384)


def registered(*paths: str) -> CollectionManifest:
    manifest = CollectionManifest()
    for path in paths:
        Path(path).mkdir(parents=True, exist_ok=True)
        manifest, _ = manifests.with_root(manifest, os.fsencode(path))
    return manifest


def test_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    manifests.create(tmp_path)
    manifest = CollectionManifest(roots=(Root(3, b"/fotos/\xff\xc3\xa4", 2**63),), model=MODEL, next_id=17)
    manifests.write(tmp_path, manifest)
    assert manifests.read(tmp_path) == manifest
    assert manifest.format == 1
    wide = ModelRef("wide", "cafe", 512, "/models/caf\udce9")
    for several in (
        replace(manifest, switch=ModelSwitch(wide, keep_old=True)),
        replace(manifest, kept_models=(wide, replace(wide, fingerprint="beef", location=None))),
    ):
        manifests.write(tmp_path, several)
        assert manifests.read(tmp_path) == several
        assert json.loads((tmp_path / "collection.json").read_bytes())["format"] == several.format == 2


@pytest.mark.case("S37")
def test_new_collection_is_private_and_empty(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "collection"
    assert manifests.create(directory) == CollectionManifest()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "collection.json").stat().st_mode) == 0o600


def test_creating_again_keeps_what_is_there(tmp_path: Path) -> None:
    manifests.create(tmp_path)
    manifests.write(tmp_path, CollectionManifest(model=MODEL))
    assert manifests.create(tmp_path).model == MODEL


def test_of_two_creators_the_second_finds_what_the_first_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered_first = replace(registered(str(tmp_path / "photos")), model=MODEL)
    examine = manifests._refuse_foreign

    def overtaken(directory: Path) -> None:
        examine(directory)
        with WriterLock(directory):
            manifests.write(directory, registered_first)

    monkeypatch.setattr(manifests, "_refuse_foreign", overtaken)
    assert manifests.create(tmp_path / "collection") == registered_first
    assert manifests.read(tmp_path / "collection") == registered_first


def test_empty_path_is_not_the_current_directory() -> None:
    for path in ("", b""):
        with pytest.raises(UsageError, match="empty"):
            manifests.normal_path(path)


def test_directory_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    for act in (manifests.create, manifests.read):
        with pytest.raises(CollectionError, match=r"not a collection.*holiday\.jpg"):
            act(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_lock_and_leftovers_of_a_killed_creation_do_not_block_the_next(tmp_path: Path) -> None:
    (tmp_path / ".collection.json.0123456789ab.mmsearch-tmp").touch()
    with WriterLock(tmp_path):
        pass  # its process died: the file stays, the lock does not
    assert manifests.create(tmp_path) == CollectionManifest()


@pytest.mark.parametrize("place", ["absent", "empty"])
def test_no_collection_is_told_from_a_foreign_directory(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CollectionNotFound, match="mmsearch index"):
        manifests.read(tmp_path / place)


def test_file_in_the_place_of_a_collection_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CollectionError, match="not a directory"):
        manifests.read(tmp_path / "file")


def test_newer_format_is_refused_naming_both(tmp_path: Path) -> None:
    manifests.create(tmp_path)
    path = tmp_path / "collection.json"
    path.write_bytes(json.dumps({"format": 7, "anything": "else"}).encode())
    with pytest.raises(CollectionMismatch, match=r"format 7.*up to 2.*pip install"):
        manifests.read(tmp_path)


@pytest.mark.case("F25", "S43")
@pytest.mark.promise("R7")
def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    manifests.create(tmp_path)
    manifests.write(tmp_path, CollectionManifest(roots=(Root(1, b"/p", 5),), model=MODEL, next_id=4))
    path = tmp_path / "collection.json"
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with pytest.raises((CollectionDamaged, CollectionMismatch)):
            manifests.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 300, b"{", b"[]", b'{"format": 1}'])
def test_damaged_manifest_names_the_remedy(tmp_path: Path, content: bytes) -> None:
    manifests.create(tmp_path)
    (tmp_path / "collection.json").write_bytes(content)
    with pytest.raises(CollectionDamaged, match="mmsearch repair"):
        manifests.read(tmp_path)


def test_reserved_ids_never_come_again(tmp_path: Path) -> None:
    stale = manifests.create(tmp_path)
    assert manifests.reserve_ids(tmp_path, 5) == range(1, 6)
    manifests.write(tmp_path, replace(stale, model=MODEL))
    assert manifests.reserve_ids(tmp_path, 2) == range(6, 8)
    assert manifests.read(tmp_path).model == MODEL


def test_folder_below_a_root_belongs_to_it(tmp_path: Path) -> None:
    outer = registered(str(tmp_path / "a"))
    inner = tmp_path / "a" / "b"
    inner.mkdir()
    again, owner = manifests.with_root(outer, os.fsencode(inner))
    assert (again, owner) == (outer, outer.roots[0])


def test_outer_root_takes_over_and_inner_one_can_go(tmp_path: Path) -> None:
    manifest = registered(str(tmp_path / "a" / "b"), str(tmp_path / "ab"), str(tmp_path / "a"))
    inner, beside, outer = manifest.roots
    assert manifests.owning_root(manifest, os.fsencode(tmp_path / "a" / "b" / "photo.jpg")) == outer
    assert manifests.inner_roots(manifest, outer) == (inner,)
    assert manifests.without_roots(manifest, (inner,)).roots == (beside, outer)
    with pytest.raises(ValueError, match="below no other root"):
        manifests.without_roots(manifest, (beside,))


def test_sibling_with_the_same_beginning_is_not_inside(tmp_path: Path) -> None:
    manifest = registered(str(tmp_path / "photos"))
    assert manifests.owning_root(manifest, os.fsencode(tmp_path / "photos-old")) is None


def test_root_keeps_links_bytes_and_device(tmp_path: Path) -> None:
    real = tmp_path / os.fsdecode(b"r\xffal")
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    manifest, root = manifests.with_root(CollectionManifest(), os.fsencode(tmp_path / "x" / ".." / "link") + b"//")
    assert root.path == os.fsencode(tmp_path / "link")
    assert root.device == tmp_path.stat().st_dev
    _, other = manifests.with_root(manifest, os.fsencode(real))
    assert other.path.endswith(b"r\xffal")
    assert other.id != root.id


def test_file_system_root_holds_everything() -> None:
    assert Root(1, b"/", 0).holds(b"/photos/a.jpg")


def test_other_model_is_refused_naming_both(tmp_path: Path) -> None:
    manifest = CollectionManifest(model=MODEL)
    manifests.require_model(tmp_path, manifest, MODEL)
    manifests.require_model(tmp_path, CollectionManifest(), MODEL)
    with pytest.raises(CollectionMismatch, match=r"'mini'.*0123abcd.*'large'.*ffff.*mmsearch index"):
        manifests.require_model(tmp_path, manifest, ModelRef("large", "ffff", 512))


def test_directory_in_the_place_of_the_manifest_is_damage(tmp_path: Path) -> None:
    (tmp_path / "collection.json").mkdir()
    with pytest.raises(
        CollectionDamaged, match=r"collection\.json: cannot be read \(Is a directory\).*mmsearch repair"
    ):
        manifests.read(tmp_path)


def test_manifest_that_the_system_does_not_give_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    manifests.create(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CollectionError, match=r"collection\.json: cannot be read \(Permission denied\)") as caught:
        manifests.read(tmp_path)
    assert not isinstance(caught.value, CollectionDamaged | CollectionNotFound)


def test_directory_that_cannot_be_listed_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CollectionError, match=r": cannot be read \(Permission denied\)"):
        manifests.read(tmp_path)


def test_manifest_that_is_gone_from_beside_its_snapshots_is_damage(tmp_path: Path) -> None:
    manifests.create(tmp_path)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots/12.json").touch()
    (tmp_path / "collection.json").unlink()
    for ask in (manifests.read, manifests.create):
        with pytest.raises(CollectionDamaged, match=r"collection\.json: is gone.*mmsearch repair"):
            ask(tmp_path)
