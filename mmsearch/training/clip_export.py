"""An open_clip model as a directory of ONNX graphs: after that it needs neither torch nor open_clip.

Everything is written beside its place and moved there once it has been compared with torch: what stands in `out` is
whole and agrees. Imports torch only when something is exported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.durable import fsync_dir, fsync_tree_new, make_directory
from mmsearch.errors import MissingExtra, ModelError, UsageError
from mmsearch.model import Model
from mmsearch.model_facts import EmbedsAs
from mmsearch.model_manifest import FORMAT, MANIFEST_FILE, ModelManifest, load_model_manifest
from mmsearch.openclip import NEEDS as CLIP_NEEDS
from mmsearch.openclip import require_clip_extra
from mmsearch.progress import Progress, ProgressCallback
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.settings import load_settings

if TYPE_CHECKING:
    from mmsearch.training.clip_graphs import ClipGraphs
    from mmsearch.training.export_check import Agreement

NEEDS = ("onnx", "onnxscript")
_STEPS = ("read", "image tower", "text tower", "compared with torch")
_INT8_SHARE = 0.35  # of the float32 bytes, at most, where some of a tower is no linear map
_SPARE_BYTES = 64 << 20
_LONGEST_NAME = 64
_TOKENIZER = "tokenizer.json"


def export_model(
    manifest: ModelManifest, out: Path, *, int8: bool = False, progress: ProgressCallback | None = None
) -> ModelManifest:
    """Return the manifest of the ONNX model written to `out`, whose runtime is open_clip in `manifest`.

    Its embeddings have been compared with torch's before it stands in `out`; when anything fails, nothing does. It
    keeps the fingerprint of `manifest`, so that both answer the same collections. With `int8` it is about a quarter of
    the size and quicker, embeddings differ a little, and it is a model of its own.

    Raises:
        UsageError: the model is ONNX already, or `out` is there and not an empty directory.
        MissingExtra: packages of the extra `clip` are not installed.
        ModelError: the model cannot be read, does not fit in memory or on the disk, cannot be
            traced, or does not agree with torch once exported.
    """
    require_open_clip(manifest)
    _require_export_extra()
    _require_free_place(out)
    from mmsearch.training.clip_graphs import ClipGraphs

    steps = _Steps(progress)
    clip = ClipGraphs(manifest)
    steps.done()
    _require_memory(manifest, clip.weight_bytes)
    with _staging(out) as staging:
        _require_space(staging, manifest, clip.weight_bytes, int8=int8)
        written, found = _write(clip, manifest, staging, int8=int8, steps=steps)
        _describe(manifest, written, found, int8=int8)
        _move(staging, out)
    return load_model_manifest(out)


def require_open_clip(manifest: ModelManifest) -> None:
    """Return when there is something to export.

    Raises:
        UsageError: the model is ONNX already.
    """
    if manifest.runtime != "open_clip":
        raise UsageError(f"model '{safe_text(manifest.name)}' is ONNX already: there is nothing to export")


def missing_packages() -> list[str]:
    """Return the names of the packages without which nothing can be exported. Imports none of them."""
    return [name for name in (*CLIP_NEEDS, *NEEDS) if importlib.util.find_spec(name) is None]


class _Steps:
    """Says how far the work is, in whole steps."""

    def __init__(self, progress: ProgressCallback | None) -> None:
        self._progress, self._count = progress, 0
        self._say("")

    def done(self) -> None:
        """One more is finished."""
        note, self._count = _STEPS[self._count], self._count + 1
        self._say(note)

    def _say(self, note: str) -> None:
        if self._progress is not None:
            self._progress(Progress("export", self._count, len(_STEPS), note))


def _require_export_extra() -> None:
    require_clip_extra()
    if missing := missing_packages():
        raise MissingExtra(f"exporting a model needs {', '.join(missing)}; install with: pip install 'mmsearch[clip]'")


def _require_free_place(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"{safe_path(str(out))} is there already: name a directory that is new or empty")


def _require_memory(manifest: ModelManifest, weight_bytes: int) -> None:
    from mmsearch.openclip_weights import free_memory

    # Beside the model, a tower's graph and the file made of it.
    needed, free = 2 * weight_bytes, free_memory()
    if free is not None and free < needed:
        raise ModelError(
            f"model '{safe_text(manifest.name)}' needs {needed / 1e9:.1f} GB of memory more to be exported, and"
            f" {free / 1e9:.1f} GB are free: end other programs"
        )


def _require_space(directory: Path, manifest: ModelManifest, weight_bytes: int, *, int8: bool) -> None:
    needed = _SPARE_BYTES + int(weight_bytes * (_INT8_SHARE if int8 else 1))
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise ModelError(
            f"model '{safe_text(manifest.name)}' takes {-(-needed >> 20)} MB as ONNX, and {free >> 20} MB are free on"
            f" the disk of {safe_path(str(directory.parent))}: make room, or name another place"
        )


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """An empty directory beside `out`; gone when the block ends, unless it was moved."""
    path = out.parent / f".{out.name}.{secrets.token_hex(4)}.mmsearch-export"
    try:
        make_directory(path)
        yield path
    except OSError as error:
        raise ModelError(f"{safe_path(str(out))} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _write(
    clip: ClipGraphs, manifest: ModelManifest, staging: Path, *, int8: bool, steps: _Steps
) -> tuple[ModelManifest, Agreement]:
    """Write graphs and tokenizer into `staging`; return the manifest of that, and how well it agrees with torch."""
    from mmsearch.training.clip_graphs import Sample
    from mmsearch.training.export_check import SENTENCES, agreement, require_agreement, sample_pixels
    from mmsearch.training.graph_files import write_graph

    pixels = sample_pixels(manifest.preprocess)
    expected = clip.embeddings(Sample(pixels, *Model(manifest, threads=1).tokenizer.encode(SENTENCES)))
    for name, graph in clip.graphs(int8=int8):
        write_graph(graph, staging / name)
        steps.done()
    (staging / _TOKENIZER).write_bytes(manifest.read(manifest.tokenizer_file))
    told = replace(manifest, logit_scale=clip.logit_scale)
    _write_manifest(told, staging, int8=int8)
    written = load_model_manifest(staging)
    model = Model(written, threads=load_settings().thread_count, device="cpu")
    found = agreement(model, pixels, *expected)
    require_agreement(found, manifest.name, int8=int8)
    steps.done()
    return written, found


def _describe(source: ModelManifest, written: ModelManifest, found: Agreement, *, int8: bool) -> None:
    """Write the cards, and the manifest again, which pins them too."""
    from mmsearch.training.export_card import CARD, SOURCE_CARD, SOURCE_CARDS, ExportFacts, export_card

    staging = written.directory
    cards = [source.read(name) for name in SOURCE_CARDS if name in source.files]
    if cards:
        (staging / SOURCE_CARD).write_bytes(cards[0])
    graphs = sum(path.stat().st_size for path in staging.iterdir() if ".onnx" in path.name)
    facts = ExportFacts(int8=int8, bytes=graphs, found=found, has_source_card=bool(cards))
    (staging / CARD).write_text(export_card(source, facts), encoding="utf-8")
    # Only now: a claim that was not measured is never written, and int8 embeddings are others.
    claim = None if int8 else EmbedsAs(source.fingerprint, written.own_fingerprint)
    told = replace(source, logit_scale=written.logit_scale, embeds_as=claim)
    _write_manifest(told, staging, int8=int8)


def _write_manifest(source: ModelManifest, staging: Path, *, int8: bool) -> None:
    """Write the manifest of all files in `staging`: everything that `source` says, but for what the graphs do."""
    from mmsearch.training.package import file_facts

    size, suffix = source.preprocess, "-int8" if int8 else ""
    image: dict[str, Any] = {
        "file": "image.onnx",
        "size": [size.height, size.width],
        "resize": size.resize,
        "interpolation": size.interpolation,
    }
    if size.resize == "longest":
        image["fill"] = size.fill
    table = {
        "format": FORMAT,
        "name": source.name[: _LONGEST_NAME - len(suffix)] + suffix,
        "version": source.version,
        "dim": source.dim,
        "image": image,
        "text": {
            "file": "text.onnx",
            "tokenizer": _TOKENIZER,
            "max_tokens": source.max_tokens,
            "lowercase": source.lowercase,
            "clean": source.clean,
            "pad": source.pad,
        },
        "logit_scale": source.logit_scale,
        "quality": dict(source.quality),
        "license": source.license,
        **({} if source.embeds_as is None else {"embeds_as": asdict(source.embeds_as)}),
        "files": {path.name: file_facts(path) for path in sorted(staging.iterdir()) if path.name != MANIFEST_FILE},
    }
    (staging / MANIFEST_FILE).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _move(staging: Path, out: Path) -> None:
    fsync_tree_new(staging, set())
    if out.is_dir():
        out.rmdir()  # it is empty, and only a directory that is gone can be replaced on every system
    staging.rename(out)
    fsync_dir(out.parent)
