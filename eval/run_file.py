"""A saved run: its result for people and scripts, and the rank of every query's answers for comparisons later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmsearch.checked_json import dump_checked, load_checked
from mmsearch.durable import write_atomic
from mmsearch.errors import UsageError
from mmsearch.eval.ranks import Ranks
from mmsearch.eval.record import DataRecord, EvalRun, SystemRecord
from mmsearch.eval.scores import BothDirections, Direction
from mmsearch.safe_text import safe_path

FORMAT = 1
KIND = "mmsearch eval run"


@dataclass(frozen=True, slots=True)
class SavedRun:
    """What a comparison needs of a run: the system, the data, and every query's ranks."""

    system: SystemRecord
    data: DataRecord
    ranks: BothDirections


def saved(run: EvalRun) -> SavedRun:
    """Return what `save_run` would keep of `run` for comparisons."""
    return SavedRun(run.system, run.data, run.ranks)


def save_run(run: EvalRun, path: Path) -> None:
    """Write `run` to `path`; an earlier run there is replaced.

    Raises:
        UsageError: `path` is a file that is no saved run, or cannot be written.
    """
    require_writable_run(path)
    body = {
        "format": FORMAT,
        "kind": KIND,
        "result": run.to_json(),
        "ranks": {
            "text_to_image": _direction_as_json(run.ranks.text_to_image),
            "image_to_text": _direction_as_json(run.ranks.image_to_text),
            "clusters": run.ranks.clusters,
        },
    }
    try:
        write_atomic(path, dump_checked(body), mode=0o644)
    except OSError as error:
        raise UsageError(
            f"{safe_path(str(path))} cannot be written: {error.strerror}; choose another --save"
        ) from error


def require_writable_run(path: Path) -> None:
    """Refuse a path where a run cannot be saved, before any work is done for it.

    Raises:
        UsageError: there is something that is no saved run, or no folder to put it into.
    """
    if path.exists():
        load_run(path)
    elif not path.absolute().parent.is_dir():
        raise UsageError(f"{safe_path(str(path))} cannot be saved: there is no folder {safe_path(str(path.parent))}")


def load_run(path: Path) -> SavedRun:
    """Return the run that `save_run` wrote to `path`.

    Raises:
        UsageError: it cannot be read, is no saved run, was changed since, or comes from a newer version.
    """
    name = safe_path(str(path))
    try:
        body = load_checked(path.read_bytes())
        if body["kind"] != KIND:
            raise ValueError(f"kind is {body['kind']!r}")
        if body["format"] != FORMAT:
            raise UsageError(
                f"{name} is a run of format {body['format']}, this version reads {FORMAT}; upgrade mmsearch"
            )
        result, ranks = body["result"], body["ranks"]
        return SavedRun(
            _system(result["system"]),
            _data(result["dataset"]),
            BothDirections(
                _direction(ranks["text_to_image"]), _direction(ranks["image_to_text"]), int(ranks["clusters"])
            ),
        )
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}; expected a run written by --save") from error
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{name} is not a run that --save wrote, or was changed since ({error!r})") from error


def _direction_as_json(direction: Direction) -> dict[str, Any]:
    ranks = direction.ranks
    return {
        "positions": ranks.positions.tolist(),
        "offsets": ranks.offsets.tolist(),
        "queries": ranks.queries.tolist(),
        "excluded": ranks.excluded.tolist(),
        "tied": np.flatnonzero(ranks.tied).tolist(),
        "gallery": ranks.gallery,
        "depth": ranks.depth,
        "cluster": direction.cluster.tolist(),
    }


def _direction(table: dict[str, Any]) -> Direction:
    queries = np.array(table["queries"], dtype=np.int64)
    tied = np.zeros(len(queries), dtype=np.bool_)
    tied[np.array(table["tied"], dtype=np.int64)] = True
    ranks = Ranks(
        positions=np.array(table["positions"], dtype=np.int64),
        offsets=np.array(table["offsets"], dtype=np.int64),
        queries=queries,
        excluded=np.array(table["excluded"], dtype=np.int64),
        tied=tied,
        gallery=int(table["gallery"]),
        depth=int(table["depth"]),
    )
    return Direction(ranks, np.array(table["cluster"], dtype=np.int64))


def _system(table: dict[str, Any]) -> SystemRecord:
    return SystemRecord(**{**table, "k": tuple(table["k"])})


def _data(table: dict[str, Any]) -> DataRecord:
    fewest, mean, most = table["captions_per_image"]
    return DataRecord(**{**table, "captions_per_image": (fewest, mean, most), "notes": tuple(table["notes"])})
