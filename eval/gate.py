"""The quality gate: the bundled model still finds on a fixed slice of Flickr8k val what its manifest says it does.

    python -m mmsearch.eval.gate --data DIR        exit 0 held, 1 fell; says so and exits 0 where there is no data
    python -m mmsearch.eval.gate --data DIR --record     prints the field `quality.gate` for a manifest

On the same slice the choice of images cancels out, so the tolerance covers only what another processor or library
rounds differently. Nothing is taken from the cache of embeddings: a change of the decoder has to show.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmsearch.errors import MMSearchError, ModelError
from mmsearch.eval.datasets import Dataset, load_dataset, without_images
from mmsearch.eval.embeddings import embed_dataset
from mmsearch.eval.provenance import data_sha256
from mmsearch.eval.scoring import rank_both
from mmsearch.model import Model, load_model

DATA_VARIABLE = "MMSEARCH_EVAL_DATA"
TABLE = "val.csv"
SLICE_IMAGES = 250
TOLERANCE = 0.005
HELD, FELL = 0, 1


@dataclass(frozen=True, slots=True)
class GateRecord:
    """`quality.gate` of a manifest: which slice, its mean recall, and how far below that is still noise."""

    slice: str
    images: int
    captions: int
    sha256: str
    mean_recall: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says: one sentence, and whether quality held. A skipped gate holds."""

    held: bool
    sentence: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gate and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m mmsearch.eval.gate", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help=f"folder with {TABLE} of Flickr8k [env: {DATA_VARIABLE}]")
    parser.add_argument("--model", default="mini", help="a bundled model's name, or the directory of another one")
    parser.add_argument("--record", action="store_true", help="print the field for the manifest instead of judging")
    asked = parser.parse_args(arguments)
    folder = asked.data or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if folder is None or not (folder / TABLE).is_file():
        place = f"{folder / TABLE} is not there" if folder else f"neither --data nor {DATA_VARIABLE} is given"
        sys.stdout.write(f"quality gate skipped: {place}\n")
        return HELD
    try:
        measured = measure(folder, load_model(asked.model))
        if asked.record:
            sys.stdout.write(json.dumps({"gate": asdict(measured)}, indent=2) + "\n")
            return HELD
        verdict = judge(measured, load_model(asked.model).manifest.quality)
    except MMSearchError as error:
        verdict = Verdict(False, f"quality gate failed: {error}")
    sys.stdout.write(f"{verdict.sentence}\n")
    return HELD if verdict.held else FELL


def measure(folder: Path, model: Model) -> GateRecord:
    """Return what `model` reaches on the slice of the val split in `folder`.

    Raises:
        DatasetError: the split cannot be read.
        ModelError: the model cannot be loaded.
    """
    dataset = _slice(load_dataset(folder / TABLE))
    embedded = embed_dataset(dataset, model, use_cache=False)
    return GateRecord(
        slice=f"flickr8k {TABLE}, the first {SLICE_IMAGES} images by name",
        images=len(dataset.image_ids),
        captions=len(dataset.captions),
        sha256=data_sha256(embedded),
        mean_recall=round(rank_both(embedded).mean_recall(), 5),
        tolerance=TOLERANCE,
    )


def judge(measured: GateRecord, quality: Mapping[str, Any]) -> Verdict:
    """Return whether `measured` holds what the manifest's `quality` promises under "gate".

    Raises:
        ModelError: the manifest has no number for the gate.
    """
    try:
        recorded = GateRecord(**quality["gate"])
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"the manifest has no usable quality.gate ({error!r}); python -m mmsearch.eval.gate --record prints one"
        ) from error
    if recorded.sha256 != measured.sha256:
        return Verdict(
            True, f"quality gate skipped: the data is not that of the recorded number (sha256 {measured.sha256[:12]})"
        )
    lowest = recorded.mean_recall - recorded.tolerance
    numbers = (
        f"mean recall {measured.mean_recall:.4f}, recorded {recorded.mean_recall:.4f}, lowest allowed {lowest:.4f}"
    )
    if measured.mean_recall < lowest:
        return Verdict(False, f"quality gate failed: {numbers} on {measured.images} images")
    return Verdict(True, f"quality gate held: {numbers} on {measured.images} images")


def _slice(dataset: Dataset) -> Dataset:
    """Return the first images by name with their captions: the same ones whatever the order of the file."""
    return without_images(dataset, np.arange(SLICE_IMAGES, len(dataset.image_ids)), kind="images beyond the slice")


if __name__ == "__main__":
    sys.exit(main())
