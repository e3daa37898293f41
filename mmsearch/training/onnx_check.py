"""Runs exported graphs with ONNX Runtime: parity with torch, independence of the batch, recall of what ships."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import Tensor, nn

from mmsearch.errors import ModelError
from mmsearch.images import to_pixels
from mmsearch.text import Tokenizer
from mmsearch.training.captions import CaptionedImages, open_rgb
from mmsearch.training.two_towers import TwoTowers
from mmsearch.training.validation import Recalls, recalls
from mmsearch.training.word_pieces import WordPieces
from mmsearch.types import Preprocess

Floats = npt.NDArray[np.float32]
MATCH_FILE = "itm.onnx"
_LOGIT_TOLERANCE = 0.25  # of logits that run from about -8 to 8


def session(path: Path, threads: int = 0) -> ort.InferenceSession:
    """Return a CPU session of the graph at `path`; 0 threads means all cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def encode_photos(images: ort.InferenceSession, paths: Sequence[Path], preprocess: Preprocess) -> Floats:
    """Return float32 embeddings (N, D) of the photos at `paths`."""
    parts = []
    for start in range(0, len(paths), 32):
        pixels = np.stack([to_pixels(open_rgb(path), preprocess) for path in paths[start : start + 32]])
        parts.append(images.run(None, {"pixels": pixels})[0])
    return np.concatenate(parts)


def encode_texts(texts: ort.InferenceSession, tokenizer: Tokenizer, captions: Sequence[str]) -> Floats:
    """Return float32 embeddings (T, D) of `captions`."""
    parts = []
    for start in range(0, len(captions), 100):
        ids, mask = tokenizer.encode(captions[start : start + 100])
        parts.append(texts.run(None, {"input_ids": ids, "attention_mask": mask})[0])
    return np.concatenate(parts)


def shipped_recalls(directory: Path, data: CaptionedImages, *, preprocess: Preprocess, tokenizer: Tokenizer) -> Recalls:
    """Return the recalls on `data` of the graphs in `directory`, exactly as they ship."""
    images = encode_photos(session(directory / "image.onnx"), data.paths, preprocess)
    captions = encode_texts(session(directory / "text.onnx"), tokenizer, data.captions)
    return recalls(images, captions, data.image_of)


def _worst(ours: Floats, theirs: Floats) -> float:
    return float((ours * theirs).sum(1).min())


def random_pieces(vocabulary: int) -> WordPieces:
    """Return four texts of random word pieces, of different lengths."""
    ids = torch.randint(1, vocabulary, (4, 12), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([12, 9, 5, 3])
    return WordPieces(ids * (torch.arange(12)[None, :] < lengths[:, None]), lengths)


@torch.no_grad()
def check_parity(
    directory: Path,
    model: TwoTowers,
    size: tuple[int, int],
    *,
    smallest_cosine: float,
    pieces: WordPieces | None = None,
) -> float:
    """Return the smallest cosine between torch and the graphs in `directory` on random pixels and on `pieces`.

    Each text is also embedded alone and padded; both must agree with its batch to 0.9999. With a matching head its
    logits are compared too: of the tokens and states that the graphs give, against those that torch gives. By default
    a dual encoder's own word pieces are drawn at random.

    Raises:
        ModelError: a cosine is below `smallest_cosine`, a batch changes an embedding, or logits differ.
    """
    if pieces is None:
        table: nn.Embedding = model.get_submodule("text_tower.word_embeddings")  # type: ignore[assignment]
        pieces = random_pieces(table.num_embeddings)
    count, generator = len(pieces.ids), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
    ids, mask = pieces.batch(torch.arange(count))
    model.eval()
    image_session, text_session = session(directory / "image.onnx"), session(directory / "text.onnx")

    def run_images(batch: Tensor) -> list[Any]:
        return list(image_session.run(None, {"pixels": batch.numpy()}))

    def run_texts(batch_ids: Tensor, batch_mask: Tensor) -> list[Any]:
        return list(text_session.run(None, {"input_ids": batch_ids.numpy(), "attention_mask": batch_mask.numpy()}))

    images, *tokens = run_images(pixels)
    texts, *states = run_texts(ids, mask)
    (own_images, own_places), (own_texts, own_states) = model.look_at(pixels), model.read(ids, mask, learn=False)
    worst = min(_worst(images, own_images.numpy()), _worst(texts, own_texts.numpy()))
    if worst < smallest_cosine:
        raise ModelError(f"exported graphs agree with torch to cosine {worst:.6f}, expected at least {smallest_cosine}")
    alone = np.concatenate([run_texts(*pieces.batch(torch.tensor([row])))[0] for row in range(count)])
    alone_images = np.concatenate([run_images(pixels[row : row + 1])[0] for row in range(count)])
    batch = min(_worst(alone, texts), _worst(alone_images, images))
    if batch < 0.9999:
        raise ModelError(f"an embedding changes with its batch: cosine {batch:.6f}, expected at least 0.9999")
    if model.matcher is not None:
        read, holds = model.matcher.cut(torch.from_numpy(states[0]), mask)
        inputs = {"tokens": tokens[0], "states": read.numpy(), "attention_mask": holds.numpy()}
        (logits,) = session(directory / MATCH_FILE).run(["logit"], inputs)
        _check_logits(
            logits, model.matcher(model.match_tokens(own_places), *model.matcher.cut(own_states, mask.bool())).numpy()
        )
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
