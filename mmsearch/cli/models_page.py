"""What `mmsearch models` shows of models, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.byte_size import size_text
from mmsearch.cli.output import path_fields
from mmsearch.safe_text import safe_path, safe_text

if TYPE_CHECKING:
    from mmsearch.model_listing import ModelFacts

_SETS = {"flickr30k": "Flickr30k", "coco": "COCO"}
_DIRECTIONS = ("image_to_text", "text_to_image")


def list_page(rows: Iterable[ModelFacts]) -> Iterator[str]:
    """A line for each model, and what the numbers are."""
    yield f"{'name':<7} {'model':<37} {'size':>8}  {'here':<16}  {'R@1':<21}  licence"
    for row in rows:
        short = row.known.short if row.known and row.known.short else row.name if row.state == "bundled" else ""
        name = "" if row.state == "bundled" else row.name
        about = "~" if row.state == "not installed" else ""
        here = "-" if row.state == "not installed" else f"{row.state} + onnx" if row.onnx else row.state
        yield (
            f"{short:<7} {safe_text(name):<37} {about + size_text(row.bytes):>8}  {here:<16}  {_best(row.quality):<21}"
            f"  {safe_text(row.license)}"
        )
    yield ""
    yield "R@1: per cent of photos that find a caption of theirs first / captions that find their photo first."
    yield "Sizes are in powers of ten: 1 GB is 1,000,000,000 bytes. ~ is about what the weights come to."
    yield "mmsearch models pull NAME fetches one; mmsearch models info NAME says more."


def model_page(about: ModelFacts) -> Iterator[str]:
    """Everything about one model, a line for each fact."""
    yield _row("Model", f"{safe_text(about.name)} ({about.state})")
    if about.known and about.known.short:
        yield _row("Short name", about.known.short)
    if about.trouble:
        yield _row("Trouble", safe_text(about.trouble))
    manifest = about.manifest
    if manifest is not None:
        height, width = manifest.preprocess.height, manifest.preprocess.width
        yield _row("Runtime", manifest.runtime + (", and onnx on the CPU" if about.onnx else ""))
        yield _row("Embedding", f"{manifest.dim} dimensions")
        yield _row("Photos", f"{width} x {height} pixels, {manifest.preprocess.resize}")
        yield _row("Sentences", f"{manifest.max_tokens} tokens")
        yield _row("Reranking", "has a matching head" if manifest.itm else "has no matching head")
        yield _row("Fingerprint", manifest.fingerprint)
    elif about.known:
        yield _row("Parameters", f"{about.known.parameters:g} million")
    yield _row("Size", ("about " if about.state == "not installed" else "") + size_text(about.bytes))
    yield _row("Licence", safe_text(about.license))
    for line in _quality(about.quality):
        yield _row("R@1", line)
    source, revision = _source(about)
    if source:
        yield _row("From", safe_text(source) + (f" at {safe_text(revision)}" if revision else ""))
    if manifest is not None:
        yield _row("Directory", safe_path(str(manifest.directory)))
    elif about.state == "not installed":
        name = about.known.short if about.known and about.known.short else about.name
        yield _row("Get it", f"mmsearch models pull {name}")
    elif about.installed is not None:
        yield _row("Directory", safe_path(str(about.installed.directory)))


def list_as_json(rows: Iterable[ModelFacts]) -> dict[str, Any]:
    """The models of a list, each as `model_as_json` has it."""
    return {"models": [model_as_json(row)["model"] for row in rows]}


def model_as_json(about: ModelFacts) -> dict[str, Any]:
    """Everything about one model; what is not known is null."""
    manifest, known = about.manifest, about.known
    source, revision = _source(about)
    directory = manifest.directory if manifest else about.installed.directory if about.installed else None
    facts: dict[str, Any] = {
        "name": safe_text(about.name),
        "short_name": known.short if known else about.name if about.state == "bundled" else None,
        "state": about.state.replace(" ", "_"),
        "bytes": about.bytes,
        "license": safe_text(about.license),
        "non_commercial": known.non_commercial if known else None,
        "quality": dict(about.quality),
        "source": safe_text(source) or None,
        "revision": safe_text(revision) or None,
        "trouble": safe_text(about.trouble) or None,
        "directory": path_fields(str(directory)) if directory else None,
        "runtime": None,
        "onnx_form": None,
        "dim": None,
        "image_size": None,
        "max_tokens": None,
        "reranks": None,
        "fingerprint": None,
    }
    if manifest is not None:
        facts |= {
            "runtime": manifest.runtime,
            "onnx_form": path_fields(str(about.onnx.directory)) if about.onnx else None,
            "dim": manifest.dim,
            "image_size": [manifest.preprocess.height, manifest.preprocess.width],
            "max_tokens": manifest.max_tokens,
            "reranks": manifest.itm is not None,
            "fingerprint": manifest.fingerprint,
        }
    return {"model": facts}


def installed_line(directory: Path, name: str) -> str:
    """That a model is there now, and what to do with it."""
    shown = safe_text(name)
    return f"{shown} is in {safe_path(str(directory))}: mmsearch index PHOTOS --model {shown} --collection NAME"


def _source(about: ModelFacts) -> tuple[str, str]:
    if about.installed is not None:
        return about.installed.source, about.installed.revision
    return (f"hf-hub:{about.known.repository}", "") if about.known else ("", "")


def _best(quality: Mapping[str, Any]) -> str:
    """One line of `_quality`: of COCO where it is known, as it is of all published models."""
    lines = list(_quality(quality))
    return lines[-1] if lines else "-"


def _quality(quality: Mapping[str, Any]) -> Iterator[str]:
    """`SET image-to-text / text-to-image`, for each set that a manifest's `quality` tells of."""
    named = {"dataset": quality} if set(_DIRECTIONS) <= set(quality) else quality
    for key, table in named.items():
        title = _SETS.get(key) or str(quality.get("dataset", key))
        try:
            first, second = (100 * float(table[direction]["recall@1"]) for direction in _DIRECTIONS)
        except (KeyError, TypeError, ValueError):
            continue
        yield f"{safe_text(title)} {first:.1f} / {second:.1f}"


def _row(title: str, value: str) -> str:
    return f"{title:<11} {value}"
