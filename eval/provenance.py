"""Where the numbers of a record come from: the data, the system, and what a reader should know beside them."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from importlib import metadata

from mmsearch.eval.embedding_cache import LIBRARIES
from mmsearch.eval.embeddings import Embedded
from mmsearch.eval.record import DataRecord, SystemRecord
from mmsearch.eval.scores import BothDirections
from mmsearch.eval.significance import FEWEST_CLUSTERS
from mmsearch.model import Model
from mmsearch.safe_text import safe_path

NOTEWORTHY_TIES = 0.001


def data_record(embedded: Embedded) -> DataRecord:
    """Return what was measured on."""
    dataset = embedded.dataset
    per_image = dataset.relevance("image_to_text").counts
    return DataRecord(
        name=dataset.name,
        format=dataset.format,
        split=dataset.split,
        sha256=data_sha256(embedded),
        file_sha256=dataset.sha256,
        images=len(dataset.image_ids),
        captions=len(dataset.captions),
        captions_per_image=(int(per_image.min()), float(per_image.mean()), int(per_image.max())),
        dropped=dict(dataset.dropped),
        duplicate_images=sum(len(same) for same in embedded.duplicate_images()),
        partial_images=embedded.partial,
        notes=dataset.notes,
    )


def data_sha256(embedded: Embedded) -> str:
    """Return a hash that is equal for two runs exactly when they measured on the same images, captions and pairs.

    It covers ids, captions, pairs and the bytes of every image, not the order of rows in a file.
    """
    dataset = embedded.dataset
    facts = {
        "images": [[name, key.hex()] for name, key in zip(dataset.image_ids, embedded.image_keys, strict=True)],
        "captions": list(zip(dataset.caption_ids, dataset.captions, strict=True)),
        "pairs": dataset.pairs.tolist(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("ascii")).hexdigest()


def system_record(model: Model, *, ks: tuple[int, ...], seed: int, resamples: int, rerank: bool) -> SystemRecord:
    """Return what was measured, and how."""
    manifest = model.manifest
    used = [*(facts.bank for facts in manifest.hubness.values()), *([manifest.itm.file] if manifest.itm else [])]
    return SystemRecord(
        model=model.name,
        fingerprint=model.fingerprint,
        dim=model.dim,
        preprocess=asdict(model.preprocess),
        prompt="{caption}",
        score=_score(model) if rerank else "cosine",
        precision="float32",
        rerank=rerank,
        k=ks,
        seed=seed,
        resamples=resamples,
        versions={"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        rerank_files={name: manifest.files[name].sha256 for name in used} if rerank else {},
    )


def _score(model: Model) -> str:
    """Return what a reranking model orders by, as a formula in words."""
    manifest = model.manifest
    terms = ["cosine"]
    for direction, facts in manifest.hubness.items():
        terms.append(
            f" - {facts.strength:g} x mean of the {facts.neighbours} nearest of a bank ({direction.replace('_', ' ')})"
        )
    if manifest.itm is not None:
        terms.append(f" + {manifest.itm.weight:g} x matching logit of the best {manifest.itm.candidates}")
    return "".join(terms)


def notes(embedded: Embedded, ranks: BothDirections) -> tuple[str, ...]:
    """Return sentences for a person about what may mislead in the numbers."""
    found = list(embedded.dataset.notes)
    duplicates = embedded.duplicate_images()
    if duplicates:
        first = " = ".join(safe_path(name) for name in duplicates[0])
        count = sum(len(same) for same in duplicates)
        found.append(f"{count} images are the same file under several names ({first}): true matches count as misses")
    if embedded.partial:
        found.append(f"{embedded.partial} images could be decoded only in part")
    for name, direction in (("captions", ranks.text_to_image), ("images", ranks.image_to_text)):
        if len(direction.ranks.excluded):
            found.append(
                f"{len(direction.ranks.excluded)} {name} have nothing relevant in the gallery and are not scored"
            )
        if direction.ranks.tie_rate > NOTEWORTHY_TIES:
            share = f"{100 * direction.ranks.tie_rate:.1f} %"
            found.append(f"{share} of the {name} tie with a wrong answer; ties count against the model")
    if ranks.clusters < FEWEST_CLUSTERS:
        found.append(f"no intervals: {ranks.clusters} independent images, at least {FEWEST_CLUSTERS} are needed")
    return tuple(found)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"
