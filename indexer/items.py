"""What was read from one file -> the items that stand for it in the tables. Ids come later, when they are written."""

from __future__ import annotations

from dataclasses import replace

from mmsearch.images import DecodedImage
from mmsearch.indexer.discover import Found
from mmsearch.indexer.jobs import Decoded, Failed
from mmsearch.passages import Passage
from mmsearch.store import Item

UNASSIGNED = 0


def image_item(found: Found, decoded: Decoded, image: DecodedImage) -> Item:
    """The item of a picture; a remark about the file is its `detail`."""
    return replace(
        _item(found, decoded),
        status=image.status,
        detail=image.note,
        width=image.width,
        height=image.height,
        taken_at=image.taken_at,
        latitude=image.latitude,
        longitude=image.longitude,
    )


def passage_item(found: Found, decoded: Decoded, passage: Passage) -> Item:
    """The item of one passage of a text file."""
    return replace(_item(found, decoded), part=passage.part, text=passage.text, locator=passage.locator)


def same_content_item(item: Item, found: Found, decoded: Decoded) -> Item:
    """`item`, for a file that was found to have the same bytes, be it another one or the same."""
    place = _item(found, decoded)
    return replace(
        item,
        id=UNASSIGNED,
        root_id=place.root_id,
        path=place.path,
        size=place.size,
        mtime_ns=place.mtime_ns,
        checked_ns=place.checked_ns,
        missing_since=None,
    )


def stands_as(item: Item, stored: Item) -> bool:
    """Whether `stored`, a row of the table, says all that `item` does; when the bytes were read makes no difference."""
    return replace(item, id=stored.id, revision=stored.revision, checked_ns=stored.checked_ns) == stored


def error_item(found: Found, failed: Failed, checked_ns: int) -> Item:
    """The item of a file that could not be read at `checked_ns`.

    Its size and mtime are those the walk saw: while a walk sees the same, the file has not changed since it failed.
    """
    return Item(
        id=UNASSIGNED,
        root_id=found.root_id,
        path=found.path,
        kind=found.kind,
        status="error",
        hash=failed.hash,
        size=found.size,
        mtime_ns=found.mtime_ns,
        checked_ns=checked_ns,
        reason=failed.reason,
        detail=failed.detail,
    )


def _item(found: Found, decoded: Decoded) -> Item:
    return Item(
        id=UNASSIGNED,
        root_id=found.root_id,
        path=found.path,
        kind=found.kind,
        status="ok",
        hash=decoded.hash,
        size=decoded.size,
        mtime_ns=decoded.mtime_ns,
        checked_ns=decoded.checked_ns,
    )
