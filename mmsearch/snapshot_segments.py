"""The segments of a snapshot, opened; those that an earlier snapshot has open are taken from there.

Most publications leave the large segments as they are. Whoever goes on asking keeps what they have in memory, or have
copied to a device, instead of loading it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmsearch.segment import Segment
from mmsearch.snapshot_manifest import SEGMENTS_DIRECTORY, SnapshotManifest


def open_segments(
    directory: Path,
    manifest: SnapshotManifest,
    *,
    threads: int | None = None,
    device: str = "cpu",
    known: Iterable[Segment] = (),
) -> tuple[Segment, ...]:
    """All segments of `manifest`, in its order, those of `known` among them that were opened in the same way.

    Raises:
        FileNotFoundError, CollectionDamaged, CollectionError: as `Segment`.
    """
    place, dim = directory / SEGMENTS_DIRECTORY, manifest.head.dim
    own = {segment.info.name: segment for segment in known if segment.opened_as == (place, threads, device)}
    return tuple(
        own[info.name]
        if info.name in own and own[info.name].info == info
        else Segment(place, info, dim, threads=threads, device=device)
        for info in manifest.segments
    )
