"""`mmsearch info`: what a collection holds, what could not be read, and what answers."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch import __version__
from mmsearch.cli.options import CollectionOption, DebugOption, JsonOption
from mmsearch.cli.output import path_fields, print_json, print_lines
from mmsearch.safe_text import safe_path, safe_text

if TYPE_CHECKING:
    from mmsearch.types import CollectionInfo, Skipped

_PACKAGES = ("numpy", "pillow", "pillow-heif", "onnxruntime", "tokenizers", "lancedb", "pyarrow")
# They all install the same module, and the one installed last has overwritten the others.
_FAISS_BUILDS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12", "faiss-gpu-cu11")


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
        print_json(_as_json(about, failed))
    elif failed is not None:
        print_lines(f"{each.reason.value}\t{safe_path(each.path)}\t{safe_text(each.detail)}" for each in failed)
    else:
        print_lines(_page(about))


def installed_versions() -> dict[str, str]:
    """Distribution -> version of what this run would use, from the installation's records: nothing is imported."""
    from importlib import metadata

    versions = {"mmsearch": __version__, "python": platform.python_version()}
    for name in (*_PACKAGES, *_FAISS_BUILDS):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def faiss_build(versions: dict[str, str]) -> str:
    """Which faiss is active, in words."""
    builds = [f"{name} {versions[name]}" for name in _FAISS_BUILDS if name in versions]
    if len(builds) > 1:
        return f"unclear: {' and '.join(builds)} overwrite each other; uninstall them and install one"
    return builds[0] if builds else "none installed"


def _as_json(about: CollectionInfo, failed: list[Skipped] | None) -> dict[str, Any]:
    versions = installed_versions()
    value: dict[str, Any] = {
        "collection": {**path_fields(about.path), "format": about.format, "snapshot": about.snapshot},
        "disk_bytes": about.disk_bytes,
        "model": None
        if about.model is None
        else {"name": about.model, "fingerprint": about.fingerprint, "dim": about.dim},
        "roots": [{**path_fields(each.path), "trouble": each.trouble} for each in about.roots],
        "images": about.images,
        "texts": about.texts,
        "partial": about.partial,
        "missing": about.missing,
        "failed": {reason.value: count for reason, count in about.failed},
        "matchable": about.matchable,
        "index": {"kinds": list(about.index_kinds), "segments": about.segments},
        "faiss": faiss_build(versions),
        "versions": versions,
    }
    if failed is not None:
        value["errors"] = [
            {**path_fields(each.path), "reason": each.reason.value, "detail": each.detail} for each in failed
        ]
    return value


def _page(about: CollectionInfo) -> Iterator[str]:
    versions = installed_versions()
    snapshot = f"snapshot {about.snapshot}" if about.snapshot else "nothing indexed yet"
    yield _row("Collection", f"{safe_path(about.path)} (format {about.format}, {snapshot}, {_size(about.disk_bytes)})")
    if about.model is not None:
        yield _row("Model", f"{safe_text(about.model)} ({about.dim} dimensions, fingerprint {about.fingerprint})")
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
    yield _row("FAISS", faiss_build(versions))
    named = {name: version for name, version in versions.items() if name not in _FAISS_BUILDS}
    yield _row("Versions", ", ".join(f"{name} {version}" for name, version in named.items()))


def _rerank(about: CollectionInfo) -> str:
    """Whether a search can look at its best images again."""
    if not about.matchable:
        return "not by a matching head: the images were indexed by a model without one"
    return f"{about.matchable:,} images can be looked at again by the matching head"


def _row(title: str, value: str) -> str:
    return f"{title:<11} {value}"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
