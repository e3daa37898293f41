"""A model directory as its `manifest.json` describes it: which files, pinned by size and SHA-256, and how to feed them.

Nothing in a model directory is trusted that the manifest does not pin, and nothing outside it is ever opened.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from mmsearch.errors import ModelError
from mmsearch.manifest_fields import Fields
from mmsearch.model_facts import (
    Direction,
    EmbedsAs,
    HubnessFacts,
    ItmFacts,
    PinnedFile,
    read_embeds_as,
    read_files,
    read_hubness,
    read_itm,
    read_preprocess,
)
from mmsearch.openclip_config import CONFIG_FILE, is_hub_directory, read_hub_model
from mmsearch.regular_file import open_regular
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.types import Preprocess

MANIFEST_FILE = "manifest.json"
FORMAT = 1
Runtime: TypeAlias = Literal["onnx", "open_clip"]
Cleaning: TypeAlias = Literal["none", "lower", "whitespace", "canonicalize"]
BUNDLED = Path(__file__).parent / "models"

# Part of every fingerprint: raise one when mmsearch.images makes other pixels of the same file.
_PREPROCESSING_REVISION = {"squash": 1, "crop": 2, "longest": 1}
_MAX_MANIFEST_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """One model directory. Files are bare names inside `directory`; `quality` is what its makers measured.

    `itm` is None for a model without an image-text matching head; `hubness` has the directions that have a bank. With
    the runtime open_clip `image_file` and `text_file` are the same weights, and `mean` and `std` say how its pixels
    are normalised, a number a channel in units of full scale; they are empty where a graph does that itself. Texts are
    cleaned as `clean` says before they are tokenized, and with `pad` always padded to `max_tokens`. `logit_scale` is
    what cosines are multiplied by before a softmax over texts, None where the model does not say.

    A manifest that was derived from a directory as the hub gives it has `generated` files, which lie in no directory.
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
    runtime: Runtime = "onnx"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    clean: Cleaning = "none"
    pad: bool = False
    generated: Mapping[str, bytes] | None = None
    logit_scale: float | None = None
    embeds_as: EmbedsAs | None = None

    @property
    def fingerprint(self) -> str:
        """32 hex digits that name the embeddings: its own, or those of the model whose embeddings it gives."""
        own, claim = self.own_fingerprint, self.embeds_as
        return claim.fingerprint if claim is not None and claim.measured == own else own

    @property
    def own_fingerprint(self) -> str:
        """32 hex digits that change when any embedding might.

        They cover the weights and graphs (pooling and quantisation are part of a graph), the tokenizer, the token
        limit and the preprocessing; not the name, the version or what was measured, nor the matching head and the
        banks, which work on what is stored and leave it as it is.
        """
        preprocess = asdict(self.preprocess)
        if self.preprocess.resize != "longest":
            del preprocess["fill"]
        facts: dict[str, Any] = {
            "dim": self.dim,
            "weights": [self.sha256(each) for each in (self.image_file, self.text_file, self.tokenizer_file)],
            "tokens": [self.max_tokens, self.lowercase],
            "preprocess": [_PREPROCESSING_REVISION[self.preprocess.resize], preprocess],
        }
        # Absent where they say nothing, so that a model from before them keeps its fingerprint.
        if self.clean != "none" or self.pad:
            facts["text"] = [self.clean, self.pad]
        if self.runtime == "open_clip":
            facts["open_clip"] = [self.files[CONFIG_FILE].sha256, self.mean, self.std]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def sha256(self, name: str) -> str:
        """The SHA-256, in hex, of a file of the model; with what it keeps in a second file, where it does."""
        pinned, beside = self.files[name].sha256, data_file(name)
        if beside not in self.files:
            return pinned
        return hashlib.sha256(f"{pinned} {self.files[beside].sha256}".encode()).hexdigest()

    def read(self, name: str) -> bytes:
        """The bytes of one file of the model, just checked against what the manifest pins.

        Raises:
            ModelError: it is missing, a link, no regular file, or not the file that the manifest pins.
        """
        path, pinned = self.directory / name, self.files[name]
        if self.generated is None:
            data = _read_regular(path, limit=pinned.bytes)
        elif name in self.generated:
            data = self.generated[name]
        else:  # the hub's own cache is made of links
            data = _read_regular(path, limit=pinned.bytes, follow_links=True)
        if len(data) != pinned.bytes:
            raise _changed(path, f"it has {len(data)} bytes", f"{pinned.bytes}")
        if (digest := hashlib.sha256(data).hexdigest()) != pinned.sha256:
            raise _changed(path, f"its SHA-256 is {digest[:16]}...", f"{pinned.sha256[:16]}...")
        return data


def data_file(name: str) -> str:
    """What the file is called that holds the weights of the graph `name`, where one file is too small for both."""
    return f"{name}.data"


def load_model_manifest(name_or_dir: str | os.PathLike[str]) -> ModelManifest:
    """The manifest of a bundled or installed model, by name, or of the model in a directory.

    A `Path`, and text that starts with a dot, is a directory, and so is text with a path separator if there is such a
    directory. One that holds an open_clip model as the hub gives it needs no manifest.

    Raises:
        ModelError: there is no such model, or its manifest has a field missing, too much, or of the wrong kind.
        MissingExtra: it is an open_clip model without a manifest, and open_clip is not installed.
    """
    directory = _directory(name_or_dir)
    path = directory / MANIFEST_FILE
    if not path.exists() and is_hub_directory(directory):
        model = read_hub_model(directory)
        derived = parse_manifest(model.table, directory, file=safe_path(str(directory / CONFIG_FILE)))
        return replace(derived, generated=model.generated)
    data = _read_regular(path, limit=_MAX_MANIFEST_BYTES)
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"model manifest {safe_path(str(path))} is not JSON: {safe_text(str(error))}") from error
    return parse_manifest(table, directory, file=safe_path(str(path)))


def parse_manifest(table: object, directory: Path, *, file: str) -> ModelManifest:
    """The manifest of the model in `directory` out of parsed JSON; `file` is what messages call it.

    Raises:
        ModelError: a field is missing, too much, or of the wrong kind.
    """
    return _parse(Fields(table, file=file, error=ModelError), directory)


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
    if not isinstance(name_or_dir, str) or text.startswith((".", os.sep)):
        return Path(text)
    names = bundled_models()
    if text in names:
        return BUNDLED / text
    from mmsearch.model_catalog import known_names, nearest_names
    from mmsearch.model_store import find, installed_models, not_installed

    # A directory that is there is meant, and nothing else that merely looks like a path can be.
    if os.sep in text and Path(text).is_dir():
        return Path(text)
    if (installed := find(text)) is not None:
        return installed
    if (how_to_get_it := not_installed(text)) is not None:
        raise ModelError(how_to_get_it)
    if os.sep in text:
        return Path(text)
    hint = f"; the directory needs a separator: ./{text}" if Path(text).is_dir() else ""
    nearest = nearest_names(text, [*names, *known_names(), *(each.name for each in installed_models())])
    raise ModelError(
        f"no model is called '{safe_text(text)}'; near it: {', '.join(nearest)}; mmsearch models list shows"
        f" them all{hint}"
    )


def _parse(fields: Fields, directory: Path) -> ModelManifest:
    if (version := fields.integer("format", 1, 1 << 31)) != FORMAT:
        raise fields.complaint("format", f"is {version}: this mmsearch reads {FORMAT}; install a newer one")
    image, text = fields.table("image"), fields.table("text")
    runtime = fields.choice("runtime", get_args(Runtime)) if fields.has("runtime") else "onnx"
    torch = runtime == "open_clip"
    manifest = ModelManifest(
        directory=directory,
        name=fields.text("name", _NAME),
        version=fields.text("version"),
        dim=fields.integer("dim", 1, 1 << 16),
        preprocess=read_preprocess(image),
        image_file=image.text("file"),
        text_file=text.text("file"),
        tokenizer_file=text.text("tokenizer"),
        max_tokens=text.integer("max_tokens", 1, 1 << 16),
        lowercase=text.flag("lowercase", default=False),
        files=read_files(fields.table("files")),
        quality=fields.table("quality").rest(),
        license=fields.text("license"),
        itm=read_itm(fields),
        hubness=read_hubness(fields),
        runtime=runtime,  # type: ignore[arg-type]
        mean=image.numbers("mean", count=3, low=-100, high=100) if torch else (),
        std=image.numbers("std", count=3, low=1e-6, high=100) if torch else (),
        clean=text.choice("clean", get_args(Cleaning)) if text.has("clean") else "none",  # type: ignore[arg-type]
        pad=text.flag("pad", default=False),
        logit_scale=fields.number("logit_scale", 0.01, 10_000) if fields.has("logit_scale") else None,
        embeds_as=read_embeds_as(fields),
    )
    for each in (image, text, fields):
        each.end()
    if torch and manifest.itm is not None:
        raise fields.complaint("itm", "needs the runtime onnx: export the model")
    if torch and manifest.embeds_as is not None:
        raise fields.complaint("embeds_as", "is for exported models, which need the runtime onnx")
    for name in _used_files(manifest):
        if name not in manifest.files:
            raise fields.complaint("files", f"does not pin '{safe_text(name)}', which the model uses")
    return manifest


def _used_files(manifest: ModelManifest) -> list[str]:
    config = [CONFIG_FILE] if manifest.runtime == "open_clip" else []
    head = [] if manifest.itm is None else [manifest.itm.file]
    banks = [facts.bank for facts in manifest.hubness.values()]
    return [manifest.image_file, manifest.text_file, manifest.tokenizer_file, *config, *head, *banks]


def _read_regular(path: Path, *, limit: int, follow_links: bool = False) -> bytes:
    """The content of a regular file, at most `limit` + 1 bytes of it; a link is refused unless it is to be followed."""
    shown = safe_path(str(path))
    try:
        with open_regular(path, follow_links=follow_links) as file:
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
