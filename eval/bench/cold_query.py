"""Cold query: the command `mmsearch query`, from its start to its end, each time in a process of its own.

Beside the whole command stand the parts that no query can do without, each a process of its own too: the interpreter,
the imports, and a search over the same files by hand. The page cache is warm. Both ways of installing are measured:
with compiled bytecode, and without, which is what a read-only or freshly unpacked installation pays at every start.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mmsearch.eval.bench.gallery import Grower, real_embeddings
from mmsearch.eval.bench.peer import Peer, stand_in_note
from mmsearch.eval.bench.request import PEER_ABSENT, BenchRequest
from mmsearch.eval.bench.result import BenchResult, Cell
from mmsearch.eval.bench.sample_collection import write_sample_collection
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
from mmsearch.model import load_model

DEFAULT_SIZE, DEFAULT_ROUNDS = 10_000, 10
SENTENCE = "a dog running on the beach"
OURS, OURS_UNCOMPILED, PEER = "mmsearch query", "mmsearch query, no bytecode", "rclip, stand-in weights"
PARTS = {
    "python alone": "pass",
    "python + numpy": "import numpy",
    "python + numpy + onnxruntime": "import onnxruntime",
}


def run(request: BenchRequest) -> BenchResult:
    """Return medians of wall time, CPU time and peak memory over `request.rounds` processes of each kind."""
    size, rounds = request.size or DEFAULT_SIZE, request.rounds or DEFAULT_ROUNDS
    notes = []
    with request.workplace() as work:
        collection = work / f"collection-{size}"
        if not collection.exists():
            model = load_model(request.model, threads=request.threads)
            real = real_embeddings(model, request.data)
            write_sample_collection(collection, model, Grower(real.images).blocks(size))
            notes.append(f"{size} vectors grown from {real.source}")
        contestants = _ours(request.model, collection, work)
        if request.peer_python is None:
            notes.append(PEER_ABSENT)
        else:
            peer = Peer(request.peer_python, work / "peer")
            contestants[PEER] = peer.query(SENTENCE, photos=size)
            notes.append(stand_in_note(size))
        samples = alternate(contestants, rounds)
    ratios = {f"{OURS} / {name}": paired_ratio(samples[OURS], samples[name]) for name in samples if name != OURS}
    return BenchResult(
        name="cold-query",
        columns=("process", "wall ms", "CPU ms", "peak MiB"),
        rows=tuple(_row(name, taken) for name, taken in samples.items()),
        ratios=ratios,
        notes=tuple(notes),
    )


def _ours(model: str, collection: Path, work: Path) -> dict[str, Work]:
    """The query with and without bytecode, and its unavoidable parts."""
    query = [sys.executable, "-m", "mmsearch", "query", "--text", SENTENCE, "--model", model]
    query += ["--collection", f"{collection.absolute()}"]
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    compiled["PYTHONPYCACHEPREFIX"] = str(work / "bytecode")
    # A prefix where nothing can be stored hides what is compiled already.
    uncompiled = {**compiled, "PYTHONPYCACHEPREFIX": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"}
    contestants = {OURS: command(query, compiled), OURS_UNCOMPILED: command(query, uncompiled)}
    for name, code in PARTS.items():
        contestants[name] = command([sys.executable, "-c", code], compiled)
    return contestants


def _row(name: str, samples: list[Sample]) -> tuple[Cell, ...]:
    return name, round(median_ms(samples)), round(median_cpu_ms(samples)), round(median_peak_mib(samples))
