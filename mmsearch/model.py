"""The public door to a model: pictures and sentences in, embeddings out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsearch.encoder import Encoder, OnnxEncoder
from mmsearch.errors import ModelError, UsageError
from mmsearch.model_facts import Direction
from mmsearch.model_manifest import ModelManifest, load_model_manifest
from mmsearch.safe_text import safe_text
from mmsearch.settings import load_settings
from mmsearch.text import Tokenizer
from mmsearch.types import Preprocess

if TYPE_CHECKING:
    from mmsearch.hubness import HubnessBank
    from mmsearch.image_input import ImageInput as ImageInput
    from mmsearch.itm import MatchScorer
    from mmsearch.openclip_encoder import OpenClipEncoder


@dataclass(frozen=True, slots=True)
class TextStates:
    """Sentences as an image-text matching head reads them.

    `embeddings` float32 (N, dim), of whole sentences; `states` float32 (N, L, state_dim) of their first tokens, with
    `mask` int64 (N, L), 1 for tokens and 0 for padding.
    """

    embeddings: NDArray[np.float32]
    states: NDArray[np.float32]
    mask: NDArray[np.int64]


class Model:
    """A dual encoder with its preprocessing: embeddings of pictures and sentences can be compared with each other.

    All embeddings are float32 (N, dim), each row of length 1, so the cosine of two of them is their dot product. An
    item embedded alone and the same item embedded in any batch have a cosine of at least 0.9999.
    """

    def __init__(
        self,
        manifest: ModelManifest,
        *,
        threads: int,
        once: bool = False,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        self._manifest = manifest
        self._threads = threads
        self._once = once
        self._device, self._precision = device, precision
        self._encoder = self._new_encoder()
        self._tokenizer: Tokenizer | None = None
        self._matcher: MatchScorer | None = None
        self._banks: dict[Direction, HubnessBank] = {}

    @property
    def name(self) -> str:
        """The name its manifest gives it."""
        return self._manifest.name

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self._manifest.dim

    @property
    def fingerprint(self) -> str:
        """Names the embeddings: changes with weights, preprocessing, tokenizer, pooling, token limit."""
        return self._manifest.fingerprint

    @property
    def preprocess(self) -> Preprocess:
        """How pictures become its pixels."""
        return self._manifest.preprocess

    @property
    def manifest(self) -> ModelManifest:
        """Everything its directory says about it."""
        return self._manifest

    @property
    def encoder(self) -> Encoder:
        """What works on pixels and tokens."""
        return self._encoder

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes tokens of sentences."""
        if self._tokenizer is None:
            manifest = self._manifest
            self._tokenizer = Tokenizer(
                manifest.read(manifest.tokenizer_file),
                max_tokens=manifest.max_tokens,
                lowercase=manifest.lowercase,
                clean=manifest.clean,
                pad=manifest.pad,
            )
        return self._tokenizer

    def load(self, *, images: bool = False, texts: bool = False) -> None:
        """Reads the halves that are asked for now; each would otherwise be read when it is first used.

        Raises:
            ModelError: a file of the model is not what its manifest says.
        """
        if images:
            self._encoder.load_image_tower()
        if texts:
            self._encoder.load_text_tower()
            _ = self.tokenizer

    def encode_images(self, images: Sequence[ImageInput], *, batch_size: int = 8) -> NDArray[np.float32]:
        """Embeddings (N, dim) of pictures: paths of files, PIL images, or uint8 arrays (height, width, 3) in RGB.

        Raises:
            UnreadableFile: a picture cannot be decoded; the message has its number in `images`, if there are several.
            UsageError: an item is none of these, or its file does not exist.
            ModelError: the model cannot be loaded.
        """
        batches = (self._encoder.encode_pixels(pixels) for pixels in self._pixels(images, batch_size))
        return np.concatenate([np.zeros((0, self.dim), np.float32), *batches])

    def encode_images_with_tokens(
        self, images: Sequence[ImageInput], *, batch_size: int = 8
    ) -> tuple[NDArray[np.float32], NDArray[np.int8] | None]:
        """Like `encode_images`, and the tokens int8 (N, tokens, token_dim) that the matching head reads, None without.

        Raises:
            UnreadableFile, UsageError, ModelError: as `encode_images`.
        """
        embeddings = [np.zeros((0, self.dim), np.float32)]
        itm = self._manifest.itm
        tokens = None if itm is None else [np.zeros((0, itm.tokens, itm.token_dim), np.int8)]
        for pixels in self._pixels(images, batch_size):
            batch, batch_tokens = self._encoder.encode_pixels_with_tokens(pixels)
            embeddings.append(batch)
            if tokens is not None and batch_tokens is not None:
                tokens.append(batch_tokens)
        return np.concatenate(embeddings), None if tokens is None else np.concatenate(tokens)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 16) -> NDArray[np.float32]:
        """Embeddings (N, dim) of sentences; what goes beyond the model's token limit is not read.

        Raises:
            UsageError: an item is not a str.
            ModelError: the model cannot be loaded.
        """
        batches = (self._encoder.encode_tokens(ids, mask) for ids, mask in self._tokenized(texts, batch_size))
        return np.concatenate([np.zeros((0, self.dim), np.float32), *batches])

    def encode_texts_with_states(self, texts: Sequence[str], *, batch_size: int = 16) -> TextStates:
        """Like `encode_texts`, and the states that the matching head reads, cut after its limit of tokens.

        A state takes as much room as some embeddings: ask for hundreds of sentences at a time, not for thousands.

        Raises:
            UsageError: an item is not a str.
            ModelError: the model cannot be loaded, or has no matching head.
        """
        itm = self._manifest.itm
        if itm is None:
            raise ModelError(f"model '{safe_text(self.name)}' has no image-text matching head")
        embeddings = [np.zeros((0, self.dim), np.float32)]
        parts: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []
        for ids, mask in self._tokenized(texts, batch_size):
            batch, states = self._encoder.encode_tokens_with_states(ids, mask)
            embeddings.append(batch)
            if states is not None:
                parts.append((states[:, : itm.max_text_tokens].copy(), mask[:, : itm.max_text_tokens]))
        length = max((mask.shape[1] for _, mask in parts), default=0)
        all_states = np.zeros((len(texts), length, itm.state_dim), np.float32)
        all_masks = np.zeros((len(texts), length), np.int64)
        start = 0
        for states, mask in parts:
            rows = slice(start, start := start + len(mask))
            all_states[rows, : mask.shape[1]], all_masks[rows, : mask.shape[1]] = states, mask
        return TextStates(np.concatenate(embeddings), all_states, all_masks)

    @property
    def matcher(self) -> MatchScorer | None:
        """What scores pictures' tokens against sentences' states, None where the model has no matching head.

        Raises:
            ModelError: its file is not what the manifest says.
        """
        if self._matcher is None and self._manifest.itm is not None:
            from mmsearch.itm import MatchScorer

            self._matcher = MatchScorer(self._manifest, threads=self._threads, once=self._once)
        return self._matcher

    def hubness(self, direction: Direction) -> HubnessBank | None:
        """What corrects the cosines of searches in `direction`, None where the model has no bank for it.

        Raises:
            ModelError: the bank's file is not what the manifest says.
        """
        facts = self._manifest.hubness.get(direction)
        if facts is None:
            return None
        if direction not in self._banks:
            from mmsearch.hubness import HubnessBank, read_bank

            bank = read_bank(self._manifest, direction)
            self._banks[direction] = HubnessBank(bank, neighbours=facts.neighbours, strength=facts.strength)
        return self._banks[direction]

    def _new_encoder(self) -> OnnxEncoder | OpenClipEncoder:
        if self._manifest.runtime == "onnx":
            return OnnxEncoder(self._manifest, threads=self._threads, once=self._once, device=self._device)
        from mmsearch.openclip import require_clip_extra

        require_clip_extra()
        from mmsearch.openclip_encoder import Compute, OpenClipEncoder

        return OpenClipEncoder(self._manifest, Compute(self._threads, self._device, self._precision))

    def _pixels(self, images: Sequence[ImageInput], batch_size: int) -> Iterator[NDArray[np.uint8]]:
        """Pixels (B, 3, height, width) of `images`, a batch at a time; complains about the list before the first."""
        from mmsearch.image_input import input_pixels

        _check_list(images, "images", "a list of paths, PIL images or arrays")
        alone = len(images) == 1
        for rows in _batches(len(images), batch_size):
            yield np.stack([input_pixels(images[row], self.preprocess, number=None if alone else row) for row in rows])

    def _tokenized(
        self, texts: Sequence[str], batch_size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Ids and masks of `texts`, a batch at a time; complains about the list before the first."""
        _check_list(texts, "texts", "a list of str")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UsageError(f"text {number} is {type(text).__name__}: expected str")
        for rows in _batches(len(texts), batch_size):
            yield self.tokenizer.encode([texts[row] for row in rows])


def load_model(
    name_or_dir: str | os.PathLike[str] = "mini",
    *,
    threads: int | None = None,
    once: bool = False,
    device: str | None = None,
    precision: str | None = None,
) -> Model:
    """The bundled or installed model of that name, or the one in that directory; weights are read when first needed.

    `threads` are CPU threads for one call of the encoder. `device` ("auto", "cpu", "cuda", "mps") is where it runs,
    `precision` ("auto", "fp32", "bf16", "fp16") is for open_clip models; ONNX models run as they are, on CUDA or on the
    CPU; an installed open_clip model runs in its ONNX form on the CPU, if it has one. None takes each from the
    settings. `once` makes an ONNX model ready sooner and each call slower: for a process with one query, on the CPU.

    Raises:
        ModelError: there is no such model, or its manifest cannot be used.
        MissingExtra: it is an open_clip model, and what runs those is not installed.
        UsageError: `threads` is below 1, or `device` or `precision` is none of these.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}: expected at least 1")
    chosen = {key: value for key, value in (("device", device), ("precision", precision)) if value is not None}
    manifest = load_model_manifest(name_or_dir)
    # A process with one query runs an ONNX model on the CPU, and has read the settings already.
    if once and threads is not None and manifest.runtime == "onnx":
        return Model(manifest, threads=threads, once=once)
    settings = replace(load_settings(), **chosen)  # type: ignore[arg-type]
    if manifest.runtime == "open_clip":
        from mmsearch.model_forms import fastest_form

        manifest = fastest_form(manifest, settings, once=once)
    return Model(
        manifest,
        threads=threads or settings.thread_count,
        once=once,
        device=settings.device,
        precision=settings.precision,
    )


def _check_list(items: object, name: str, expected: str) -> None:
    if isinstance(items, str | bytes | os.PathLike) or not isinstance(items, Sequence | np.ndarray):
        raise UsageError(f"{name} is {type(items).__name__}: expected {expected}")


def _batches(count: int, size: int) -> Iterator[range]:
    if size < 1:
        raise UsageError(f"batch_size is {size}: expected at least 1")
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
