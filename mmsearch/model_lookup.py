"""From what a collection says of its model to the model itself, wherever it is installed now, and back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from mmsearch.errors import MissingExtra, ModelError
from mmsearch.manifest import ModelRef
from mmsearch.model import Model, load_model
from mmsearch.model_manifest import BUNDLED, bundled_models, load_model_manifest
from mmsearch.safe_text import safe_path, safe_text

Place: TypeAlias = str | os.PathLike[str]


def reference(model: Model) -> ModelRef:
    """What a collection remembers of `model`. A bundled one moves with every installation, so its name has to do."""
    from mmsearch.model_forms import home

    directory = home(model.manifest.directory)
    bundled = directory.parent == Path(os.path.abspath(BUNDLED))
    return ModelRef(model.name, model.fingerprint, model.dim, None if bundled else str(directory))


def find_model(
    wanted: ModelRef, *, fallback: Place | None = None, load: Callable[[Place], Model] = load_model
) -> Model:
    """The model `wanted`: where it was, else one of its name, else `fallback`, else any installed one, whatever it is
    called; but only one with its fingerprint.

    `load` gives the model of a name or a directory, ready to run where and how the caller wants it.

    Raises:
        ModelError: it is at none of these places; says what is there.
    """
    reasons = []
    for candidate in _candidates(wanted, fallback):
        try:
            model = load(candidate)
        except ModelError as error:
            reasons.append(str(error))
            continue
        if model.fingerprint == wanted.fingerprint:
            return model
        reasons.append(f"{safe_text(os.fspath(candidate))} has the fingerprint {model.fingerprint}")
    raise ModelError(
        f"the model '{safe_text(wanted.name)}' (fingerprint {safe_text(wanted.fingerprint)}), with which the collection"
        f" was built, is not found: {'; '.join(reasons)}; say where it is with --model DIR,"
        " or give the collection another model with `mmsearch index --model NAME`"
    )


def load_named(name: Place, own: Iterable[ModelRef], *, load: Callable[[Place], Model] = load_model) -> Model:
    """The model that a person calls `name`: a bundled or an installed one, or the one in that directory; where there is
    none, the one of `own`, the models that a collection names, that is called so, wherever it is now. `load` as for
    `find_model`.

    Raises:
        ModelError: there is none, two of `own` are called so, or it is not what its manifest says.
    """
    wanted = _own_called(name, own)
    return load(name) if wanted is None else find_model(wanted, load=load)


def _own_called(name: Place, own: Iterable[ModelRef]) -> ModelRef | None:
    """The model of `own` that is meant by `name`; None where that means something else."""
    if not isinstance(name, str):
        return None
    called = {each.fingerprint: each for each in own if name in (each.name, safe_text(each.name))}
    if not called or _is_place(name) or name in bundled_models() or _is_installed(name):
        return None
    if len(called) > 1:
        places = ", ".join(sorted(safe_path(each.location or each.name) for each in called.values()))
        raise ModelError(
            f"'{safe_text(name)}' is the name of {len(called)} models of the collection: say which: {places}"
        )
    return next(iter(called.values()))


def _is_installed(name: str) -> bool:
    from mmsearch.model_store import find, marker_damage  # a query of an ordinary collection has no use for it

    return find(name) is not None or marker_damage(name) is not None


def _is_place(text: str) -> bool:
    return text.startswith((".", os.sep)) or (os.sep in text and Path(text).is_dir())


def _candidates(wanted: ModelRef, fallback: Place | None) -> Iterator[Place]:
    if wanted.location is not None:
        yield Path(wanted.location)
    yield wanted.name
    if fallback is not None and os.fspath(fallback) not in (wanted.location, wanted.name):
        yield fallback
    from mmsearch.model_store import installed_models

    for each in installed_models():
        # A damaged one, or one that lacks what would run it, is no reason to say so here.
        with contextlib.suppress(ModelError, MissingExtra):
            if load_model_manifest(each.directory).fingerprint == wanted.fingerprint:
                yield each.directory
