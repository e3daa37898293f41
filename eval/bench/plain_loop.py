"""The loop that anybody would write first, as a process of its own: the baseline of the ingest bench.

    python -m mmsearch.eval.bench.plain_loop FOLDER MODEL

One process, full decode, batches of 32 through the model's own image graph, which ONNX Runtime runs with its default
options, so on all cores; nothing overlaps, and the embeddings end up in one file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from mmsearch.model import load_model

BATCH = 32


def main(folder: str, model_name: str) -> None:
    """Embed every photo in `folder` and save the embeddings."""
    manifest = load_model(model_name).manifest
    session = onnxruntime.InferenceSession(str(manifest.directory / manifest.image_file))
    size = manifest.preprocess.width, manifest.preprocess.height
    paths = sorted(Path(folder).rglob("*.jpg"))
    embeddings = []
    for start in range(0, len(paths), BATCH):
        pixels = np.stack([_decoded(path, size) for path in paths[start : start + BATCH]])
        embeddings.append(session.run(["embedding"], {"pixels": pixels})[0])
    with TemporaryDirectory() as directory:
        np.save(Path(directory, "embeddings.npy"), np.concatenate(embeddings))


def _decoded(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        resized = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
