"""PATH arguments -> registered roots and the scopes to walk; and whether a scope can be believed about what is gone.

Nested roots: the outermost registered root owns every file below it, but for roots inside it that are out of reach:
those stay roots of their own until they are back. A file given by itself is keyed under the root
that holds it, else its directory becomes a root, unless that would make it take over other roots: then the file is a
root by itself. In any case only that file is looked at.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mmsearch import manifest as manifests
from mmsearch.errors import UsageError
from mmsearch.indexer.discover import Scope, is_collection, is_excluded, is_link, join_path, known_extension, split_path
from mmsearch.manifest import CollectionManifest, Root
from mmsearch.root_health import root_trouble
from mmsearch.safe_text import safe_path
from mmsearch.types import RootTrouble

if TYPE_CHECKING:
    from mmsearch.store import Store

PathInput: TypeAlias = str | bytes | os.PathLike[str]

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Argument:
    """One PATH, absolute, with symbolic links unresolved. `exists` is false for what a registered root has lost."""

    path: bytes
    is_file: bool
    exists: bool = True


def read_arguments(paths: Iterable[PathInput], manifest: CollectionManifest) -> list[Argument]:
    """The PATH arguments, checked, outermost first, without those that a walk through another one
    comes to.

    A path that is gone is let through when a registered root holds it: that is for the health check to judge.

    Raises:
        UsageError: there is none, or one does not exist, is a collection, a link to a file, or cannot be read.
    """
    arguments = {argument.path: argument for argument in (_argument(path, manifest) for path in paths)}
    if not arguments:
        raise UsageError("there is nothing to index: give at least one folder or file")
    kept: dict[bytes, Argument] = {}
    for path in sorted(arguments):
        if not _is_walked_into(path, kept):
            kept[path] = arguments[path]
    return sorted(kept.values(), key=lambda argument: (argument.path.count(b"/"), argument.path))


def _is_walked_into(path: bytes, kept: Mapping[bytes, Argument]) -> bool:
    """Whether a walk through one of `kept` comes to `path`: it follows no links and passes over hidden folders."""
    for parent in _parents(path):
        if is_link(path) or is_excluded(split_path(path)[1]):
            return False
        if parent in kept and not kept[parent].is_file:
            return True
        path = parent
    return False


def _argument(given: PathInput, manifest: CollectionManifest) -> Argument:
    path = manifests.normal_path(given)
    shown = safe_path(os.fsencode(given))
    if b"\0" in path:
        raise UsageError(f"{shown}: no name can hold a NUL character")
    try:
        status = Path(os.fsdecode(path)).stat()
    except FileNotFoundError:
        if manifests.owning_root(manifest, path) is None:
            raise UsageError(f"{shown}: there is no such folder or file") from None
        return Argument(path, is_file=False, exists=False)
    except OSError as error:
        if manifests.owning_root(manifest, path) is None:
            raise UsageError(f"{shown}: cannot be read ({error.strerror})") from error
        return Argument(path, is_file=False, exists=False)
    if not stat.S_ISDIR(status.st_mode):
        if stat.S_ISLNK(os.lstat(path).st_mode):
            target = safe_path(os.path.realpath(path))
            raise UsageError(f"{shown}: is a link, and links to files are not followed; give {target} itself")
        return Argument(path, is_file=True)
    if _holds_collection(path):
        raise UsageError(f"{shown}: is a collection of mmsearch, not a folder of photos or texts")
    return Argument(path, is_file=False)


def _holds_collection(path: bytes) -> bool:
    try:
        return is_collection(os.listdir(path))
    except OSError:
        return False


def _parents(path: bytes) -> Iterator[bytes]:
    while path != b"/":
        path = split_path(path)[0] or b"/"
        yield path


def register(manifest: CollectionManifest, arguments: Sequence[Argument]) -> CollectionManifest:
    """The manifest with a root for every argument. Arguments come outermost first.

    A file whose extension is not one of ours registers nothing.

    Raises:
        UsageError: a folder cannot be examined.
    """
    for argument in arguments:
        if argument.exists and not _is_ignored(argument):
            path = _home(manifest, argument.path) if argument.is_file else argument.path
            try:
                manifest, _ = manifests.with_root(manifest, path)
            except OSError as error:
                raise UsageError(f"{safe_path(path)}: cannot be read ({error.strerror})") from error
    return manifest


def scopes(manifest: CollectionManifest, arguments: Sequence[Argument]) -> list[Scope]:
    """What to look at for each argument, after `register` and `adopt_inner_roots`. A file that is ignored has none."""
    found = []
    for argument in arguments:
        if not _is_ignored(argument):
            root = max((root for root in manifest.roots if root.holds(argument.path)), key=lambda root: len(root.path))
            found.append(_scope(manifest, root, argument.path, is_file=argument.is_file))
    return found


def inner_scopes(manifest: CollectionManifest, outer: Sequence[Scope]) -> list[Scope]:
    """The roots below `outer`, none of which is among them: those that `adopt_inner_roots` left as they are."""
    return [
        _scope(manifest, root, root.path, is_file=False)
        for root in manifest.roots
        if any(Root(0, scope.top, 0).holds(root.path) for scope in outer if not scope.is_file)
        and all(scope.root_id != root.id for scope in outer)
    ]


def _scope(manifest: CollectionManifest, root: Root, path: bytes, *, is_file: bool) -> Scope:
    inner = frozenset(below(root, each.path) for each in manifests.inner_roots(manifest, root))
    return Scope(root.id, root.path, below(root, path), is_file=is_file, without=inner)


def _home(manifest: CollectionManifest, file: bytes) -> bytes:
    """What to register for a single file: its directory, or the file itself where the directory holds roots already.

    Those keep their rows: a folder does not change hands because of one file beside it.
    """
    folder = split_path(file)[0] or b"/"
    holds_roots = any(Root(0, folder, 0).holds(root.path) for root in manifest.roots)
    return file if holds_roots and manifests.owning_root(manifest, file) is None else folder


def count_ignored(arguments: Sequence[Argument]) -> int:
    """How many of `arguments` are files of no use to us."""
    return sum(map(_is_ignored, arguments))


def _is_ignored(argument: Argument) -> bool:
    return argument.is_file and known_extension(argument.path) is None


def below(root: Root, path: bytes) -> bytes:
    """`path`, absolute and at or below `root`, relative to it."""
    return path[len(root.path) :].lstrip(b"/")


def adopt_inner_roots(manifest: CollectionManifest, store: Store) -> CollectionManifest:
    """The manifest without roots that lie inside another one; their rows belong to the outermost root from now on.

    A root with rows that is out of reach, as on a drive that is not plugged in, stays as it is: that nothing is found
    in its place proves nothing. Rows keep their ids and embeddings. Killed before the caller has written the manifest,
    the next run finishes it: a row is keyed under one root at any time.
    """
    owners = {root.id: manifests.owning_root(manifest, root.path) or root for root in manifest.roots}
    inner = [root for root in manifest.roots if owners[root.id].id != root.id]
    if not inner:
        return manifest
    files = store.known_files()
    adopted = []
    for root in inner:
        owner = owners[root.id]
        prefix = below(owner, root.path)
        rows = np.flatnonzero(files.root_ids == root.id)
        if len(rows) and _out_of_reach(root, is_file=files.path(int(rows[0])) == b""):
            continue
        adopted.append(root)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            items = store.items(files.ids[rows[start : start + _ROWS_AT_ONCE]])
            store.put([replace(item, root_id=owner.id, path=join_path(prefix, item.path)) for item in items], {})
    return manifests.without_roots(manifest, tuple(adopted))


def _out_of_reach(root: Root, *, is_file: bool) -> bool:
    """Whether `root` looks like a drive that is not there. A single file may well be gone from a folder that is."""
    path = split_path(root.path)[0] or b"/" if is_file else root.path
    return root_trouble(path, root.device) is not None


def scope_trouble(scope: Scope, root: Root) -> RootTrouble | None:
    """Why this scope cannot be believed about what is gone, None when it can: as `root_trouble`, of the root and of
    the directory inside it that was asked for (which may well lie on another device).
    """
    trouble = root_trouble(root.path, root.device)
    if trouble or not scope.path or scope.is_file:
        return trouble
    try:
        return root_trouble(scope.top, Path(os.fsdecode(scope.top)).stat().st_dev)
    except OSError:
        return "gone"
