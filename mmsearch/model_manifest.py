"""A model directory as its `manifest.json` describes it: which files, pinned by size and SHA-256, and how to feed them.

Nothing in a model directory is trusted that the manifest does not pin, and nothing outside it is ever opened.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmsearch.errors import ModelError
from mmsearch.manifest_fields import Fields
from mmsearch.model_facts import Direction, HubnessFacts, ItmFacts, read_hubness, read_itm
from mmsearch.regular_file import open_regular
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.types import Preprocess

MANIFEST_FILE = "manifest.json"
FORMAT = 1
BUNDLED = Path(__file__).parent / "models"

# Part of every fingerprint: raise it when mmsearch.images makes other pixels of the same file.
_PREPROCESSING_REVISION = 1
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_FILE_BYTES = 1 << 40
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """What a file of a model must be: SHA-256 in hex, and its size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """One model directory. Files are bare names inside `directory`; `quality` is what its makers measured.

    `itm` is None for a model without an image-text matching head; `hubness` has the directions that have a bank.
    """

    directory: Path
    name: str
    version: str
    dim: int
    preprocess: Preprocess
    image_file: str
    text_file: str
    tokenizer_file: str
    max_tokens: int
    lowercase: bool
    files: Mapping[str, PinnedFile]
    quality: Mapping[str, Any]
    license: str
    itm: ItmFacts | None = None
    hubness: Mapping[Direction, HubnessFacts] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """32 hex digits that change when any embedding might.

        They cover the weights and graphs (pooling and quantisation are part of a graph), the tokenizer, the token
        limit and the preprocessing; not the name, the version or what was measured, nor the matching head and the
        banks, which work on what is stored and leave it as it is.
        """
        facts = {
            "dim": self.dim,
            "weights": [self.files[each].sha256 for each in (self.image_file, self.text_file, self.tokenizer_file)],
            "tokens": [self.max_tokens, self.lowercase],
            "preprocess": [_PREPROCESSING_REVISION, asdict(self.preprocess)],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def read(self, name: str) -> bytes:
        """The bytes of one file of the model, just checked against what the manifest pins.

        Raises:
            ModelError: it is missing, a link, no regular file, or not the file that the manifest pins.
        """
        path, pinned = self.directory / name, self.files[name]
        data = _read_regular(path, limit=pinned.bytes)
        if len(data) != pinned.bytes:
            raise _changed(path, f"it has {len(data)} bytes", f"{pinned.bytes}")
        if (digest := hashlib.sha256(data).hexdigest()) != pinned.sha256:
            raise _changed(path, f"its SHA-256 is {digest[:16]}...", f"{pinned.sha256[:16]}...")
        return data


def load_model_manifest(name_or_dir: str | os.PathLike[str]) -> ModelManifest:
    """The manifest of a bundled model, by name, or of the model in a directory.

    A `Path`, and text with a path separator or a dot at its start, is a directory.

    Raises:
        ModelError: there is no such model, or its manifest has a field missing, too much, or of the wrong kind.
    """
    directory = _directory(name_or_dir)
    path = directory / MANIFEST_FILE
    data = _read_regular(path, limit=_MAX_MANIFEST_BYTES)
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"model manifest {safe_path(str(path))} is not JSON: {safe_text(str(error))}") from error
    return _parse(Fields(table, file=safe_path(str(path)), error=ModelError), directory)


def verify(manifest: ModelManifest) -> None:
    """Reads every file that the manifest pins.

    Raises:
        ModelError: one is missing or is not what is pinned.
    """
    for name in manifest.files:
        manifest.read(name)


def bundled_models() -> list[str]:
    """The names of the models that came with this installation, sorted."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{MANIFEST_FILE}"))


def _directory(name_or_dir: str | os.PathLike[str]) -> Path:
    text = os.fspath(name_or_dir)
    if not isinstance(name_or_dir, str) or os.sep in text or text.startswith("."):
        return Path(text)
    names = bundled_models()
    if text in names:
        return BUNDLED / text
    hint = f"; the directory needs a separator: ./{text}" if Path(text).is_dir() else ""
    nearest = difflib.get_close_matches(text, names, n=3, cutoff=0.0)
    raise ModelError(f"no model is called '{safe_text(text)}'; there is {', '.join(nearest) or 'none installed'}{hint}")


def _parse(fields: Fields, directory: Path) -> ModelManifest:
    if (version := fields.integer("format", 1, 1 << 31)) != FORMAT:
        raise fields.complaint("format", f"is {version}: this mmsearch reads {FORMAT}; install a newer one")
    image, text = fields.table("image"), fields.table("text")
    size = image.integers("size", count=2, low=1, high=4096)
    manifest = ModelManifest(
        directory=directory,
        name=fields.text("name", _NAME),
        version=fields.text("version"),
        dim=fields.integer("dim", 1, 1 << 16),
        preprocess=Preprocess(
            height=size[0],
            width=size[1],
            resize=image.choice("resize", ("squash", "crop")),  # type: ignore[arg-type]
            interpolation=image.choice("interpolation", ("bicubic", "bilinear")),  # type: ignore[arg-type]
        ),
        image_file=image.text("file"),
        text_file=text.text("file"),
        tokenizer_file=text.text("tokenizer"),
        max_tokens=text.integer("max_tokens", 1, 1 << 16),
        lowercase=text.flag("lowercase", default=False),
        files=_pinned(fields.table("files")),
        quality=fields.table("quality").rest(),
        license=fields.text("license"),
        itm=read_itm(fields),
        hubness=read_hubness(fields),
    )
    for each in (image, text, fields):
        each.end()
    for name in _used_files(manifest):
        if name not in manifest.files:
            raise fields.complaint("files", f"does not pin '{safe_text(name)}', which the model uses")
    return manifest


def _used_files(manifest: ModelManifest) -> list[str]:
    head = [] if manifest.itm is None else [manifest.itm.file]
    banks = [facts.bank for facts in manifest.hubness.values()]
    return [manifest.image_file, manifest.text_file, manifest.tokenizer_file, *head, *banks]


def _pinned(fields: Fields) -> dict[str, PinnedFile]:
    pinned = {}
    for name in list(fields.rest()):
        if Path(name).name != name or name in ("", "..") or "\\" in name or "\0" in name:
            raise fields.complaint(name, "is not the bare name of a file inside the model's directory")
        each = fields.table(name)
        pinned[name] = PinnedFile(each.text("sha256", _SHA256), each.integer("bytes", 0, _MAX_FILE_BYTES))
        each.end()
    return pinned


def _read_regular(path: Path, *, limit: int) -> bytes:
    """The content of a regular file that is no link, at most `limit` + 1 bytes of it."""
    shown = safe_path(str(path))
    try:
        with open_regular(path, follow_links=False) as file:
            return file.read(limit + 1)
    except FileNotFoundError:
        raise ModelError(f"model file {shown} does not exist") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ModelError(f"model file {shown} is a link: models are read from real files") from error
        raise ModelError(f"model file {shown} cannot be read: {error.strerror}") from error


def _changed(path: Path, found: str, pinned: str) -> ModelError:
    return ModelError(
        f"model file {safe_path(str(path))} is not the one its manifest pins: {found}, expected {pinned}; restore it"
    )
