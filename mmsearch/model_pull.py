"""A model from the hub into the store, once size and licence are agreed to.

Only safetensors are fetched. A download that was cut off waits beside the models and is gone on with; a model is either
installed as a whole or not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmsearch.byte_size import MEGABYTE
from mmsearch.durable import FILE_MODE, write_atomic
from mmsearch.errors import ModelError
from mmsearch.model_catalog import HUB_PREFIX
from mmsearch.model_hub import fetch, look_up
from mmsearch.model_hub_listing import HubFile, Repository
from mmsearch.model_manifest import MANIFEST_FILE, ModelManifest, load_model_manifest
from mmsearch.model_plan import PullPlan
from mmsearch.model_removal import drop_partial
from mmsearch.model_store import (
    Installed,
    changing_the_store,
    install,
    marker_damage,
    partial_directory,
    read_marker,
    require_space,
    staging,
)
from mmsearch.openclip_config import (
    CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    image_fields,
    model_settings,
    read_hub_model,
    text_fields,
)
from mmsearch.openclip_tokenizer import vocabulary_file
from mmsearch.progress import Progress, ProgressCallback
from mmsearch.safe_text import safe_path, safe_text


def pull(plan: PullPlan, *, progress: ProgressCallback | None = None) -> Installed:
    """The model that `plan` describes, installed. Progress counts megabytes.

    Raises:
        ModelError: it is installed already, the disk has no room, the hub cannot be reached, a file is not what the hub
            states, or the configuration describes no model that mmsearch can run.
    """
    with changing_the_store() as store:
        target = store / plan.directory
        _require_free(plan, target)
        with _partial(store, plan.directory) as partial:
            there = partial / _key(plan.weights)
            needed = plan.bytes - (there.stat().st_size if there.is_file() else 0)
            require_space(store, max(needed, 0), what=f"model '{safe_text(plan.name)}'")
            installed = Installed(target, f"{HUB_PREFIX}{plan.repository.id}", plan.repository.revision, plan.license)
            with staging(store, plan.directory) as staged:
                _fetch_into(staged, plan, _Fetching(partial, plan.bytes, progress))
                complete(staged, installed, plan.known.quality if plan.known else {})
                install(staged, installed)
        drop_partial(store, plan.directory)
    return installed


def _require_free(plan: PullPlan, target: Path) -> None:
    if not os.path.lexists(target):
        return
    shown, where = safe_text(plan.name), safe_path(str(target))
    if (damage := marker_damage(plan.name)) is not None:
        raise ModelError(damage)
    if read_marker(target) is None:
        raise ModelError(f"{where} is in the way of model '{shown}', and mmsearch did not write it: move it away")
    raise ModelError(f"model '{shown}' is installed already: {where}")


@contextlib.contextmanager
def _partial(store: Path, directory: str) -> Iterator[Path]:
    """Where the download waits while it is not complete; gone when the block ends and nothing has come."""
    path = partial_directory(store, directory)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            for each in path.iterdir():
                if not each.stat().st_size:
                    each.unlink()
            path.rmdir()


def _fetch_into(staged: Path, plan: PullPlan, fetching: _Fetching) -> None:
    """The files of the model in `staged`, as they lie on the hub."""
    config = fetching.get(plan.repository, plan.config)
    shutil.copyfile(config, staged / CONFIG_FILE)
    _put_tokenizer(plan, staged, fetching)
    weights = fetching.get(plan.repository, plan.weights)
    # A second name, not a move: if anything below fails, what was fetched still waits.
    _link(weights, staged / WEIGHTS_FILE)


def _key(file: HubFile) -> str:
    """What a download of `file` is called while it waits: by content, so another revision's is never gone on with."""
    return file.sha256 or file.git_sha1 or file.name.replace("/", "--")


def complete(staged: Path, installed: Installed, quality: Mapping[str, Any]) -> ModelManifest:
    """The manifest of the hub-layout files in `staged`, written beside them, as CLIP's own tokenizer is if it is used.

    Raises:
        ModelError: they describe no model that mmsearch can run.
        MissingExtra: CLIP's own tokenizer comes with open_clip, which is not installed.
    """
    model = read_hub_model(staged, name=installed.name, license=installed.license, quality=quality)
    for name, data in model.generated.items():
        write_atomic(staged / name, data)
    write_atomic(staged / MANIFEST_FILE, (json.dumps(model.table, indent=1) + "\n").encode())
    return load_model_manifest(staged)


def named_tokenizer(config: Path) -> str | None:
    """The repository whose tokenizer a configuration names, None for CLIP's own.

    Raises:
        ModelError: the file is no configuration of open_clip, or of a model that is not supported.
    """
    data, shown = config.read_bytes(), safe_path(str(config))
    settings = model_settings(data, file=shown)
    image_fields(data, file=shown)
    text_fields(settings, file=shown)
    name = settings["text_cfg"].get("hf_tokenizer_name")
    return str(name) if name else None


class _Fetching:
    """Files fetched one after the other, with one count of bytes over all of them."""

    def __init__(self, partial: Path, total: int, progress: ProgressCallback | None) -> None:
        self._partial = partial
        self._total = total
        self._progress = progress
        self._before = 0

    def get(self, repository: Repository, file: HubFile) -> Path:
        """Where `file` is now, whole and checked."""
        into = self._partial / _key(file)
        fetch(repository, file, into=into, tell=lambda count: self._tell(count, file))
        self._before += file.bytes
        self._tell(0, file)
        return into

    def _tell(self, count: int, file: HubFile) -> None:
        if self._progress is not None:
            done = self._before + count
            total = max(self._total, done)
            self._progress(Progress("download", done // MEGABYTE, -(-total // MEGABYTE), f"MB, {safe_text(file.name)}"))


def _put_tokenizer(plan: PullPlan, staged: Path, fetching: _Fetching) -> None:
    named = named_tokenizer(staged / CONFIG_FILE)
    if named is None:
        vocabulary_file()  # what makes CLIP's own has to be here: better said now than behind the weights
        return
    source = plan.repository if TOKENIZER_FILE in plan.repository.files else look_up(named)
    if TOKENIZER_FILE not in source.files:
        raise ModelError(
            f"'{safe_text(source.id)}', whose tokenizer '{safe_text(plan.name)}' uses, has no {TOKENIZER_FILE}:"
            " it cannot be used without transformers, and is not installed"
        )
    for name in (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE):
        if name in source.files:
            shutil.copyfile(fetching.get(source, source.files[name]), staged / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # A file system without hard links.
        source.rename(target)
    target.chmod(FILE_MODE)
