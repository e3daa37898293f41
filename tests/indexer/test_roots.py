"""PATH arguments, and roots inside roots."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from index_reports import counts
from photo_library import Library

from mmsearch import manifest as manifests
from mmsearch.encoder import OnnxEncoder
from mmsearch.errors import UsageError
from mmsearch.indexer import roots
from mmsearch.indexer.pipeline import IndexOptions
from mmsearch.manifest import CollectionManifest, Root
from mmsearch.store import Store

FORCE = IndexOptions(prune=True, force=True)


@pytest.fixture
def two_roots(library: Library) -> Library:
    """`photos/in` and `photos/side` are indexed as roots of their own; `photos/a.png` is not indexed yet."""
    library.photo("in/one.png", 1)
    library.captions("in/notes.csv", "x", "y")
    library.photo("side/two.png", 2)
    library.index(library.photos / "in", library.photos / "side")
    library.photo("a.png", 3)
    return library


def root_paths(library: Library) -> list[str]:
    return [os.path.relpath(os.fsdecode(root.path), library.photos) for root in library.manifest.roots]


def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("nothing here has to be embedded")

    monkeypatch.setattr(OnnxEncoder, "_session", fail)


def test_an_outer_root_takes_over_and_nothing_is_embedded_again(
    two_roots: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {key: (item.id, item.hash) for key, item in two_roots.items().items()}
    assert root_paths(two_roots) == ["in", "side"]
    (two_roots.photos / "a.png").unlink()
    no_model(monkeypatch)
    assert counts(two_roots.index()) == {"unchanged": 3, "items": 4}
    assert root_paths(two_roots) == ["."]
    assert {key: (item.id, item.hash) for key, item in two_roots.items().items()} == before
    assert two_roots.names() == ["in/notes.csv", "in/notes.csv", "in/one.png", "side/two.png"]


def test_the_outermost_root_owns_what_is_indexed_below_it(two_roots: Library) -> None:
    two_roots.index()
    two_roots.photo("in/new.png", 7)
    assert counts(two_roots.index(two_roots.photos / "in")) == {"indexed": 1, "unchanged": 2, "items": 6}
    assert root_paths(two_roots) == ["."]


def test_inner_and_outer_in_one_run_are_the_outer(two_roots: Library) -> None:
    report = two_roots.index(two_roots.photos / "in", two_roots.photos / "in/one.png", two_roots.photos)
    assert counts(report) == {"indexed": 1, "unchanged": 3, "items": 5}
    assert root_paths(two_roots) == ["."]


def test_a_kill_while_rows_change_hands_is_finished_by_the_next_run(
    two_roots: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {key: item.id for key, item in two_roots.items().items()}
    real, calls = Store.put, []

    def killed(self: Store, items: list, vectors: dict) -> None:  # type: ignore[type-arg]
        calls.append(len(items))
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self, items, vectors)

    monkeypatch.setattr(Store, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        two_roots.index()
    monkeypatch.undo()
    assert len(root_paths(two_roots)) == 3
    assert {key: item.id for key, item in two_roots.items().items()} == before
    monkeypatch.setattr("mmsearch.indexer.pipeline.DecodePool", lambda *_, **__: two_roots.warm_pool)
    assert counts(two_roots.index()) == {"indexed": 1, "unchanged": 3, "items": 5}
    assert before.items() <= {key: item.id for key, item in two_roots.items().items()}.items()


def unplug(library: Library) -> Path:
    """`photos/in` is a mount point with nothing mounted on it; where its files are now."""
    aside = library.photos.parent / "unplugged"
    (library.photos / "in").rename(aside)
    (library.photos / "in").mkdir()
    return aside


def plug_in(library: Library, aside: Path) -> None:
    (library.photos / "in").rmdir()
    aside.rename(library.photos / "in")


@pytest.mark.case("F32")
@pytest.mark.promise("R5")
def test_an_inner_root_that_is_out_of_reach_loses_nothing_in_any_run(two_roots: Library) -> None:
    before = {key: item.id for key, item in two_roots.items().items()}
    unplug(two_roots)
    for expected in ({"indexed": 1, "unchanged": 1, "items": 5}, {"unchanged": 2, "items": 5}):
        report = two_roots.index()
        assert counts(report) == expected
        (warning,) = report.warnings
        assert "in is empty" in warning and "(2 files)" in warning
    assert counts(two_roots.index(options=IndexOptions(prune=True))) == {"unchanged": 2, "items": 5}
    assert root_paths(two_roots) == ["in", "."]
    assert before.items() <= {key: item.id for key, item in two_roots.items().items()}.items()
    assert len(two_roots.names()) == 5


def test_what_else_is_gone_is_pruned_although_an_inner_root_is_out_of_reach(two_roots: Library) -> None:
    two_roots.photo("side/three.png", 8)
    unplug(two_roots)
    two_roots.index()
    (two_roots.photos / "side/two.png").unlink()
    assert counts(two_roots.index(options=IndexOptions(prune=True))) == {"unchanged": 2, "removed": 1, "items": 5}


def test_an_inner_root_that_is_back_is_taken_over_and_needs_no_work(
    two_roots: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {key: item.id for key, item in two_roots.items().items()}
    aside = unplug(two_roots)
    two_roots.index()
    plug_in(two_roots, aside)
    no_model(monkeypatch)
    assert counts(two_roots.index()) == {"unchanged": 4, "items": 5}
    assert root_paths(two_roots) == ["."]
    assert before.items() <= {key: item.id for key, item in two_roots.items().items()}.items()


def test_force_removes_what_an_inner_root_out_of_reach_held(two_roots: Library) -> None:
    unplug(two_roots)
    two_roots.index()
    assert counts(two_roots.index(options=FORCE)) == {"unchanged": 2, "removed": 2, "items": 2}
    assert two_roots.names() == ["a.png", "side/two.png"]
    assert counts(two_roots.index()) == {"unchanged": 2, "items": 2}
    assert root_paths(two_roots) == ["."]


def test_an_inner_root_found_whole_on_another_device_is_taken_over_by_the_run_after(two_roots: Library) -> None:
    manifest = two_roots.manifest
    inner = replace(manifest.roots[0], device=manifest.roots[0].device + 1)
    manifests.write(two_roots.collection, replace(manifest, roots=(inner, *manifest.roots[1:])))
    assert counts(two_roots.index()) == {"indexed": 1, "unchanged": 3, "items": 5}
    assert root_paths(two_roots) == ["in", "."]
    assert counts(two_roots.index()) == {"unchanged": 4, "items": 5}
    assert root_paths(two_roots) == ["."]


@pytest.mark.promise("R5")
def test_another_drive_in_the_place_of_an_inner_root_hides_nothing(two_roots: Library) -> None:
    unplug(two_roots)
    two_roots.photo("in/stranger.png", 40)
    manifest = two_roots.manifest
    inner = replace(manifest.roots[0], device=manifest.roots[0].device + 1)
    manifests.write(two_roots.collection, replace(manifest, roots=(inner, *manifest.roots[1:])))
    for expected in ({"indexed": 2, "unchanged": 1, "items": 6}, {"unchanged": 3, "items": 6}):
        report = two_roots.index()
        assert (counts(report), report.missing) == (expected, 0)
        assert "in lies on another device" in report.warnings[0]
    assert len(two_roots.names()) == 6


def test_a_single_file_that_was_a_root_is_gone_like_any_other(two_roots: Library) -> None:
    two_roots.index(two_roots.photos / "a.png")
    (two_roots.photos / "a.png").unlink()
    assert counts(two_roots.index()) == {"unchanged": 3, "missing": 1, "items": 5}
    assert root_paths(two_roots) == ["."]


# -- links -------------------------------------------------------------------------------------------------------


@pytest.fixture
def linked(library: Library) -> Library:
    """`photos/a.png`, and `photos/link`, which leads to a folder with two pictures elsewhere."""
    library.photo("a.png", 1)
    library.photo("../other/one.png", 2)
    library.photo("../other/deep/two.png", 3)
    (library.photos / "link").symlink_to("../other")
    return library


def test_what_was_indexed_through_a_link_stays_when_a_walk_passes_the_link_over(linked: Library) -> None:
    link = linked.photos / "link"
    linked.index()
    assert counts(linked.index(link)) == {"indexed": 2, "items": 3}
    for options in (IndexOptions(), IndexOptions(prune=True), FORCE):
        report = linked.index(options=options)
        assert counts(report) == {"unchanged": 1, "ignored": 1, "items": 3}
        assert "1 link was not followed" in report.warnings[0]
    assert linked.names() == ["a.png", "link/deep/two.png", "link/one.png"]
    (linked.photos / "../other/one.png").unlink()
    assert counts(linked.index(link)) == {"unchanged": 1, "missing": 1, "items": 3}
    link.unlink()
    assert counts(linked.index()) == {"unchanged": 1, "missing": 2, "items": 3}


def test_a_folder_and_a_link_inside_it_are_both_looked_at(linked: Library) -> None:
    (linked.photos / ".private").mkdir()
    linked.photo(".private/b.png", 7)
    paths = [linked.photos, linked.photos / "link/deep", linked.photos / ".private"]
    assert counts(linked.index(*paths)) == {"indexed": 3, "ignored": 1, "items": 3}
    assert linked.names() == [".private/b.png", "a.png", "link/deep/two.png"]
    assert counts(linked.index(*paths)) == {"unchanged": 3, "ignored": 1, "items": 3}


def test_a_single_file_does_not_make_its_folder_take_over_roots(two_roots: Library) -> None:
    assert counts(two_roots.index(two_roots.photos / "a.png")) == {"indexed": 1, "items": 5}
    assert root_paths(two_roots) == ["in", "side", "a.png"]
    assert counts(two_roots.index(two_roots.photos / "a.png")) == {"unchanged": 1, "items": 5}
    assert "a.png" in two_roots.names()
    before = two_roots.items()[os.fsencode(two_roots.photos / "a.png"), 0].id
    assert counts(two_roots.index()) == {"unchanged": 4, "items": 5}
    assert root_paths(two_roots) == ["."]
    assert two_roots.item("a.png").id == before


def test_a_root_that_is_a_file_may_fail_change_and_vanish(two_roots: Library) -> None:
    path = two_roots.photos / "a.png"
    two_roots.index(path)
    two_roots.photo("a.png", 9)
    assert counts(two_roots.index(path)) == {"indexed": 1, "items": 5}
    two_roots.data("a.png", b"<html>")
    (skipped,) = two_roots.index(path).skipped
    assert skipped.path == str(path)
    path.unlink()
    report = two_roots.index(path)
    assert (counts(report), len(report.warnings)) == ({"items": 4}, 1)


def test_a_root_behind_a_link_is_the_link(library: Library, tmp_path: Path) -> None:
    library.photo("a.png", 1)
    link = tmp_path / "link"
    link.symlink_to(library.photos)
    assert counts(library.index(link)) == {"indexed": 1, "items": 1}
    assert list(library.found()) == [(os.fsencode(link / "a.png"), 0)]


def test_relative_paths_and_dots_mean_the_same_root(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.photo("a.png", 1)
    library.index()
    monkeypatch.chdir(library.photos.parent)
    assert counts(library.index(Path("photos/../photos/."))) == {"unchanged": 1, "items": 1}
    assert root_paths(library) == ["."]


def test_an_empty_folder_is_no_trouble(library: Library) -> None:
    report = library.index()
    assert (counts(report), report.warnings) == ({}, ())


@pytest.mark.parametrize("paths", [[], ["nowhere"], ["photos", "nowhere"], ["link.png"], ["collection"], ["a\0b"]])
def test_arguments_that_cannot_be_indexed_are_refused_before_anything_is_done(
    library: Library, paths: list[str], tmp_path: Path
) -> None:
    library.photo("a.png", 1)
    (tmp_path / "link.png").symlink_to(library.photos / "a.png")
    for marker in ("collection.json", "items.lance"):
        (tmp_path / "collection" / marker).mkdir(parents=True)
    with pytest.raises(UsageError):
        roots.read_arguments([tmp_path / path for path in paths], CollectionManifest())


def test_a_message_shows_a_path_so_that_a_terminal_may_show_it(library: Library) -> None:
    with pytest.raises(UsageError, match=r"no\\x1bwhere: there is no such folder or file"):
        library.index(Path("no\x1bwhere"))
    assert not library.collection.exists()


def test_arguments_are_sorted_outermost_first_and_nested_ones_dropped(tmp_path: Path) -> None:
    for name in ("a/b", "a-b", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/x.png").touch()
    given = [tmp_path / name for name in ("a/b", "a/x.png", "c", "a-b", "a", "c/")]
    arguments = roots.read_arguments(given, CollectionManifest())
    assert [argument.path for argument in arguments] == [os.fsencode(tmp_path / name) for name in ("a", "a-b", "c")]


def test_the_file_system_root_holds_everything() -> None:
    root = Root(1, b"/", 0)
    assert roots.below(root, b"/home/x") == b"home/x"
    assert roots.below(root, b"/") == b""


def test_ids_are_never_given_twice(library: Library) -> None:
    given: set[int] = set()
    for seed in range(4):
        library.photo("a.png", seed)
        library.index()
        id = library.item("a.png").id
        assert id not in given
        given.add(id)
        with library.store() as store:
            store.delete(np.array([id]))
