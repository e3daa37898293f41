"""The public door to a model: pictures and sentences in, embeddings out."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmsearch.encoder import Encoder, OnnxEncoder
from mmsearch.errors import UnreadableFile, UsageError
from mmsearch.model_manifest import ModelManifest, load_model_manifest
from mmsearch.regular_file import open_regular
from mmsearch.safe_text import safe_path
from mmsearch.settings import load_settings
from mmsearch.text import Tokenizer
from mmsearch.types import Preprocess, Reason

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageInput: TypeAlias = str | os.PathLike[str] | Image | NDArray[np.uint8]


class Model:
    """A dual encoder with its preprocessing: embeddings of pictures and sentences can be compared with each other.

    All embeddings are float32 (N, dim), each row of length 1, so the cosine of two of them is their dot product. An
    item embedded alone and the same item embedded in any batch have a cosine of at least 0.9999.
    """

    def __init__(self, manifest: ModelManifest, *, threads: int) -> None:
        self._manifest = manifest
        self._encoder = OnnxEncoder(manifest, threads=threads)
        self._tokenizer: Tokenizer | None = None

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
        """Changes with anything that changes embeddings: weights, preprocessing, tokenizer, pooling, token limit."""
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
                manifest.read(manifest.tokenizer_file), max_tokens=manifest.max_tokens, lowercase=manifest.lowercase
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
        from PIL.Image import Image

        from mmsearch.image_limits import DecodeLimits
        from mmsearch.images import array_to_pixels, decode_image, to_pixels

        _check_list(images, "images", "a list of paths, PIL images or arrays")

        def pixels_of(image: ImageInput) -> NDArray[np.uint8]:
            if isinstance(image, np.ndarray):
                return array_to_pixels(image, self.preprocess)
            if isinstance(image, str | os.PathLike):
                data = _read_picture(image, DecodeLimits().max_bytes)
                return decode_image(data, self.preprocess, extension=Path(image).suffix).pixels
            if isinstance(image, Image):
                return to_pixels(image, self.preprocess)
            raise UsageError(f"{type(image).__name__} is not a picture: expected a path, a PIL image or an array")

        alone = len(images) == 1
        return self._stack(
            self._encoder.encode_pixels(
                np.stack([_named(pixels_of, images[row], None if alone else row) for row in rows])
            )
            for rows in _batches(len(images), batch_size)
        )

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 16) -> NDArray[np.float32]:
        """Embeddings (N, dim) of sentences; what goes beyond the model's token limit is not read.

        Raises:
            UsageError: an item is not a str.
            ModelError: the model cannot be loaded.
        """
        _check_list(texts, "texts", "a list of str")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UsageError(f"text {number} is {type(text).__name__}: expected str")
        return self._stack(
            self._encoder.encode_tokens(*self.tokenizer.encode([texts[row] for row in rows]))
            for rows in _batches(len(texts), batch_size)
        )

    def _stack(self, batches: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate([np.zeros((0, self.dim), np.float32), *batches])


def load_model(name_or_dir: str | os.PathLike[str] = "mini", *, threads: int | None = None) -> Model:
    """The bundled model of that name, or the model in that directory; its weights are read when they are first needed.

    `threads` are CPU threads for one call of the encoder; None takes them from the settings.

    Raises:
        ModelError: there is no such model, or its manifest cannot be used.
        UsageError: `threads` is below 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}: expected at least 1")
    return Model(load_model_manifest(name_or_dir), threads=threads or load_settings().thread_count)


def _check_list(items: object, name: str, expected: str) -> None:
    if isinstance(items, str | bytes | os.PathLike) or not isinstance(items, Sequence | np.ndarray):
        raise UsageError(f"{name} is {type(items).__name__}: expected {expected}")


def _batches(count: int, size: int) -> Iterator[range]:
    if size < 1:
        raise UsageError(f"batch_size is {size}: expected at least 1")
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def _named(
    pixels_of: Callable[[ImageInput], NDArray[np.uint8]], image: ImageInput, number: int | None
) -> NDArray[np.uint8]:
    """`pixels_of(image)`; what it raises gets the number of the item, None for the only one, and a file's name."""
    where = "the image" if number is None else f"image {number}"
    if isinstance(image, str | os.PathLike):
        path = safe_path(os.fspath(image))
        where = path if number is None else f"{where} ({path})"
    try:
        return pixels_of(image)
    except UnreadableFile as error:
        raise UnreadableFile(error.reason, f"{where}: {error.detail}") from error
    except (UsageError, ValueError, TypeError) as error:
        raise UsageError(f"{where}: {error}") from error


def _read_picture(path: str | os.PathLike[str], limit: int) -> bytes:
    """The bytes of a picture's file, at most `limit` of them."""
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise UsageError("there is no such file") from None
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise UsageError("it is not a file") from error
        raise UnreadableFile(Reason.PERMISSION, error.strerror or type(error).__name__) from error
    if len(data) > limit:
        raise UnreadableFile(Reason.TOO_LARGE, f"it has more than {limit} bytes")
    return data
