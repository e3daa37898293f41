"""The loop that anybody would write first, as a process of its own: the baseline of the ingest bench.

    python -m mmsearch.eval.bench.plain_loop FOLDER MODEL

One process, full decode, batches of 32 through the same model at ONNX Runtime's default number of threads, nothing
overlaps, and the embeddings end up in one file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from mmsearch.model import load_model

BATCH = 32


def main(folder: str, model_name: str) -> None:
    """Embed every photo in `folder` and save the embeddings."""
    model = load_model(model_name)
    paths = sorted(Path(folder).rglob("*.jpg"))
    embeddings = []
    for start in range(0, len(paths), BATCH):
        pictures = [_decoded(path) for path in paths[start : start + BATCH]]
        embeddings.append(model.encode_images(pictures, batch_size=BATCH))
    with TemporaryDirectory() as directory:
        np.save(Path(directory, "embeddings.npy"), np.concatenate(embeddings))


def _decoded(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


if __name__ == "__main__":
    main(*sys.argv[1:])
