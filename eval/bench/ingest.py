"""Ingest: a folder of photos to a searchable collection, against one plain loop over the same photos and model.

Our time is that of `mmsearch index` from its start to its end: reading, hashing, decoding in processes of their own,
embedding, tables, snapshot, everything on the disk. The loop is the one that anybody would write first, in
`plain_loop.py`: one process that decodes each photo in full and embeds batches with the same model in an ONNX Runtime
session of default options, so on all cores. Both pay for starting up, ours about 1.4 s and the loop 0.8 s on two cores.
The default numbers of photos take many times as long, ours on large photos excepted: there a quarter of our time or
more is starting up, which counts against us.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from mmsearch.eval.bench.peer import Peer, stand_in_note
from mmsearch.eval.bench.photo_files import LARGE, SMALL, write_photos
from mmsearch.eval.bench.request import PEER_ABSENT, BenchRequest
from mmsearch.eval.bench.result import BenchResult, Cell
from mmsearch.eval.bench.timing import (
    Ratio,
    Sample,
    Work,
    alternate,
    command,
    median_cpu_ms,
    median_ms,
    median_peak_mib,
    paired_ratio,
)

DEFAULT_SIZE, DEFAULT_ROUNDS = 150, 3
# Small photos take a fraction of the time of large ones, so there are more of them: how many for each large one.
SIZES = {"500 px": (SMALL, 8), "12 megapixels": (LARGE, 1)}
OURS, LOOP, PEER = "mmsearch index", "one plain loop", "rclip, stand-in weights"


def run(request: BenchRequest) -> BenchResult:
    """Return photos a second for each size of photo and each contestant."""
    large, rounds = request.size or DEFAULT_SIZE, request.rounds or DEFAULT_ROUNDS
    rows: list[tuple[Cell, ...]] = []
    ratios: dict[str, Ratio] = {}
    with request.workplace() as work:
        peer = None if request.peer_python is None else Peer(request.peer_python, work / "peer")
        for name, (size, times) in SIZES.items():
            count = times * large
            photos = write_photos(work / f"photos-{size[0]}-{count}", count, size, request.data)
            contestants = _contestants(photos, work, request.model)
            if peer is not None:
                contestants[PEER] = peer.index(photos)
            samples = alternate(contestants, rounds, warm_up=0)
            rows += [_row(name, each, taken, count) for each, taken in samples.items()]
            ratios |= {f"{name}: {OURS} / {each}": paired_ratio(samples[OURS], samples[each]) for each in samples}
            del ratios[f"{name}: {OURS} / {OURS}"]
    counts = ", ".join(f"{times * large} of {name}" for name, (_, times) in SIZES.items())
    note = PEER_ABSENT if peer is None else stand_in_note(large)
    return BenchResult(
        name="ingest",
        columns=("photos", "contestant", "photos a second", "wall s", "CPU s", "peak MiB of one process"),
        rows=tuple(rows),
        ratios=ratios,
        notes=(f"photos: {counts}; every run into a new collection", note),
    )


def _contestants(photos: Path, work: Path, model: str) -> dict[str, Work]:
    collection = work / "ingest-collection"
    ours = [sys.executable, "-m", "mmsearch", "index", f"{photos.absolute()}", "--model", model, "--json"]
    ours += ["--collection", f"{collection.absolute()}"]
    loop = [sys.executable, "-m", "mmsearch.eval.bench.plain_loop", str(photos), model]
    forget: Callable[[], None] = lambda: shutil.rmtree(collection, ignore_errors=True)  # noqa: E731
    return {OURS: _after(forget, command(ours, os.environ)), LOOP: command(loop, os.environ)}


def _after(preparation: Callable[[], None], work: Work) -> Work:
    """`work` with something done before it that is not timed."""

    def prepared() -> Sample:
        preparation()
        return work()

    return prepared


def _row(name: str, contestant: str, samples: list[Sample], count: int) -> tuple[Cell, ...]:
    wall = median_ms(samples) / 1000
    return name, contestant, count / wall, wall, median_cpu_ms(samples) / 1000, round(median_peak_mib(samples))
