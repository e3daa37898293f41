"""A model from files that are here already into the store: safetensors, a directory as on the hub, or a checkpoint."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from mmsearch.durable import write_atomic
from mmsearch.errors import ModelError, UsageError
from mmsearch.model_catalog import KNOWN, short_names
from mmsearch.model_manifest import MANIFEST_FILE, bundled_models
from mmsearch.model_pull import complete, named_tokenizer
from mmsearch.model_store import Installed, changing_the_store, directory_name, install, require_space, staging
from mmsearch.openclip import load_openclip, require_clip_extra
from mmsearch.openclip_config import (
    CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    is_hub_directory,
    read_hub_model,
)
from mmsearch.openclip_names import hub_config
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.torch_checkpoint import convert_checkpoint
from mmsearch.weights_kind import file_kind, safetensors_damage


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What is imported, and as what.

    `source` is a file with weights, which needs the `architecture` that open_clip knows, or a directory as on the hub.
    `name` defaults to the source's. `tokenizer` is a tokenizer.json, for an architecture that does not have CLIP's.
    `trust` lets a pickle be opened.
    """

    source: Path
    name: str | None = None
    architecture: str | None = None
    tokenizer: Path | None = None
    license: str = "not stated"
    trust: bool = False


def import_model(options: ImportOptions) -> Installed:
    """The model made of `options`, installed. Its weights are tried in its architecture first.

    Raises:
        UsageError: an option is missing or does not go with the source.
        ModelError: the name is taken; the files are damaged, do not fit each other or are of no supported kind; a
            pickle is not trusted or holds more than weights; the disk has no room.
        MissingExtra: the packages of the extra `clip` are not installed.
    """
    source = options.source
    _check(options)
    require_clip_extra()
    name = _free_name(options)
    with changing_the_store() as store:
        target = store / name
        if target.exists():
            raise ModelError(
                f"there is a model '{name}' already: choose another --name, or mmsearch models remove {name}"
            )
        files = [source] if source.is_file() else [each for each in source.iterdir() if each.is_file()]
        needed = sum(each.stat().st_size for each in files)
        require_space(store, needed, what=f"importing {safe_path(str(source))}")
        with staging(store, name) as staged:
            _lay_out(options, staged)
            installed = Installed(target, source.name, "", options.license)
            load_openclip(complete(staged, installed, {}))
            install(staged, installed)
    return installed


def _check(options: ImportOptions) -> None:
    """What can be said before any package is needed."""
    source, shown = options.source, safe_path(str(options.source))
    if source.is_dir():
        if not is_hub_directory(source):
            ready = " (a model of mmsearch needs no import: --model DIR)" if (source / MANIFEST_FILE).is_file() else ""
            raise UsageError(f"{shown} has no {CONFIG_FILE}: expected a directory as on the hub{ready}")
        if options.architecture or options.tokenizer:
            raise UsageError("--architecture and --tokenizer are for a file: a directory has its own")
        return
    if not source.is_file():
        raise UsageError(f"{shown} does not exist: name a file with weights, or a directory as on the hub")
    _require_weights(source, shown, trust=options.trust)
    if options.architecture is None:
        raise UsageError(f"{shown} has weights alone: add --architecture NAME, as open_clip calls it (like ViT-B-32)")


def _require_weights(source: Path, shown: str, *, trust: bool) -> None:
    """Returns when `source` is what may be opened."""
    kind = file_kind(source)
    if kind == "neither":
        raise ModelError(
            f"{shown} is neither safetensors nor a torch checkpoint, whatever its name is: name a file with weights;"
            " if it should be one, fetch or copy it again"
        )
    if kind == "safetensors" and (damage := safetensors_damage(source)):
        raise ModelError(f"{shown} is a damaged safetensors file: {damage}; fetch or copy it again")
    if kind == "pickle" and not trust:
        raise ModelError(
            f"{shown} is a torch checkpoint, whatever its name is, and so a pickle, which can run anything: if you"
            " trust its makers, add --trust, and its weights are converted once"
        )


def _free_name(options: ImportOptions) -> str:
    """The name of the directory to be; refuses one that means another model."""
    source = options.source
    own_name = source.name if source.is_dir() else source.stem
    name = own_name if options.name is None else options.name
    # Two names that differ in case alone are one directory on some disks, and one name to most people.
    taken = {each.lower() for each in (*bundled_models(), *short_names(), *(model.directory for model in KNOWN))}
    if name.lower() in taken:
        raise UsageError(f"'{name}' means another model already: choose another --name")
    if directory_name(name) != name:
        raise UsageError(
            f"'{safe_text(name)}' cannot name a model: choose a --name of letters, digits, '.', '_' and '-', at most 64"
        )
    if "--" in name:
        raise UsageError(
            f"'{name}' would mean hf-hub:{name.replace('--', '/', 1)}: choose a --name without two hyphens in a row"
        )
    return name


def _lay_out(options: ImportOptions, staged: Path) -> None:
    """The files of the model in `staged`, as they lie on the hub."""
    source = options.source
    if source.is_dir():
        weights = read_hub_model(source).table["image"]["file"]
        shutil.copyfile(source / weights, staged / WEIGHTS_FILE)
        for name in (CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE):
            if (source / name).is_file():
                shutil.copyfile(source / name, staged / name)
        return
    config = hub_config(options.architecture or "")
    write_atomic(staged / CONFIG_FILE, (json.dumps(config, indent=1) + "\n").encode())
    _copy_tokenizer(options, staged)
    if file_kind(source) == "safetensors":
        shutil.copyfile(source, staged / WEIGHTS_FILE)
    else:
        convert_checkpoint(source, staged / WEIGHTS_FILE)


def _copy_tokenizer(options: ImportOptions, staged: Path) -> None:
    named = named_tokenizer(staged / CONFIG_FILE)
    if named is None:
        if options.tokenizer is not None:
            raise UsageError(f"{safe_text(str(options.architecture))} has CLIP's own tokenizer: leave out --tokenizer")
        return
    if options.tokenizer is None:
        raise UsageError(
            f"{safe_text(str(options.architecture))} has not CLIP's tokenizer: add --tokenizer FILE, the"
            f" {TOKENIZER_FILE} of '{safe_text(named)}'"
        )
    shutil.copyfile(options.tokenizer, staged / TOKENIZER_FILE)
    beside = options.tokenizer.parent / TOKENIZER_CONFIG_FILE
    if beside.is_file():
        shutil.copyfile(beside, staged / TOKENIZER_CONFIG_FILE)
