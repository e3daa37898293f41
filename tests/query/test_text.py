from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import MAX_TOKENS

from mmsearch.errors import ModelError
from mmsearch.text import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Tokenizer:
    return Tokenizer((tiny_model_dir / "tokenizer.json").read_bytes(), max_tokens=MAX_TOKENS)


def test_a_batch_is_as_long_as_its_longest_and_masked_beyond_each(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode(["red", "red green blue"])
    assert ids.dtype == mask.dtype == np.int64
    assert ids.shape == mask.shape == (2, 5)
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert ids[0, 3:].tolist() == [0, 0]


def test_padding_leaves_the_tokens_of_a_sentence_alone(tokenizer: Tokenizer) -> None:
    alone, _ = tokenizer.encode(["red dog"])
    beside, mask = tokenizer.encode(["red dog", "white black cyan yellow"])
    assert beside[0][mask[0] == 1].tolist() == alone[0].tolist()


def test_a_long_sentence_is_cut_after_the_limit_with_its_end_mark_kept(tokenizer: Tokenizer) -> None:
    ids, _ = tokenizer.encode(["red " * 50])
    end = tokenizer.encode([""])[0][0, -1]
    assert ids.shape == (1, MAX_TOKENS)
    assert ids[0, -1] == end


def test_a_megabyte_gives_the_tokens_of_its_beginning(tokenizer: Tokenizer) -> None:
    ids, _ = tokenizer.encode(["red dog " * 125_000])
    assert ids.tolist() == tokenizer.encode(["red dog " * 100])[0].tolist()


def test_what_lies_far_behind_the_limit_is_not_read(tokenizer: Tokenizer) -> None:
    ids, _ = tokenizer.encode([" " * 1_000_000 + "red"])
    assert ids.tolist() == tokenizer.encode([""])[0].tolist()


def test_a_lone_surrogate_is_read_as_the_replacement_character(tokenizer: Tokenizer) -> None:
    ids, _ = tokenizer.encode(["red\ud800", "red\ufffd", "red\udcff"])
    assert ids[0].tolist() == ids[1].tolist() == ids[2].tolist()


def test_the_empty_sentence_and_the_empty_batch_are_fine(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode([""])
    assert ids.shape == (1, 2)
    assert mask.all()
    assert tokenizer.encode([])[0].shape == tokenizer.encode([])[1].shape == (0, 0)


@given(st.lists(st.text(st.characters(), max_size=20), min_size=1, max_size=3))
def test_any_text_has_tokens_lone_surrogates_too(tokenizer: Tokenizer, texts: list[str]) -> None:
    ids, mask = tokenizer.encode(texts)
    assert ids.shape == mask.shape
    assert (mask.sum(axis=1) >= 2).all()


def test_lowercase_is_done_for_a_tokenizer_that_does_not(tmp_path: Path) -> None:
    import tokenizers

    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "red": 1}, unk_token="[UNK]"))
    data = plain.to_str().encode()
    assert Tokenizer(data, max_tokens=4).encode(["RED"])[0].tolist() == [[0]]
    assert Tokenizer(data, max_tokens=4, lowercase=True).encode(["RED"])[0].tolist() == [[1]]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"version": "1.0"}'])
def test_rubbish_for_a_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(ModelError, match="tokenizer cannot be read"):
        Tokenizer(data, max_tokens=4)
