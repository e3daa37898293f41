"""The models that were pulled or imported: where they lie, what they are called, and what is not there yet.

Each is one directory below the user's data directory, told by its marker: only a directory with one is ours to remove.
Nothing heavy is imported, and nothing here reads the network.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mmsearch.durable import FILE_MODE, fsync_dir, fsync_tree_new, make_directory, write_atomic
from mmsearch.errors import ModelError
from mmsearch.model_catalog import HUB_PREFIX, KNOWN, known_model
from mmsearch.safe_text import safe_path, safe_text

MARKER = "mmsearch-model.json"
FORMAT = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NEW = ".new-"
_PARTIAL = ".partial"
_LOCK = ".lock"
_ARCHITECTURES = frozenset(each.architecture for each in KNOWN)
_MAX_MARKER_BYTES = 1 << 16
_SPARE_BYTES = 64 << 20
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Installed:
    """One model in the store: its directory's name is the one to call it by.

    `source` is where it came from (`hf-hub:ORG/NAME`, or a file's name), `revision` the commit there, "" for a file.
    """

    directory: Path
    source: str
    revision: str
    license: str

    @property
    def name(self) -> str:
        """What it is called here."""
        return self.directory.name


def store_directory() -> Path:
    """Where installed models lie; it need not exist."""
    import platformdirs

    return Path(platformdirs.user_data_path("mmsearch"), "models")


def directory_name(name: str) -> str | None:
    """What the directory of the model called `name` is called; None for what can be no model's name.

    Short names, `ARCHITECTURE/PRETRAINED`, `hf-hub:ORG/NAME` and a directory's own name lead to the same one.
    """
    known = known_model(name)
    text = (known.name if known else name).removeprefix(HUB_PREFIX)
    if text.count("/") <= 1:
        text = text.replace("/", "--")
    if len(text) > 64:
        text = f"{text[:55]}-{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    return text if _NAME.fullmatch(text) else None


def find(name: str) -> Path | None:
    """The directory of the installed model called `name`, None when there is none."""
    directory = directory_name(name)
    if directory is None:
        return None
    path = store_directory() / directory
    return path if (path / MARKER).is_file() else None


def not_installed(name: str) -> str | None:
    """One sentence for whoever names a model that could be pulled: size, licence and the command; None for a name that
    is no model's."""
    known = known_model(name)
    if known is not None:
        size = f"about {known.approximate_bytes / 1e9:.1f} GB"
        return (
            f"model '{name}' ({known.name}, {size}, licence: {known.license}) is not installed:"
            f" mmsearch models pull {name}"
        )
    architecture = name.partition("/")[0]
    if directory_name(name) and (name.startswith(HUB_PREFIX) or (architecture in _ARCHITECTURES and "/" in name)):
        return f"model '{safe_text(name)}' is not installed: mmsearch models pull {safe_text(name)}"
    return None


def installed_models() -> list[Installed]:
    """Everything in the store, by name; a directory whose marker cannot be read is left out."""
    try:
        names = sorted(entry.name for entry in os.scandir(store_directory()) if _NAME.fullmatch(entry.name))
    except FileNotFoundError:
        return []
    found = (read_marker(store_directory() / name) for name in names)
    return [each for each in found if each is not None]


def read_marker(directory: Path) -> Installed | None:
    """What the marker in `directory` says, None where there is none that we wrote."""
    try:
        with (directory / MARKER).open("rb") as file:
            table = json.loads(file.read(_MAX_MARKER_BYTES))
        if table["format"] != FORMAT:
            return None
        return Installed(directory, str(table["source"]), str(table["revision"]), str(table["license"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@contextlib.contextmanager
def changing_the_store() -> Iterator[Path]:
    """The store, created where it does not exist, for this process alone to change until the block ends.

    Raises:
        ModelError: another process is changing it, or it cannot be written.
    """
    store = store_directory()
    try:
        make_directory(store)
        descriptor = os.open(store / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise ModelError(
            f"the models' directory {safe_path(str(store))} cannot be written: {error.strerror}"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ModelError(
                "another mmsearch is pulling, importing or removing a model: wait until it is done"
            ) from None
        for leftover in store.glob(f"{_NEW}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield store
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def staging(store: Path, name: str) -> Iterator[Path]:
    """An empty directory in `store` to fill; it is gone when the block ends, unless `install` has made it a model."""
    path = store / f"{_NEW}{name}-{secrets.token_hex(4)}"
    make_directory(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def install(staged: Path, installed: Installed) -> None:
    """Makes a filled staging directory the model `installed`, durably: after a crash there is all of it or nothing.

    Raises:
        ModelError: there is a model of that name already, or the disk refuses.
    """
    facts = {"format": FORMAT, **{key: value for key, value in asdict(installed).items() if key != "directory"}}
    try:
        write_atomic(staged / MARKER, (json.dumps(facts, indent=1) + "\n").encode("ascii"))
        fsync_tree_new(staged, set())
        staged.rename(installed.directory)
        fsync_dir(installed.directory.parent)
    except OSError as error:
        if installed.directory.exists():
            raise ModelError(f"there is a model '{installed.name}' already: mmsearch models remove it first") from error
        raise ModelError(
            f"model '{installed.name}' cannot be written to {safe_path(str(staged.parent))}: {error.strerror}"
        ) from error


def require_space(store: Path, count: int, *, what: str) -> None:
    """Returns when the store's disk has room for `count` bytes and some to spare.

    Raises:
        ModelError: it has not; the message says how much there is, and how much `what` needs.
    """
    needed, free = count + _SPARE_BYTES, shutil.disk_usage(store).free
    if free < needed:
        raise ModelError(
            f"{what} needs {-(-needed // _MEGABYTE):,} MB, and {free // _MEGABYTE:,} MB are free on the disk of"
            f" {safe_path(str(store))}: make room"
        )


def partial_directory(store: Path, name: str) -> Path:
    """Where a download for the model in the directory `name` waits to be gone on with; created, outside the models."""
    path = store / _PARTIAL / name
    make_directory(path)
    return path


def drop_partial(store: Path, name: str) -> int:
    """Removes what waits there; returns its bytes."""
    path = store / _PARTIAL / name
    if not path.is_dir():
        return 0
    size = sum(each.stat().st_size for each in path.iterdir())
    shutil.rmtree(path, ignore_errors=True)
    return size


def remove(name: str) -> int:
    """Removes the installed model `name` and what an interrupted download of it left; returns the bytes freed.

    Raises:
        ModelError: no such model is installed, the directory of that name is not one of ours, or it cannot be removed.
    """
    directory = directory_name(name)
    if directory is None:
        raise ModelError(f"no model can be called '{safe_text(name)}': mmsearch models list shows those installed")
    with changing_the_store() as store:
        path = store / directory
        waiting = drop_partial(store, directory)
        if path.is_symlink() or (path.exists() and read_marker(path) is None):
            raise ModelError(
                f"{safe_path(str(path))} has no {MARKER}, so mmsearch did not write it: remove it yourself"
            )
        if not path.exists():
            if waiting:
                return waiting
            raise ModelError(f"model '{safe_text(name)}' is not installed: mmsearch models list shows those that are")
        size = sum(each.lstat().st_size for each in path.rglob("*") if each.is_file())
        gone = store / f"{_NEW}{directory}-{secrets.token_hex(4)}"
        try:
            # Renamed first: a kill half-way leaves a leftover of ours, never half a model under its name.
            path.rename(gone)
            shutil.rmtree(gone)
            fsync_dir(store)
        except OSError as error:
            raise ModelError(f"model '{safe_text(name)}' cannot be removed: {error.strerror}") from error
        return size + waiting
