"""Any bytes between the pool and its decode processes, in both directions: an answer, a dead process, never a crash."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fuzz_strategies import DEPTHS, SCALARS, VALUES, changed, damaged, dumped, nested
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmsearch.indexer.answers import result_of
from mmsearch.indexer.frames import BrokenFrameError, pack_frame, read_frame
from mmsearch.indexer.jobs import Decoded, Failed, Job
from mmsearch.types import Preprocess

pytestmark = [pytest.mark.case("S47"), pytest.mark.usefixtures("bounded")]
FUZZ = settings(settings.get_profile("fuzz"))
PREPROCESS = Preprocess(height=2, width=2, resize="squash", interpolation="bicubic")
KNOWN = bytes(32)
JOB = Job(7, b"/photos/a.jpg", "image", ".jpg", (KNOWN,))
FACTS: dict[str, Any] = {"hash": "ab" * 32, "size": 7, "mtime_ns": 1, "checked_ns": 2}
IMAGE: dict[str, Any] = {
    **FACTS,
    "outcome": "image",
    "status": "ok",
    "width": 3,
    "height": 4,
    "note": None,
    "taken_at": 0,
    "latitude": 1.5,
    "longitude": -2,
}
FAILED: dict[str, Any] = {**FACTS, "outcome": "failed", "reason": "empty", "detail": "no bytes", "errno": 5}


def reader(data: bytes) -> Any:
    rest = bytearray(data)

    def read(count: int) -> bytearray:
        if count > len(rest):
            raise BrokenFrameError("it ended")
        taken = rest[:count]
        del rest[:count]
        return taken

    return read


def headed(header: bytes, payload: bytes = b"") -> bytes:
    return len(header).to_bytes(4, "little") + header + payload


@FUZZ
@given(data=st.binary(max_size=80) | damaged(pack_frame(IMAGE, 3) + b"abc") | VALUES.map(dumped).map(headed))
@example(data=headed(nested(DEPTHS[1])))
@example(data=headed(nested(DEPTHS[2])))
@example(data=headed(b'{"payload": true}', b"a"))
@example(data=headed(b'{"payload": 1e999}'))
@example(data=headed(b'{"payload": -1}'))
@example(data=headed(b'{"payload": 9223372036854775808}'))
@example(data=headed(b'{"payload": ' + b"9" * 5000 + b"}"))
@example(data=b"\xff\xff\xff\xff")
def test_any_bytes_are_a_frame_or_none(data: bytes) -> None:
    try:
        header, payload = read_frame(reader(data))
        assert isinstance(header, dict) and len(payload) == header["payload"]
    except BrokenFrameError:
        pass


def believed(header: dict[str, Any], payload: bytes) -> Decoded | Failed | None:
    """The result of an answer, which then fits the tables; None for an answer that is refused."""
    try:
        result = result_of(JOB, header, bytearray(payload), PREPROCESS)
    except ValueError:
        return None
    assert result.token == JOB.token
    numbers = [result.size, result.mtime_ns]
    if isinstance(result, Failed):
        result.detail.encode("utf-8")
    else:
        numbers.append(result.checked_ns)
        assert len(result.hash) == 32
        if result.image is not None:
            assert result.image.pixels.shape == (3, 2, 2)
            assert 0 < result.image.width < 1 << 31 and 0 < result.image.height < 1 << 31
            assert abs(result.image.latitude or 0) <= 90 and abs(result.image.longitude or 0) <= 180
            numbers.append(result.image.taken_at)
            assert result.image.note is None or result.image.note.encode("utf-8")
        for passage in result.passages:
            (passage.text + passage.locator).encode("utf-8")
    assert all(isinstance(number, int) and abs(number) < 1 << 63 for number in numbers if number is not None)
    return result


@FUZZ
@given(header=changed(IMAGE) | changed(FAILED), payload=st.sampled_from([bytes(12), b"", bytes(11)]))
@example(header={**IMAGE, "width": 1 << 31}, payload=bytes(12))
@example(header={**IMAGE, "taken_at": 1 << 63}, payload=bytes(12))
@example(header={**IMAGE, "latitude": float("nan")}, payload=bytes(12))
@example(header={**IMAGE, "status": "error"}, payload=bytes(12))
@example(header={**IMAGE, "note": 1}, payload=bytes(12))
@example(header={**IMAGE, "hash": "ab"}, payload=bytes(12))
@example(header={**FACTS, "outcome": "known"}, payload=b"")
@example(header={**FACTS, "outcome": []}, payload=b"")
@example(header={**FAILED, "detail": "\ud800"}, payload=b"")
@example(header={**FAILED, "reason": []}, payload=b"")
def test_any_answer_is_a_result_that_fits_the_tables_or_refused(header: dict[str, Any], payload: bytes) -> None:
    believed(header, payload)


@FUZZ
@given(pieces=VALUES | st.lists(st.tuples(SCALARS, SCALARS), max_size=3))
@example(pieces=[["\ud800", "line 1"]])
@example(pieces=[["text", 1]])
@example(pieces=[[1, "line 1"]])
@example(pieces={"a": 1})
def test_any_passages_are_text_or_refused(pieces: Any) -> None:
    believed({**FACTS, "outcome": "passages"}, json.dumps(pieces).encode("ascii"))


@pytest.mark.parametrize("payload", [b"\xff", nested(DEPTHS[2]), b"[" + b"9" * 5000 + b"]"])
def test_passages_that_are_no_json_are_refused(payload: bytes) -> None:
    assert believed({**FACTS, "outcome": "passages"}, payload) is None


def test_sound_answers_are_believed() -> None:
    assert isinstance(believed(IMAGE, bytes(12)), Decoded)
    assert isinstance(believed(FAILED, b""), Failed)
    known = {**FACTS, "hash": KNOWN.hex(), "outcome": "known"}
    assert isinstance(believed(known, b""), Decoded)
    passages = believed({**FACTS, "outcome": "passages"}, b'[["a dog", "line 1"]]')
    assert isinstance(passages, Decoded) and passages.passages[0].text == "a dog"


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"width": 1 << 31},
        {"taken_at": 1 << 63},
        {"latitude": 90.1},
        {"status": "error"},
        {"note": 1},
        {"hash": "ab"},
        {"size": True},
        {"size": -1},
        {"outcome": "known"},
        {"outcome": "dog"},
    ],
    ids=str,
)
def test_an_answer_with_one_wrong_value_is_refused(wrong: dict[str, Any]) -> None:
    assert believed({**IMAGE, **wrong}, bytes(12)) is None
