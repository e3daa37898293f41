"""Sentences -> token ids, as one model's own tokenizer makes them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmsearch.errors import ModelError
from mmsearch.model_manifest import Cleaning
from mmsearch.safe_text import plain_text, safe_text
from mmsearch.text_clean import cleaner

# No model here sees more than a few hundred tokens, and words are cut to pieces long before they reach this length.
_CHARACTERS_PER_TOKEN = 256


class Tokenizer:
    """The tokenizer in the `tokenizer.json` whose bytes are `data`; sentences are cut after `max_tokens` tokens.

    They are cleaned as `clean` says before that. With `pad` every batch is padded to `max_tokens`, for models that
    look at their padding.

    Raises:
        ModelError: `data` is not such a file.
    """

    def __init__(
        self, data: bytes, *, max_tokens: int, lowercase: bool = False, clean: Cleaning = "none", pad: bool = False
    ) -> None:
        # Its thread pool costs more than it gives for sentences, and warns when a process that used it starts another.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # the Rust side raises bare Exception
            raise ModelError(f"the model's tokenizer cannot be read: {safe_text(str(error))}") from error
        padding = self._tokenizer.padding or {}
        self._tokenizer.enable_padding(
            pad_id=padding.get("pad_id", 0),
            pad_token=padding.get("pad_token", "[PAD]"),
            length=max_tokens if pad else None,
        )
        self._tokenizer.enable_truncation(max_tokens)
        self._max_characters = max_tokens * _CHARACTERS_PER_TOKEN
        self._lowercase = lowercase
        self._clean = cleaner(clean)

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids (B, L) and mask (B, L), 1 for tokens and 0 for padding; L is the longest of the batch, or the
        limit for a model that is always padded to it.

        Any text will do: empty, very long (the end is not read), or with lone surrogates (read as U+FFFD).
        """
        if not texts:
            return np.zeros((0, 0), np.int64), np.zeros((0, 0), np.int64)
        encodings = self._tokenizer.encode_batch([self._readable(text) for text in texts])
        ids = np.array([each.ids for each in encodings], np.int64)
        mask = np.array([each.attention_mask for each in encodings], np.int64)
        return ids, mask

    def _readable(self, text: str) -> str:
        text = self._clean(plain_text(text[: self._max_characters]))
        return text.lower() if self._lowercase else text
