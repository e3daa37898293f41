"""Find photos by sentence and sentences by photo, offline, on a CPU.

>>> import mmsearch
>>> collection = mmsearch.open("./my-index")    # doctest: +SKIP
>>> collection.add(["./photos"])                # doctest: +SKIP
>>> collection.search("a dog on a beach", k=5)  # doctest: +SKIP

Importing this package loads neither a model run-time nor a database: each name below is fetched when it is first used.
"""

from __future__ import annotations

import importlib
import os

# ONNX Runtime from 1.29 on tells its makers about each process and model unless this is set before it is loaded, and
# keeps an identifier of the user in the cache directory. Nothing here goes to a network unasked.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Every command begins with this module, and until it is loaded nobody hears a Ctrl-C: `typing` is most of that time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.errors import (
        CollectionBusy,
        CollectionDamaged,
        CollectionError,
        CollectionMismatch,
        CollectionNotFound,
        DatasetError,
        MissingExtra,
        MMSearchError,
        ModelError,
        PruneRefused,
        UnreadableFile,
        UsageError,
    )
    from mmsearch.model import Model
    from mmsearch.progress import Progress
    from mmsearch.types import (
        CheckReport,
        CollectionInfo,
        Damage,
        Hit,
        IndexReport,
        IndexUse,
        OptimizeReport,
        PhotoTags,
        Reason,
        RepairReport,
        RootInfo,
        Skipped,
        SwitchInfo,
        Tag,
    )

__version__ = "0.1.0"

__all__ = [
    "CheckReport",
    "Collection",
    "CollectionBusy",
    "CollectionDamaged",
    "CollectionError",
    "CollectionInfo",
    "CollectionMismatch",
    "CollectionNotFound",
    "Damage",
    "DatasetError",
    "Hit",
    "IndexReport",
    "IndexUse",
    "MMSearchError",
    "MissingExtra",
    "Model",
    "ModelError",
    "OptimizeReport",
    "PhotoTags",
    "Progress",
    "PruneRefused",
    "Reason",
    "RepairReport",
    "RootInfo",
    "Skipped",
    "SwitchInfo",
    "Tag",
    "UnreadableFile",
    "UsageError",
    "__version__",
    "load_model",
    "open",
]

_HOME = {
    "Collection": "mmsearch.collection",
    "Model": "mmsearch.model",
    "Progress": "mmsearch.progress",
    **dict.fromkeys(
        [
            "CheckReport",
            "CollectionInfo",
            "Damage",
            "Hit",
            "IndexReport",
            "IndexUse",
            "OptimizeReport",
            "PhotoTags",
            "Reason",
            "RepairReport",
            "RootInfo",
            "Skipped",
            "SwitchInfo",
            "Tag",
        ],
        "mmsearch.types",
    ),
}


def open(path: str | os.PathLike[str] | None = None, *, model: str | os.PathLike[str] | None = None) -> Collection:
    """The collection at `path`: a directory, a name, or None for the one the settings name.

    It need not exist yet: the first `add` creates it. `model` is the name of a model or the directory of another one;
    None stands for the one that built the collection, or for the settings' where there is none yet. Use it in a `with`
    statement, or close it.

    Raises:
        UsageError: `path` is neither a directory nor a name.
        CollectionError: what stands at `path` is not a collection, is damaged, or was built by another model.
        ModelError: `model` is missing or not what its manifest says.
    """
    from mmsearch.collection import Collection

    return Collection.open(path, model=model)


def load_model(name_or_dir: str | os.PathLike[str] = "mini", *, threads: int | None = None) -> Model:
    """The model with that name, or in that directory, ready to encode; each half of it is loaded when first needed.

    `threads` are CPU threads for one call of the encoder; None takes them from the settings.

    Raises:
        ModelError: there is no such model, or its files are not what its manifest says.

    >>> mmsearch.load_model("mini").encode_texts(["a dog on a beach"]).shape  # doctest: +SKIP
    (1, 384)
    """
    from mmsearch.model import load_model

    return load_model(name_or_dir, threads=threads)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'mmsearch' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME.get(name, "mmsearch.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
