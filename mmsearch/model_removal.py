"""Taking models out of the store again, and what interrupted downloads of them left."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from mmsearch.durable import fsync_dir
from mmsearch.errors import ModelError
from mmsearch.model_store import (
    MARKER,
    NEW,
    PARTIAL,
    changing_the_store,
    directory_name,
    has_damaged_marker,
    read_marker,
    store_directory,
)
from mmsearch.safe_text import safe_path, safe_text


def remove(name: str) -> int:
    """Removes the installed model `name`, also a damaged one, and what an interrupted download of it left; returns the
    bytes freed.

    Raises:
        ModelError: no such model is installed, the directory of that name is not one of ours, or it cannot be removed.
    """
    directory = directory_name(name)
    if directory is None:
        raise ModelError(f"no model can be called '{safe_text(name)}': mmsearch models list shows those installed")
    with changing_the_store() as store:
        path = store / directory
        if os.path.lexists(path) and not _is_ours(path):
            raise ModelError(
                f"{safe_path(str(path))} has no {MARKER}, so mmsearch did not write it: remove it yourself"
            )
        waiting = drop_partial(store, directory)
        if path.exists():
            return waiting + _remove_directory(path, store)
    if not waiting:
        raise ModelError(f"model '{safe_text(name)}' is not installed: mmsearch models list shows those that are")
    return waiting


def waiting_bytes(name: str) -> int:
    """How much of an interrupted download of the model called `name` waits to be gone on with."""
    directory = directory_name(name)
    return _size(store_directory() / PARTIAL / directory) if directory else 0


def drop_partial(store: Path, directory: str) -> int:
    """Removes what waits of a download for the model in `directory`; returns its bytes."""
    path = store / PARTIAL / directory
    if not path.is_dir():
        return 0
    size = _size(path)
    shutil.rmtree(path, ignore_errors=True)
    return size


def _is_ours(path: Path) -> bool:
    return not path.is_symlink() and (read_marker(path) is not None or has_damaged_marker(path))


def _remove_directory(path: Path, store: Path) -> int:
    size = _size(path)
    gone = store / f"{NEW}{path.name}-{secrets.token_hex(4)}"
    # Renamed first, and on the disk: a kill half-way leaves a leftover of ours, never half a model under its name.
    path.rename(gone)
    fsync_dir(store)
    try:
        shutil.rmtree(gone)
    except OSError as error:
        raise ModelError(
            f"model '{safe_text(path.name)}' is not installed any more, but its files in {safe_path(str(gone))} cannot"
            f" be removed ({error.strerror}): remove them yourself"
        ) from error
    return size


def _size(directory: Path) -> int:
    """Bytes of all files below `directory`, 0 where it does not exist."""
    size = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += path.lstat().st_size if path.is_file() else 0
    return size
