r"""Any name, caption or message -> text that a terminal, a log or a JSON reader may show.

Escaped are C0 and C1 controls, DEL, line and paragraph separators, the controls that reorder text (bidi), lone
surrogates, and the backslash itself, so that two different names never look the same. Undecodable bytes, which
`os.fsdecode` keeps as surrogates, show as the byte: `\xff`.
"""

from __future__ import annotations

import base64
import os
import re

# Bidi controls: Unicode Standard Annex 9, section 2. U+2028 and U+2029 end a line in some terminals and in JavaScript.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_UNSAFE_IN_MESSAGES = re.compile(_UNSAFE.pattern.replace(r"\\", ""))
_SHORT = {"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


def safe_text(text: str) -> str:
    r"""`text` on one line, with everything escaped that could move the cursor, reorder or end the line, or not be
    encoded.

    Different texts stay different. `\xNN` is a control character below U+0080 or an undecodable byte, `\uNNNN` any
    other code point.

    >>> print(safe_text("caf\u00e9\x1b[2J\n"))
    café\x1b[2J\n
    """
    return _UNSAFE.sub(_escape, text)


def safe_message(text: str) -> str:
    """A message of our words around texts that went through `safe_text`: escaped alike, but backslashes stay."""
    return _UNSAFE_IN_MESSAGES.sub(_escape, text)


def safe_path(path: str | bytes) -> str:
    """A file name as `safe_text` shows it."""
    return safe_text(os.fsdecode(path))


def path_b64(path: str | bytes) -> str:
    """The exact bytes of a file name, in base64: the half of the JSON contract that loses nothing."""
    return base64.b64encode(os.fsencode(path)).decode("ascii")


def plain_text(text: str) -> str:
    """`text` that can be encoded: a lone surrogate, and so an undecodable byte of an argument, becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}"
