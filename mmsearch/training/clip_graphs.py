"""Both towers of an open_clip model as graphs, and what torch makes of the same input before they are traced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from mmsearch.errors import ModelError
from mmsearch.model_manifest import ModelManifest
from mmsearch.openclip import load_openclip
from mmsearch.openclip_modules import ImageTower, TextTower
from mmsearch.safe_text import safe_text
from mmsearch.training.architecture import ARCHITECTURE, OPEN_CLIP
from mmsearch.training.clip_model import take_final_form
from mmsearch.training.export import Precision, compact
from mmsearch.training.int8_linears import use_int8_linears
from mmsearch.training.tracing import traced

Floats = npt.NDArray[np.float32]
_INT8 = Precision(half_weights=True, int8_words=True)  # of what is no linear map
_SHORT = 8  # tokens of an example where any number will do


@dataclass(frozen=True, slots=True)
class Sample:
    """What both runtimes are asked: pixels uint8 (B, 3, H, W), and token ids and mask int64 (B, L)."""

    pixels: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]


class _Images(nn.Module):
    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self.tower(pixels)[0],)


class _Texts(nn.Module):
    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        return (self.tower(input_ids, attention_mask)[0],)


class ClipGraphs:
    """The open_clip model of `manifest`, ready to be written as graphs.

    Raises:
        MissingExtra, ModelError: as `load_openclip`.
    """

    def __init__(self, manifest: ModelManifest) -> None:
        self._manifest = manifest
        self._clip: Any = load_openclip(manifest).requires_grad_(False)
        self._images = _Images(ImageTower(self._clip, manifest.mean, manifest.std)).eval()
        self._texts = _Texts(TextTower(self._clip)).eval()

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines by."""
        return float(self._clip.logit_scale.exp())

    @property
    def weight_bytes(self) -> int:
        """How many bytes its weights take in float32."""
        return sum(4 * parameter.numel() for parameter in self._clip.parameters())

    @torch.inference_mode()
    def embeddings(self, sample: Sample) -> tuple[Floats, Floats]:
        """Return what torch makes of the pictures and of the sentences, each float32 (B, D).

        Ask before `graphs`: a tower that has another form for use than for training changes into it there.
        """
        (images,) = self._images(torch.from_numpy(sample.pixels))
        (texts,) = self._texts(torch.from_numpy(sample.ids), torch.from_numpy(sample.mask))
        return images.numpy(), texts.numpy()

    def graphs(self, *, int8: bool) -> Iterator[tuple[str, ModelProto]]:
        """Yield the file names and graphs of the image tower and of the text tower, one after the other.

        pixels uint8 (B, 3, H, W) -> embedding float32 (B, D); input_ids, attention_mask int64 (B, L) -> embedding
        float32 (B, D), where L is the model's whole length if it reads its padding. With `int8` linear maps compute in
        int8, the word table is stored so, and the rest as float16.
        """
        yield "image.onnx", _finished(self._image_graph(), int8=int8)
        yield "text.onnx", _finished(self._text_graph(), int8=int8)

    def _image_graph(self) -> ModelProto:
        take_final_form(self._clip.visual)
        size = self._manifest.preprocess
        inputs = {"pixels": torch.zeros((2, 3, size.height, size.width), dtype=torch.uint8)}
        return self._traced(self._images, inputs, {"pixels": {0: torch.export.Dim("batch")}})

    def _text_graph(self) -> ModelProto:
        longest, whole = self._manifest.max_tokens, self._manifest.pad
        axes = {0: torch.export.Dim("batch")}
        if not whole:
            axes[1] = torch.export.Dim("length", min=2, max=longest)
        ids = torch.ones((2, longest if whole else min(_SHORT, longest)), dtype=torch.int64)
        inputs = {"input_ids": ids, "attention_mask": ids.clone()}
        return self._traced(self._texts, inputs, dict.fromkeys(inputs, axes))

    def _traced(
        self, tower: nn.Module, inputs: Mapping[str, Tensor], dynamic: Mapping[str, dict[int, torch.export.Dim]]
    ) -> ModelProto:
        try:
            return traced(tower, inputs, dynamic, outputs=("embedding",))
        except MemoryError:
            raise
        except Exception as error:  # the exporter and what it calls have no common exception
            first = str(error).strip().split("\n", 1)[0]
            raise ModelError(
                f"model '{safe_text(self._manifest.name)}' is not exported: torch {torch.__version__} cannot write its"
                f" {'image' if tower is self._images else 'text'} tower as ONNX ({safe_text(first)}); use it as it is"
            ) from error


def _finished(graph: ModelProto, *, int8: bool) -> ModelProto:
    if int8:
        use_int8_linears(graph)
        graph = compact(graph, _INT8)
    onnx.helper.set_model_props(graph, {ARCHITECTURE: OPEN_CLIP})
    return graph
