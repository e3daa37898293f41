"""A set of captioned images to measure on, whatever file it came in.

    load_dataset("pairs.csv")                                  a header `image,caption`, one row a pair
    load_dataset("dataset_coco.json", split="test")            Karpathy's splits of Flickr8k, Flickr30k and COCO
    load_dataset("captions_val2017.json", images="val2017")    COCO captions
    load_dataset("photos/")                                    x.jpg beside x.txt, one caption a line

Images and captions come in the order of their ids, so that the rows of a file may be shuffled without changing a
result.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from mmsearch.errors import DatasetError
from mmsearch.eval.dataset_entries import Listing, Pair, Problem
from mmsearch.eval.dataset_files import read_csv, read_folder
from mmsearch.eval.dataset_json import read_json
from mmsearch.eval.relevance import Relevance, Rows, relevance_from_pairs
from mmsearch.safe_text import safe_path, safe_text

Direction = Literal["text_to_image", "image_to_text"]

SHOWN = 3  # how many places a message names before it counts the rest


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images, captions, and which belong together.

    `image_ids` are the paths below `root` with '/'; `pairs` int64 (P, 2) holds (image row, caption row), a caption
    may belong to several images and an image to none. `file_order` holds the image rows as the file lists them.
    `sha256` is that of the file. `dropped` counts what `allow_missing` left out, by kind; `notes` are sentences for a
    person.
    """

    name: str
    format: str
    split: str | None
    root: Path
    image_ids: tuple[str, ...]
    caption_ids: tuple[str, ...]
    captions: tuple[str, ...]
    pairs: Rows
    file_order: Rows
    sha256: str
    dropped: dict[str, int]
    notes: tuple[str, ...]

    def image_path(self, row: int) -> Path:
        """Return where the image of that row lies."""
        return self.root / self.image_ids[row]

    def relevance(self, direction: Direction) -> Relevance:
        """Return which images are right for each caption, or which captions for each image."""
        images, captions = len(self.image_ids), len(self.captions)
        if direction == "text_to_image":
            return relevance_from_pairs(self.pairs[:, ::-1], queries=captions, gallery=images)
        return relevance_from_pairs(self.pairs, queries=images, gallery=captions)


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """How to read a dataset.

    `split` picks among the splits of a Karpathy file, several joined by '+'. `images` is the folder that holds the
    images if it is not the file's own. `allow_missing` leaves out missing images, blank captions and doubled rows
    instead of failing. `all_captions` keeps more than the first five captions an image in the two JSON formats, whose
    benchmarks count five.
    """

    split: str | None = None
    images: Path | None = None
    allow_missing: bool = False
    all_captions: bool = False
    merge_identical_captions: bool = False


def load_dataset(source: str | Path, options: DatasetOptions | None = None) -> Dataset:
    """Return the dataset in `source`: a `.csv`, a `.json` in Karpathy's or COCO's shape, or a folder with sidecars.

    Raises:
        DatasetError: it cannot be read as one of these, names files outside its folder, or has missing images, blank
        captions or
            doubled rows without `allow_missing`; the message has the counts and the first few places.
    """
    options = options or DatasetOptions()
    source = Path(source)
    try:
        listing = _read(source, options)
    except OSError as error:
        raise DatasetError(f"{source} cannot be read: {error.strerror}") from error
    root = (options.images or (source if source.is_dir() else source.parent)).absolute()
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder; the images of {source} were expected there (--images names another)")
    kept, dropped = _checked(listing, root, options)
    dataset = _assemble(kept, listing, source, root)
    notes = listing.notes + tuple(f"left out: {count} {kind}" for kind, count in dropped.items())
    dataset = replace(dataset, dropped=dropped, notes=notes)
    return merge_identical_captions(dataset) if options.merge_identical_captions else dataset


def without_images(dataset: Dataset, rows: Rows, *, kind: str) -> Dataset:
    """Return `dataset` without the images `rows` and without the captions of these alone, counted as `kind`."""
    keep_image = np.ones(len(dataset.image_ids), dtype=np.bool_)
    keep_image[rows] = False
    had_image = np.zeros(len(dataset.captions), dtype=np.bool_)
    had_image[dataset.pairs[:, 1]] = True
    pairs = dataset.pairs[keep_image[dataset.pairs[:, 0]]]
    keep_caption = ~had_image
    keep_caption[pairs[:, 1]] = True
    new_image, new_caption = np.cumsum(keep_image) - 1, np.cumsum(keep_caption) - 1
    return replace(
        dataset,
        image_ids=tuple(id for id, keep in zip(dataset.image_ids, keep_image, strict=True) if keep),
        caption_ids=tuple(id for id, keep in zip(dataset.caption_ids, keep_caption, strict=True) if keep),
        captions=tuple(text for text, keep in zip(dataset.captions, keep_caption, strict=True) if keep),
        pairs=np.stack([new_image[pairs[:, 0]], new_caption[pairs[:, 1]]], axis=1),
        file_order=new_image[dataset.file_order[keep_image[dataset.file_order]]],
        dropped={**dataset.dropped, kind: len(rows)},
        notes=(*dataset.notes, f"left out: {len(rows)} {kind}"),
    )


def merge_identical_captions(dataset: Dataset) -> Dataset:
    """Return `dataset` with every caption also right for the images of captions with the same text.

    By default a caption that two images share word for word is right for one of them only, and ties.
    """
    texts = {text: row for row, text in enumerate(dict.fromkeys(dataset.captions))}
    text_of = np.array([texts[text] for text in dataset.captions], dtype=np.int64)
    by_text: dict[int, set[int]] = {}
    for image, caption in dataset.pairs.tolist():
        by_text.setdefault(int(text_of[caption]), set()).add(image)
    pairs = [(image, row) for row, text in enumerate(text_of.tolist()) for image in sorted(by_text.get(text, ()))]
    shared = len(pairs) - len(dataset.pairs)
    note = f"identical captions count for each other's images: {shared} pairs more"
    return replace(dataset, pairs=np.array(sorted(pairs), dtype=np.int64), notes=(*dataset.notes, note))


def _read(source: Path, options: DatasetOptions) -> Listing:
    suffix = source.suffix.lower()
    if options.split is not None and (suffix != ".json" or source.is_dir()):
        raise DatasetError(f"{source} has no splits, only a JSON file in Karpathy's shape has; leave out --split")
    if source.is_dir():
        return read_folder(source)
    if not source.is_file():
        raise DatasetError(f"{source} does not exist, expected a .csv or .json file or a folder of captioned images")
    if suffix == ".csv":
        return read_csv(source)
    if suffix == ".json":
        return read_json(source, split=options.split, most_captions=None if options.all_captions else 5)
    raise DatasetError(f"{source} ends in {suffix!r}, expected .csv, .json or a folder of captioned images")


def _checked(listing: Listing, root: Path, options: DatasetOptions) -> tuple[list[Pair], dict[str, int]]:
    """Return the pairs that are whole, and how many of each kind of problem were left out."""
    there: dict[str, bool] = {}
    resolved = root.resolve()
    problems = list(listing.problems)
    kept = []
    for pair in listing.pairs:
        if pair.image not in there:
            there[pair.image] = _exists_inside(resolved, pair, root)
            if not there[pair.image]:
                problems.append(Problem("missing images", pair.where, pair.image))
        if there[pair.image]:
            kept.append(pair)
    if problems and not options.allow_missing:
        raise DatasetError(
            f"{describe(problems)}; expected none: mend them (pictures elsewhere: --images DIR), "
            "or pass --allow-missing to leave them out and count them"
        )
    if not any(pair.caption is not None for pair in kept):
        raise DatasetError(f"no image with a caption is left below {root}: {describe(problems) or 'nothing is listed'}")
    return kept, dict(Counter(problem.kind for problem in problems))


def _exists_inside(resolved_root: Path, pair: Pair, root: Path) -> bool:
    """Return whether the image is a file; refuse one outside the root."""
    path = root / pair.image
    try:
        inside = path.resolve().is_relative_to(resolved_root)
        is_file = inside and path.is_file()
    except (OSError, ValueError, RuntimeError):  # a name too long, with NUL, or a loop of links
        return False
    if not inside:
        raise DatasetError(
            f"{pair.where} names {safe_path(pair.image)}, which lies outside {root}; expected images below it "
            "(for mmsearch eval, --images names another folder)"
        )
    return is_file


def describe(problems: list[Problem]) -> str:
    """Return counts by kind, each with the first few places."""
    parts = []
    for kind, count in Counter(problem.kind for problem in problems).items():
        places = [safe_text(f"{p.where}: {p.what}" if p.what else p.where) for p in problems if p.kind == kind][:SHOWN]
        more = f" and {count - SHOWN} more" if count > SHOWN else ""
        parts.append(f"{count} {kind} ({', '.join(places)}{more})")
    return ", ".join(parts)


def _assemble(pairs: list[Pair], listing: Listing, source: Path, root: Path) -> Dataset:
    images = {name: row for row, name in enumerate(sorted({pair.image for pair in pairs}))}
    texts = {pair.caption_id: pair.caption for pair in pairs if pair.caption is not None}
    captions = {id: row for row, id in enumerate(sorted(texts))}
    rows = {(images[p.image], captions[p.caption_id]) for p in pairs if p.caption is not None}
    return Dataset(
        name=source.name,
        format=listing.format,
        split=listing.split,
        root=root,
        image_ids=tuple(images),
        caption_ids=tuple(captions),
        captions=tuple(texts[id] for id in captions),
        pairs=np.array(sorted(rows), dtype=np.int64).reshape(-1, 2),
        file_order=np.array([images[name] for name in dict.fromkeys(p.image for p in pairs)], dtype=np.int64),
        sha256=listing.sha256,
        dropped={},
        notes=(),
    )
