"""What tests of a changing model share: models to change to, runs that change it, what has to be true afterwards."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from photo_library import Key, Library

from mmsearch.encoder import OnnxEncoder
from mmsearch.indexer.interrupt import Interrupt
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.indexer.switch import Wish
from mmsearch.indexer.write import BatchLimits, Writer
from mmsearch.model import Model, load_model
from mmsearch.model_lookup import reference
from mmsearch.store import Item, Store
from mmsearch.types import IndexReport

SMALL_BATCHES = IndexOptions(batch=BatchLimits(files=2))


def wide_model(directory: Path, *, itm: bool = False) -> Model:
    """Another model, with embeddings of 24 numbers."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiny_model, "DIM", 24)
        tiny_model.write_tiny_model(directory, name=directory.name, seed=3, itm=itm)
    return load_model(directory, threads=1)


def other_model(directory: Path, *, itm: bool = False) -> Model:
    """Another model, with embeddings of 16 numbers like the first one."""
    tiny_model.write_tiny_model(directory, name=directory.name, seed=1, itm=itm)
    return load_model(directory, threads=1)


def switch(
    library: Library, model: Model, *paths: Path, keep_old: bool | None = None, options: IndexOptions | None = None
) -> IndexReport:
    """A run that gives the collection `model`, by default over all that was indexed before."""
    options = replace(options or SMALL_BATCHES, models=Wish(switch=True, keep_old=keep_old))
    return index(library.collection, paths or None, model, options)


def run_own(library: Library, *, keep_old: bool | None = None) -> IndexReport:
    """A plain run with the model of `library`."""
    options = IndexOptions(models=Wish(keep_old=keep_old))
    return library.index(options=options)


@contextmanager
def embeddings_made() -> Iterator[Counter[str]]:
    """Counts what models are asked to embed within."""
    made: Counter[str] = Counter()
    images, texts = OnnxEncoder.encode_pixels_with_tokens, OnnxEncoder.encode_tokens

    def encode_images(self: OnnxEncoder, pixels: Any) -> Any:
        made["images"] += len(pixels)
        return images(self, pixels)

    def encode_texts(self: OnnxEncoder, ids: Any, mask: Any) -> Any:
        made["texts"] += len(ids)
        return texts(self, ids, mask)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(OnnxEncoder, "encode_pixels_with_tokens", encode_images)
        patched.setattr(OnnxEncoder, "encode_tokens", encode_texts)
        yield made


@contextmanager
def interrupted_after(commits: int) -> Iterator[None]:
    """Within, a run is asked to stop when it has committed so many batches."""
    runs: list[Interrupt] = []
    real_init, real_commit = Interrupt.__init__, Writer.commit
    done = 0

    def init(self: Interrupt) -> None:
        real_init(self)
        runs.append(self)

    def commit(self: Writer) -> None:
        nonlocal done
        real_commit(self)
        done += 1
        if done == commits:
            runs[-1].requested = True

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Interrupt, "__init__", init)
        patched.setattr(Writer, "commit", commit)
        yield


def facts(library: Library) -> dict[Key, Item]:
    """All rows with all they say, ids and revisions too."""
    return library.items()


def tables(library: Library) -> list[str]:
    """The fingerprints of which there are embeddings."""
    return sorted(path.stem for path in (library.collection / "vectors").iterdir())


def assert_answers(library: Library, model: Model) -> None:
    """The snapshot is of `model`, and holds for every file below `photos` what the model makes of it now."""
    found = library.found()
    rows = library.items()
    expected = {key for key, item in rows.items() if item.found and item.missing_since is None}
    assert found.keys() == expected
    assert library.manifest.model == reference(model)
    for (path, part), vector in found.items():
        item = rows[path, part]
        made = (
            model.encode_images([os.fsdecode(path)]) if item.kind == "image" else model.encode_texts([item.text or ""])
        )
        assert vector.shape == (model.dim,)
        assert vector @ made[0] > 0.9999, (path, part)


def assert_tables_are_true(library: Library, *models: Model) -> None:
    """No vector of any of `models` stands beside a row that tells of another content, wherever that is on the disk."""
    files = [path for path in library.photos.rglob("*") if path.is_file()]
    pictures = {hashlib.sha256(path.read_bytes()).digest(): path for path in files}
    for model in models:
        with Store.open(library.collection, reference(model), read_only=True) as store:
            known = store.known_files()
            embedded = known.ids[known.has_vector]
            for item, vector in zip(store.items(embedded), store.vectors(embedded), strict=True):
                if item.kind == "text":
                    assert vector @ model.encode_texts([item.text or ""])[0] > 0.9999, item
                elif item.hash in pictures:
                    assert vector @ model.encode_images([pictures[item.hash]])[0] > 0.9999, item
