"""Documents with a checksum: what was written comes back, and nothing else passes for it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsearch.checked_json import dump_checked, load_checked

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5).filter(lambda key: key != "sha256"), JSON_VALUES, max_size=4))
def test_body_comes_back_as_it_was(body: dict[str, object]) -> None:
    assert load_checked(dump_checked(body)) == body


@pytest.mark.case("F25")
@pytest.mark.promise("R7")
def test_every_flipped_bit_is_found() -> None:
    data = dump_checked({"format": 1, "path": "/fotos/\udcff", "factor": 1e-7, "list": [1, {"a": None}]})
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises(ValueError, match=r"."):
                load_checked(bytes(flipped))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"sha256": 5}', b"[" * 100_000, b"\xff", b'{"a": NaN}'])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_checked(data)


def test_document_is_plain_json_with_the_checksum_last() -> None:
    assert list(json.loads(dump_checked({"b": 1, "a": 2}))) == ["b", "a", "sha256"]
