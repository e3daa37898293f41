"""What a found file needs, from its stat and what is stored of it; and the look-ups behind that."""

from __future__ import annotations

import hashlib
from collections.abc import KeysView, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.indexer.discover import Found, Scope
from mmsearch.indexer.known import RACE_NS, KnownIndex, Stored
from mmsearch.indexer.lookup import Lookup
from mmsearch.indexer.plan import Policy, Seen, Step, classify, plan
from mmsearch.indexer.survey import Survey
from mmsearch.manifest import Root
from mmsearch.store import KnownFiles
from mmsearch.types import Reason

FOUND = Found(1, b"/root", b"a.png", "image", ".png", size=10, mtime_ns=5 * RACE_NS)
STORED = Stored(
    rows=np.array([0]),
    size=10,
    mtime_ns=5 * RACE_NS,
    checked_ns=9 * RACE_NS,
    reason=None,
    missing=False,
    whole=True,
)
VERIFY = Policy(verify=True)
RETRY = Policy(retry_failed=True)


@pytest.mark.parametrize(
    ("found", "stored", "policy", "step"),
    [
        (FOUND, None, Policy(), Step.NEW),
        (FOUND, STORED, Policy(), Step.UNCHANGED),
        (FOUND, STORED, RETRY, Step.UNCHANGED),
        (FOUND, STORED, VERIFY, Step.CHECK),
        (replace(FOUND, size=11), STORED, Policy(), Step.CHANGED),
        (replace(FOUND, mtime_ns=1), STORED, Policy(), Step.CHANGED),
        (FOUND, replace(STORED, whole=False), Policy(), Step.CHANGED),
        (FOUND, replace(STORED, checked_ns=6 * RACE_NS - 1), Policy(), Step.CHECK),
        (FOUND, replace(STORED, checked_ns=4 * RACE_NS + 1), Policy(), Step.CHECK),
        (FOUND, replace(STORED, checked_ns=6 * RACE_NS), Policy(), Step.UNCHANGED),
        (FOUND, replace(STORED, missing=True), Policy(), Step.UNCHANGED),
        (FOUND, replace(STORED, reason=Reason.TIMEOUT), Policy(), Step.FAILED_BEFORE),
        (FOUND, replace(STORED, reason=Reason.TIMEOUT), RETRY, Step.CHANGED),
        (FOUND, replace(STORED, reason=Reason.TIMEOUT), VERIFY, Step.CHECK),
        (FOUND, replace(STORED, reason=Reason.CHANGED), Policy(), Step.CHANGED),
        (FOUND, replace(STORED, reason=Reason.PERMISSION), Policy(), Step.CHANGED),
        (replace(FOUND, obstacle="a FIFO"), replace(STORED, reason=Reason.UNIDENTIFIED), VERIFY, Step.FAILED_BEFORE),
    ],
)
def test_what_a_file_needs(found: Found, stored: Stored | None, policy: Policy, step: Step) -> None:
    assert classify(found, stored, policy) is step


def digest(content: str) -> bytes:
    return hashlib.sha256(content.encode()).digest()


def known(
    *files: tuple[bytes, int, str | None], missing: Sequence[bytes] = (), failed: Sequence[bytes] = ()
) -> KnownIndex:
    """An index of files given as (path, number of parts, content); all are 10 bytes long and in root 1."""
    rows = [(path, part, content) for path, parts, content in files for part in range(parts)]
    count = len(rows)
    statuses = np.array(["error" if path in failed else "ok" for path, _, _ in rows], np.str_)
    return KnownIndex(
        KnownFiles(
            ids=np.arange(count, dtype=np.int64) * 3 + 100,
            root_ids=np.ones(count, np.int32),
            paths=pa.array([path for path, _, _ in rows], pa.binary()),
            parts=np.array([part for _, part, _ in rows], np.int32),
            sizes=np.full(count, 10, np.int64),
            mtime_ns=np.full(count, 5 * RACE_NS, np.int64),
            checked_ns=np.full(count, 9 * RACE_NS, np.int64),
            hashes=pa.array([None if content is None else digest(content) for _, _, content in rows], pa.binary()),
            statuses=statuses,
            missing_since=np.array([7 if path in missing else -1 for path, _, _ in rows], np.int64),
            has_vector=statuses == "ok",
        ),
        {},
    )


def test_a_file_is_known_by_root_and_exact_path() -> None:
    index = known((b"a.png", 1, "A"), (b"notes.csv", 3, "N"), (b"\xff.png", 1, "F"))
    assert index.rows_at(1, b"notes.csv").tolist() == [1, 2, 3]
    assert index.rows_at(1, b"\xff.png").tolist() == [4]
    assert index.rows_at(2, b"a.png").tolist() == []
    assert index.stored(1, b"A.png") is None
    stored = index.stored(1, b"a.png")
    assert stored is not None
    assert (stored.size, stored.reason, stored.missing, stored.whole) == (10, None, False, True)


def test_rows_of_a_file_that_contradict_each_other_are_not_whole() -> None:
    index = known((b"notes.csv", 2, "N"))
    assert index.is_whole(np.array([0, 1]))
    assert not index.is_whole(np.array([1]))
    torn = known((b"notes.csv", 1, "N"), (b"notes.csv", 2, "M"))
    assert not torn.is_whole(torn.rows_at(1, b"notes.csv"))


def test_contents_of_a_size_are_those_of_the_same_extension_that_were_embedded() -> None:
    files = [(b"a.png", 1, "A"), (b"b.png", 1, "B"), (b"c.jpg", 1, "C"), (b"d.png", 1, "D"), (b"e.png", 1, "A")]
    index = known(*files, failed=[b"d.png"])
    assert index.hashes_of_size(10, ".png") == tuple(sorted([digest("A"), digest("B")]))
    assert index.hashes_of_size(11, ".png") == ()


def test_files_with_the_same_content_are_all_found_until_they_are_rewritten() -> None:
    index = known((b"a.png", 1, "A"), (b"n.csv", 2, "N"), (b"b.png", 1, "A"))
    assert [rows.tolist() for rows in index.files_with(digest("A"))] == [[0], [3]]
    assert [rows.tolist() for rows in index.files_with(digest("N"))] == [[1, 2]]
    index.note_rewritten(index.ids[[0]])
    assert [rows.tolist() for rows in index.files_with(digest("A"))] == [[3]]
    assert index.files_with(digest("Z")) == []


def test_planning_is_lazy_and_notes_what_it_saw() -> None:
    index = known((b"a.png", 1, "A"), (b"b.png", 1, "B"), (b"gone.png", 1, "G"), missing=[b"a.png"])
    seen = Seen()
    found = [replace(FOUND, path=path) for path in (b"a.png", b"b.png", b"new.png")]
    found[1] = replace(found[1], size=11)
    planned = plan(iter(found), index, Policy(), seen)
    assert seen.files == 0
    changed, new = planned
    assert (changed.step, changed.rows.tolist(), changed.known_hashes) == (Step.CHANGED, [1], ())
    assert (new.step, new.rows.tolist()) == (Step.NEW, [])
    assert new.known_hashes == tuple(sorted(map(digest, "ABG")))
    assert (seen.files, seen.known, seen.unchanged, seen.failed_before) == (3, 2, 1, 0)
    assert index.seen.tolist() == [True, True, False]
    assert index.returned.tolist() == [True, False, False]


def test_checking_a_file_asks_for_its_own_content_alone() -> None:
    index = known((b"a.png", 1, "A"), (b"b.png", 1, "B"))
    (planned,) = plan([FOUND], index, VERIFY, Seen())
    assert (planned.step, planned.known_hashes) == (Step.CHECK, (digest("A"),))


def test_an_unreadable_file_is_tried_again_once_it_may_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    index = known((b"a.png", 1, None), failed=[b"a.png"])
    index._reasons[100] = Reason.PERMISSION
    monkeypatch.setattr("os.access", lambda path, mode: False)
    seen = Seen()
    assert list(plan([FOUND], index, Policy(), seen)) == []
    assert seen.failed_before == 1
    monkeypatch.setattr("os.access", lambda path, mode: True)
    (planned,) = plan([FOUND], index, Policy(), Seen())
    assert planned.step is Step.CHANGED


KEYS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)


@given(st.lists(KEYS), st.lists(KEYS), st.integers(1, 5))
def test_a_lookup_answers_as_a_dictionary_of_lists_does(first: list[int], later: list[int], merge_at: int) -> None:
    lookup = Lookup(np.array(first, np.int64))
    lookup.MERGE_AT = merge_at  # type: ignore[misc]
    expected: dict[int, list[int]] = {}
    for value, key in enumerate(first):
        expected.setdefault(key, []).append(value)
    for value, key in enumerate(later, start=1000):
        lookup.add(key, value)
        expected.setdefault(key, []).append(value)
    for key in {*first, *later, 0, 17}:
        assert lookup.find(key).tolist() == expected.get(key, [])
        assert lookup.find(key, limit=2).tolist() == expected.get(key, [])[:2]


class Counted(np.ndarray):  # type: ignore[type-arg]
    """An array that counts how many of its elements are asked for, all over the class."""

    asked = 0

    def __getitem__(self, key: object) -> object:
        found = super().__getitem__(key)  # type: ignore[call-overload]
        Counted.asked += np.size(found)
        return found


def test_finding_the_next_of_very_many_copies_does_not_look_at_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmsearch.indexer.known._GATHERED", 32)
    monkeypatch.setattr(Counted, "asked", 0)
    count = 1000
    index = known(*((b"%d.png" % place, 1, "same") for place in range(count)))
    index.taken, index.rewritten = index.taken.view(Counted), index.rewritten.view(Counted)
    given = []
    for _ in range(count):
        rows = index.files_with(digest("same"))[0]
        given += rows.tolist()
        index.taken[rows] = True
        index.note_rewritten(index.ids[rows])
    assert given == list(range(count))
    assert index.files_with(digest("same")) == []
    assert Counted.asked < 200 * count


class CountedDict(dict[bytes, OSError]):
    """A dictionary that counts how often it is asked for all of its keys."""

    asked = 0

    def keys(self) -> KeysView[bytes]:
        self.asked += 1
        return super().keys()


def test_what_was_not_read_is_looked_up_once_for_all_rows() -> None:
    names = [b"%s/%d.png" % (folder, place) for folder in (b"a", b"a/b", b"c", b".d") for place in range(20)]
    index = known(*((name, 1, "x") for name in names))
    survey = Survey.begin(Scope(1, b"/nowhere", b""), Root(1, b"/nowhere", 0))
    unread = CountedDict({b"a/b": OSError(), b"c": OSError()})
    survey.walk.unread = unread
    assert [index.path(row) for row in survey.gone_rows(index).tolist()] == names[:20]
    assert unread.asked == 1
