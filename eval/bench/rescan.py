"""Rescan: `mmsearch index` again over a library in which nothing has changed, and with 100 new photos in it.

The lower bound beside it is a process that only walks the folders and asks for the size and time of every file.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from pathlib import Path

from mmsearch.eval.bench.photo_files import SMALL, write_photos, write_small_copies
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.eval.bench.result import BenchResult, Cell
from mmsearch.eval.bench.timing import (
    Sample,
    Work,
    alternate,
    command,
    median_cpu_ms,
    median_ms,
    median_peak_mib,
    paired_ratio,
)

DEFAULT_SIZE, DEFAULT_ROUNDS = 20_000, 5
NEW_PHOTOS = 100
_LONG_AGO = 1_600_000_000  # seconds since 1970: files that changed a moment ago are read again to be sure
UNCHANGED, ADDED, ALONE, WALK = "nothing new", "100 new photos", "the 100 photos alone", "os.walk and stat"

_WALK = """
import os, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        os.stat(os.path.join(folder, name))
"""


def run(request: BenchRequest) -> BenchResult:
    """Return wall time, CPU time and peak memory of scanning `request.size` files again."""
    size, rounds = request.size or DEFAULT_SIZE, request.rounds or DEFAULT_ROUNDS
    with request.workplace() as work:
        library = write_small_copies(work / f"library-{size}", size, request.data)
        new = write_photos(work / "new-photos", NEW_PHOTOS, SMALL, request.data)
        collection = work / f"rescan-collection-{size}"
        index = _index(library, collection, request.model)
        index()
        samples = alternate(
            {
                UNCHANGED: index,
                WALK: command([sys.executable, "-c", _WALK, str(library)], os.environ),
                ALONE: _alone(new, work / "alone", request.model),
                ADDED: _with_new(new, library, index),
            },
            rounds,
            warm_up=0,
        )
    return BenchResult(
        name="rescan",
        columns=("what", "wall s", "CPU s", "peak MiB of one process"),
        rows=tuple(_row(name, taken) for name, taken in samples.items()),
        ratios={
            f"{UNCHANGED} / {WALK}": paired_ratio(samples[UNCHANGED], samples[WALK]),
            f"{ADDED} / {ALONE}": paired_ratio(samples[ADDED], samples[ALONE]),
        },
        notes=(
            f"{size} files; '{ALONE}' is the same photos into an empty collection: what '{ADDED}' takes beyond it is"
            " the cost of the library's size",
        ),
    )


def _index(folder: Path, collection: Path, model: str) -> Work:
    arguments = [sys.executable, "-m", "mmsearch", "index", f"{folder.absolute()}", "--model", model, "--json"]
    return command([*arguments, "--collection", f"{collection.absolute()}"], os.environ)


def _alone(new: Path, collection: Path, model: str) -> Work:
    """Indexing the new photos into a collection that holds nothing else."""
    index = _index(new, collection, model)

    def anew() -> Sample:
        shutil.rmtree(collection, ignore_errors=True)
        return index()

    return anew


def _with_new(new: Path, library: Path, index: Work) -> Work:
    """Indexing the library with photos in it that it has never seen; they stay there."""

    def added() -> Sample:
        copy_as_new(new, library / f"new-{secrets.token_hex(4)}")
        return index()

    return added


def copy_as_new(source: Path, target: Path) -> None:
    """Copy the photos of `source` to the new folder `target` as files with bytes of their own, not changed just now."""
    target.mkdir()
    for path in source.iterdir():
        # Decoders stop at the end mark, so the pixels stay what they are; the hash does not.
        (target / path.name).write_bytes(path.read_bytes() + secrets.token_bytes(8))
        os.utime(target / path.name, (_LONG_AGO, _LONG_AGO))


def _row(name: str, samples: list[Sample]) -> tuple[Cell, ...]:
    wall, cpu = median_ms(samples) / 1000, median_cpu_ms(samples) / 1000
    return name, wall, cpu, round(median_peak_mib(samples))
