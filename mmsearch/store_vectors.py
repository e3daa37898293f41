"""The rows of an embeddings table: vectors in float16, and beside that of a picture its tokens, if there are some."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmsearch.errors import ModelError
from mmsearch.exact_search import unit_float32

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int8]

# Only pictures have tokens, and only where the model has a matching head: a table gets the column with the first ones.
TOKENS_FIELD = pa.field("tokens", pa.binary())

# float16 keeps the length of a unit vector to about one part in two thousand.
_LENGTH_TOLERANCE = 1e-2
_TOKEN_HEADER = struct.Struct("<HH")


def vector_schema(dim: int) -> pa.Schema:
    """The columns that every embeddings table has."""
    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("embedding", pa.list_(pa.float16(), dim), nullable=False),
        ]
    )


def table_name(fingerprint: str) -> str:
    """The fingerprint, which becomes a file name."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", fingerprint):
        raise ModelError(f"model fingerprint {fingerprint[:40]!r} is not made of letters, digits, '-' and '_'")
    return fingerprint


def require_fitting(
    ids: Ids, found: set[int], *, known: Ids, vectors: Mapping[int, Vectors], tokens: Mapping[int, Tokens]
) -> None:
    """Returns when items with `ids`, of which `found` can be found, may be put with these embeddings, where the items
    `known` are in the table already.

    Raises:
        ValueError: an id comes twice, a vector belongs to no item that can be found, or a new item has none; or tokens
            come without a vector.
    """
    if len(np.unique(ids)) != len(ids):
        raise ValueError("an item id comes twice in one put")
    strangers = vectors.keys() - found
    if strangers:
        raise ValueError(f"vector {min(strangers)} belongs to no item that can be found")
    require_vectors(tokens, vectors)
    # An item that is known may have lost its vector, or have none of this model yet, and may be moved all the same.
    without = np.setdiff1d(np.array(sorted(found - vectors.keys()), np.int64), known)
    if len(without):
        raise ValueError(f"item {without[0]} can be found but has no vector, and is not known yet")


def require_vectors(tokens: Mapping[int, Tokens], vectors: Mapping[int, Vectors]) -> None:
    """Returns when all `tokens` have a vector beside them; raises ValueError when some have none."""
    bare = tokens.keys() - vectors.keys()
    if bare:
        raise ValueError(f"tokens {min(bare)} come without a vector")


def vectors_to_arrow(schema: pa.Schema, vectors: Mapping[int, Vectors], tokens: Mapping[int, Tokens]) -> pa.Table:
    """`vectors` (dim,) and `tokens` (T, C) by id as rows of a table with `schema`.

    Raises:
        ModelError: a vector is not `dim` finite numbers of length 1, or tokens are not int8 of two dimensions.
    """
    if not vectors:
        return schema.empty_table()
    dim = schema.field("embedding").type.list_size
    ids = np.array(list(vectors), np.int64)
    shapes = {np.shape(vector) for vector in vectors.values()}
    if shapes != {(dim,)}:
        raise ModelError(f"the model gave embeddings of shapes {shapes}, expected {(dim,)}")
    embeddings = np.stack(list(vectors.values())).astype(np.float32)
    wrong = _not_unit(embeddings)
    if wrong is not None:
        raise ModelError(
            f"the embedding of item {ids[wrong]} has length {np.linalg.norm(embeddings[wrong])}, expected 1: "
            "the model is not usable; install it again"
        )
    halves = pa.array(embeddings.astype(np.float16).reshape(-1))
    columns = [pa.array(ids), pa.FixedSizeListArray.from_arrays(halves, dim)]
    if TOKENS_FIELD.name in schema.names:
        cells = [_to_cell(tokens[id]) if id in tokens else None for id in vectors]
        columns.append(pa.array(cells, TOKENS_FIELD.type))
    return pa.table(columns, schema=schema)


def vectors_from_arrow(column: pa.ChunkedArray, ids: Ids) -> Vectors:
    """The embeddings (N, dim) in `column`, those of `ids`, as float32, normalised after their rest in float16.

    Raises:
        ValueError: one is not finite or has lost its length.
    """
    embeddings = column.combine_chunks()
    stored = pa.concat_arrays(embeddings.chunks) if isinstance(embeddings, pa.ChunkedArray) else embeddings
    halves = stored.flatten().to_numpy(zero_copy_only=False).reshape(len(ids), column.type.list_size)
    wrong = _not_unit(halves.astype(np.float32))
    if wrong is not None:
        raise ValueError(f"the embedding of item {ids[wrong]} is not a unit vector")
    return unit_float32(halves)


def tokens_from_arrow(column: pa.ChunkedArray, ids: Ids) -> list[Tokens | None]:
    """The tokens (T, C) in `column`, those of `ids`, None where there are none.

    Raises:
        ValueError: some are not what was written.
    """
    found: list[Tokens | None] = []
    for id, cell in zip(ids.tolist(), column, strict=True):
        try:
            found.append(_from_cell(cell.as_buffer()) if cell.is_valid else None)
        except ValueError as error:
            raise ValueError(f"the tokens of item {id} are damaged: {error}") from error
    return found


def _to_cell(tokens: Tokens) -> bytes:
    """T and C, and the numbers row by row."""
    if tokens.dtype != np.int8 or tokens.ndim != 2 or not all(0 < size < 1 << 16 for size in tokens.shape):
        raise ModelError(f"the model gave tokens of {tokens.dtype} {tokens.shape}, expected int8 of two dimensions")
    return _TOKEN_HEADER.pack(*tokens.shape) + tokens.tobytes()


def _from_cell(cell: Any) -> Tokens:
    if len(cell) < _TOKEN_HEADER.size:
        raise ValueError(f"they have {len(cell)} bytes")
    count, dim = _TOKEN_HEADER.unpack_from(cell)
    if not count or not dim or len(cell) - _TOKEN_HEADER.size != count * dim:
        raise ValueError(f"with the shape ({count}, {dim}) they have {len(cell)} bytes")
    return np.frombuffer(cell, np.int8, offset=_TOKEN_HEADER.size).reshape(count, dim)


def _not_unit(embeddings: Vectors) -> int | None:
    """The first row that is not finite or not of length 1, or None."""
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _LENGTH_TOLERANCE))
    return int(wrong[0]) if len(wrong) else None
