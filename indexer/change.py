"""What one file becomes in the tables: the values that pass from settling to embedding to writing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmsearch.indexer.discover import Found
from mmsearch.indexer.lookup import NO_ROWS, Rows
from mmsearch.store import Item
from mmsearch.types import Reason, Skipped

# The same content has the same embedding: the digest of a file stands for its pixels, a sentence for itself.
Content: TypeAlias = bytes | str
Outcome = Literal["indexed", "moved", "unchanged", "failed", "failed_before", "vanished"]


@dataclass(frozen=True, slots=True)
class Embedding:
    """What the model makes of one content: the `vector` (dim,), and `tokens` (T, C) of a picture if it has a matching
    head.
    """

    vector: NDArray[np.float32]
    tokens: NDArray[np.int8] | None = None


@dataclass(slots=True)
class Row:
    """One row to write. Its item gets an id when it is written.

    At most one of these says where the embedding comes from: `pixels`, the item's text (`embeds_text`), or `copy_from`,
    the id of a row whose embedding is the same. With none of them the row keeps the embedding that its id has.
    `stands`: the table has the item like this already, and only its embedding is to be written.
    """

    item: Item
    pixels: NDArray[np.uint8] | None = None
    embeds_text: bool = False
    copy_from: int | None = None
    embedding: Embedding | None = None
    stands: bool = False

    @property
    def needs_embedding(self) -> bool:
        """Whether the model has to be asked."""
        return self.embedding is None and (self.pixels is not None or self.embeds_text)

    @property
    def content(self) -> Content:
        """What the embedding depends on."""
        return (self.item.hash or b"") if self.pixels is not None else (self.item.text or "")

    def give(self, embedding: Embedding) -> None:
        """The row has its embedding."""
        self.embedding, self.pixels, self.embeds_text = embedding, None, False

    def fail(self, detail: str) -> None:
        """The row becomes an error row: the model fails on this content, though not on others."""
        self.item = replace(self.item, status="error", reason=Reason.CRASHED, detail=detail)
        self.embedding, self.pixels, self.embeds_text, self.stands = None, None, False, False


@dataclass(slots=True)
class Change:
    """What becomes of one file: `rows` to write, by part, which get the ids in `takes_over` as far as those go.

    Ids in `takes_over` beyond `rows` are removed, unless there are no rows at all: then the tables stay as they are.
    `skipped` is set for a file that could not be read in this run, `note` is a remark about one that could.
    """

    found: Found
    outcome: Outcome
    rows: list[Row] = field(default_factory=list)
    takes_over: Rows = field(default_factory=lambda: NO_ROWS)
    skipped: Skipped | None = None
    note: str | None = None

    def fail_row(self, row: Row, detail: str) -> None:
        """One of `rows` cannot be embedded; with none left that can, the file has failed."""
        row.fail(detail)
        self.skipped = skipped(self.found, Reason.CRASHED, detail)
        if not any(each.item.found for each in self.rows):
            self.outcome = "failed"


def skipped(found: Found, reason: Reason, detail: str) -> Skipped:
    """The report on a file that could not be read."""
    return Skipped(os.fsdecode(found.absolute), reason, detail)
