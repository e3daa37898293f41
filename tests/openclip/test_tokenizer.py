"""CLIP's tokenizer, out of open_clip's vocabulary: the ids of open_clip's SimpleTokenizer for any text."""

# ruff: noqa: RUF001
from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path

import numpy as np
import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import get_clean_fn

from mmsearch.errors import ModelError
from mmsearch.openclip_tokenizer import clip_tokenizer_json, vocabulary_file
from mmsearch.text import Tokenizer
from mmsearch.text_clean import cleaner

CONTEXT = 77
THEIRS = open_clip.SimpleTokenizer()
HAND_MADE = [
    "a photo of a dog",
    "",
    " \t\n ",
    "Café cafÃ© â€œquotedâ€\x9d naÃ¯ve",
    "&amp;lt;b&amp;gt; &eacute; &#x80;&#0;&nbsp;x &notanentity;",
    "<i>&amp;lt;b&amp;gt;</i> &amp;amp;",
    "“curly” ‘quotes’, it’s — … «these»",
    "😀👍🏽👨‍👩‍👧 🇩🇪",
    "日本語 中文 한국어 العربية हिन्दी",
    "x" * 5000,
    "word " * 500,
    "\x00\x01\x1b[2J\x7f\x85\u2028\u2029",
    "<start_of_text> hi <end_of_text>",
    "!!<end_of_text>",
    "<END_OF_TEXT>a<end_of_text>b<end_of_text",
    "<ſtart_of_text> don't 'S 'ſ it'ſ we'LL they've I'm you'd '' 'x",
    "1234567 ½ ² Ⅷ ١٢٣",
    "İSTANBUL ß ẞ ﬁ ﬂ",
    "a\u200bb\u00adc\ufeff e\u0301 \ud7ff\ue000\U0010fffd",
    "_under_score_ snake_case ...!!!??? </w> a</w>b",
]
# What was not yet in the Unicode version of this Python may be a letter for one library and nothing for the other.
ASSIGNED = st.characters(exclude_categories=("Cs", "Cn"))
PIECES = st.sampled_from(
    ["'s", "'ll", " ", "\n", "&amp;", "&quot;", "’", "<end_of_text>", "<start_of_text>", "Ã©", "ſ"]
)


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer(clip_tokenizer_json(vocabulary_file()), max_tokens=CONTEXT, clean="lower")


def padded(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    ids, mask = tokenizer.encode(texts)
    assert (ids[mask == 0] == 0).all()
    return np.pad(ids, ((0, 0), (0, CONTEXT - ids.shape[1])))


@pytest.mark.parametrize("text", HAND_MADE, ids=range(len(HAND_MADE)))
def test_awkward_text_gets_the_ids_of_open_clip(ours: Tokenizer, text: str) -> None:
    np.testing.assert_array_equal(padded(ours, [text]), THEIRS([text]).numpy())


@settings(max_examples=300)
@given(st.lists(st.lists(st.one_of(ASSIGNED, st.characters(codec="latin-1"), PIECES)), min_size=10, max_size=10))
def test_any_text_gets_the_ids_of_open_clip(ours: Tokenizer, drawn: list[list[str]]) -> None:
    texts = ["".join(each) for each in drawn]
    np.testing.assert_array_equal(padded(ours, texts), THEIRS(texts).numpy())


def test_every_word_of_the_vocabulary_gets_its_id(ours: Tokenizer) -> None:
    words = [word.removesuffix("</w>") for word in THEIRS.encoder if word.isascii()][::7]
    np.testing.assert_array_equal(padded(ours, words), THEIRS(words).numpy())


def test_a_long_text_ends_with_the_mark_of_its_end(ours: Tokenizer) -> None:
    ids, mask = ours.encode(["dog " * 200])
    assert ids.shape == (1, CONTEXT)
    assert mask.all()
    assert ids[0, -1] == THEIRS.eot_token_id


def test_no_id_lies_outside_the_vocabulary(ours: Tokenizer) -> None:
    assert ours.encode(HAND_MADE)[0].max() < THEIRS.vocab_size


def test_equal_vocabularies_give_equal_bytes(tmp_path: Path) -> None:
    copy = tmp_path / "vocabulary.gz"
    copy.write_bytes(gzip.compress(gzip.decompress(vocabulary_file().read_bytes())))
    assert clip_tokenizer_json(copy) == clip_tokenizer_json(vocabulary_file())
    assert json.loads(clip_tokenizer_json(copy))["padding"]["pad_id"] == 0


@pytest.mark.parametrize("data", [b"", b"no gzip", gzip.compress(b"# head\na b\n"), gzip.compress(b"\xff\xfe")])
def test_what_is_no_vocabulary_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "vocabulary.gz").write_bytes(data)
    with pytest.raises(ModelError, match=r"vocabulary\.gz (cannot be read|is not CLIP's)"):
        clip_tokenizer_json(tmp_path / "vocabulary.gz")


@settings(max_examples=300)
@given(st.lists(st.one_of(st.characters(codec="utf-8"), PIECES)), st.sampled_from(["lower", "whitespace"]))
def test_texts_are_cleaned_as_open_clip_cleans_them(drawn: list[str], kind: str) -> None:
    text = "".join(drawn)
    assert cleaner(kind)(text) == get_clean_fn(kind)(text)  # type: ignore[arg-type]
    assert cleaner("canonicalize")(text) == get_clean_fn("canonicalize")(text)
    assert cleaner("none")(text) == text


def test_a_lone_surrogate_is_read_as_the_replacement_character(ours: Tokenizer) -> None:
    np.testing.assert_array_equal(ours.encode(["a\udcff"])[0], ours.encode(["a\ufffd"])[0])
    assert unicodedata.category("\udcff") == "Cs"
