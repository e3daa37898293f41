from __future__ import annotations

import base64
import os
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mmsearch.safe_text import path_b64, plain_text, safe_message, safe_path, safe_text

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
ANY_TEXT = st.text(st.characters(), max_size=40)


def unescaped(shown: str) -> str:
    """The inverse that a reader does in the head."""
    named = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}

    def character(match: re.Match[str]) -> str:
        letter, digits = match[1][0], match[1][1:]
        if letter not in "xu":
            return named[letter]
        code = int(digits, 16)
        return chr(0xDC00 + code) if letter == "x" and code >= 0x80 else chr(code)

    return re.sub(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|[\\nrt])", character, shown)


@given(ANY_TEXT)
@example("\\n")
@example("\x85\udc85")
@example("\\\udcff\\xff")
def test_escaped_text_can_be_read_back_exactly(text: str) -> None:
    assert unescaped(safe_text(text)) == text


@pytest.mark.case("S14")
@given(ANY_TEXT)
@example(BIDI)
@example("\u2028\u2029\x7f\x9b31m\x1b]52;c;Zm9v\x07\r\n\t\0")
def test_no_shown_character_can_move_reorder_or_break(text: str) -> None:
    for shown in (safe_text(text), safe_message(text)):
        shown.encode("utf-8")
        assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in BIDI]


def test_ordinary_text_of_any_language_stays_as_it_is() -> None:
    text = "Köln 東京 שלום 👨\u200d👩\u200d👧 it's 50 %.jpg"
    assert safe_text(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb", r"a\nb"), ("\x1b[2J", r"\x1b[2J"), ("a\\b", r"a\\b"), ("\x9b", r"\u009b"), ("\ud800", r"\ud800")],
)
def test_escapes_look_as_documented(text: str, shown: str) -> None:
    assert safe_text(text) == shown


def test_a_message_keeps_the_escapes_made_before() -> None:
    assert safe_message(f"no file {safe_text('a' + chr(10))}: \x1b[31m") == r"no file a\n: \x1b[31m"


def test_undecodable_bytes_of_a_name_show_as_bytes_and_survive_in_base64() -> None:
    name = b"/p/caf\xe9\n.jpg"
    assert safe_path(name) == safe_path(os.fsdecode(name)) == r"/p/caf\xe9\n.jpg"
    assert base64.b64decode(path_b64(os.fsdecode(name))) == name


def test_plain_text_replaces_only_what_cannot_be_encoded() -> None:
    assert plain_text("naïve 犬 \udcff!") == "naïve 犬 \ufffd!"
