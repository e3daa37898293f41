"""Every bad input through the real command: it costs itself, once, with a reason, and gets in when it is repaired."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from corpus import GROUPS, NEIGHBOUR_TEXT, NEIGHBOURS, Placed, all_cases
from corpus_batch import Batch, Round, run_batch
from corpus_case import FOLDER, IGNORED
from corpus_metadata import HOSTILE_CAPTIONS
from corpus_names import NEAR_SPECIAL_NAMES

from mmsearch.store import Item

SAME_COLOUR = 0.99
CASES = [pytest.param(each, marks=pytest.mark.case(each.case.id), id=each.case.label) for each in all_cases()]


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Batch:
    return run_batch(tmp_path_factory.mktemp("corpus"), str(tiny_model_dir))


def made(batch: Batch, placed: Placed) -> bytes:
    """The path of a case, whose test is skipped where this machine could not make its file."""
    if reason := batch.unmade.get(placed.case.label):
        pytest.skip(reason)
    return batch.path(placed)


def work_on(row: Item) -> tuple[object, ...]:
    """What of a row changes when anything is done for its file."""
    return row.id, row.revision, row.checked_ns, row.part


@pytest.mark.promise("R4")
@pytest.mark.parametrize("placed", CASES)
def test_costs_itself_alone(batch: Batch, placed: Placed) -> None:
    path, case = made(batch, placed), placed.case
    first = batch.rounds[0]
    outcome = batch.outcome(placed, first)
    assert outcome in case.expected
    rows = first.rows.get(path, [])
    if outcome.startswith("error:"):
        assert len(rows) == 1 and rows[0].detail
        assert first.errors[path] == first.skipped[path] == [outcome.removeprefix("error:")]
        assert (path, 0) not in first.hits
    elif outcome not in IGNORED | FOLDER:
        assert path not in first.errors and path not in first.skipped
        assert [len(first.hits[path, row.part]) for row in rows] == [1] * len(rows)
        assert {name: getattr(rows[0], name) for name in case.row} == dict(case.row)


@pytest.mark.promise("R4")
@pytest.mark.parametrize("placed", CASES)
def test_is_no_work_for_a_second_run(batch: Batch, placed: Placed) -> None:
    path = made(batch, placed)
    first, second, _ = batch.rounds
    assert [work_on(row) for row in second.rows.get(path, [])] == [work_on(row) for row in first.rows.get(path, [])]
    assert path not in second.skipped
    assert second.errors.get(path) == first.errors.get(path)


@pytest.mark.promise("R4")
@pytest.mark.parametrize("placed", CASES)
def test_gets_in_once_it_is_repaired_and_is_left_alone_otherwise(batch: Batch, placed: Placed) -> None:
    path = made(batch, placed)
    _, second, third = batch.rounds
    repaired = batch.repaired.get(placed.case.label)
    if repaired is None:
        assert [work_on(row) for row in third.rows.get(path, [])] == [work_on(row) for row in second.rows.get(path, [])]
        return
    path = os.fsencode(repaired)
    assert [row.status for row in third.rows[path]] == ["ok"]
    assert path not in third.errors
    (similarity,) = third.hits[path, 0]
    if repaired.name != "unreached.jpg":
        assert similarity > SAME_COLOUR


@pytest.mark.promise("R4", "R6")
def test_runs_end_with_the_documented_exit_codes(batch: Batch) -> None:
    """0 although files were skipped, 3 with --strict because they were, 0 with --strict once they are repaired."""
    assert [round.ran.code for round in batch.rounds] == [0, 3, 0]
    assert [ran.code for ran in batch.shown] == [0] * len(batch.shown)


@pytest.mark.promise("R4")
def test_second_run_counts_what_failed_before_and_reads_nothing(batch: Batch) -> None:
    first, second, third = (round.ran.json for round in batch.rounds)
    failed = len(batch.rounds[0].errors)
    assert failed > 30
    assert (second["indexed"], second["unchanged"], second["failed_before"]) == (0, first["indexed"], failed)
    assert (third["indexed"], third["failed_before"], third["skipped"]) == (len(batch.repaired), 0, [])
    assert third["indexed"] + third["unchanged"] == len(batch.rounds[2].rows)


@pytest.mark.promise("R4")
@pytest.mark.parametrize("number", [0, 1, 2])
def test_good_neighbours_are_found(batch: Batch, number: int) -> None:
    found = batch.rounds[min(number, 1)]
    for group in GROUPS:
        for name in (*NEIGHBOURS, NEIGHBOUR_TEXT):
            path = os.fsencode(batch.corpus / group / name)
            (similarity,) = found.hits[path, 0]
            assert similarity > SAME_COLOUR, path
            assert [row.status for row in batch.rounds[number].rows[path]] == ["ok"]


@pytest.mark.promise("R1")
def test_originals_stay_as_they_were(batch: Batch) -> None:
    assert batch.after == batch.before


@pytest.mark.case("C40")
def test_no_warning_of_a_decoder_reaches_the_user(batch: Batch) -> None:
    for round in batch.rounds:
        assert all(line.startswith("mmsearch: ") for line in round.ran.err.splitlines())
        assert "Warning" not in round.ran.err


@pytest.mark.case("C73", "C83", "C89")
def test_nothing_that_a_terminal_shows_can_move_its_cursor(batch: Batch) -> None:
    shown = [ran.out.decode() + ran.err for ran in batch.shown]
    for text in shown:
        assert not {c for c in text if (ord(c) < 0x20 and c not in "\n\t") or c in "\x7f\u202e\u202c\u2066\u2069"}
    assert r"esc\x1b[2Jape.jpg" in shown[0] and r"new\nline.jpg" in shown[0]
    assert r"escape \x1b[2J\x1b]52;c;aGVsbG8=\x07 sequence" in shown[1]


@pytest.mark.case("C73")
def test_captions_are_stored_exactly(batch: Batch) -> None:
    path = os.fsencode(batch.corpus / "metadata" / "captions.csv")
    assert tuple(row.text for row in batch.rounds[0].rows[path]) == HOSTILE_CAPTIONS


@pytest.mark.case("C77")
def test_ghostscript_is_never_run(batch: Batch) -> None:
    assert not batch.machine.trapped.exists()


@pytest.mark.case("C75", "C76")
def test_names_that_promise_something_else_are_remarked_on(batch: Batch) -> None:
    assert "not what the name says" in batch.rounds[0].ran.err


@pytest.mark.case("C84")
def test_names_with_wildcards_stand_for_themselves_alone(batch: Batch) -> None:
    """The repaired ones changed in the third run; what a pattern of their names would match did not."""
    rounds: list[Round] = batch.rounds
    for name in NEAR_SPECIAL_NAMES:
        path = os.fsencode(batch.corpus / "names" / name)
        assert [work_on(row) for row in rounds[2].rows[path]] == [work_on(row) for row in rounds[0].rows[path]]


@pytest.mark.case("C82")
def test_exact_names_come_back_in_json_and_with_print0(batch: Batch) -> None:
    path = os.fsencode(batch.corpus / "names") + b"/\xff.jpg"
    if path not in batch.rounds[0].rows:
        pytest.skip("this file system takes no name that is not UTF-8")
    assert (path, 0) in batch.rounds[0].hits
    under = batch.corpus / "names"
    found = batch.machine.run("query", "red", "-k", "1000", "--under", under, "--print0")
    assert path in found.out.split(b"\0")
