"""What open_clip models' tokenizers do to a sentence before they look at it, so that the same words reach the model."""

from __future__ import annotations

import html
import string
from collections.abc import Callable

from mmsearch.model_manifest import Cleaning

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def cleaner(kind: Cleaning) -> Callable[[str], str]:
    """The function that cleans a sentence in the way `kind`.

    All ways but "none" mend text that was decoded wrongly ("cafÃ©") and resolve HTML entities. "whitespace" leaves one
    space between words, "lower" also writes small letters, "canonicalize" also leaves ASCII punctuation out.
    """
    ways: dict[Cleaning, Callable[[str], str]] = {
        "none": _as_it_is,
        "whitespace": _whitespace,
        "lower": _lower,
        "canonicalize": _canonical,
    }
    return ways[kind]


def _as_it_is(text: str) -> str:
    return text


def _whitespace(text: str) -> str:
    return " ".join(_mended(text).split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonical(text: str) -> str:
    return " ".join(_mended(text).replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


def _mended(text: str) -> str:
    import ftfy  # slow to import, and models of our own do without

    # Twice, because captions from the web come escaped twice.
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()
