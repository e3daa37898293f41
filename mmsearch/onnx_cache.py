"""Graphs kept ready to run: optimised once, their weights in a file that is mapped instead of read.

    <cache>/graphs/<sha256 of the model file>-<what optimised it>/graph.onnx, weights.bin

A process that answers one query and ends would spend most of its time on reading, hashing and optimising the same file
as the process before it. What stands here was made by this program from a model file whose hash had just been checked,
and the name says which. So no more is asked of it than that nobody else can have written it: a directory of another
user, or one that others can write to, is neither used nor filled. Everything here may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.durable import DIRECTORY_MODE, FILE_MODE, fsync_dir, fsync_file, make_directory

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPH_FILE = "graph.onnx"
WEIGHTS_FILE = "weights.bin"
# Of other models and other versions; each takes as much room as its model with all numbers in float32.
MOST_KEPT = 6
_FORMAT = 1
_SMALLEST_OUTSIDE = 1024  # bytes; smaller tensors stay in the graph
_CPU_FACTS = Path("/proc/cpuinfo")
_PROVIDERS = ["CPUExecutionProvider"]

_log = logging.getLogger(__name__)


class GraphCache:
    """The kept graphs of this user, in `directory` where one is given. `options` are ONNX Runtime's SessionOptions."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = _default_directory() if directory is None else directory

    def open(self, sha256: str, options: Any) -> InferenceSession | None:
        """The graph that was made of the model file with that hash, or None when none is kept that can be trusted.

        For a process that asks once: the weights are used as they lie in the file, which makes the session ready in a
        tenth of the time and each run half as quick.
        """
        place = self._place(sha256)
        if not (place / GRAPH_FILE).exists() or not _only_ours(place, self._directory):
            return None
        import onnxruntime

        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            return onnxruntime.InferenceSession(str(place / GRAPH_FILE), options, providers=_PROVIDERS)
        except Exception as error:  # ONNX Runtime has no exception base of its own
            _log.debug("%s cannot be used and is removed: %s", place, error)
            _remove(place)
            return None

    def keep(self, sha256: str, model: bytes, options: Any) -> None:
        """Optimise `model`, the bytes with that hash, for the next process. A disk that is full or read-only is
        nobody's concern: the next process does without.
        """
        place = self._place(sha256)
        temporary = self._directory / f".{os.getpid()}-{os.urandom(8).hex()}"
        try:
            make_directory(self._directory)
            if not _only_ours(self._directory, self._directory):
                return
            temporary.mkdir(mode=DIRECTORY_MODE)
            _optimise(model, temporary, options)
            _remove(place)
            temporary.rename(place)
            fsync_dir(self._directory)
            self._remove_oldest()
        except Exception as error:  # ONNX Runtime has no exception base of its own
            _log.debug("no graph is kept in %s: %s", place, error)
        finally:
            _remove(temporary)

    def _place(self, sha256: str) -> Path:
        return self._directory / f"{sha256[:32]}-{_optimiser()}"

    def _remove_oldest(self) -> None:
        kept = sorted(self._directory.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in kept[MOST_KEPT:]:
            _remove(path)


def _remove(place: Path) -> None:
    """Remove what this module wrote at `place`, a directory of files. shutil, which every query would have to import
    here, brings four compression libraries along.
    """
    with contextlib.suppress(OSError):
        for path in place.iterdir():
            path.unlink()
        place.rmdir()


def _optimise(model: bytes, directory: Path, options: Any) -> None:
    """Write the optimised graph of `model` to `directory`, durably."""
    import onnxruntime

    # The level above rearranges weights for one kind of processor; for these graphs it gains nothing.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(directory / GRAPH_FILE)
    for key, value in (
        ("session.optimized_model_external_initializers_file_name", WEIGHTS_FILE),
        ("session.optimized_model_external_initializers_min_size_in_bytes", str(_SMALLEST_OUTSIDE)),
        ("session.disable_prepacking", "1"),
    ):
        options.add_session_config_entry(key, value)
    onnxruntime.InferenceSession(model, options, providers=_PROVIDERS)
    for path in directory.iterdir():
        path.chmod(FILE_MODE)
        fsync_file(path)
    fsync_dir(directory)


def _only_ours(place: Path, top: Path) -> bool:
    """True when nobody but this user and root can have written `place`, what is in it, or the directories up to `top`
    and the one above that.
    """
    try:
        above = [path for path in place.parents if path.is_relative_to(top.parent)]
        for path in (place, *place.iterdir(), *above):
            status = path.lstat()
            if status.st_uid not in (os.geteuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                _log.debug("graphs in %s are not used: others can write to %s", top, path)
                return False
    except OSError:
        return False
    return True


def _optimiser() -> str:
    """Names everything beside the model that decides what an optimised graph looks like: run-time and processor."""
    import onnxruntime

    facts = (_FORMAT, onnxruntime.__version__, os.uname().machine, _cpu_flags())
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def _cpu_flags() -> str:
    """The features of the first processor, empty where the system does not list them."""
    try:
        with _CPU_FACTS.open(encoding="utf-8", errors="replace") as lines:
            return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return ""


def _default_directory() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_path("mmsearch")) / "graphs"
