"""What asks for much takes little: the peak of memory while a bomb is decoded, or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpus import Placed, all_cases

MOST_BYTES = 200_000_000
BOMBS = [each for each in all_cases() if each.group == "bombs"]
CASES = [pytest.param(each, marks=pytest.mark.case(each.case.id), id=each.case.label) for each in BOMBS]
PEAKS = """
import json, sys
from pathlib import Path
from mmsearch.errors import UnreadableFile
from mmsearch.images import decode_image
from mmsearch.types import Preprocess

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def decode(data):
    try:
        decode_image(data, Preprocess(224, 224))
    except UnreadableFile:
        pass

for path in sys.argv[1:]:  # once, so that every decoder is loaded
    decode(Path(path).read_bytes())
peaks = {}
for path in sys.argv[1:]:
    data = Path(path).read_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    decode(data)
    peaks[Path(path).name] = resident("VmHWM") - before
print(json.dumps(peaks))
"""


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How many bytes more than before each bomb took at its worst."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not tell a process its peak of memory anew (/proc/self/clear_refs)")
    folder = tmp_path_factory.mktemp("bombs")
    for placed in BOMBS:
        placed.case.make(folder / placed.case.name)
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, *map(str, sorted(folder.iterdir()))],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        timeout=300,
        check=True,
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("placed", CASES)
def test_bomb_takes_little_memory(peaks: dict[str, int], placed: Placed) -> None:
    assert peaks[placed.case.name] < MOST_BYTES
