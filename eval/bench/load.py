"""Load: what bad files among good ones cost a run of indexing, and what it costs that nothing acknowledged can be lost.

The same photos are indexed alone, with a ninth as many bad files beside them, and alone with every fsync left out. Bad
files are JPEGs that were cut, files without a byte, rubbish, and pictures that claim to be enormous. Files that keep a
decoder busy until its deadline are not among them: each costs that deadline, once.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image

from mmsearch.eval.bench.photo_files import SMALL, write_photos
from mmsearch.eval.bench.request import BenchRequest
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
    ratio_of,
)

DEFAULT_SIZE, DEFAULT_ROUNDS = 1800, 5
_GOOD_FOR_A_BAD = 9
_CUT_AT = 0.3  # of a JPEG's bytes: enough to make the decoder try, and try again
_BOMB_SIDE = 15_000
_RUBBISH_BYTES = 40_000
GOOD, MIXED, UNSYNCED = "good photos alone", "with bad files beside them", "good photos, no fsync"

_WITHOUT_FSYNC = """
import os, sys
os.fsync = lambda descriptor: None
from mmsearch.__main__ import main
sys.exit(main())
"""


def run(request: BenchRequest) -> BenchResult:
    """Return the time of each run, and as ratios what bad files and what fsync make of it."""
    size, rounds = request.size or DEFAULT_SIZE, request.rounds or DEFAULT_ROUNDS
    bad = max(size // _GOOD_FOR_A_BAD, 1)
    with request.workplace() as work:
        photos = write_photos(work / f"photos-{SMALL[0]}-{size}", size, SMALL, request.data)
        rubbish = write_bad_files(work / f"bad-files-{bad}", bad, photos)
        plain, unsynced = [sys.executable, "-m", "mmsearch"], [sys.executable, "-c", _WITHOUT_FSYNC]
        contestants = {
            GOOD: _index(plain, [photos], work, request.model),
            MIXED: _index(plain, [photos, rubbish], work, request.model),
            UNSYNCED: _index(unsynced, [photos], work, request.model),
        }
        samples = alternate(contestants, rounds, warm_up=0)
    return BenchResult(
        name="load",
        columns=("what", "files", "wall s", "CPU s", "peak MiB of one process"),
        rows=tuple(_rows(samples, {GOOD: size, MIXED: size + bad, UNSYNCED: size})),
        ratios={
            f"{MIXED} / {GOOD}": paired_ratio(samples[MIXED], samples[GOOD]),
            f"{GOOD} / {UNSYNCED}": paired_ratio(samples[GOOD], samples[UNSYNCED]),
            f"CPU: {MIXED} / {GOOD}": _cpu_ratio(samples[MIXED], samples[GOOD]),
            f"CPU: {GOOD} / {UNSYNCED}": _cpu_ratio(samples[GOOD], samples[UNSYNCED]),
        },
        notes=(f"{size} photos of {SMALL[0]} x {SMALL[1]}, {bad} bad files; every run into a new collection",),
    )


def write_bad_files(directory: Path, count: int, photos: Path) -> Path:
    """Return `directory`, filled with `count` bad files where it does not exist yet; `photos` has whole ones to cut."""
    if directory.is_dir():
        return directory
    partly = directory.with_name(f"{directory.name}.partly")
    partly.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    bomb = io.BytesIO()
    Image.new("1", (_BOMB_SIDE, _BOMB_SIDE)).save(bomb, format="PNG")
    whole = cycle(sorted(photos.iterdir()))
    for number in range(count):
        kind = number % 4
        data = b""
        if kind == 1:
            data = random.bytes(_RUBBISH_BYTES)
        elif kind == 2:
            photo = next(whole).read_bytes()
            data = photo[: int(len(photo) * _CUT_AT)]
        elif kind == 3:
            data = bomb.getvalue() + random.bytes(8)
        (partly / f"bad-{number}.{'png' if kind == 3 else 'jpg'}").write_bytes(data)
    return partly.rename(directory)


def _index(start: Sequence[str], folders: Sequence[Path], work: Path, model: str) -> Work:
    """Indexing `folders` into a new collection; removing the last one is not timed."""
    collection = work / "load-collection"
    asked = ["index", *(f"{folder.absolute()}" for folder in folders), "--model", model, "--json"]
    timed = command([*start, *asked, "--collection", f"{collection.absolute()}"], os.environ)

    def anew() -> Sample:
        shutil.rmtree(collection, ignore_errors=True)
        return timed()

    return anew


def _cpu_ratio(samples: Sequence[Sample], baseline: Sequence[Sample]) -> Ratio:
    """Like the ratio of wall times, and steady while other work goes on, but blind to waiting for the disk."""
    return ratio_of([one.cpu / other.cpu for one, other in zip(samples, baseline, strict=True)])


def _rows(samples: Mapping[str, Sequence[Sample]], files: Mapping[str, int]) -> list[tuple[Cell, ...]]:
    return [
        (name, files[name], median_ms(taken) / 1000, median_cpu_ms(taken) / 1000, round(median_peak_mib(taken)))
        for name, taken in samples.items()
    ]
