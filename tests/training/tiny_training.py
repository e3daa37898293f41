"""A model directory and photos that `train` can start from and learn in seconds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tiny_dual_encoder import MAX_TOKENS, SIZE, tiny_dual_encoder
from tiny_model import COLOURS, write_tiny_model

from mmsearch.model_facts import HubnessFacts
from mmsearch.training.architecture import with_fusion
from mmsearch.training.dual_encoder import DualEncoder
from mmsearch.training.export import write_graphs
from mmsearch.training.package import ModelFacts, match_facts, write_manifest
from mmsearch.training.towers import EfficientNetLite
from mmsearch.training.validation import Recalls


def worn_model() -> DualEncoder:
    """Return the tiny model with noise on every parameter: after training no two of them are equal."""
    model = tiny_dual_encoder()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return model


def write_starting_model(directory: Path, model: DualEncoder | None = None) -> Path:
    """Return `directory`, filled with `model` (default: `worn_model` without its matching head).

    A model with a matching head has a bank for each direction too.
    """
    directory.mkdir(parents=True)
    model = with_fusion(worn_model(), None) if model is None else model
    write_graphs(model, directory, SIZE, MAX_TOKENS)
    tokenizer = write_tiny_model(directory / "colours") / "tokenizer.json"
    (directory / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (directory / "MODEL_CARD.md").write_text("# tiny\nMade of random numbers.\n", encoding="utf-8")
    nothing = Recalls((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    facts = ModelFacts("tiny", "0", 16, SIZE, MAX_TOKENS, "any", "none", 0, 0, nothing)
    if model.config.fusion is not None:
        np.save(directory / "bank.npy", np.eye(16, dtype=np.float16))
        bank = HubnessFacts("bank.npy", neighbours=16, strength=0.5)
        head = match_facts(model.config.fusion, max_tokens=MAX_TOKENS, weight=0.03)
        facts = replace(facts, itm=head, hubness={"text_to_image": bank, "image_to_text": bank})
    write_manifest(directory, facts)
    return directory


class TorchSession:
    """Stands for the ONNX Runtime session of the early half, which takes longer to make than all its work here."""

    def __init__(self, tower: EfficientNetLite, size: tuple[int, int], threads: int) -> None:
        self._tower = tower

    @torch.no_grad()
    def run(self, outputs: None, inputs: Mapping[str, npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
        """Return the map with channels last, as the session does."""
        return [self._tower.early(torch.from_numpy(inputs["pixels"])).permute(0, 2, 3, 1).numpy()]


def write_coloured_photos(folder: Path, *, photos: int = 40) -> Path:
    """Return a CSV of `photos` pictures in two colours each, with two captions that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["image,caption"]
    for left, right in itertools.islice(itertools.permutations(COLOURS, 2), photos):
        halves = np.zeros((64, 64, 3), dtype=np.uint8)
        halves[:, :32], halves[:, 32:] = COLOURS[left], COLOURS[right]
        Image.fromarray(halves).save(folder / f"{left}-{right}.png")
        rows += [f"{left}-{right}.png,{left} and {right}", f"{left}-{right}.png,{right} beside {left}"]
    table = folder / "pairs.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return table
