"""Which model a collection is asked and filled with: its own, wherever that is now, or the one the caller names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.manifest import CollectionManifest
from mmsearch.settings import Settings
from mmsearch.snapshot_manifest import active_model

if TYPE_CHECKING:
    from mmsearch.manifest import ModelRef
    from mmsearch.model import Model
    from mmsearch.snapshot import Snapshot


class ModelChoice:
    """The model of one open collection, read when it is first needed.

    `name` is what the caller named, a model, also by its name in the collection, or a directory. None is for the
    collection's own, also after it has got another one, and for that of the settings while it has none.
    """

    def __init__(self, directory: Path, name: str | os.PathLike[str] | None, settings: Settings) -> None:
        self._directory = directory
        self._name = name
        self._settings = settings
        self._model: Model | None = None

    def current(self, manifest: CollectionManifest) -> Model:
        """The model for a collection with `manifest`.

        Raises:
            ModelError: it is missing, or not what its manifest says.
        """
        own = active_model(self._directory, manifest) if self._name is None else None
        if own is not None:
            return self.found(own)
        if self._model is None:
            self._model = self.named(self._name or self._settings.model, manifest)
        return self._model

    def of(self, snapshot: Snapshot) -> Model:
        """The model to search `snapshot` with.

        Raises:
            ModelError: it is missing, or not what its manifest says.
        """
        if self._name is None:
            return self.found(snapshot.head.model)
        return self.current(CollectionManifest(model=snapshot.head.model))

    def named(self, name: str | os.PathLike[str], manifest: CollectionManifest) -> Model:
        """The model called `name`, as `load_named` has it, for the collection with `manifest`.

        Raises:
            ModelError: it is missing, or not what its manifest says.
        """
        from mmsearch.model_lookup import load_named

        return load_named(name, manifest.models, load=self._load)

    def _load(self, name: str | os.PathLike[str]) -> Model:
        """Any model, as it would be loaded for this collection.

        Raises:
            ModelError: it is missing, or not what its manifest says.
        """
        from mmsearch.model import load_model

        settings = self._settings
        return load_model(name, threads=settings.thread_count, device=settings.device, precision=settings.precision)

    def replace(self, model: Model, name: str | os.PathLike[str]) -> None:
        """`model`, called `name`, is the collection's from now on."""
        self._model, self._name = model, None if self._name is None else name

    def close(self) -> None:
        """Lets go of the model."""
        self._model = None

    def found(self, wanted: ModelRef) -> Model:
        """The model `wanted`, wherever it is now.

        Raises:
            ModelError: it is missing, or not what its manifest says.
        """
        if self._model is None or self._model.fingerprint != wanted.fingerprint:
            from mmsearch.model_lookup import find_model

            self._model = find_model(wanted, fallback=self._settings.model, load=self._load)
        return self._model
