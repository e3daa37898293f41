"""What our parsers are fed: JSON of any shape and depth, sound documents with something changed, and bytes."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

# Deeper than any parser follows, and as deep as only some do.
DEPTHS = (500, 990, 100_000)
_TEXT = st.one_of(
    st.text(st.characters(), max_size=20),
    st.sampled_from(
        ["", ".", "..", "../x", "/etc/passwd", "\0", "\ud800", "\udcff", "a" * 300, "nan", "-1", "\x1b[2J"]
    ),
)
_NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([-1, 0, 1 << 31, 1 << 63, -(1 << 63) - 1, 1 << 64, 10**400, True, False]),
    st.floats(),
)
SCALARS = st.one_of(st.none(), _NUMBERS, _TEXT)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4), max_leaves=12
)


def nested(depth: int) -> bytes:
    """A JSON list inside a list, `depth` times."""
    return b"[" * depth + b"]" * depth


@st.composite
def changed(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """`document` with one to three of its values, at any depth, replaced, removed, or joined by others."""
    result = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(_places(result)))
        match draw(st.sampled_from(["replace", "replace", "remove", "add"])):
            case "remove":
                del holder[key]
            case "add" if isinstance(holder, dict):
                holder[draw(_TEXT)] = draw(VALUES)
            case _:
                holder[key] = draw(VALUES)
        if not _places(result):
            break
    return result


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or position) in `value`."""
    if isinstance(value, dict):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))
    else:
        return []
    return [(value, key) for key, _ in inside] + [place for _, each in inside for place in _places(each)]


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` cut, with bytes replaced, or with a part of it in another place."""
    changed_data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(changed_data) - 1, 0)))
        match draw(st.sampled_from(["cut", "replace", "insert", "repeat"])):
            case "cut":
                del changed_data[at : at + draw(st.integers(1, 40))]
            case "replace":
                changed_data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
            case "insert":
                changed_data[at:at] = draw(
                    st.binary(max_size=8) | st.sampled_from([b"\0", b"\n", b'"', b"\\", b"\xff"])
                )
            case _:
                changed_data[at:at] = changed_data[: draw(st.integers(0, 60))]
    return bytes(changed_data)


def dumped(document: Any) -> bytes:
    """`document` as JSON; what Python writes beyond the standard, such as NaN, is written too."""
    return json.dumps(document).encode("ascii")
