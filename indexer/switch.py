"""A collection gets another model: its embeddings are made beside those that answer, and take over when all are there.

The switch stands in collection.json before the first embedding is made, and until the new snapshot has been published:
that publication is the moment of the change. Whoever is killed after it leaves the rest, naming the new model and
removing the old embeddings, to the next run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmsearch import manifest as manifests
from mmsearch.indexer.discover import Scope, join_path
from mmsearch.manifest import CollectionManifest, ModelRef, ModelSwitch
from mmsearch.manifest_models import ways_out
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.snapshot_manifest import active_model
from mmsearch.store import KnownFiles, Store
from mmsearch.types import SwitchInfo


@dataclass(frozen=True, slots=True)
class Wish:
    """What a run may do about models: `switch` lets it change that of the collection.

    `keep_old` is whether embeddings of other models are kept: None keeps them until another model has taken over.
    """

    switch: bool = False
    keep_old: bool | None = None


def settled(directory: Path, manifest: CollectionManifest) -> CollectionManifest:
    """`manifest`, with a switch that was published, but not finished, brought to its end."""
    active = active_model(directory, manifest)
    return manifest if active == manifest.model else finished(manifest)


def finished(manifest: CollectionManifest) -> CollectionManifest:
    """`manifest` after its switch: the new model is the collection's, and what is not to be kept is not named."""
    if manifest.switch is None:
        return manifest
    old = () if manifest.model is None else (manifest.model,)
    kept = (*manifest.kept_models, *old) if manifest.switch.keep_old else ()
    return replace(manifest, model=manifest.switch.to, switch=None, kept_models=kept)


def taken_up(directory: Path, manifest: CollectionManifest, model: ModelRef, wish: Wish) -> CollectionManifest:
    """`manifest` for a run with `model`: the collection's own, its first, or one that it is to be switched to.

    A switch that was under way to a third model gives way; what it has made is kept until this one is finished. One
    that was under way is given up where the wish names the collection's own model.

    Raises:
        CollectionMismatch: the collection has another model, and there is no wish to change that.
    """
    if manifest.model is None or manifest.model.fingerprint == model.fingerprint:
        return _with_own(replace(manifest, model=model), wish)
    if not wish.switch:
        manifests.require_model(directory, manifest, model)
    given_up = () if manifest.switch is None else (manifest.switch.to,)
    others = (*manifest.kept_models, *given_up)
    kept = tuple(each for each in others if each.fingerprint != model.fingerprint)
    going_on = manifest.switch is not None and manifest.switch.to.fingerprint == model.fingerprint
    keep_old = wish.keep_old
    if keep_old is None:
        keep_old = manifest.switch is not None and going_on and manifest.switch.keep_old
    return replace(manifest, switch=ModelSwitch(model, keep_old=keep_old), kept_models=kept)


def _with_own(manifest: CollectionManifest, wish: Wish) -> CollectionManifest:
    kept = () if wish.keep_old is False else manifest.kept_models
    if manifest.switch is None or not wish.switch:
        # A change that is under way is no old one: it ends when it is given up, and not before.
        return replace(manifest, kept_models=kept)
    return replace(manifest, switch=None, kept_models=(*kept, manifest.switch.to) if wish.keep_old else kept)


def giving_up(before: CollectionManifest, after: CollectionManifest) -> str | None:
    """A sentence on the switch of `before` that `after`, what a run makes of it, has given up; None when it has not."""
    if before.switch is None or after.switch is not None or before.model is None or after.model is None:
        return None
    if before.model.fingerprint != after.model.fingerprint:
        return None
    old, new = safe_text(before.model.name), safe_text(before.switch.to.name)
    became = "kept" if before.switch.to in after.kept_models else "removed"
    return f"the change to '{new}' is given up: '{old}' goes on answering, and what '{new}' had embedded is {became}"


def progress_of(model: ModelRef, files: KnownFiles, *, done: bool = False) -> SwitchInfo:
    """How far a switch to `model` is: how many of the items that a query should find have its embedding."""
    return SwitchInfo(
        model=model.name,
        fingerprint=model.fingerprint,
        dim=model.dim,
        embedded=int(np.count_nonzero(files.live & files.has_vector)),
        items=int(np.count_nonzero(files.live)),
        done=done,
    )


def is_complete(store: Store) -> bool:
    """Whether every item that a query should find has its embedding."""
    files = store.known_files()
    return not bool(np.any(files.live & ~files.has_vector))


def remark(manifest: CollectionManifest, store: Store, *, scopes: Sequence[Scope], interrupted: bool) -> str:
    """A sentence on why the old model still answers after a run over `scopes`, and what to do, for a person."""
    assert manifest.switch is not None and manifest.model is not None
    files = store.known_files()
    lacking = np.flatnonzero(files.live & ~files.has_vector).tolist()
    old, new = safe_text(manifest.model.name), manifest.switch.to
    lacked = f"{len(lacking):,} of {np.count_nonzero(files.live):,} items"
    lacking_by = f"{lacked} have no embedding by '{safe_text(new.name)}' yet"
    again = f"run `mmsearch index --model {new.argument}` again"
    to_stay = f"to stay with '{old}' instead, `mmsearch index --model {manifest.model.argument}`"
    if interrupted or not lacking:
        return f"'{old}' still answers, {lacking_by}: {again} to go on, or {to_stay}"
    unread = [row for row in lacking if _is_covered(files, row, scopes)]
    first = _path(manifest, files, (unread or lacking)[0])
    if not unread:
        return (
            f"'{old}' still answers: {lacking_by}, since they are not in the paths of this run (first: {first});"
            f" {again}, without paths, to go on, or {to_stay}"
        )
    outside = len(lacking) - len(unread)
    beside = f", and {outside:,} are not in the paths of this run" if outside else ""
    return (
        f"'{old}' still answers: {lacking_by} (first: {first}){beside}; {again} when these files can be read, with"
        f" --prune --force if they are gone for good; {to_stay}"
    )


def pending(manifest: CollectionManifest) -> str | None:
    """A sentence on a switch that is under way, after a run that did nothing for it; None when there is none."""
    if manifest.switch is None or manifest.model is None:
        return None
    old, new = safe_text(manifest.model.name), safe_text(manifest.switch.to.name)
    return (
        f"the change to '{new}' is still under way, this run was about '{old}' alone:"
        f" {ways_out(manifest.model, manifest.switch.to)}"
    )


def _is_covered(files: KnownFiles, row: int, scopes: Sequence[Scope]) -> bool:
    root_id, path = int(files.root_ids[row]), files.path(row)
    return any(scope.root_id == root_id and scope.covers(path) for scope in scopes)


def _path(manifest: CollectionManifest, files: KnownFiles, row: int) -> str:
    roots = {root.id: root.path for root in manifest.roots}
    return safe_path(join_path(roots.get(int(files.root_ids[row]), b""), files.path(row)))
