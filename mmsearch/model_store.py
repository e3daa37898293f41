"""The models that were pulled or imported: where they lie, what they are called, and what is not there yet.

Each is one directory below the user's data directory, told by its marker: only a directory with one is ours to remove.
Nothing heavy is imported, and nothing here reads the network.
"""

from __future__ import annotations

import contextlib
import errno
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

from mmsearch.byte_size import MEGABYTE, size_text
from mmsearch.durable import FILE_MODE, fsync_dir, fsync_tree_new, make_directory, write_atomic
from mmsearch.errors import ModelError
from mmsearch.model_catalog import HUB_PREFIX, KNOWN, known_model
from mmsearch.regular_file import open_regular
from mmsearch.safe_text import safe_path, safe_text

MARKER = "mmsearch-model.json"
FORMAT = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What a model from the hub is called in the store: two names, where the hub has a slash.
_PULLED = re.compile(r"[A-Za-z0-9](?:(?!--)[A-Za-z0-9._-])*--(?:(?!--)[A-Za-z0-9._-])+")
NEW = ".new-"
PARTIAL = ".partial"
_LOCK = ".lock"
_ARCHITECTURES = frozenset(each.architecture for each in KNOWN)
_MAX_MARKER_BYTES = 1 << 16
_SPARE_BYTES = 64 << 20


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
    text = (known.directory if known else name).removeprefix(HUB_PREFIX)
    if text.count("/") <= 1:
        text = text.replace("/", "--")
    if len(text) > 64:
        text = f"{text[:55]}-{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    return text if _NAME.fullmatch(text) else None


def find(name: str) -> Path | None:
    """The directory of the installed model called `name`, None when there is none, or its marker cannot be read."""
    directory = directory_name(name)
    if directory is None:
        return None
    path = store_directory() / directory
    return path if read_marker(path) is not None else None


def has_damaged_marker(directory: Path) -> bool:
    """True for a directory that we wrote, whose marker does not say any more what it is."""
    return not directory.is_symlink() and os.path.lexists(directory / MARKER) and read_marker(directory) is None


def marker_damage(name: str) -> str | None:
    """One sentence for whoever names a model whose marker cannot be read: that, and the way out; None for others."""
    directory = directory_name(name)
    if directory is None or not has_damaged_marker(path := store_directory() / directory):
        return None
    shown = safe_text(name)
    return (
        f"model '{shown}' cannot be used: {safe_path(str(path / MARKER))} is damaged, or of a newer mmsearch; remove it"
        f" with `mmsearch models remove {shown}`, then pull or import it anew"
    )


def not_installed(name: str) -> str | None:
    """One sentence for whoever names a model that could be pulled: size, licence and the command; None for a name that
    is no model's. Of one whose marker is damaged it says that."""
    if (damage := marker_damage(name)) is not None:
        return damage
    known, shown = known_model(name), safe_text(name)
    if known is not None:
        return (
            f"model '{shown}' ({known.name}, about {size_text(known.approximate_bytes)}, licence: {known.license}) is"
            f" not installed: mmsearch models pull {known.short or known.name}"
        )
    if directory_name(name) is None:
        return None
    architecture = name.partition("/")[0]
    if name.startswith(HUB_PREFIX) or (architecture in _ARCHITECTURES and "/" in name):
        return f"model '{shown}' is not installed: mmsearch models pull {shown}"
    if _PULLED.fullmatch(name):
        return f"model '{shown}' is not installed; if it was pulled: mmsearch models pull {shown}"
    return None


def installed_models() -> list[Installed]:
    """Everything in the store, by name; a directory whose marker cannot be read is left out."""
    found = (read_marker(each) for each in _directories())
    return [each for each in found if each is not None]


def damaged_models() -> list[Path]:
    """The directories in the store that we wrote and whose marker cannot be read, by name."""
    return [each for each in _directories() if has_damaged_marker(each)]


def read_marker(directory: Path) -> Installed | None:
    """What the marker in `directory` says, None where there is none that we wrote."""
    try:
        with open_regular(directory / MARKER, follow_links=False) as file:
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
        ModelError: another process is changing it, or it cannot be written, now or at any moment of the block.
    """
    store = store_directory()
    try:
        make_directory(store)
        descriptor = os.open(store / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise _refusal(store, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ModelError(
                "another mmsearch is pulling, importing or removing a model: wait until it is done"
            ) from None
        for leftover in store.glob(f"{NEW}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield store
    except OSError as error:
        raise _refusal(store, error) from error
    finally:
        os.close(descriptor)


def _refusal(store: Path, error: OSError) -> ModelError:
    """What an error of the operating system means to whoever changes the store, and what to do about it."""
    why, shown = safe_text(error.strerror or str(error)), safe_path(str(store))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(
            f"the disk of the models' directory {shown} is full: make room and try again; nothing half-made stays"
        )
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes | os.PathLike) else store
    if not named.is_relative_to(store) and not store.is_relative_to(named):
        return ModelError(f"{safe_path(str(named))} cannot be read: {why}")
    remedy = ""
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = ": make it writable for you, or set XDG_DATA_HOME to a directory that is; nothing half-made stays"
    return ModelError(f"the models' directory {shown} cannot be written ({why}){remedy}")


@contextlib.contextmanager
def staging(store: Path, name: str) -> Iterator[Path]:
    """An empty directory in `store` to fill; it is gone when the block ends, unless `install` has made it a model."""
    path = store / f"{NEW}{name}-{secrets.token_hex(4)}"
    make_directory(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def install(staged: Path, installed: Installed) -> None:
    """Makes a filled staging directory the model `installed`, durably: after a crash there is all of it or nothing.

    Raises:
        ModelError: there is a model of that name already.
        OSError: the disk refuses.
    """
    facts = {"format": FORMAT, **{key: value for key, value in asdict(installed).items() if key != "directory"}}
    try:
        write_atomic(staged / MARKER, (json.dumps(facts, indent=1) + "\n").encode("ascii"))
        fsync_tree_new(staged, set())
        staged.rename(installed.directory)
        fsync_dir(installed.directory.parent)
    except OSError as error:
        if installed.directory.exists():
            name = installed.name
            raise ModelError(f"there is a model '{name}' already: first `mmsearch models remove {name}`") from error
        raise


def require_space(store: Path, count: int, *, what: str) -> None:
    """Returns when the store's disk has room for `count` bytes and some to spare.

    Raises:
        ModelError: it has not; the message says how much there is, and how much `what` needs.
    """
    needed, free = count + _SPARE_BYTES, shutil.disk_usage(store).free
    if free < needed:
        raise ModelError(
            f"{what} needs {size_text(-(-needed // MEGABYTE) * MEGABYTE)}, and {size_text(free)} are free on the disk"
            f" of {safe_path(str(store))}: make room"
        )


def _directories() -> list[Path]:
    """Every directory of the store that has a model's name, sorted."""
    store = store_directory()
    try:
        return [store / name for name in sorted(os.listdir(store)) if _NAME.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ModelError(f"the models' directory {safe_path(str(store))} cannot be read: {error.strerror}") from error


def partial_directory(store: Path, name: str) -> Path:
    """Where a download for the model in the directory `name` waits to be gone on with; created, outside the models."""
    path = store / PARTIAL / name
    make_directory(path)
    return path
