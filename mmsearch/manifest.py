"""`collection.json`: what a collection is made of, and the marker that a directory is one.

It holds the format version, the registered roots, the model whose embeddings are inside, the next free item id, and
which other models have embeddings beside it. Every change is one atomic replacement of the whole file, made by the
holder of the writer lock.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmsearch.checked_json import dump_checked, load_checked, parse_object
from mmsearch.durable import DIRECTORY_MODE, LOCK_NAME, WriterLock, is_leftover, make_directory, write_atomic
from mmsearch.errors import CollectionDamaged, CollectionError, CollectionMismatch, CollectionNotFound, UsageError
from mmsearch.manifest_models import ModelRef as ModelRef
from mmsearch.manifest_models import ModelSwitch as ModelSwitch
from mmsearch.manifest_models import model_from_json, model_to_json, switch_from_json, switch_to_json
from mmsearch.regular_file import read_file
from mmsearch.safe_text import safe_path

# Format 2 is that of a collection with embeddings of several models, and only while it has them: a version that does
# not know of the others would leave them beside rows whose content it changes.
FORMAT = 2
_FORMAT_OF_ONE_MODEL = 1
FILE_NAME = "collection.json"
SNAPSHOTS_DIRECTORY = "snapshots"


@dataclass(frozen=True, slots=True)
class Root:
    """One registered folder: `path` is absolute, normalised, links unresolved; `device` its st_dev at registration."""

    id: int
    path: bytes
    device: int

    def holds(self, path: bytes) -> bool:
        """True when `path` (absolute, normalised) is this root or lies below it."""
        return path == self.path or path.startswith(self.path.rstrip(b"/") + b"/")


@dataclass(frozen=True, slots=True)
class CollectionManifest:
    """The content of `collection.json`. Ids below `next_id` are in use or lost to a crash, and never given again.

    Beside the embeddings of `model` there may be those of a `switch` under way, as far as it has come, and of
    `kept_models`, so that going back to one means only filling in what is new. `mounts` are the directories inside of
    roots, absolute, on which other devices were mounted when they were walked. `published` tells that a snapshot has
    stood here, and the record of the tables' checksums: that there is none any more is damage from then on.
    """

    roots: tuple[Root, ...] = ()
    model: ModelRef | None = None
    next_id: int = 1
    switch: ModelSwitch | None = None
    kept_models: tuple[ModelRef, ...] = ()
    mounts: tuple[bytes, ...] = ()
    published: bool = False

    @property
    def format(self) -> int:
        """The lowest format that says all of this."""
        return _FORMAT_OF_ONE_MODEL if self.switch is None and not self.kept_models else FORMAT

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every model that has embeddings here."""
        own = () if self.model is None else (self.model,)
        coming = () if self.switch is None else (self.switch.to,)
        return (*own, *coming, *self.kept_models)


def create(directory: Path) -> CollectionManifest:
    """The manifest of a new, empty collection, written to `directory` (made if absent); or the one that stands there.

    Raises:
        CollectionError: `directory` holds other things, so it is somebody else's.
        CollectionBusy: another process is writing the first manifest, or more.
    """
    make_directory(directory)
    if (directory / FILE_NAME).exists():
        return read(directory)
    _refuse_foreign(directory)
    with WriterLock(directory):
        # Another process may have created it since, and have registered roots by now.
        if (directory / FILE_NAME).exists():
            return read(directory)
        directory.chmod(DIRECTORY_MODE)
        manifest = CollectionManifest()
        write(directory, manifest)
        return manifest


def read(directory: Path) -> CollectionManifest:
    """The manifest of the collection in `directory`.

    Raises:
        CollectionNotFound: there is nothing there, or an empty directory.
        CollectionError: a directory with other things in it, or something that is not a directory.
        CollectionMismatch: a newer format than this version of mmsearch knows.
        CollectionDamaged: the file does not carry the content it was written with, or only its snapshots are left.
        CollectionError: the operating system does not let it be read.
    """
    path = directory / FILE_NAME
    try:
        data = read_file(path)
    except (FileNotFoundError, NotADirectoryError):
        _refuse_foreign(directory)
        raise CollectionNotFound(f"{directory}: there is no collection here; make one with `mmsearch index`") from None
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        _refuse_newer(path, parse_object(data))
        return _from_json(load_checked(data))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CollectionDamaged(f"{path}: is damaged ({error}); run `mmsearch repair`") from error


def unreadable(path: Path, error: OSError) -> CollectionError:
    """What to raise for a file of a collection that is there and that the operating system does not give."""
    reason = f"{path}: cannot be read ({error.strerror or error})"
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL):
        return CollectionDamaged(f"{reason}; run `mmsearch repair`")
    return CollectionError(f"{reason}; see that this user may read it and that the disk is sound")


def write(directory: Path, manifest: CollectionManifest) -> None:
    """Replace the manifest, atomically. `next_id` never goes back, and `published` stays, even when `manifest` was read
    before a reservation or a publication.

    Raises:
        CollectionDamaged: the manifest to be replaced cannot be read, so which ids are taken is unknown.
    """
    if (directory / FILE_NAME).exists():
        stands = read(directory)
        published = manifest.published or stands.published
        manifest = replace(manifest, next_id=max(manifest.next_id, stands.next_id), published=published)
    write_atomic(directory / FILE_NAME, dump_checked(_to_json(manifest)))


def reserve_ids(directory: Path, count: int) -> range:
    """`count` item ids that nobody has had before. They are durably taken first: a crash loses, never repeats."""
    manifest = read(directory)
    reserved = range(manifest.next_id, manifest.next_id + count)
    write(directory, replace(manifest, next_id=reserved.stop))
    return reserved


def normal_path(path: str | bytes | os.PathLike[str]) -> bytes:
    """`path` as roots keep it: absolute, `.` and `..` folded, one kind of slash, symlinks unresolved, exact bytes.

    Raises:
        UsageError: it is empty, as an unset variable of a shell is: that must not stand for the current directory.
    """
    if not os.fsencode(path):
        raise UsageError("a path is empty: give a folder or file, or . for the current folder")
    # POSIX lets a path begin with two slashes and leaves their meaning open; on Linux they mean one.
    normal = os.path.abspath(os.fsencode(path))
    return b"/" + normal.lstrip(b"/")


def with_root(manifest: CollectionManifest, path: bytes) -> tuple[CollectionManifest, Root]:
    """The manifest in which the folder `path` is registered, and the root that owns it.

    A folder at or below a registered root belongs to the outermost such root and adds nothing. A folder above
    registered roots becomes a root and takes over; `inner_roots` names those whose rows have to be keyed anew before
    `without_roots` drops them.

    Raises:
        OSError: `path` cannot be examined.
    """
    path = normal_path(path)
    owner = owning_root(manifest, path)
    if owner is not None:
        return manifest, owner
    root = Root(max((root.id for root in manifest.roots), default=0) + 1, path, Path(os.fsdecode(path)).stat().st_dev)
    return replace(manifest, roots=(*manifest.roots, root)), root


def owning_root(manifest: CollectionManifest, path: bytes) -> Root | None:
    """The outermost registered root at or above `path`, or None."""
    return min((root for root in manifest.roots if root.holds(path)), key=lambda root: len(root.path), default=None)


def inner_roots(manifest: CollectionManifest, root: Root) -> tuple[Root, ...]:
    """The other registered roots that lie below `root`."""
    return tuple(other for other in manifest.roots if other.id != root.id and root.holds(other.path))


def without_roots(manifest: CollectionManifest, roots: tuple[Root, ...]) -> CollectionManifest:
    """The manifest without `roots`, each of which lies below another one: a newer root, so no root id comes back.

    Raises:
        ValueError: a root that no other root holds.
    """
    for root in roots:
        if not any(root in inner_roots(manifest, other) for other in manifest.roots):
            raise ValueError(f"root {root.id} ({os.fsdecode(root.path)!r}) lies below no other root")
    return replace(manifest, roots=tuple(root for root in manifest.roots if root not in roots))


def require_model(directory: Path, manifest: CollectionManifest, model: ModelRef) -> None:
    """Return when the collection has no model yet, or has `model`.

    Raises:
        CollectionMismatch: its embeddings came from another model; names both, and how to change it.
    """
    built_with = manifest.model
    if built_with is None or built_with.fingerprint == model.fingerprint:
        return
    shown = safe_path(str(directory))
    raise CollectionMismatch(
        f"{shown}: was built with model {built_with.name!r} (fingerprint {built_with.fingerprint}), not with "
        f"{model.name!r} (fingerprint {model.fingerprint}); name no model and its own answers, or give it the other "
        f"one with `mmsearch index --collection {shown} --model {model.argument}`, or index into a new collection with "
        "`mmsearch index --collection NEW PATH`"
    )


def _refuse_foreign(directory: Path) -> None:
    try:
        names = [entry.name for entry in directory.iterdir()]
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise CollectionError(f"{directory}: is not a directory; a collection is one") from None
    except OSError as error:
        raise unreadable(directory, error) from error
    if _has_snapshots(directory):
        raise CollectionDamaged(f"{directory / FILE_NAME}: is gone from beside its snapshots; run `mmsearch repair`")
    foreign = sorted(name for name in names if name != LOCK_NAME and not is_leftover(name))
    if foreign:
        raise CollectionError(
            f"{directory}: is not a collection (no {FILE_NAME}) and not empty (holds {foreign[0]!r}); "
            "choose an empty or new directory"
        )


def _has_snapshots(directory: Path) -> bool:
    return any(path.stem.isdecimal() for path in (directory / SNAPSHOTS_DIRECTORY).glob("*.json"))


def _refuse_newer(path: Path, body: dict[str, Any]) -> None:
    found = body.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise CollectionMismatch(
            f"{path}: has collection format {found}, and this mmsearch knows formats up to {FORMAT}; "
            "upgrade it with `pip install --upgrade mmsearch`"
        )


def _to_json(manifest: CollectionManifest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "format": manifest.format,
        "roots": roots_to_json(manifest.roots),
        "model": None if manifest.model is None else model_to_json(manifest.model),
        "next_id": manifest.next_id,
    }
    if manifest.switch is not None:
        body["switch"] = switch_to_json(manifest.switch)
    if manifest.kept_models:
        body["kept_models"] = [model_to_json(each) for each in manifest.kept_models]
    if manifest.mounts:
        body["mounts"] = [path_to_json(path) for path in manifest.mounts]
    if manifest.published:
        body["published"] = True
    return body


def _from_json(body: dict[str, Any]) -> CollectionManifest:
    model, switch = body["model"], body.get("switch")
    return CollectionManifest(
        roots=roots_from_json(body["roots"]),
        model=None if model is None else model_from_json(model),
        next_id=int(body["next_id"]),
        switch=None if switch is None else switch_from_json(switch),
        kept_models=tuple(model_from_json(each) for each in body.get("kept_models", [])),
        mounts=tuple(path_from_json(each) for each in body.get("mounts", [])),
        published=bool(body.get("published", False)),
    )


def roots_to_json(roots: tuple[Root, ...]) -> list[dict[str, Any]]:
    """Roots as JSON."""
    return [{"id": root.id, "path": path_to_json(root.path), "device": root.device} for root in roots]


def roots_from_json(roots: list[dict[str, Any]]) -> tuple[Root, ...]:
    """The inverse of `roots_to_json`."""
    return tuple(Root(int(root["id"]), path_from_json(root["path"]), int(root["device"])) for root in roots)


def path_to_json(path: bytes) -> str:
    """A path as JSON has it; bytes that are not UTF-8 survive as lone surrogates."""
    return path.decode("utf-8", "surrogateescape")


def path_from_json(text: str) -> bytes:
    """The inverse of `path_to_json`."""
    return str(text).encode("utf-8", "surrogateescape")
