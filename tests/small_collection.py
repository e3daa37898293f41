"""A collection small enough to know by heart, published directly: eight pictures of one colour each, and five captions.

It has what a query reads and nothing else (no tables), so it is made in milliseconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tiny_model import COLOURS

from mmsearch import manifest as manifests
from mmsearch.manifest import CollectionManifest, ModelRef, Root
from mmsearch.model import Model
from mmsearch.segment import SegmentRow
from mmsearch.snapshot_manifest import SnapshotHead
from mmsearch.snapshot_writer import Block, SnapshotWriter

CAPTIONS = ("red", "a green dog", "blue and white", "black\x1b[31m\nwhite", "yellow")
ROOT_ID = 7
# Not UTF-8, and with a newline: no terminal may be shown it as it is.
ODD_NAME = b"magenta\xff\n.png"


@dataclass(frozen=True)
class SmallCollection:
    """`directory` is the collection, `photos` its only root: with `warm/red.png`, `warm/yellow.png`, `captions.txt`."""

    directory: Path
    photos: Path

    def photo(self, colour: str) -> str:
        """The path of the picture of that colour, as `Hit.path` has it."""
        return os.fsdecode(os.path.join(os.fsencode(self.photos), _name(colour)))


def write_small_collection(
    base: Path, model: Model, *, missing: tuple[str, ...] = (), device: int | None = None
) -> SmallCollection:
    """Pictures on the disk and a snapshot of them. `missing` colours are marked so; `device` replaces the root's."""
    small = SmallCollection(base / "collection", base / "photos")
    (small.photos / "warm").mkdir(parents=True)
    for colour, rgb in COLOURS.items():
        Image.new("RGB", (16, 12), rgb).save(small.photo(colour))
    (small.photos / "captions.txt").write_text("\n\n".join(CAPTIONS), encoding="utf-8")
    pictures = [
        SegmentRow(
            id=number,
            revision=number,
            kind="image",
            root_id=ROOT_ID,
            path=_name(colour),
            part=0,
            status="ok",
            missing=colour in missing,
            width=16,
            height=12,
        )
        for number, colour in enumerate(COLOURS, start=1)
    ]
    captions = [
        SegmentRow(
            id=100 + number,
            revision=100 + number,
            kind="text",
            root_id=ROOT_ID,
            path=b"captions.txt",
            part=number,
            status="ok",
            missing=False,
            text=caption,
            locator=f"paragraph {number + 1}",
        )
        for number, caption in enumerate(CAPTIONS)
    ]
    root = Root(ROOT_ID, os.fsencode(small.photos), small.photos.stat().st_dev if device is None else device)
    head = SnapshotHead(model.fingerprint, model.name, model.dim, (root,))
    image_block = Block(pictures, *model.encode_images_with_tokens([small.photo(colour) for colour in COLOURS]))
    blocks = [image_block, Block(captions, model.encode_texts(CAPTIONS))]
    small.directory.mkdir()
    model_ref = ModelRef(model.name, model.fingerprint, model.dim)
    manifests.write(small.directory, CollectionManifest(roots=(root,), model=model_ref, next_id=1000))
    SnapshotWriter(small.directory).publish(head, previous=None, added=blocks)
    return small


def _name(colour: str) -> bytes:
    if colour == "magenta":
        return ODD_NAME
    folder = b"warm/" if colour in ("red", "yellow") else b""
    return folder + colour.encode() + b".png"
