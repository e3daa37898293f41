"""Readers of the two JSON shapes that published sets of captions come in: Karpathy's splits and COCO's captions."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from mmsearch.errors import DatasetError
from mmsearch.eval.dataset_entries import Listing, Pair, Problem, plain_name
from mmsearch.safe_text import plain_text

Record = dict[str, Any]


def read_json(source: Path, *, split: str | None, most_captions: int | None) -> Listing:
    """Return the images of a JSON file in Karpathy's or in COCO's shape, at most `most_captions` captions each.

    Raises:
        DatasetError: it is neither, or the split is not one of its own; the message lists those.
    """
    data = source.read_bytes()
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{source.name} is not JSON ({error}), expected Karpathy's or COCO's captions") from error
    if not isinstance(document, dict):
        raise DatasetError(f"{source.name} is a JSON {type(document).__name__}, expected an object with images")
    images = _records(document, "images", source.name)
    chosen = None
    if "annotations" not in document:
        chosen, of_split = _of_split(source.name, images, split)
        pairs, problems = _karpathy(of_split)
    elif split is None:
        pairs, problems = _coco(images, _records(document, "annotations", source.name))
    else:
        raise DatasetError(f"{source.name} is in COCO's shape, which has no splits; leave out --split {split}")
    kept, notes = _first_captions(pairs, most_captions)
    kind = "coco" if "annotations" in document else "karpathy"
    return Listing(kind, chosen, hashlib.sha256(data).hexdigest(), tuple(kept), tuple(problems), notes)


def _of_split(name: str, images: list[Record], split: str | None) -> tuple[str, list[Record]]:
    """Return the splits asked for and their images. `restval` is never taken for `train`: ask for train+restval."""
    counts = Counter(_text(image, "split", f"image {i}") for i, image in enumerate(images))
    known = ", ".join(f"{key} ({count} images)" for key, count in sorted(counts.items()))
    if split is None and len(counts) > 1:
        raise DatasetError(f"{name} has the splits {known}; say which with --split, several joined by '+'")
    wanted = set(split.split("+")) if split is not None else set(counts)
    if not wanted <= set(counts):
        raise DatasetError(f"{name} has no split {split!r}, expected one of {known}, or several joined by '+'")
    return "+".join(sorted(wanted)), [image for image in images if image["split"] in wanted]


def _karpathy(images: list[Record]) -> tuple[list[Pair], list[Problem]]:
    pairs: list[Pair] = []
    problems: list[Problem] = []
    listed = _Listed("sentid")
    for image in images:
        where = f"image {image.get('imgid', image.get('cocoid', '?'))}"
        filename = _text(image, "filename", where)
        folder = _text(image, "filepath", where) if "filepath" in image else ""
        name = plain_name(f"{folder}/{filename}" if folder else filename)
        sentences = _records(image, "sentences", where, empty=True)
        if not sentences:
            pairs.append(Pair(name, None, "", where))
        for sentence in sentences:
            number = _number(sentence, "sentid", where)
            # `raw` is what was written; the tokens have lost case and punctuation
            caption = plain_text(_text(sentence, "raw", f"{where} sentence {number}")).strip()
            if listed.before(number, (name, caption), where):
                problems.append(Problem("doubled rows", f"sentence {number}", name))
            elif caption:
                pairs.append(Pair(name, caption, f"{number:012d}", where))
            else:
                problems.append(Problem("blank captions", f"sentence {number}", name))
    return pairs, problems


def _coco(images: list[Record], annotations: list[Record]) -> tuple[list[Pair], list[Problem]]:
    problems: list[Problem] = []
    names: dict[int, str] = {}
    listed_images, listed_captions = _Listed("id"), _Listed("id")
    for image in images:
        image_id, name = _number(image, "id", "image"), plain_name(_text(image, "file_name", "image"))
        if listed_images.before(image_id, name, f"image {name!r}"):
            problems.append(Problem("doubled rows", f"image {image_id}", name))
        names[image_id] = name
    captions: dict[int, list[tuple[int, str]]] = {id: [] for id in names}
    for annotation in annotations:
        number = _number(annotation, "id", "annotation")
        where = f"annotation {number}"
        image_id = _number(annotation, "image_id", where)
        text = plain_text(_text(annotation, "caption", where)).strip()
        if listed_captions.before(number, (image_id, text), where):
            problems.append(Problem("doubled rows", where, f"image {image_id}"))
        elif image_id not in names:
            problems.append(Problem("captions of unlisted images", where, f"image {image_id}"))
        elif not text:
            problems.append(Problem("blank captions", where, names[image_id]))
        else:
            captions[image_id].append((number, text))
    pairs: list[Pair] = []
    for image_id, name in names.items():
        if not captions[image_id]:
            pairs.append(Pair(name, None, "", f"image {image_id}"))
        pairs.extend(
            Pair(name, text, f"{number:012d}", f"image {image_id}") for number, text in sorted(captions[image_id])
        )
    return pairs, problems


def _first_captions(pairs: list[Pair], most: int | None) -> tuple[list[Pair], tuple[str, ...]]:
    """Return the first `most` captions of each image, and notes that say what is not as a reader may expect."""
    taken: Counter[str] = Counter()
    kept = []
    for pair in pairs:
        taken[pair.image] += 1
        if most is None or taken[pair.image] <= most:
            kept.append(pair)
    notes = []
    if len(kept) < len(pairs):
        notes.append(
            f"the first {most} captions of each image: {len(pairs) - len(kept)} more left out (--all-captions)"
        )
    bare = sum(pair.caption is None for pair in kept)
    if bare:
        notes.append(f"{bare} images have no captions and stay in the gallery as distractors")
    return kept, tuple(notes)


class _Listed:
    """What each number has stood for so far. One number for two things would silently make them one."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._meant: dict[int, object] = {}

    def before(self, number: int, meaning: object, where: str) -> bool:
        """Return whether `number` was listed already; refuse it when it meant something else."""
        known = number in self._meant
        if self._meant.setdefault(number, meaning) != meaning:
            raise DatasetError(
                f"{where} has {number} as {self._field!r}, which was given to another before; expected each number once"
            )
        return known


def _records(document: Record, field: str, where: str, *, empty: bool = False) -> list[Record]:
    value = document.get(field)
    if not isinstance(value, list) or not (value or empty) or not all(isinstance(record, dict) for record in value):
        raise DatasetError(f"{where} has no list of objects {field!r}, expected Karpathy's or COCO's captions")
    return value


def _text(record: Record, field: str, where: str) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        raise DatasetError(f"{where} has {value!r} as {field!r}, expected a string")
    return value


def _number(record: Record, field: str, where: str) -> int:
    value = record.get(field)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DatasetError(f"{where} has {value!r} as {field!r}, expected an integer")
    return value
