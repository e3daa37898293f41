"""What a snapshot takes over from the one that was open before: segments that are the same, opened in the same way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from storage_builders import publish, segment_row, vector_of

from mmsearch.errors import CollectionDamaged
from mmsearch.segment import Segment
from mmsearch.snapshot import Snapshot
from mmsearch.snapshot_segments import open_segments


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Forty items in one segment."""
    publish(tmp_path, [segment_row(id) for id in range(1, 41)])
    return tmp_path


def by_name(snapshot: Snapshot) -> dict[str, Segment]:
    return {segment.info.name: segment for segment in snapshot.segments}


def test_segments_that_stay_are_shared_with_what_they_have_loaded(published: Path) -> None:
    first = Snapshot.open(published, threads=1)
    large = first.segments[0]
    index = large.index
    publish(published, [segment_row(50)], dead=[(3, 1)])
    with Snapshot.open(published, threads=1, previous=first) as second:
        first.close()
        assert by_name(second)[large.info.name] is large
        assert large.index is index
        assert len(second.segments) == 2
        # What is dead belongs to the snapshot.
        found = [near.id for near in second.search(vector_of(3)[None], 41, kind="image")[0]]
        assert sorted(found) == [id for id in [*range(1, 41), 50] if id != 3]


@pytest.mark.parametrize(("threads", "device"), [(2, "cpu"), (1, "auto")])
def test_segments_that_were_opened_in_another_way_are_opened_anew(published: Path, threads: int, device: str) -> None:
    with (
        Snapshot.open(published, threads=1) as first,
        Snapshot.open(published, threads=threads, device=device, previous=first) as second,
    ):
        assert second.segments[0].info == first.segments[0].info
        assert second.segments[0] is not first.segments[0]


def test_a_segment_that_was_rewritten_is_opened_anew(published: Path) -> None:
    with Snapshot.open(published) as first:
        publish(published, dead=[(id, 1) for id in range(1, 21)])
        with Snapshot.open(published, previous=first) as second:
            assert not by_name(second).keys() & by_name(first).keys(), "half of it was dead, so it was rewritten"
            assert second.search(vector_of(30)[None], 1, kind="image")[0][0].id == 30


def test_a_snapshot_that_cannot_be_opened_leaves_the_previous_one_as_it_was(published: Path) -> None:
    with Snapshot.open(published) as first:
        publish(published, [segment_row(50)])
        (small,) = {path.name for path in (published / "segments").iterdir()} - by_name(first).keys()
        (published / "segments" / small / "rows.npy").unlink()
        with pytest.raises(CollectionDamaged, match=r"rows\.npy"):
            Snapshot.open(published, previous=first)
        assert first.search(vector_of(30)[None], 1, kind="image")[0][0].id == 30


def test_a_segment_that_is_described_differently_is_opened_anew(published: Path) -> None:
    with Snapshot.open(published) as first:
        (segment,) = first.segments
        assert open_segments(published, first.manifest, known=first.segments) == (segment,)
        other = replace(first.manifest, segments=(replace(segment.info, missing=1),))
        assert open_segments(published, other, known=first.segments)[0].info.missing == 1
