"""How well names find things: ImageNet classes asked for by name, on photos that no training step has seen.

    python -m mmsearch.training.class_check --data DIR [--model mini]

The classifier that came with the image tower's starting weights is the judge: photos of DIR/val.csv that it is sure of
stand for their class. Reported is how often a photo's class is the first, or among the first five, of all 1000 names,
and how often the photo that a name finds first is one of its class. Labelled ImageNet photos that the package foolbox
carries are measured by their labels, beside the classifier itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mmsearch.errors import MMSearchError
from mmsearch.model import Model, load_model
from mmsearch.training.captions import open_rgb, read_captions, squash
from mmsearch.training.class_knowledge import PROMPTS, imagenet_class_names
from mmsearch.training.starting_weights import load_image_tower

SURE = 0.5  # of its first class, to take the classifier's word for it
_LABELLED = re.compile(r"imagenet_\d+_(\d+)\.(?:png|jpg)")

Floats = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassReport:
    """Fractions. `named_first`, `named_in_five`: of photos, their class among all names; `found_first`: of names that
    have a photo, the first photo found is of the class; `judge_first`: the classifier's own, 1.0 where it is the judge.
    """

    photos: int
    classes: int
    named_first: float
    named_in_five: float
    found_first: float
    judge_first: float


def judged(similarities: Floats, classes: Classes, judge_first: float) -> ClassReport:
    """Return the report on `similarities` (N, 1000) of photos with names, where photo n is of `classes`[n].

    Ties count against the model.
    """
    own = similarities[np.arange(len(classes)), classes]
    ranks = (similarities >= own[:, None]).sum(1)
    present = np.unique(classes)
    asked = similarities[:, present]
    belongs = classes[:, None] == present
    best_own, best_other = (np.where(some, asked, -np.inf).max(0) for some in (belongs, ~belongs))
    return ClassReport(
        photos=len(classes),
        classes=len(present),
        named_first=float((ranks == 1).mean()),
        named_in_five=float((ranks <= 5).mean()),
        found_first=float((best_own > best_other).mean()),
        judge_first=judge_first,
    )


@torch.no_grad()
def classifier_posteriors(lite: str, paths: Sequence[Path], size: tuple[int, int]) -> Floats:
    """Return float32 (N, 1000): what the starting classifier of the tower `lite` says of the photos at `paths`."""
    tower, weight, bias = load_image_tower(lite)
    tower.eval()
    parts = []
    for start in range(0, len(paths), 32):
        pixels = np.stack([squash(open_rgb(path), size) for path in paths[start : start + 32]])
        features = tower(torch.from_numpy(pixels)).mean(1)
        parts.append(torch.softmax(features @ weight.t() + bias, dim=1).numpy())
    return np.concatenate(parts)


def name_embeddings(model: Model) -> Floats:
    """Return float32 (1000, D): each class name's mean over the prompts, L2-normalised."""
    names = imagenet_class_names()
    total = np.sum([model.encode_texts([prompt.format(name) for name in names]) for prompt in PROMPTS], axis=0)
    normalised: Floats = total / np.linalg.norm(total, axis=1, keepdims=True)
    return normalised


def labelled_photos() -> tuple[list[Path], Classes]:
    """Return the ImageNet photos that the installed foolbox carries, none without it, and their classes."""
    spec = importlib.util.find_spec("foolbox")
    folders = [] if spec is None else [Path(place) / "data" for place in spec.submodule_search_locations or ()]
    found = sorted(path for folder in folders for path in folder.glob("imagenet_*"))
    labels = [(path, match.group(1)) for path in found if (match := _LABELLED.fullmatch(path.name))]
    return [path for path, _ in labels], np.array([int(label) for _, label in labels], dtype=np.int64)


def check(model: Model, data: Path, lite: str) -> dict[str, ClassReport]:
    """Return the report on the photos of `data` / val.csv, and on labelled photos where there are any."""
    size = (model.preprocess.height, model.preprocess.width)
    names = name_embeddings(model)
    paths = list(read_captions(data / "val.csv").paths)
    posteriors = classifier_posteriors(lite, paths, size)
    sure = np.flatnonzero(posteriors.max(1) >= SURE)
    images = model.encode_images([paths[row] for row in sure])
    reports = {"val": judged(images @ names.T, posteriors[sure].argmax(1), 1.0)}
    labelled, labels = labelled_photos()
    if labelled:
        own = float((classifier_posteriors(lite, labelled, size).argmax(1) == labels).mean())
        reports["labelled"] = judged(model.encode_images(labelled) @ names.T, labels, own)
    return reports


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the reports as JSON; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mmsearch.training.class_check", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with val.csv and its images")
    parser.add_argument("--model", default="mini", help="a bundled model's name, or the directory of another one")
    parser.add_argument("--tower", default="lite2", help="whose classifier judges: lite0 or lite2")
    asked = parser.parse_args(arguments)
    try:
        reports = check(load_model(asked.model), asked.data, asked.tower)
    except MMSearchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps({name: asdict(report) for name, report in reports.items()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
