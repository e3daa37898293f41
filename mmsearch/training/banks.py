"""Banks of typical queries, against hubs: embeddings of training captions and of training photos, beside the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsearch.model import Model
from mmsearch.model_facts import Direction
from mmsearch.npy_files import npy_header
from mmsearch.training.captions import CaptionedImages

BANK_FILES: dict[Direction, str] = {"text_to_image": "bank-texts.npy", "image_to_text": "bank-images.npy"}


def bank_rows(model: Model, direction: Direction, photos: CaptionedImages, *, rows: int) -> npt.NDArray[np.float32]:
    """Return float32 (M, D), M <= `rows`: typical queries of `direction`, captions or photos evenly spread."""
    if direction == "text_to_image":
        captions = list(dict.fromkeys(photos.captions))
        return model.encode_texts([captions[row] for row in _spread(len(captions), rows)])
    return model.encode_images([photos.paths[row] for row in _spread(len(photos.paths), rows)])


def write_bank(vectors: npt.NDArray[np.float32], path: Path) -> None:
    """Write `vectors` (M, D) to `path` as a float16 .npy file."""
    stored = vectors.astype(np.float16)
    path.write_bytes(npy_header(stored.dtype, stored.shape) + stored.tobytes())


def _spread(count: int, rows: int) -> npt.NDArray[np.int64]:
    """Return at most `rows` of `count` places, evenly spread."""
    return np.linspace(0, count - 1, min(count, rows)).astype(np.int64)
