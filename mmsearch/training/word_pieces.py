"""Captions as padded word pieces, by the tokenizer that ships with the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from mmsearch.training.starting_weights import TEXT_PACKAGE, packaged_file

MAX_TOKENS = 64  # Flickr8k's longest caption has 38 words; a passage longer than this is cut


def neutral_tokenizer_json() -> str:
    """Return MiniLM's tokenizer.json without padding and truncation, which the encoder sets itself."""
    content = json.loads(packaged_file(TEXT_PACKAGE, "tokenizer.json").read_text(encoding="utf-8"))
    content["padding"] = content["truncation"] = None
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def load_tokenizer(path: Path | None = None) -> Tokenizer:
    """Return the tokenizer of `path`, or the starting one, cutting at `MAX_TOKENS`."""
    text = neutral_tokenizer_json() if path is None else path.read_text(encoding="utf-8")
    tokenizer: Tokenizer = Tokenizer.from_str(text)
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


@dataclass(frozen=True)
class WordPieces:
    """Word pieces of N texts: int64 ids (N, L), padded, and their lengths (N,).

    `whole` is for a tower that reads the padding: a batch is then as wide as all texts.
    """

    ids: Tensor
    lengths: Tensor
    whole: bool = False

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return (input_ids, attention_mask), both int64 (B, L), no wider than it has to be."""
        lengths = self.lengths[rows]
        width = self.ids.shape[1] if self.whole else int(lengths.max())
        mask = (torch.arange(width)[None, :] < lengths[:, None]).long()
        return self.ids[rows, :width], mask


def word_pieces(tokenizer: Tokenizer, texts: Sequence[str]) -> WordPieces:
    """Return the padded word pieces of `texts`, special tokens included."""
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    lengths = torch.tensor([len(ids) for ids in encoded])
    ids = torch.zeros((len(encoded), int(lengths.max())), dtype=torch.int64)
    for row, values in enumerate(encoded):
        ids[row, : len(values)] = torch.tensor(values)
    return WordPieces(ids, lengths)
