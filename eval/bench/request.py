"""What a bench is asked to do: one value that all of them read, each what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """`data` is the folder of Flickr8k, None for the demo's photos; `model` a bundled model's name or a directory.

    `size` is the bench's own unit (vectors, photos, files), `rounds` how often each contestant runs; None stands for
    the bench's own defaults. `peer_python` is the interpreter of an environment with rclip, None leaves that column
    out. `work` is where files are made and kept, None a temporary directory. `threads` are for the encoder and FAISS.
    """

    data: Path | None = None
    model: str = "mini"
    size: int | None = None
    rounds: int | None = None
    peer_python: Path | None = None
    work: Path | None = None
    threads: int | None = None

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """Give a directory to make files in, which is removed afterwards unless it was asked for by name."""
        if self.work is not None:
            self.work.mkdir(parents=True, exist_ok=True)
            yield self.work
            return
        with TemporaryDirectory(prefix="mmsearch-bench-") as directory:
            yield Path(directory)


PEER_ABSENT = "rclip is not measured: --peer-python names no interpreter of an environment that has it"
