"""`python -m mmsearch.eval.bench NAME`: one bench, its table on stdout.

    cold-query   a command from its start to its end, over a grown collection     --size vectors, default 10,000
    warm-query   a sentence to hits in a library process                          --size vectors, default 10,000
    ingest       photos to a searchable collection, against one plain loop        --size large photos, default 150
    rescan       `mmsearch index` again where nothing has changed, and with 100 new files   --size files, default 20,000
    load         what bad files and what fsync cost a run of indexing             --size photos, default 1,800
    search       index types: recall, latency, memory, time to build              --size vectors, default 100,000
    gpu          one query and batches on a GPU, against its memory and the CPU     --size vectors, default 1,000,000
    filter       search among a share of the vectors, picked at random or alike    --size vectors, default 100,000
    encoder      an open_clip model in ONNX, against open_clip in torch            --size items a batch, default 16
    train-step   one step of training, against the same step in plain torch       --size photos a batch, default 64

Contestants run in turns, so a ratio holds on a busy machine too; absolute times do not.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from mmsearch.errors import MissingExtra, MMSearchError
from mmsearch.eval.bench.request import BenchRequest
from mmsearch.eval.bench.result import BenchResult, machine_facts

BENCHES = ("cold-query", "warm-query", "ingest", "rescan", "load", "search", "gpu", "filter", "encoder", "train-step")
FAILURE, USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one bench and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mmsearch.eval.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=BENCHES, metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--data", type=Path, help="folder of Flickr8k (train.csv, val.csv); default: the demo's photos")
    parser.add_argument("--model", default="mini", help="a bundled model's name, or the directory of another one")
    parser.add_argument("--size", type=_positive, help="see above")
    parser.add_argument("--rounds", type=_positive, help="how often each contestant runs")
    parser.add_argument("--peer-python", type=Path, help="the interpreter of an environment that has rclip")
    parser.add_argument("--work", type=Path, help="where to make files, and keep them; default: a temporary directory")
    parser.add_argument("--threads", type=_positive, help="of the encoder and of FAISS; default: one a core")
    asked = parser.parse_args(arguments)
    request = BenchRequest(
        data=asked.data,
        model=asked.model,
        size=asked.size,
        rounds=asked.rounds,
        peer_python=asked.peer_python,
        work=asked.work,
        threads=asked.threads,
    )
    try:
        result = bench(asked.name)(request)
    except MMSearchError as error:
        sys.stderr.write(f"bench {asked.name}: {error}\n")
        return error.exit_code
    machine = machine_facts()
    text = json.dumps(result.as_json(machine)) if asked.json else "\n".join(result.lines(machine))
    sys.stdout.write(f"{text}\n")
    return 0


def bench(name: str) -> Callable[[BenchRequest], BenchResult]:
    """Return the bench of that name; only its own module is imported, as torch may hang on it.

    Raises:
        MissingExtra: a package that it needs is not installed.
    """
    try:
        module = importlib.import_module(f"mmsearch.eval.bench.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        raise MissingExtra(f"it needs {error.name}; install with: pip install 'mmsearch[train,clip]'") from error
    return cast("Callable[[BenchRequest], BenchResult]", module.run)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
