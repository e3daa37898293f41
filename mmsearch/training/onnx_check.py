"""Runs exported graphs with ONNX Runtime: parity with torch, independence of the batch, recall of what ships."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import Tensor

from mmsearch.errors import ModelError
from mmsearch.training.captions import CaptionedImages, open_rgb, squash
from mmsearch.training.dual_encoder import DualEncoder
from mmsearch.training.validation import Recalls, recalls
from mmsearch.training.word_pieces import load_tokenizer, word_pieces

Floats = npt.NDArray[np.float32]
MATCH_FILE = "itm.onnx"
_LOGIT_TOLERANCE = 0.25  # of logits that run from about -8 to 8


def session(path: Path, threads: int = 0) -> ort.InferenceSession:
    """Return a CPU session of the graph at `path`; 0 threads means all cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def encode_photos(images: ort.InferenceSession, paths: Sequence[Path], size: tuple[int, int]) -> Floats:
    """Return float32 embeddings (N, D) of the photos at `paths`."""
    parts = []
    for start in range(0, len(paths), 32):
        pixels = np.stack([squash(open_rgb(path), size) for path in paths[start : start + 32]])
        parts.append(images.run(None, {"pixels": pixels})[0])
    return np.concatenate(parts)


def encode_texts(texts: ort.InferenceSession, tokenizer: Path, captions: Sequence[str]) -> Floats:
    """Return float32 embeddings (T, D) of `captions`."""
    pieces = word_pieces(load_tokenizer(tokenizer), captions)
    parts = []
    for start in range(0, len(captions), 100):
        ids, mask = pieces.batch(torch.arange(start, min(start + 100, len(captions))))
        parts.append(texts.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0])
    return np.concatenate(parts)


def shipped_recalls(directory: Path, data: CaptionedImages, size: tuple[int, int]) -> Recalls:
    """Return the recalls on `data` of the graphs and tokenizer in `directory`, exactly as they ship."""
    images = encode_photos(session(directory / "image.onnx"), data.paths, size)
    captions = encode_texts(session(directory / "text.onnx"), directory / "tokenizer.json", data.captions)
    return recalls(images, captions, data.image_of)


def _worst(ours: Floats, theirs: Floats) -> float:
    return float((ours * theirs).sum(1).min())


@torch.no_grad()
def check_parity(directory: Path, model: DualEncoder, size: tuple[int, int], *, smallest_cosine: float) -> float:
    """Return the smallest cosine between torch and the graphs in `directory` on random pixels and word pieces.

    Each text is also embedded alone and padded; both must agree with its batch to 0.9999. With a matching head its
    logits are compared too: of the tokens and states that the graphs give, against those that torch gives.

    Raises:
        ModelError: a cosine is below `smallest_cosine`, a batch changes an embedding, or logits differ.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, *size), dtype=torch.uint8, generator=generator)
    vocabulary = model.text_tower.word_embeddings.num_embeddings
    ids = torch.randint(1, vocabulary, (4, 12), generator=generator)
    mask = (torch.arange(12)[None, :] < torch.tensor([12, 9, 5, 3])[:, None]).long()
    model.eval()
    image_session, text_session = session(directory / "image.onnx"), session(directory / "text.onnx")

    def run_images(batch: Tensor) -> list[Any]:
        return list(image_session.run(None, {"pixels": batch.numpy()}))

    def run_texts(batch_ids: Tensor, batch_mask: Tensor) -> list[Any]:
        return list(text_session.run(None, {"input_ids": batch_ids.numpy(), "attention_mask": batch_mask.numpy()}))

    images, *tokens = run_images(pixels)
    texts, *states = run_texts(ids * mask, mask)
    worst = min(
        _worst(images, model.embed_images(pixels).numpy()), _worst(texts, model.embed_texts(ids * mask, mask).numpy())
    )
    if worst < smallest_cosine:
        raise ModelError(f"exported graphs agree with torch to cosine {worst:.6f}, expected at least {smallest_cosine}")
    lengths = mask.sum(1).tolist()
    alone = np.concatenate([run_texts(ids[i : i + 1, :n], mask[i : i + 1, :n])[0] for i, n in enumerate(lengths)])
    alone_images = np.concatenate([run_images(pixels[i : i + 1])[0] for i in range(4)])
    batch = min(_worst(alone, texts), _worst(alone_images, images))
    if batch < 0.9999:
        raise ModelError(f"an embedding changes with its batch: cosine {batch:.6f}, expected at least 0.9999")
    if model.matcher is not None:
        inputs = {"tokens": tokens[0], "states": states[0], "attention_mask": mask.numpy()}
        (logits,) = session(directory / MATCH_FILE).run(["logit"], inputs)
        own = model.matcher(
            model.match_tokens(model.image_tower(pixels)), model.text_tower(ids * mask, mask), mask.bool()
        )
        _check_logits(logits, own.numpy())
    return worst


def _check_logits(exported: Floats, own: Floats) -> None:
    """Compare match logits of the graphs with torch's, where tokens are not rounded and weights not compact.

    Raises:
        ModelError: they are further apart than rounding explains.
    """
    furthest = float(np.abs(exported - own).max())
    if not furthest <= _LOGIT_TOLERANCE:
        raise ModelError(
            f"exported match logits are up to {furthest:.3f} from torch's, expected at most {_LOGIT_TOLERANCE}"
        )
