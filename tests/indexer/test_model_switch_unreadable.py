"""Files that cannot be read while a collection changes its model: what the old model has of them stays, if they look
as they did.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from model_switches import assert_answers, assert_tables_are_true, run_own, switch, wide_model
from photo_library import Library

from mmsearch.indexer.jobs import Failed
from mmsearch.model import Model
from mmsearch.types import Reason

FAILURES = {
    "not allowed": (Reason.PERMISSION, errno.EACCES),
    "too slow": (Reason.TIMEOUT, None),
    "a decoder that dies": (Reason.CRASHED, None),
}


@pytest.fixture
def wide(tmp_path: Path) -> Model:
    return wide_model(tmp_path / "wide")


@pytest.fixture
def filled(library: Library) -> Library:
    for place in range(3):
        library.photo(f"{place}.png", place)
    library.captions("notes.csv", "a dog", "a cat")
    library.index()
    return library


def unreadable(library: Library, patched: pytest.MonkeyPatch, failure: str) -> None:
    """From here on every file that is read fails."""
    reason, number = FAILURES[failure]

    def run(jobs: Any) -> Any:
        for job in jobs:
            yield Failed(job.token, reason, "it cannot be read", errno=number)

    patched.setattr(library.warm_pool, "run", run)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("keep_old", [None, True])
def test_a_file_that_looks_the_same_keeps_its_rows_and_the_old_embedding(
    filled: Library, wide: Model, failure: str, keep_old: bool | None
) -> None:
    before, found = filled.items(), filled.names()
    with pytest.MonkeyPatch.context() as patched:
        unreadable(filled, patched, failure)
        report = switch(filled, wide, keep_old=keep_old)
    assert report.switch is not None
    assert (report.switch.embedded, report.switch.items, report.switch.done) == (0, 5, False)
    assert len(report.skipped) == 4
    assert "5 of 5 items have no embedding by 'wide' yet (first: " in report.warnings[-1]
    assert "again when these files can be read, with --prune --force if" in report.warnings[-1]
    assert filled.items() == before
    assert filled.names() == found
    run_own(filled)
    assert_answers(filled, filled.model)
    report = switch(filled, wide)
    assert report.switch is not None and report.switch.done
    filled.model = wide
    assert_answers(filled, wide)


@pytest.mark.parametrize("failure", ["too slow", "a decoder that dies"])
def test_a_file_that_changed_and_cannot_be_read_has_failed(filled: Library, wide: Model, failure: str) -> None:
    filled.photo("1.png", 11)
    with pytest.MonkeyPatch.context() as patched:
        unreadable(filled, patched, failure)
        switch(filled, wide)
    assert filled.item("1.png").reason is FAILURES[failure][0]
    assert filled.item("0.png").status == "ok"
    assert_tables_are_true(filled, filled.model, wide)


def test_what_cannot_be_read_is_told_apart_from_what_was_not_asked_for(filled: Library, wide: Model) -> None:
    more = filled.photos / "more"
    more.mkdir()
    filled.photo("more/4.png", 4)
    filled.index()
    with pytest.MonkeyPatch.context() as patched:
        unreadable(filled, patched, "not allowed")
        report = switch(filled, wide, more)
    assert f"6 of 6 items have no embedding by 'wide' yet (first: {more / '4.png'})" in report.warnings[-1]
    assert ", and 5 are not in the paths of this run; run `mmsearch index" in report.warnings[-1]
