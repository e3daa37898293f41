"""No text, wherever it comes from, becomes a part of a filter: rows neither go nor come by what something is called."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from storage_builders import MODEL, ROOT, item, publish, segment_row, unit_vectors

from mmsearch import manifest
from mmsearch.snapshot import Snapshot
from mmsearch.store import Store

INJECTIONS = (
    "x' OR '1'='1",
    "' OR 1=1 --",
    "'; DROP TABLE items; --",
    "\\' OR TRUE --",
    "%",
    "_",
    "%' OR path LIKE '%",
    "id > 0",
    "') OR ('a'='a",
    "CAST(path AS VARCHAR) LIKE '%'",
    "\x00' OR ''='",
    "${jndi:ldap://x}",
    "{0}",
    "*",
    "?",
    "[a-z]*",
)
WORDS = st.sampled_from(["'", '"', " OR ", " AND ", "1=1", "--", ";", "path", "LIKE", "%", "_", "\\", "(", ")", "x"])
FILTERS = st.one_of(st.lists(WORDS, max_size=8).map("".join), st.text(max_size=20), st.sampled_from(INJECTIONS))
NAMES = [text.replace("\x00", "\\0").replace("/", "|") for text in INJECTIONS]
# What every one of those names would match too, if it were a pattern.
DECOYS = ["a", "xx", "bcd", "_x"]


def path_of(name: str) -> bytes:
    return f"{name}/photo.jpg".encode()


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snapshot]:
    """A row for each injection and each decoy, in a folder of that name."""
    directory = tmp_path_factory.mktemp("snapshot") / "collection"
    manifest.create(directory)
    rows = [segment_row(number, path=path_of(name)) for number, name in enumerate([*NAMES, *DECOYS], 1)]
    publish(directory, rows)
    with Snapshot.open(directory) as opened:
        yield opened


def found_under(snapshot: Snapshot, folder: bytes | None) -> set[bytes]:
    (hits,) = snapshot.search(unit_vectors(1), 1000, kind="image", under=folder)
    return {snapshot.row(hit).path for hit in hits}


@pytest.mark.case("S15", "S16", "C84")
@settings(settings.get_profile("fuzz"), max_examples=1000)
@given(text=FILTERS)
@example(text="%")
@example(text="_")
@example(text="*")
@example(text="x' OR '1'='1")
def test_a_thousand_filters_find_what_lies_in_that_very_folder(snapshot: Snapshot, text: str) -> None:
    folder = ROOT.path + b"/" + text.encode("utf-8", "surrogatepass")
    everything = found_under(snapshot, None)
    assert len(everything) == len(NAMES) + len(DECOYS)
    # A NUL ends a name for the system, which so has no folder of that name.
    expected = set() if b"\0" in folder else {path for path in everything if below(path, folder)}
    assert found_under(snapshot, folder) == expected


def below(path: bytes, folder: bytes) -> bool:
    normal = os.path.normpath(folder)
    return path.startswith(normal.rstrip(b"/") + b"/")


@pytest.mark.case("S16", "C84")
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_holds_its_own_photo_alone(snapshot: Snapshot, name: str) -> None:
    assert found_under(snapshot, ROOT.path + b"/" + name.encode()) == {ROOT.path + b"/" + path_of(name)}


@pytest.mark.case("S15", "C73")
def test_a_thousand_hostile_rows_stay_as_many_whatever_is_done_to_some(tmp_path: Path) -> None:
    """Written, marked, taken back and deleted by what they are, not by what they are called."""
    chance = random.Random(5)
    texts = ["".join(chance.choices([*INJECTIONS, *"'\"\\%_;-"], k=3)) for _ in range(1000)]
    rows = [item(number, path=f"{number}{text}".encode(), text=text) for number, text in enumerate(texts, 1)]
    ids = np.arange(1, 1001)
    with Store.open(tmp_path, MODEL) as store:
        store.put(rows, dict(zip(ids.tolist(), unit_vectors(1000), strict=True)))
        assert stored(store) == {row.id: (row.path, row.text) for row in rows}
        store.mark_missing(ids[:10], 5)
        store.mark_missing(ids[:10], None)
        store.delete(ids[500:])
        assert stored(store) == {row.id: (row.path, row.text) for row in rows[:500]}
        assert list(store.errors()) == []
        assert len(store.vectors(ids[:500])) == 500


def stored(store: Store) -> dict[int, tuple[bytes, str | None]]:
    found_ids, _ = store.revisions()
    return {each.id: (each.path, each.text) for each in store.items(found_ids)}
