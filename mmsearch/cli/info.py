"""`mmsearch info`: what a collection holds, what could not be read, and what answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli.options import CollectionOption, DebugOption, JsonOption
from mmsearch.cli.output import path_fields, print_json, print_lines, switch_words
from mmsearch.cli.size import size_words
from mmsearch.safe_text import safe_path, safe_text

if TYPE_CHECKING:
    from mmsearch.types import CollectionInfo, Skipped


def info(
    errors: Annotated[bool, typer.Option("--errors", help="List the files that could not be read, and why.")] = False,
    as_json: JsonOption = False,
    collection: CollectionOption = None,
    debug: DebugOption = False,
) -> None:
    """Show what a collection holds and how it answers."""
    from mmsearch.collection import Collection
    from mmsearch.settings import load_settings, resolve_collection

    settings = load_settings()
    directory = resolve_collection(collection or settings.collection)
    # Whatever built it: what a collection holds is told also where its model is not installed.
    with Collection.open(directory, model=None, settings=settings) as opened:
        about = opened.info()
        failed = list(opened.errors()) if errors else None
    if as_json:
        print_json(_as_json(about, failed, settings.device))
    elif failed is not None:
        print_lines(f"{each.reason.value}\t{safe_path(each.path)}\t{safe_text(each.detail)}" for each in failed)
    else:
        print_lines(_page(about, settings.device))


def _as_json(about: CollectionInfo, failed: list[Skipped] | None, device: str) -> dict[str, Any]:
    from mmsearch.cli.installed import faiss_build, installed_versions, onnx_build
    from mmsearch.cuda_devices import cuda_devices
    from mmsearch.index_device import planned_place

    versions = installed_versions()
    value: dict[str, Any] = {
        "collection": {**path_fields(about.path), "format": about.format, "snapshot": about.snapshot},
        "disk_bytes": about.disk_bytes,
        "model": None
        if about.model is None
        else {"name": about.model, "fingerprint": about.fingerprint, "dim": about.dim},
        "switch": None if about.switch is None else {**asdict(about.switch), "ways_out": about.ways_out},
        "kept_models": list(about.kept_models),
        "roots": [{**path_fields(each.path), "trouble": each.trouble} for each in about.roots],
        "images": about.images,
        "texts": about.texts,
        "partial": about.partial,
        "missing": about.missing,
        "failed": {reason.value: count for reason, count in about.failed},
        "matchable": about.matchable,
        "index": {
            "kinds": list(about.index_kinds),
            "segments": about.segments,
            "parts": [
                {**asdict(part), "place": planned_place(part.index, part.rows, device=device)} for part in about.indexes
            ],
        },
        "device": device,
        "devices": [{"name": each.name, "memory_bytes": each.memory} for each in cuda_devices()],
        "faiss": faiss_build(versions),
        "onnxruntime": onnx_build(versions),
        "versions": versions,
    }
    if failed is not None:
        value["errors"] = [
            {**path_fields(each.path), "reason": each.reason.value, "detail": each.detail} for each in failed
        ]
    return value


def _page(about: CollectionInfo, device: str) -> Iterator[str]:
    # Here, not above: the help of all commands loads this module, and shall not load numpy.
    from mmsearch.cli.installed import BUILDS, faiss_build, installed_versions, onnx_build
    from mmsearch.cuda_devices import cuda_devices

    versions = installed_versions()
    snapshot = f"snapshot {about.snapshot}" if about.snapshot else "nothing indexed yet"
    facts = f"format {about.format}, {snapshot}, {size_words(about.disk_bytes)}"
    yield _row("Collection", f"{safe_path(about.path)} ({facts})")
    if about.model is not None:
        yield _row("Model", f"{safe_text(about.model)} ({about.dim} dimensions, fingerprint {about.fingerprint})")
    if about.switch is not None:
        yield _row("Switch", switch_words(about.switch))
        if about.ways_out is not None:
            yield _row("", about.ways_out)
    if about.kept_models:
        kept = ", ".join(safe_text(name) for name in about.kept_models)
        yield _row("Kept", f"embeddings of {kept} (mmsearch index --drop-old removes them)")
    for number, root in enumerate(about.roots):
        yield _row("" if number else "Roots", f"{safe_path(root.path)}{f' ({root.trouble})' if root.trouble else ''}")
    yield _row("Images", f"{about.images:,}")
    yield _row("Texts", f"{about.texts:,}")
    yield _row("Among them", f"{about.partial:,} read in part, {about.missing:,} missing")
    listed = ", ".join(f"{count:,} {reason.value}" for reason, count in about.failed)
    yield _row("Unreadable", f"{listed} (mmsearch info --errors lists them)" if listed else "none")
    if about.images:
        yield _row("Rerank", _rerank(about))
    if about.index_kinds:
        yield _row("Index", f"{', '.join(about.index_kinds)} ({about.segments:,} segments)")
    for number, place in enumerate(_places(about, device)):
        yield _row("" if number else "Search", place)
    found = ", ".join(safe_text(str(each)) for each in cuda_devices()) or "no CUDA device"
    yield _row("Devices", f"{found} (device = {device})")
    yield _row("FAISS", faiss_build(versions))
    yield _row("ONNX", onnx_build(versions))
    named = {name: version for name, version in versions.items() if name not in BUILDS}
    yield _row("Versions", ", ".join(f"{name} {version}" for name, version in named.items()))


def _places(about: CollectionInfo, device: str) -> Iterator[str]:
    """How many rows of what kind a program searches where; one query of the command line is answered on the CPU."""
    from mmsearch.index_device import planned_place

    rows = Counter[tuple[str, str, str]]()
    for part in about.indexes:
        rows[part.kind, part.index, planned_place(part.index, part.rows, device=device)] += part.rows
    for (kind, index, place), count in sorted(rows.items()):
        yield f"{count:,} {kind}s: {index}, by {place}"


def _rerank(about: CollectionInfo) -> str:
    """Whether a search can look at its best images again."""
    if not about.matchable:
        return "not by a matching head: the images were indexed by a model without one"
    return f"{about.matchable:,} images can be looked at again by the matching head"


def _row(title: str, value: str) -> str:
    return f"{title:<11} {value}"
