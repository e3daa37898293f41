"""Memory that searching takes, in a process that has never built anything: `python -m` this, with files to search.

Mapped vectors are the system's to keep or to drop, so what counts is the memory that is the process's own, all of it:
the interpreter and its libraries (some 20 MiB) as well as the codes that FAISS has read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mmsearch.exact_search import Vectors
from mmsearch.vector_index import FaissIndex, IndexInfo, VectorIndex, load_index

_QUERIES = 50
_K = 10


def serving_mib(index: VectorIndex, vectors_file: Path, work: Path) -> float:
    """Return the anonymous MiB of a new process that has answered 50 queries from `index` over the vectors in a file.

    0 where the system does not say. Codes that a collection would store are stored in `work` for it.
    """
    codes = work / "served.faiss"
    if isinstance(index, FaissIndex) and index.info.needs_file:
        index.save(codes)
    facts = json.dumps({"vectors": str(vectors_file), "codes": str(codes), "info": asdict(index.info)})
    module = [sys.executable, "-m", "mmsearch.eval.bench.serving_memory", facts]
    return float(subprocess.run(module, check=True, capture_output=True, text=True).stdout)


def anonymous_mib() -> float:
    """Return the memory of this process that is its own, mapped files apart; 0 where the system does not say."""
    path = Path("/proc/self/status")
    if not path.is_file():
        return 0.0
    facts = dict(line.split(":", 1) for line in path.read_text(encoding="ascii").splitlines() if ":" in line)
    return int(facts["RssAnon"].split()[0]) / 1024


def _serve(facts: str) -> float:
    asked = json.loads(facts)
    vectors: Vectors = np.load(asked["vectors"], mmap_mode="r", allow_pickle=False)
    index = load_index(Path(asked["codes"]), vectors, IndexInfo(**asked["info"]))
    random = np.random.default_rng(0)
    for _ in range(_QUERIES):
        query = random.standard_normal((1, vectors.shape[1]), np.float32)
        index.search(query / np.linalg.norm(query), _K)
    return anonymous_mib()


if __name__ == "__main__":
    sys.stdout.write(f"{_serve(sys.argv[1]):.1f}\n")
